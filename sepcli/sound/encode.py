"""Write stems: samples to WAV, FLAC, Ogg Vorbis, Opus, MP3 and M4A, block by block.

Knows formats, rounding and what can go wrong on a disk; nothing of stems or gains. WAV is written by wav.py,
the rest by libsndfile, and by ffmpeg what libsndfile lacks (M4A always). No sample is lost in silence: what
the file system refuses becomes an OutputError with its reason.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from sepcli.errors import DISK_FULL, NOT_WRITABLE, from_os
from sepcli.sound import ffmpeg
from sepcli.sound.formats import (
    FORMATS,
    Format,
    check_format,
    formats_report,
    muxer_options,
    output_rate,
    sndfile_writes,
)
from sepcli.sound.id3 import id3v2
from sepcli.sound.tags import Tags, add_tags, read_cover
from sepcli.sound.wav import WavFile

__all__ = [
    "FORMATS", "AudioWriter", "check_format", "formats_report", "output_rate", "quantize",
]  # fmt: skip

_BITS = {"16": 16, "24": 24, "32": 32}
_DEPTHS = {"wav": ("16", "24", "32", "32f"), "flac": ("16", "24")}


def quantize(block: np.ndarray, depth: str) -> np.ndarray:
    """float32, full scale at 1.0 -> int32 in the range of `depth` ("16", "24", "32"); any shape.

    To nearest, ties to even. Up to 24 bits exact in float32: scaling by a power of two changes no digit, and
    24 bits is what its mantissa holds; the largest of 32 bits is a float64 only. Clamped: full scale itself
    is one step above the largest integer.
    """
    full = 1 << (_BITS[depth] - 1)
    wide = np.float64 if depth == "32" else np.float32
    scaled = np.rint(np.multiply(block, wide(full), dtype=wide))
    return np.clip(scaled, -full, full - 1, out=scaled).astype(np.int32)


class _Encoder(Protocol):
    tagged: bool  # it has written the tags itself

    def write(self, frames: np.ndarray) -> None: ...  # [T, C]
    def close(self) -> None: ...
    def abort(self) -> None: ...


class AudioWriter:
    """One output file: `write` blocks, then `close`; or `abort`, which removes it.

    path: the file; for wav also an open descriptor (standard output), which stays open. samplerate: Hz, one
    that the format has (`output_rate`). depth: "16", "24", "32" or "32f" for wav, "16" or "24" for flac; the
    lossy formats take the float samples. bitrate: kbit/s. frames: how many will come, where that is known.

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
        assert format not in _DEPTHS or depth in _DEPTHS[format], (format, depth)
        assert output_rate(format, samplerate)[0] == samplerate, (format, samplerate)
        self.path, self.format, self.channels = path, format, channels
        self.depth = depth if format in ("wav", "flac") else "lossy"
        self.frames_written = 0
        self.warnings: list[str] = []
        self._samplerate, self._tags = samplerate, tags
        spec = FORMATS[format]
        bitrate = bitrate or spec.default_bitrate
        self._encoder: _Encoder
        try:
            if format == "wav":
                text = tags.text if tags else {}
                self._encoder = WavFile(path, samplerate, channels, depth, tags=text, frames=frames)
            elif sndfile_writes(format):
                self._encoder = _SndfileEncoder(
                    Path(path), spec, samplerate, channels, self.depth, bitrate, tags
                )
            else:
                self._encoder = _FfmpegEncoder(Path(path), spec, samplerate, channels, bitrate)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:  # it was opened, and then refused its header
                self._remove()
            raise from_os(error, path) from error

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
            raise from_os(error, self.path) from error
        self.frames_written += block.shape[1]

    def close(self) -> None:
        """Finish the file; its sizes and tags are right only after this."""
        try:
            self._encoder.close()
        except OSError as error:
            raise from_os(error, self.path) from error
        if self._tags is None or isinstance(self.path, int) or ffmpeg.find() is None:
            return
        if not self._encoder.tagged:
            spec = FORMATS[self.format]
            failure = add_tags(self.path, spec.container, self._tags, muxer_options(spec, self._samplerate))
            if failure:
                self.warnings.append(f"Tags beyond the basic ones could not be written: {failure}.")

    def abort(self) -> None:
        """Stop and remove what has been written."""
        with suppress(OSError):
            self._encoder.abort()
        self._remove()

    def _remove(self) -> None:
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

    def __init__(self, path: Path, prefix: bytes = b""):
        """prefix: what stands in the file before all that libsndfile writes, and that it does not see."""
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self.error: BaseException | None = None
        self._begin = self.write(prefix)

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # noqa: BLE001
            self.error = error
        return len(data) - len(rest)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._file.closed:
            return -1
        if whence == os.SEEK_SET:
            offset += self._begin
        return self._file.seek(offset, whence) - self._begin

    def tell(self) -> int:
        return -1 if self._file.closed else self._file.tell() - self._begin

    def close(self) -> None:
        self._file.close()


class _SndfileEncoder:
    def __init__(
        self,
        path: Path,
        spec: Format,
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
        self.tagged = major == "MP3"  # libsndfile's own tag would be Latin-1
        prefix = id3v2(tags.text, *read_cover(tags)) if tags and self.tagged else b""
        self._sink = _Sink(path, prefix)
        try:
            self._file = soundfile.SoundFile(
                self._sink, "w", samplerate, channels, subtype, format=major, **options
            )
            if not self.tagged:
                self._set_text(tags)
        except soundfile.SoundFileError as error:
            self._sink.close()
            self._fail(error)

    def _set_text(self, tags: Tags | None) -> None:
        for name, text in (tags.sndfile if tags else {}).items():
            with suppress(soundfile.SoundFileError, UnicodeError):
                setattr(self._file, name, text)

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
    if subtype == "MPEG_LAYER_III" and bitrate is not None:
        low, high = (32, 320) if samplerate >= 32000 else (8, 160) if samplerate >= 16000 else (8, 64)
        level = (high - bitrate) / (high - low)
        # 1 itself is refused; LAME takes the nearest rate of its table anyway.
        return {"compression_level": min(0.99, max(0.0, level)), "bitrate_mode": "CONSTANT"}
    if subtype == "OPUS" and bitrate is not None:
        level = 1 - (bitrate / channels - 6) / 250
        return {"compression_level": min(1.0, max(0.0, level))}
    quality = 8.0
    if bitrate is not None:
        stereo = bitrate * 2 / channels * 44100 / samplerate
        quality = float(np.interp(stereo, [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500], range(11)))
    return {"compression_level": 1 - quality / 10}


class _FfmpegEncoder:
    tagged = False

    def __init__(self, path: Path, spec: Format, samplerate: int, channels: int, bitrate: int | None):
        # ffmpeg would say why, but in its own words; and it would keep a name that we can't open.
        with open(path, "wb"):
            pass
        quality = ("-b:a", f"{bitrate}k") if bitrate else ("-q:a", "8")
        self._process = ffmpeg.Process(
            [
                *("-f", "f32le", "-ar", str(samplerate), "-ac", str(channels), "-i", "pipe:0"),
                *("-c:a", spec.codec, *quality, "-f", spec.container, *muxer_options(spec, samplerate)),
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
        for code in DISK_FULL:
            if os.strerror(code) in said:
                raise OSError(code, os.strerror(code))
        raise OSError(errno.EIO, f"ffmpeg: {said}")
