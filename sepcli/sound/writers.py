"""Who writes each output format on this machine: sepcli itself, libsndfile or FFmpeg's libraries (PyAV).

Asks the libraries that are installed, and imports none that can't write the format. What a format is stands in
formats.py, the encoding itself in encode.py.
"""

from __future__ import annotations

from sepcli.errors import OutputError, UsageError, parameter
from sepcli.sound.formats import FFMPEG, FORMATS, LIBSNDFILE, SEPCLI, Format


def check_format(
    format: str,
    *,
    channels: int | None = None,
    layout: tuple[str, ...] = (),
    bitrate: int | None = None,
) -> None:
    """Raise where such a file can't be written: UsageError for the request, OutputError for this machine.

    layout: the names of the channels, () for the usual ones. bitrate: kbit/s.
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
        spec.check_channels(channels, layout)
    writer_text(spec)


def writer_text(spec: Format) -> str:
    """Who writes this format here, with its version or codec: "libsndfile 1.2.2".

    OutputError "no_encoder" where nobody can.
    """
    if SEPCLI in spec.writers:
        return SEPCLI
    if sndfile_writes(spec):
        import soundfile

        return f"{LIBSNDFILE} {soundfile.__libsndfile_version__}"
    if FFMPEG not in spec.writers:
        raise OutputError(
            f"The libsndfile that is found was built without {spec.name}.",
            remedy="Install the soundfile package with its own libsndfile (pip install --force-reinstall "
            f"soundfile), or choose {SEPCLI_WRITES}.",
            code="no_encoder",
        )
    import av

    for codec in set(spec.codecs).difference(av.codecs_available):
        raise OutputError(
            f"The FFmpeg that PyAV uses was built without {codec}, which {spec.name} needs.",
            remedy="Install the av package with its own FFmpeg (pip install --force-reinstall av), "
            f"or choose {SEPCLI_WRITES}.",
            code="no_encoder",
        )
    return f"{FFMPEG} {av.ffmpeg_version_info} ({', '.join(spec.codecs)})"


SEPCLI_WRITES = next(spec.name for spec in FORMATS.values() if SEPCLI in spec.writers)  # needs no library


def sndfile_writes(spec: Format) -> bool:
    """Whether the libsndfile that is installed writes this format, at all its depths."""
    if LIBSNDFILE not in spec.writers:
        return False
    import soundfile

    there = spec.sndfile in soundfile.available_formats()
    return there and set(spec.subtypes) <= set(soundfile.available_subtypes(spec.sndfile))
