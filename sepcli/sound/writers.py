"""Which program writes each output format on this machine: sepcli itself, libsndfile or ffmpeg.

Asks the libraries and programs that are installed; what a format is stands in formats.py, the encoding itself
in encode.py.
"""

from __future__ import annotations

import os

import soundfile

from sepcli.errors import OutputError, UsageError, parameter
from sepcli.sound import ffmpeg
from sepcli.sound.formats import FFMPEG, FORMATS, LIBSNDFILE, SEPCLI, Format


def check_format(format: str, *, channels: int | None = None, bitrate: int | None = None) -> None:
    """Raise where such a file can't be written: UsageError for the request, OutputError for this machine.

    bitrate: kbit/s.
    """
    if format not in FORMATS:
        raise UsageError(
            f"{parameter('format', format)} is unknown; the choices are {', '.join(FORMATS)}.",
            remedy="Choose one of these.",
        )
    spec = FORMATS[format]
    if bitrate is not None:
        spec.check_bitrate(bitrate)
    if channels is not None:
        spec.check_channels(channels)
    writer_text(spec)


def writer_text(spec: Format) -> str:
    """Who writes this format here, with its version or codec: "libsndfile 1.2.2".

    OutputError where nobody can: "needs_ffmpeg", or "no_encoder" if even the ffmpeg that is found can't.
    """
    if SEPCLI in spec.writers:
        return SEPCLI
    if sndfile_writes(spec):
        return f"{LIBSNDFILE} {soundfile.__libsndfile_version__}"
    if FFMPEG not in spec.writers:
        raise OutputError(
            f"The libsndfile that is found was built without {spec.name}.",
            remedy="Install the soundfile package with its own libsndfile (pip install --force-reinstall "
            f"soundfile), or choose {SEPCLI_WRITES}.",
            code="no_encoder",
        )
    if ffmpeg.find() is None:
        others = [other.name for other in FORMATS.values() if other.writers[0] != FFMPEG]
        raise OutputError(
            f"{spec.name} needs ffmpeg to be written, and none is found.",
            remedy=f"Install ffmpeg, or choose one of {', '.join(others)}.",
            code="needs_ffmpeg",
        )
    if not _ffmpeg_writes(spec):
        raise OutputError(
            f"The ffmpeg that is found can't write {spec.name}: it lacks {spec.codec}, or is too old.",
            remedy=f"Install a complete ffmpeg, 4.4 or later, or choose {SEPCLI_WRITES}.",
            code="no_encoder",
        )
    return f"{FFMPEG} ({spec.codec})"


SEPCLI_WRITES = next(spec.name for spec in FORMATS.values() if SEPCLI in spec.writers)  # needs no program


def sndfile_writes(spec: Format) -> bool:
    """Whether the libsndfile that is installed writes this format, at all its depths."""
    return (
        LIBSNDFILE in spec.writers
        and spec.sndfile in soundfile.available_formats()
        and set(spec.subtypes) <= set(soundfile.available_subtypes(spec.sndfile))
    )


def _ffmpeg_writes(spec: Format) -> bool:
    """Found out by a trial: a tenth of a second of silence to nowhere."""
    silence = bytes(2 * 4800)
    raw = ("-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "pipe:0")
    options = spec.muxer_options(48000)
    status, _, _ = ffmpeg.run(
        [*raw, "-c:a", spec.codec, "-f", spec.container, *options, os.devnull], feed=silence
    )
    return status == 0
