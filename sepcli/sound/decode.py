"""Audio files as streams of samples: what a file holds (`probe`), and its samples block by block.

Knows the two decoders (libsndfile, else ffmpeg) and the many ways in which a file can be odd; nothing of
models or resampling. The decoded samples are the truth: a length in a header is only an expectation, and a
file that ends early gives the samples it has, and a warning. One block is in memory, however long the file is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sepcli.errors import InputError, SepcliError, from_os, parameter
from sepcli.sound import ffmpeg, sndfile

_LIBSNDFILE_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .caf .au .snd .voc".split()
)
_FFMPEG_SUFFIXES = frozenset(
    ".m4a .m4b .m4r .aac .mp4 .m4v .mov .3gp .3g2 .mkv .mka .webm .wma .wmv .asf .avi .flv .f4v .ogv .ogx"
    " .spx .mpg .mpeg .vob .ts .mts .m2ts .ac3 .eac3 .dts .thd .mlp .ape .wv .tta .tak .mpc .shn .dsf .dff"
    " .ra .rm .rmvb .amr .oma .mpa .mxf".split()
)
# What a folder scan picks up, lower-case: audio, and video containers that carry audio.
AUDIO_SUFFIXES = _LIBSNDFILE_SUFFIXES | _FFMPEG_SUFFIXES


def readable_suffixes(with_ffmpeg: bool | None = None) -> frozenset[str]:
    """The suffixes that can be read here; None asks whether ffmpeg is installed."""
    if with_ffmpeg is None:
        with_ffmpeg = ffmpeg.available()
    return AUDIO_SUFFIXES if with_ffmpeg else _LIBSNDFILE_SUFFIXES


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself, before anything is decoded."""

    path: Path
    samplerate: int  # Hz
    channels: int
    frames: int | None  # as the header says, exact for intact lossless files; None: known by decoding only
    depth: str  # "8" "16" "24" "32" (integers), "32f" "64f" (float), "lossy"
    lossy: bool
    container: str  # "wav" "flac" "ogg" "opus" "mp3" "aiff" "m4a" ...
    decoder: str  # "soundfile" or "ffmpeg"
    tags: dict[str, str] = field(default_factory=dict)  # ffmpeg's names: title, artist, album, track, ...
    duration: float | None = None  # seconds, from the header; may be an estimate
    layout: tuple[str, ...] = ()  # names of its channels (layouts.py); () where the file does not say


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


def probe(path: Path) -> AudioInfo:
    """What the file holds; InputError (with a code) where it is not audio that can be read here."""
    path = Path(path)
    _check_file(path)
    try:
        return _probe_soundfile(path)
    except PermissionError as error:
        raise _unreadable(path, error) from None
    except (sndfile.Error, TypeError, OSError):
        pass  # not a format of libsndfile's (TypeError: a suffix that it takes for raw samples)
    if not ffmpeg.available():
        if path.suffix.lower() in _FFMPEG_SUFFIXES:
            raise InputError(
                f"{_name(path)} needs ffmpeg to be read.",
                remedy="Install ffmpeg (with ffprobe) and run again.",
                code="needs_ffmpeg",
            )
        raise InputError(
            f"{_name(path)} is not audio that libsndfile reads.",
            remedy="If it is audio or video, install ffmpeg (with ffprobe) and run again.",
            code="not_audio",
        )
    return _probe_ffmpeg(path)


def _check_file(path: Path) -> None:
    """InputError where the path can't be an audio file, with the reason."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{_name(path)} is a folder.", remedy="Name a file in it.", code="folder")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{_name(path)} is not a regular file.",
            remedy="Pipe its data in and name `-`.",
            code="unreadable",
        )
    if status.st_size == 0:
        raise InputError(
            f"{_name(path)} is empty (0 bytes).", remedy="Copy or download it again.", code="empty"
        )


def _unreadable(path: Path, error: Exception) -> SepcliError:
    """What the system or libsndfile refused, as an InputError."""
    if isinstance(error, OSError):
        return from_os(error, path, reading=InputError)
    return InputError(
        f"{_name(path)} can't be read: {error}.",
        remedy="Check the name and its permissions.",
        code="unreadable",
    )


def _name(path: Path) -> str:
    """The path for a message, also where its name is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _probe_soundfile(path: Path) -> AudioInfo:
    with sndfile.opened(path) as file:
        frames: int | None = file.frames if file.frames < sndfile.UNKNOWN_FRAMES else None
        if file.format == "MP3" and sndfile.mp3_length_is_guessed(path):
            frames = None
        depth = _DEPTHS.get(file.subtype, "24")
        container = "opus" if file.subtype == "OPUS" else file.format.lower()
        tags = {"track" if name == "tracknumber" else name: text for name, text in file.copy_metadata().items()}
        return AudioInfo(
            path=path,
            samplerate=file.samplerate,
            channels=file.channels,
            frames=frames,
            depth=depth,
            lossy=depth == "lossy",
            container={"wavex": "wav", "rf64": "wav"}.get(container, container),
            decoder="soundfile",
            tags={name: text for name, text in tags.items() if text},
            duration=None if frames is None else frames / file.samplerate,
        )


_LOSSLESS_CODECS = frozenset("flac alac ape wavpack tta tak truehd mlp shorten wmalossless mp4als".split())


def _probe_ffmpeg(path: Path) -> AudioInfo:
    answer = ffmpeg.probe(path)
    streams = [s for s in answer.get("streams", []) if s.get("codec_type") == "audio"]
    about = answer.get("format", {})
    if not streams:
        # ffmpeg shows any text or data as a picture of its letters: its name for that is "tty" or "bin".
        if answer.get("streams") and about.get("format_name") not in ("tty", "bin"):
            raise InputError(
                f"{_name(path)} has no audio stream.", remedy="Name a file with sound.", code="no_audio"
            )
        raise InputError(
            f"{_name(path)} is not audio that libsndfile or ffmpeg reads.",
            remedy="Name an audio or video file; copy or download it again if it should be one.",
            code="not_audio",
        )
    stream = streams[0]
    samplerate, channels = int(stream.get("sample_rate") or 0), int(stream.get("channels") or 0)
    if samplerate <= 0 or channels <= 0:
        raise InputError(
            f"ffmpeg has no decoder for the audio in {_name(path)}.",
            remedy="Convert it to WAV or FLAC with the program that made it.",
            code="not_audio",
        )
    codec = str(stream.get("codec_name"))
    lossless = codec in _LOSSLESS_CODECS or codec.startswith("pcm_")
    names = [n for n in str(about.get("format_name", "")).split(",") if n]
    suffix = path.suffix.lower().lstrip(".")
    seconds = _seconds(stream.get("duration")) or _seconds(about.get("duration"))
    tags = {**about.get("tags", {}), **stream.get("tags", {})}
    return AudioInfo(
        path=path,
        samplerate=samplerate,
        channels=channels,
        # Containers state durations, to the rounding of their own clocks; but for PCM a packet is a frame.
        frames=int(stream.get("nb_frames") or 0) or None if codec.startswith("pcm_") else None,
        depth=_ffmpeg_depth(stream) if lossless else "lossy",
        lossy=not lossless,
        container=suffix if suffix in names or not names else names[0],
        decoder="ffmpeg",
        tags={name.lower(): str(text) for name, text in tags.items()},
        duration=seconds,
    )


def _ffmpeg_depth(stream: dict[str, Any]) -> str:
    form = str(stream.get("sample_fmt", "")).removesuffix("p")
    if form in ("flt", "dbl"):
        return "32f" if form == "flt" else "64f"
    bits = int(stream.get("bits_per_raw_sample") or stream.get("bits_per_sample") or 0)
    if not bits:
        bits = {"u8": 8, "s16": 16}.get(form, 24)
    return next(depth for depth, most in (("8", 8), ("16", 16), ("24", 24), ("32", 64)) if bits <= most)


def _seconds(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


class AudioReader:
    """A file's samples as [C, T] float32 blocks at the file's own rate, full scale at 1.0.

    start, duration: the part of the file to read, in seconds, exact to the frame. block: frames in a block.
    Iterate once. `warnings` and `frames_read` are complete when the iteration has ended.

    InputError: "not_finite" for NaN or infinite samples, "no_frames" where nothing decodes, "start" where
    `start` lies beyond the end.
    """

    def __init__(
        self,
        path: Path,
        info: AudioInfo | None = None,
        *,
        start: float = 0.0,
        duration: float | None = None,
        block: int = 65536,
    ):
        self.path = Path(path)
        self.info = info or probe(self.path)
        self.samplerate, self.channels = self.info.samplerate, self.info.channels
        self.warnings: list[str] = []
        self.frames_read = 0
        self._block = block
        self._start = round(start * self.samplerate)  # frames
        self._limit = None if duration is None else round(duration * self.samplerate)
        self._failure = ""  # what a decoder that stopped early said

    @property
    def expected(self) -> int | None:
        """How many frames will probably come, for a progress bar; None where nothing is known."""
        total = self.info.frames
        if total is None and self.info.duration is not None:
            total = round(self.info.duration * self.samplerate)
        if total is None:
            return self._limit
        rest = max(0, total - self._start)
        return rest if self._limit is None else min(rest, self._limit)

    def __iter__(self) -> Iterator[np.ndarray]:
        decode = self._soundfile_blocks if self.info.decoder == "soundfile" else self._ffmpeg_blocks
        left = self._limit
        with closing(decode()) as blocks:
            for frames in blocks:  # [T, C]
                if left is not None:
                    frames = frames[:left]
                    left -= len(frames)
                if not np.isfinite(frames).all():
                    raise self._not_finite(frames)
                self.frames_read += len(frames)
                if len(frames):
                    yield np.ascontiguousarray(frames.T)
                if left == 0:
                    break
        if self.frames_read == 0:
            raise self._nothing()
        if self._failure and left != 0:
            seconds = (self._start + self.frames_read) / self.samplerate
            self.warnings.append(
                f"{_name(self.path)} is cut short or damaged: {self._failure}; {seconds:.3f} s of it decode."
            )

    def _soundfile_blocks(self) -> Generator[np.ndarray, None, None]:
        """Blocks [T, C] from `start` to the end, by libsndfile."""
        info = self.info
        stream = info.container == "mp3" and info.frames is None and os.name != "nt"
        try:
            with sndfile.opened(self.path, stream=stream) as file:
                at, skip = 0, self._start
                # A seek is exact in lossless files; a lossy decoder needs the samples before.
                if skip and not info.lossy and info.frames is not None:
                    at = file.seek(min(skip, info.frames))
                    skip -= at
                while True:
                    buffer = np.empty((self._block, self.channels), np.float32)
                    try:
                        got = len(file.read(out=buffer))
                    except sndfile.Error as error:
                        got = sndfile.frames_before_error(file, at)
                        self._failure = str(error).removeprefix("Error : ").rstrip(".")
                    at += got
                    dropped = min(skip, got)
                    skip -= dropped
                    if got > dropped:
                        yield buffer[dropped:got]
                    if got == 0 or self._failure:
                        break
                self._failure = self._failure or _early_end(info, at, file.extra_info)
        except sndfile.Error as error:  # on opening or seeking
            raise _unreadable(self.path, error) from None
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _ffmpeg_blocks(self) -> Generator[np.ndarray, None, None]:
        """Blocks [T, C] from `start` to the end, by ffmpeg."""
        if not ffmpeg.available():
            raise InputError(
                f"{_name(self.path)} needs ffmpeg to be read.", remedy="Install ffmpeg.", code="needs_ffmpeg"
            )
        process = ffmpeg.Process(
            # No -ac: it would mix where the layout is not ffmpeg's own for that many channels (quad, 7.0).
            ["-i", ffmpeg.url(self.path), "-map", "0:a:0", "-c:a", "pcm_f32le", "-ar", str(self.samplerate),
             "-f", "f32le", "-"],
            feed=False,
        )  # fmt: skip
        try:
            frame_bytes = 4 * self.channels
            at, skip = 0, self._start
            while True:
                raw = process.pipe.read(self._block * frame_bytes)  # short only at the end
                frames = np.frombuffer(raw[: len(raw) // frame_bytes * frame_bytes], "<f4")
                frames = frames.reshape(-1, self.channels)
                at += len(frames)
                dropped = min(skip, len(frames))
                skip -= dropped
                if len(frames) > dropped:
                    yield frames[dropped:]
                if len(raw) < self._block * frame_bytes:
                    break
            status = process.finish()
            messages = process.messages()
            if status or messages:
                self._failure = messages[0].rstrip(".") if messages else f"ffmpeg ended with status {status}"
            else:
                self._failure = _early_end(self.info, at, "")
        finally:
            process.kill()

    def _not_finite(self, frames: np.ndarray) -> InputError:
        where = self._start + self.frames_read + int(np.argmin(np.isfinite(frames).all(axis=1)))
        return InputError(
            f"{_name(self.path)} has a sample that is NaN or infinite, at {where / self.samplerate:.3f} s.",
            remedy="Export it again from the program that made it, as integers for instance.",
            code="not_finite",
        )

    def _nothing(self) -> InputError:
        if self._start and not self._failure:
            return InputError(
                f"{_name(self.path)} ends before {self._start / self.samplerate:.3f} s.",
                remedy=f"Give a smaller {parameter('start')}.",
                code="start",
            )
        reason = f": {self._failure}" if self._failure else ""
        return InputError(
            f"{_name(self.path)} has no audio frames{reason}.",
            remedy="Copy, download or export it again.",
            code="no_frames",
        )


def _early_end(info: AudioInfo, frames: int, log: str) -> str:
    """Why a file that decoded without an error is still shorter than it says; "" where it is not."""
    reason = sndfile.missing_end(log)
    if reason:
        return reason
    # MPEG headers count the padding of the last frame in or out; a tenth of a second is more than that.
    tolerance = info.samplerate // 10 if info.lossy else 0
    if info.frames is not None and frames < info.frames - tolerance:
        return f"its header states {info.frames / info.samplerate:.3f} s"
    return ""
