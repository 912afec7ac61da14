"""The output formats: what each can hold, and whether this machine can write it.

Knows rates, channel counts, bit rates and who encodes what; the encoding itself is encode.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import soundfile

from sepcli.errors import OutputError, UsageError
from sepcli.sound import ffmpeg


@dataclass(frozen=True)
class Format:
    """What a format can hold and who writes it."""

    sndfile: tuple[str, str] | None  # libsndfile's format and subtype
    codec: str  # ffmpeg's encoder, where libsndfile can't; "" = no substitute (integers must arrive exactly)
    container: str  # ffmpeg's muxer
    rates: tuple[int, ...] = ()  # Hz; () = any up to max_rate
    max_rate: int = 0  # Hz
    max_channels: int = 8
    bitrates: tuple[int, int] | None = None  # kbit/s that can be asked for; None: lossless
    default_bitrate: int | None = None  # kbit/s where none is asked for; None: lossless, or Vorbis quality 8


_MPEG4_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
FORMATS = {
    "wav": Format(None, "", "wav", max_rate=0xFFFFFFFF, max_channels=0xFFFF),
    "flac": Format(("FLAC", "PCM_24"), "", "flac", max_rate=655350),
    # libvorbis takes up to 200 kHz; above, libsndfile 1.2.2 crashes.
    "ogg": Format(("OGG", "VORBIS"), "libvorbis", "ogg", (), 192000, 255, (32, 500)),
    "opus": Format(("OGG", "OPUS"), "libopus", "opus", _OPUS_RATES, 48000, 255, (6, 510), 192),
    "mp3": Format(("MP3", "MPEG_LAYER_III"), "libmp3lame", "mp3", _MP3_RATES, 48000, 2, (8, 320), 320),
    "m4a": Format(None, "aac", "ipod", _MPEG4_RATES, 96000, 8, (16, 529), 256),
}


def output_rate(format: str, samplerate: int) -> tuple[int, str | None]:
    """The rate in Hz at which `format` holds audio of `samplerate`, and a notice where that is another.

    The nearest higher rate that the format has, else its highest.
    """
    spec = FORMATS[format]
    if spec.rates:
        rate = next((r for r in spec.rates if r >= samplerate), spec.max_rate)
    else:
        rate = min(samplerate, spec.max_rate)
        if format == "flac" and rate > 65535:  # its frame headers count larger rates in tens of Hz
            rate = -(-rate // 10) * 10
    if rate == samplerate:
        return rate, None
    return rate, f"{format} has no {samplerate} Hz; written at {rate} Hz."


def check_format(format: str, *, channels: int = 2, bitrate: int | None = None) -> None:
    """Raise where this machine can't write such a file: UsageError for the request, OutputError for tools."""
    if format not in FORMATS:
        raise UsageError(f"There is no output format {format!r}.", remedy=f"Choose among {', '.join(FORMATS)}.")
    spec = FORMATS[format]
    if bitrate is not None:
        if spec.bitrates is None:
            raise UsageError(
                f"{format} is lossless and has no bit rate.",
                remedy="Leave out --bitrate or choose mp3, ogg ...",
            )
        low, high = spec.bitrates
        if not low <= bitrate <= high:
            raise UsageError(
                f"{format} takes {low} to {high} kbit/s, not {bitrate}.", remedy="Change --bitrate."
            )
    if channels > spec.max_channels:
        raise UsageError(
            f"{format} holds up to {spec.max_channels} channels, the input has {channels}.",
            remedy="Choose wav or flac.",
        )
    if sndfile_writes(format):
        return
    if spec.codec and ffmpeg.find() is None:
        raise OutputError(
            f"{format} needs ffmpeg to be written, and none is found.",
            remedy="Install ffmpeg, or choose wav, flac, ogg, opus or mp3.",
            code="needs_ffmpeg",
        )
    if not spec.codec or not _ffmpeg_writes(format):
        raise OutputError(
            f"Neither libsndfile nor the ffmpeg that is found can write {format}.",
            remedy="Install the soundfile package's own libsndfile, or ffmpeg 4.4 or later; or choose wav.",
            code="no_encoder",
        )


def formats_report() -> list[tuple[str, bool, str]]:
    """(format, can it be written here, by whom or what is missing), for `doctor`."""
    report = []
    for name, spec in FORMATS.items():
        how = "sepcli" if name == "wav" else f"libsndfile {soundfile.__libsndfile_version__}"
        writable = True
        if not sndfile_writes(name):
            how = f"ffmpeg ({spec.codec})"
            if not spec.codec:
                writable, how = False, "libsndfile was built without it"
            elif ffmpeg.find() is None:
                writable, how = False, "needs ffmpeg"
            elif not _ffmpeg_writes(name):
                writable, how = False, f"ffmpeg lacks {spec.codec}"
        report.append((name, writable, how))
    return report


def sndfile_writes(format: str) -> bool:
    wanted = FORMATS[format].sndfile
    if format == "wav":
        return True  # our own
    if wanted is None:
        return False
    return wanted[0] in soundfile.available_formats() and wanted[1] in soundfile.available_subtypes(wanted[0])


def _ffmpeg_writes(format: str) -> bool:
    """Asked by a trial: a tenth of a second of silence to nowhere."""
    spec = FORMATS[format]
    silence = bytes(2 * 4800)
    raw = ("-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "pipe:0")
    options = muxer_options(spec, 48000)
    status, _, _ = ffmpeg.run(
        [*raw, "-c:a", spec.codec, "-f", spec.container, *options, os.devnull], feed=silence
    )
    return status == 0


def muxer_options(spec: Format, samplerate: int) -> tuple[str, ...]:
    # The movie's clock ticks in milliseconds by default: its edit list would cut up to one off the end.
    if spec.container == "ipod":
        return ("-movie_timescale", str(samplerate))
    if spec.container == "mp3":
        return ("-id3v2_version", "3")  # what players of all ages read
    return ()
