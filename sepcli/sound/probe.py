"""What an audio file holds: rate, channels, length, depth, tags, tracks, and which decoder reads it.

libsndfile reads plain samples (WAV, AIFF, CAF, ...), FFmpeg's libraries all that is compressed. Nothing is
decoded here, so a length is only what the header says.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

from sepcli.errors import InputError, SepcliError, from_os, parameter
from sepcli.sound import headers, packets, sndfile
from sepcli.sound.losses import name_of
from sepcli.sound.packets import Track


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself, before anything is decoded."""

    path: Path
    samplerate: int  # Hz
    channels: int
    frames: int | None  # as the header says; None: known by decoding only
    depth: str  # "8" "16" "24" "32" (integers), "32f" "64f" (float), "lossy"
    lossy: bool
    container: str  # "wav" "flac" "ogg" "opus" "mp3" "aiff" "m4a" ...
    decoder: str  # "soundfile" (plain samples; `frames` is exact) or "av"
    tags: dict[str, str] = field(default_factory=dict)  # FFmpeg's names: title, artist, album, track, ...
    duration: float | None = None  # seconds, from the header; may be an estimate
    layout: tuple[str, ...] = ()  # names of its channels (layouts.py); () where the file does not say
    tracks: tuple[Track, ...] = ()  # all that the file has with sound; () where it can have but one
    track: int = 1  # which of them this is
    header: packets.Header | None = None  # of decoder "av"


# libsndfile's sample formats, and the depth that keeps their samples. A-law, mu-law and the ADPCMs decode to
# 16-bit integers; formats that are not listed have at most 24 bits.
_DEPTHS = {
    **dict.fromkeys("PCM_S8 PCM_U8 DPCM_8".split(), "8"),
    **dict.fromkeys("PCM_16 ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 VOX_ADPCM ALAC_16 DPCM_16".split(), "16"),
    **dict.fromkeys("NMS_ADPCM_16 NMS_ADPCM_24 NMS_ADPCM_32 G721_32 G723_24 G723_40".split(), "16"),
    **dict.fromkeys("PCM_32 ALAC_32".split(), "32"),
    **dict.fromkeys("VORBIS OPUS MPEG_LAYER_I MPEG_LAYER_II MPEG_LAYER_III".split(), "lossy"),
    "FLOAT": "32f",
    "DOUBLE": "64f",
}


# How files begin whose samples libsndfile reads as they are. It gets nothing else before FFmpeg: its MPEG
# decoder writes messages of its own to the terminal.
_PLAIN = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b".snd", b"dns.", b"riff", b"Creative Voice")
_PLAIN_TYPES = frozenset("PCM_S8 PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW".split())


def probe(path: Path, track: str | int | None = None) -> AudioInfo:
    """What the file holds; InputError (with a code) where it is not audio that can be read here.

    track: of a file with several: its number from 1, its language or its title; None: the file's default.
    """
    path = Path(path)
    _check_file(path)
    try:
        info = _probe_plain(path)
        if info is None:
            info = _probe_packets(path, track)
        elif track is not None:
            _chosen(path, (Track(1, "", "", True),), track)
    except OSError as error:
        raise unreadable(path, error) from None
    return info


def _probe_plain(path: Path) -> AudioInfo | None:
    """What libsndfile says of a file with plain samples; None for all others."""
    with path.open("rb") as file:
        if not file.read(16).startswith(_PLAIN):
            return None
    try:
        info = _probe_soundfile(path)
    except (sndfile.Error, TypeError):
        return None
    return info[0] if info[1] in _PLAIN_TYPES else None


def _probe_packets(path: Path, track: str | int | None) -> AudioInfo:
    """What FFmpeg's libraries say of a file, or libsndfile where it knows a format that they don't."""
    try:
        header = packets.read_header(path)
        if track is not None:
            header = packets.read_header(path, _chosen(path, header.tracks, track))
        if _loses_frames(path, header):
            return _probe_soundfile(path)[0]
        return _described(path, header)
    except packets.NoAudio as error:
        # FFmpeg shows any text or data as a picture: its names are "tty", "bin", and "image2" for .raw.
        no_sound = bool(error.format) and error.format not in ("tty", "bin", "image2")
        unknown = error.has_codec
    except packets.Error:
        no_sound = unknown = False
    try:
        return _probe_soundfile(path)[0]
    except (sndfile.Error, TypeError, OSError):
        pass
    if unknown:
        raise InputError(
            f"The audio in {name_of(path)} is of a kind that can't be decoded.",
            remedy="Convert it to WAV or FLAC with the program that made it.",
            code="not_audio",
        )
    if no_sound:
        raise InputError(
            f"{name_of(path)} has no audio stream.", remedy="Name a file with sound.", code="no_audio"
        )
    if _lacks_index(path):
        raise InputError(
            f"{name_of(path)} has no index (moov): its download or recording was interrupted.",
            remedy="Download it again; a recording can be repaired with the program `untrunc`.",
            code="no_index",
        )
    raise InputError(
        f"{name_of(path)} is not audio that can be read.",
        remedy="Name an audio or video file; copy or download it again if it should be one.",
        code="not_audio",
    )


def _chosen(path: Path, tracks: tuple[Track, ...], wanted: str | int) -> int:
    """The number of the audio track that is asked for; InputError where it is not there, or not clear."""
    text = str(wanted).strip().casefold()
    if text.isdecimal():
        found = [track for track in tracks if track.number == int(text)]
    else:
        found = [track for track in tracks if text in (track.language.casefold(), track.title.casefold())]
        found = found or [track for track in tracks if text and text in track.title.casefold()]
    if len(found) == 1:
        return found[0].number
    there = ", ".join(str(track) for track in tracks)
    problem = "is not in" if not found else f"fits {len(found)} tracks of"
    raise InputError(
        f"{parameter('audio_track', wanted)} {problem} {name_of(path)}. Its audio tracks: {there}.",
        remedy="Give the number of one of them.",
        code="audio_track",
    )


def _loses_frames(path: Path, header: packets.Header) -> bool:
    """Whether FFmpeg cuts off too much at the end: of an Ogg Vorbis file whose sound is one page.

    Said of every one that is shorter than a second and holds one stream, which libsndfile reads to its end.
    """
    if header.format != "ogg" or header.codec != "vorbis" or header.channels > 2:
        return False
    if header.frames is None or header.frames > header.samplerate:
        return False
    with path.open("rb") as file:
        pages = re.findall(rb"OggS\0(.)", file.read(1 << 22), re.DOTALL)
    return sum(bool(flags[0] & 2) for flags in pages) == 1  # pages that begin a stream


def _lacks_index(path: Path) -> bool:
    """Whether a file of the MP4 kind has no moov box (ISO 14496-12), without which nothing in it is found."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at, first = 0, True
        while at + 8 <= end:
            file.seek(at)
            size, kind = struct.unpack(">I4s", file.read(8))
            if first and kind not in (b"ftyp", b"mdat", b"wide", b"free", b"skip"):
                return False
            if kind in (b"moov", b"moof"):
                return False
            first = False
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            if size < 8:
                break
            at += size
    return not first


def _check_file(path: Path) -> None:
    """InputError where the path can't be an audio file, with the reason."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise unreadable(path, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name_of(path)} is a folder.", remedy="Name a file in it.", code="folder")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{name_of(path)} is not a regular file.",
            remedy="Pipe its data in and name `-`.",
            code="unreadable",
        )
    if status.st_size == 0:
        raise InputError(
            f"{name_of(path)} is empty (0 bytes).", remedy="Copy or download it again.", code="empty"
        )


def unreadable(path: Path, error: Exception) -> SepcliError:
    """What the system or libsndfile refused, as an InputError to raise."""
    if isinstance(error, OSError):
        return from_os(error, path, reading=InputError)
    return InputError(
        f"{name_of(path)} can't be read: {error}.",
        remedy="Check the name and its permissions.",
        code="unreadable",
    )


def _probe_soundfile(path: Path) -> tuple[AudioInfo, str]:
    """What libsndfile says of the file, and its name for the type of the samples."""
    with sndfile.opened(path) as file:
        depth = _DEPTHS.get(file.subtype, "24")
        container = "opus" if file.subtype == "OPUS" else file.format.lower()
        tags = {"track" if name == "tracknumber" else name: text for name, text in file.copy_metadata().items()}
        info = AudioInfo(
            path=path,
            samplerate=file.samplerate,
            channels=file.channels,
            frames=file.frames,
            depth=depth,
            lossy=depth == "lossy",
            container={"wavex": "wav", "rf64": "wav"}.get(container, container),
            decoder="soundfile",
            tags={name: text for name, text in tags.items() if text},
            duration=file.frames / file.samplerate,
            layout=headers.layout(path) if file.format in ("WAVEX", "RF64") else (),
        )
        return info, file.subtype


_LOSSLESS_CODECS = frozenset("flac alac ape wavpack tta tak truehd mlp shorten wmalossless als".split())


def _described(path: Path, header: packets.Header) -> AudioInfo:
    """A container's header in our terms."""
    lossless = header.codec in _LOSSLESS_CODECS or header.codec.startswith(("pcm_", "dsd_"))
    names = [name for name in header.format.split(",") if name]
    suffix = path.suffix.lower().lstrip(".")
    container = "opus" if header.format == "ogg" and header.codec == "opus" else names[0]
    return AudioInfo(
        path=path,
        samplerate=header.samplerate,
        channels=header.channels,
        frames=header.frames,
        depth=_depth(path, header) if lossless else "lossy",
        lossy=not lossless,
        container=suffix if suffix in names and container != "opus" else container,
        decoder="av",
        tags=header.tags,
        duration=header.seconds,
        layout=header.layout,
        tracks=header.tracks,
        track=header.track,
        header=header,
    )


def _depth(path: Path, header: packets.Header) -> str:
    """The depth that keeps the samples of a lossless codec, which may be less than what its decoder gives."""
    form, raw = header.sample_format.removesuffix("p"), header.extradata
    if form in ("flt", "dbl"):
        return "32f" if form == "flt" else "64f"
    bits = {"u8": 8, "s16": 16}.get(form, 24)
    if header.codec == "flac" and len(raw) >= 34:  # STREAMINFO, RFC 9639, section 8.2
        bits = ((raw[12] & 1) << 4 | raw[13] >> 4) + 1
    elif header.codec == "alac" and len(raw) >= 24:  # ALACSpecificConfig, behind the header of its box
        bits = raw[-24 + 5]
    elif header.codec.startswith("pcm_"):
        bits = next((known for known in (8, 16, 24, 32) if str(known) in header.codec), 32)
    elif header.codec == "wavpack" and form == "s32":
        with path.open("rb") as file:
            head = file.read(32)
        if head[:4] == b"wvpk":  # bytes of a sample less one, in the low bits of the flags
            bits = 8 * ((head[24] & 3) + 1)
    return next(depth for depth, most in (("8", 8), ("16", 16), ("24", 24), ("32", 64)) if bits <= most)
