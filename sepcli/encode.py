"""Write stems: samples to WAV, FLAC, Ogg Vorbis, Opus, MP3 and M4A, block by block.

Knows formats, rounding and what can go wrong on a disk; nothing of stems or gains. WAV is written by wav.py,
the rest by libsndfile, and by ffmpeg what libsndfile lacks (M4A always). No sample is lost in silence: what
the file system refuses becomes an OutputError with its reason.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from sepcli import ffmpeg
from sepcli.errors import OutputError, UsageError
from sepcli.tags import CONTAINER_OPTIONS, Tags, add_tags
from sepcli.wav import WavFile

_BITS = {"16": 16, "24": 24}


def quantize(block: np.ndarray, depth: str) -> np.ndarray:
    """float32, full scale at 1.0 -> int32 in the range of `depth` ("16", "24"); any shape.

    To nearest, ties to even. Exact in float32: scaling by a power of two changes no digit, and 24 bits is
    what its mantissa holds. Clamped: full scale itself is one step above the largest integer.
    """
    full = 1 << (_BITS[depth] - 1)
    scaled = np.rint(np.multiply(block, np.float32(full), dtype=np.float32))
    return np.clip(scaled, -full, full - 1, out=scaled).astype(np.int32)


@dataclass(frozen=True)
class _Format:
    """What a format can hold and who writes it."""

    sndfile: tuple[str, str] | None  # libsndfile's format and subtype
    codec: str  # ffmpeg's encoder ...
    container: str  # ... and muxer
    rates: tuple[int, ...] = ()  # Hz; () = any up to max_rate
    max_rate: int = 0  # Hz
    max_channels: int = 8
    bitrates: tuple[int, int] | None = None  # kbit/s that can be asked for; None: lossless
    default: str = ""  # what is used where no bit rate is asked for


_MPEG4_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
FORMATS = {
    "wav": _Format(("WAV", "PCM_16"), "pcm_f32le", "wav", max_rate=0xFFFFFFFF, max_channels=0xFFFF),
    "flac": _Format(("FLAC", "PCM_24"), "flac", "flac", max_rate=655350),
    # libvorbis takes up to 200 kHz; above, libsndfile 1.2.2 crashes.
    "ogg": _Format(("OGG", "VORBIS"), "libvorbis", "ogg", (), 192000, 255, (32, 500), "quality 8"),
    "opus": _Format(("OGG", "OPUS"), "libopus", "opus", _OPUS_RATES, 48000, 255, (6, 510), "192 kbit/s"),
    "mp3": _Format(
        ("MP3", "MPEG_LAYER_III"), "libmp3lame", "mp3", _MP3_RATES, 48000, 2, (8, 320), "320 kbit/s"
    ),
    "m4a": _Format(None, "aac", "ipod", _MPEG4_RATES, 96000, 8, (16, 529), "256 kbit/s"),
}
_DEFAULT_BITRATES = {"opus": 192, "mp3": 320, "m4a": 256}  # kbit/s


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
    if _sndfile_writes(format):
        return
    if ffmpeg.find() is None:
        raise OutputError(
            f"{format} needs ffmpeg to be written, and none is found.",
            remedy="Install ffmpeg, or choose wav, flac, ogg, opus or mp3.",
            code="needs_ffmpeg",
        )
    if not _ffmpeg_writes(format):
        raise OutputError(
            f"The ffmpeg that is found can't write {format} (encoder {spec.codec}).",
            remedy="Install a complete ffmpeg of version 4.4 or later, or choose wav or flac.",
            code="no_encoder",
        )


def formats_report() -> list[tuple[str, bool, str]]:
    """(format, can it be written here, by whom or what is missing), for `doctor`."""
    report = []
    for name, spec in FORMATS.items():
        how = "sepcli" if name == "wav" else f"libsndfile {soundfile.__libsndfile_version__}"
        writable = True
        if not _sndfile_writes(name):
            how = f"ffmpeg ({spec.codec})"
            if ffmpeg.find() is None:
                writable, how = False, "needs ffmpeg"
            elif not _ffmpeg_writes(name):
                writable, how = False, f"ffmpeg lacks {spec.codec}"
        report.append((name, writable, how))
    return report


def _sndfile_writes(format: str) -> bool:
    wanted = FORMATS[format].sndfile
    if wanted is None:
        return False
    return wanted[0] in soundfile.available_formats() and wanted[1] in soundfile.available_subtypes(wanted[0])


def _ffmpeg_writes(format: str) -> bool:
    """Asked by a trial: a tenth of a second of silence to nowhere."""
    spec = FORMATS[format]
    silence = bytes(2 * 4800)
    raw = ("-f", "s16le", "-ar", "48000", "-ac", "1", "-i", "pipe:0")
    options = _muxer_options(spec, 48000)
    status, _, _ = ffmpeg.run(
        [*raw, "-c:a", spec.codec, "-f", spec.container, *options, os.devnull], feed=silence
    )
    return status == 0


def _muxer_options(spec: _Format, samplerate: int) -> tuple[str, ...]:
    # The movie's clock ticks in milliseconds by default: its edit list would cut up to one off the end.
    if spec.container == "ipod":
        return ("-movie_timescale", str(samplerate))
    return CONTAINER_OPTIONS.get(spec.container, ())


class _Encoder(Protocol):
    def write(self, frames: np.ndarray) -> None: ...  # [T, C]
    def close(self) -> None: ...
    def abort(self) -> None: ...


class AudioWriter:
    """One output file: `write` blocks, then `close`; or `abort`, which removes it.

    path: the file; for wav also an open descriptor (standard output), which stays open. samplerate: Hz, one
    that the format has (`output_rate`). depth: "16", "24" or "32f" for wav, "16" or "24" for flac; the lossy
    formats take the float samples. bitrate: kbit/s. frames: how many will come, where that is known.

    `warnings` is complete after `close`. As a context manager: `close`, or `abort` after an exception.
    """

    def __init__(
        self,
        path: Path | int,
        *,
        samplerate: int,
        channels: int,
        format: str = "wav",
        depth: str = "24",
        bitrate: int | None = None,
        tags: Tags | None = None,
        frames: int | None = None,
    ):
        assert isinstance(path, int) is False or format == "wav", "only wav goes into a descriptor"
        assert format not in ("wav", "flac") or depth in ({"16", "24", "32f"} if format == "wav" else _BITS)
        self.path, self.format, self.channels = path, format, channels
        self.depth = depth if format in ("wav", "flac") else "lossy"
        self.frames_written = 0
        self.warnings: list[str] = []
        self._tags = tags
        spec = FORMATS[format]
        self._encoder: _Encoder
        try:
            if format == "wav":
                text = tags.text if tags else {}
                self._encoder = WavFile(path, samplerate, channels, depth, tags=text, frames=frames)
            elif _sndfile_writes(format):
                self._encoder = _SndfileEncoder(
                    Path(path), spec, samplerate, channels, self.depth, bitrate, tags
                )
            else:
                self._encoder = _FfmpegEncoder(Path(path), spec, samplerate, channels, bitrate)
        except OSError as error:
            raise output_error(error, path) from error

    def write(self, block: np.ndarray) -> None:
        """[C, T] float32, full scale at 1.0. Integer depths are rounded to nearest and clamped; float never."""
        if self.depth in _BITS:
            self.write_ints(quantize(block, self.depth))
        else:
            self._put(block)

    def write_ints(self, block: np.ndarray) -> None:
        """[C, T] int32, already in the range of the depth: written digit for digit."""
        assert self.depth in _BITS, f"{self.format} {self.depth} holds no integers"
        self._put(block)

    def _put(self, block: np.ndarray) -> None:
        assert block.shape[0] == self.channels, (block.shape, self.channels)
        try:
            self._encoder.write(np.ascontiguousarray(block.T))
        except OSError as error:
            raise output_error(error, self.path) from error
        self.frames_written += block.shape[1]

    def close(self) -> None:
        """Finish the file; its sizes and tags are right only after this."""
        try:
            self._encoder.close()
        except OSError as error:
            raise output_error(error, self.path) from error
        if self._tags is None or self.format == "wav" or isinstance(self.path, int):
            return
        if ffmpeg.find() is not None:
            failure = add_tags(self.path, FORMATS[self.format].container, self._tags)
            if failure:
                self.warnings.append(f"Tags beyond the basic ones could not be written: {failure}")

    def abort(self) -> None:
        """Stop and remove what has been written."""
        with suppress(OSError):
            self._encoder.abort()
        if not isinstance(self.path, int):
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Sink:
    """The file that libsndfile writes into, as soundfile calls it. It remembers why a write failed.

    libsndfile itself would say "system error" or nothing. Nothing may be raised here: soundfile's callbacks
    would print it and go on, Ctrl-C included.
    """

    def __init__(self, path: Path):
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:
            self.error = error
        return len(data) - len(rest)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class _SndfileEncoder:
    def __init__(
        self,
        path: Path,
        spec: _Format,
        samplerate: int,
        channels: int,
        depth: str,
        bitrate: int | None,
        tags: Tags | None,
    ):
        assert spec.sndfile is not None
        major, subtype = spec.sndfile
        self._shift = 0
        options: dict[str, Any] = {}
        if depth in _BITS:
            subtype = f"PCM_{depth}"
            self._shift = 32 - _BITS[depth]  # libsndfile takes the upper bits of 32
        else:
            options = _compression(subtype, samplerate, channels, bitrate)
        self._sink = _Sink(path)
        try:
            self._file = soundfile.SoundFile(
                self._sink, "w", samplerate, channels, subtype, format=major, **options
            )
            for name, text in (tags.sndfile if tags else {}).items():
                with suppress(soundfile.SoundFileError, UnicodeError):
                    setattr(self._file, name, text)
        except soundfile.SoundFileError as error:
            self._sink.close()
            self._fail(error)

    def write(self, frames: np.ndarray) -> None:
        if self._shift:
            frames = np.left_shift(frames, self._shift, dtype=np.int32)
        try:
            self._file.write(frames)
        except (soundfile.SoundFileError, AssertionError) as error:  # AssertionError: fewer were written
            self._fail(error)
        self._check()

    def close(self) -> None:
        try:
            self._file.close()
        except soundfile.SoundFileError as error:
            self._fail(error)
        finally:
            self._sink.close()
        self._check()

    def abort(self) -> None:
        with suppress(soundfile.SoundFileError):
            self._file.close()
        self._sink.close()

    def _check(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error

    def _fail(self, error: Exception) -> None:
        self._check()
        raise OSError(errno.EIO, f"libsndfile: {error}") from error


def _compression(subtype: str, samplerate: int, channels: int, bitrate: int | None) -> dict[str, Any]:
    """libsndfile's one number, 0 (most bits) to 1 (fewest), for a bit rate in kbit/s.

    MP3: linear in the bit rate of the MPEG version's table. Opus: linear in 6 to 256 kbit/s a channel.
    Vorbis: its quality, by the nominal rates of libvorbis for a pair of channels at 44.1 kHz.
    """
    if subtype == "MPEG_LAYER_III":
        low, high = (32, 320) if samplerate >= 32000 else (8, 160) if samplerate >= 16000 else (8, 64)
        level = (high - (bitrate or _DEFAULT_BITRATES["mp3"])) / (high - low)
        return {"compression_level": min(1.0, max(0.0, level)), "bitrate_mode": "CONSTANT"}
    if subtype == "OPUS":
        level = 1 - ((bitrate or _DEFAULT_BITRATES["opus"]) / channels - 6) / 250
        return {"compression_level": min(1.0, max(0.0, level))}
    quality = 8.0
    if bitrate is not None:
        stereo = bitrate * 2 / channels * 44100 / samplerate
        quality = float(np.interp(stereo, [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500], range(11)))
    return {"compression_level": 1 - quality / 10}


class _FfmpegEncoder:
    def __init__(self, path: Path, spec: _Format, samplerate: int, channels: int, bitrate: int | None):
        # ffmpeg would say why, but in its own words; and it would keep a name that we can't open.
        with open(path, "wb"):
            pass
        default = _DEFAULT_BITRATES.get(spec.container if spec.container != "ipod" else "m4a")
        rate = bitrate or default
        quality = ("-b:a", f"{rate}k") if rate else ("-q:a", "8")
        self._process = ffmpeg.Process(
            [
                *("-f", "f32le", "-ar", str(samplerate), "-ac", str(channels), "-i", "pipe:0"),
                *("-c:a", spec.codec, *quality, "-f", spec.container, *_muxer_options(spec, samplerate)),
                ffmpeg.url(path),
            ],
            feed=True,
        )

    def write(self, frames: np.ndarray) -> None:
        try:
            self._process.pipe.write(np.ascontiguousarray(frames, dtype="<f4").data)
        except BrokenPipeError:
            self._fail()

    def close(self) -> None:
        status = self._process.finish()
        if status or self._process.messages():
            self._fail()
        self._process.kill()

    def abort(self) -> None:
        self._process.kill()

    def _fail(self) -> None:
        status = self._process.finish()
        said = "; ".join(self._process.messages()) or f"status {status}"
        self._process.kill()
        for code in _DISK_FULL:
            if os.strerror(code) in said:
                raise OSError(code, os.strerror(code))
        raise OSError(errno.EIO, f"ffmpeg: {said}")


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def output_error(error: OSError, path: Path | int) -> OutputError:
    """The OutputError for what the file system said of writing `path`."""
    name = "Standard output" if isinstance(path, int) else os.fsencode(path).decode("utf-8", "replace")
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        return OutputError(
            f"{name} can't be written: the disk is full ({reason}).",
            remedy="Free some space or choose another folder with -o, then run again.",
            code="disk_full",
        )
    if error.errno == errno.EFBIG:
        return OutputError(
            f"{name} can't be written: the file system takes no file of that size.",
            remedy="Choose --format flac or another file system.",
            code="too_large",
        )
    if error.errno in _NOT_WRITABLE:
        return OutputError(
            f"{name} can't be written: {reason}.",
            remedy="Choose a folder that you may write to with -o.",
            code="not_writable",
        )
    return OutputError(f"{name} can't be written: {reason}.", remedy="Check the disk, then run again.")
