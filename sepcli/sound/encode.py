"""Write stems to audio files, block by block, in any of the output formats.

Knows rounding, the encoders and what can go wrong on a disk; nothing of stems or gains. WAV is written by
wav.py, the rest by libsndfile, and what libsndfile lacks by FFmpeg's libraries (M4A always): formats.py says
which. No sample is lost in silence: what the file system refuses becomes an error with its reason.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

import av
import numpy as np
import soundfile
from av.error import FFmpegError
from numpy.typing import NDArray

from sepcli import __version__
from sepcli.errors import NOT_WRITABLE, Warned, from_os
from sepcli.sound import layouts, writers
from sepcli.sound.formats import FORMATS, SEPCLI, SUBTYPES, Format, is_integer, output_rate
from sepcli.sound.id3 import id3v2
from sepcli.sound.sink import Sink
from sepcli.sound.tags import Tags, add_tags
from sepcli.sound.wav import WavFile


def quantize(block: NDArray[np.float32], depth: str) -> NDArray[np.int32]:
    """Round float32 samples, full scale at 1.0, to integers of `depth` ("16", "24", "32"); any shape.

    To the nearest, ties to even. Up to 24 bits this is exact in float32: scaling by a power of two changes no
    digit, and its mantissa holds 24 bits. The largest integers of 32 bits need a float64. Full scale itself is
    one step above the largest integer, so what is beyond is clamped.
    """
    full = 1 << (int(depth) - 1)
    wide = np.float64 if depth == "32" else np.float32
    scaled = np.rint(np.multiply(block, wide(full), dtype=wide))
    return np.clip(scaled, -full, full - 1, out=scaled).astype(np.int32)


class _Encoder(Protocol):
    """What writes one file. OSError where the system refuses."""

    tagged: bool  # it has written all tags itself

    def write(self, frames: np.ndarray) -> None:
        """Add frames [T, C], contiguous: integers of the depth's range, else float32."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...

    def abort(self) -> None:
        """Let go of the file as it is."""
        ...


class AudioWriter:
    """One output file: `write` blocks, then `close`; or `abort`, which removes it.

    path: the file; for wav also an open descriptor (standard output), which stays open. samplerate: Hz, one
    that the format has (`output_rate`). depth: of lossless formats, one of `Format.depths`; the lossy ones take
    the float samples. bitrate: kbit/s. frames: how many will come, where that is known. layout: the names of
    the channels in their order (layouts.py); () means the usual ones.

    `warnings` is complete after `close`. As a context manager: `close`, or `abort` after an exception.

    OutputError: the file can't be written. UsageError "too_large": the format holds no file of that size.
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
        layout: tuple[str, ...] = (),
    ):
        spec = FORMATS[format]
        layout = layout or layouts.default(channels)
        assert len(layout) in (0, channels), (layout, channels)
        assert not spec.stems, "stemfile.py writes these"
        assert not isinstance(path, int) or SEPCLI in spec.writers, "only wav goes into a descriptor"
        assert not spec.lossless or depth in spec.depths, (format, depth)
        assert output_rate(format, samplerate)[0] == samplerate, (format, samplerate)
        self.path, self.format, self.channels = path, format, channels
        self.depth = depth if spec.lossless else "lossy"
        self.frames_written = 0
        self.warnings: list[Warned] = []  # codes: tags, channels
        if tags and spec.max_text is not None:
            tags, long = tags.within(spec.max_text)
            for name in long:
                text = f"The tag '{name}' is too long for {format} and was left out."
                self.warnings.append(Warned(text, "tags"))
        self._spec, self._samplerate, self._tags = spec, samplerate, tags
        self._layout, notice = spec.places(layout)
        if notice:
            self.warnings.append(Warned(notice, "channels"))
        if frames is not None:
            self._check_size(frames)
        self._encoder: _Encoder
        try:
            if SEPCLI in spec.writers:
                tags = tags or Tags()
                by = f"sepcli {__version__}" + (f"; {tags.stem}" if tags.stem else "")
                self._encoder = WavFile(
                    path,
                    samplerate,
                    channels,
                    depth,
                    tags=tags.text,
                    chunks=tags.chunks.coded(samplerate, depth, channels, by).in_order(),
                    frames=frames,
                    layout=self._layout,
                )
                return
            assert isinstance(path, Path)
            if writers.sndfile_writes(spec):
                self._encoder = _SndfileEncoder(
                    path, spec, samplerate, channels, self.depth, bitrate, tags, self._layout
                )
            else:
                self._encoder = _AvEncoder(path, spec, samplerate, channels, bitrate, tags, self._layout)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:  # it was opened, and then refused its header
                self._remove()
            raise from_os(error, path) from error

    def write(self, block: np.ndarray) -> None:
        """Add a block [C, T] float32, full scale at 1.0: rounded and clamped for integers, else as it is."""
        if is_integer(self.depth):
            self.write_ints(quantize(block, self.depth))
        else:
            self._put(block)

    def write_ints(self, block: np.ndarray) -> None:
        """Add a block [C, T] int32, already in the range of the depth: it is written digit for digit."""
        assert is_integer(self.depth), f"{self.format} {self.depth} holds no integers"
        self._put(block)

    def _put(self, block: np.ndarray) -> None:
        assert block.shape[0] == self.channels, (block.shape, self.channels)
        self._check_size(self.frames_written + block.shape[1])
        try:
            self._encoder.write(np.ascontiguousarray(block.T))
        except OSError as error:
            raise from_os(error, self.path) from error
        self.frames_written += block.shape[1]

    def close(self) -> None:
        """Complete the file; its sizes and tags are right only after this."""
        try:
            self._encoder.close()
        except OSError as error:
            raise from_os(error, self.path) from error
        if isinstance(self.path, int) or self._encoder.tagged:
            return
        stated = self._layout if self._spec.lossless else ()  # a lossy stream says it itself
        if stated == self._spec.implied_layout(self.channels):
            stated = ()
        if self._tags is not None or stated:
            failure = add_tags(self.path, self._spec, self._samplerate, self._tags or Tags(), stated)
            if failure:
                what = "Channel names and tags" if stated else "Tags beyond the basic ones"
                self.warnings.append(Warned(f"{what} could not be written: {failure}.", "tags"))

    def abort(self) -> None:
        """Stop and remove what has been written."""
        with suppress(OSError):
            self._encoder.abort()
        self._remove()

    def _check_size(self, frames: int) -> None:
        if self._spec.lossless:
            self._spec.check_size(frames, self.channels, self.depth)

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


_SFC_SET_ADD_PEAK_CHUNK = 0x1050  # sndfile.h


class _SndfileEncoder:
    """A file that libsndfile writes."""

    def __init__(
        self,
        path: Path,
        spec: Format,
        samplerate: int,
        channels: int,
        depth: str,
        bitrate: int | None,
        tags: Tags | None,
        layout: tuple[str, ...],
    ):
        self._order = layouts.order(layout, spec.layouts) if layout and spec.layouts else None
        self._shift = 32 - int(depth) if is_integer(depth) else 0  # libsndfile takes the upper bits of 32
        options = {} if spec.lossless else _compression(spec, samplerate, channels, bitrate)
        subtype = SUBTYPES[depth] if spec.lossless else spec.subtype
        self.tagged = spec.id3 == "first"  # libsndfile's own ID3 tag would be Latin-1
        prefix = id3v2(tags.text, tags.cover, tags.cover_type) if tags and self.tagged else b""
        self._sink = Sink(path, prefix)
        try:
            self._file = soundfile.SoundFile(
                self._sink,  # pyright: ignore[reportArgumentType]  (has a file's methods)
                "w",
                samplerate,
                channels,
                subtype,
                format=spec.sndfile,
                **options,
            )
            if subtype == "FLOAT":
                self._leave_out_the_time()
            if not self.tagged:
                self._set_text(tags)
        except soundfile.SoundFileError as error:
            self._sink.close()
            self._fail(error)

    def _leave_out_the_time(self) -> None:
        """No PEAK chunk: it would hold the time of day, and two runs would give different bytes.

        soundfile has no public way to tell libsndfile so. The header was written with it, and is now written
        again, shorter.
        """
        soundfile._snd.sf_command(self._file._file, _SFC_SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
        self._sink.truncate()

    def _set_text(self, tags: Tags | None) -> None:
        for name, text in (tags.sndfile if tags else {}).items():
            with suppress(soundfile.SoundFileError, UnicodeError):
                setattr(self._file, name, text)

    def write(self, frames: np.ndarray) -> None:
        if self._order is not None and self._order != sorted(self._order):
            frames = np.ascontiguousarray(frames[:, self._order])
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

    def _fail(self, error: Exception) -> NoReturn:
        self._check()
        raise OSError(errno.EIO, f"libsndfile: {error}") from error


def _compression(spec: Format, samplerate: int, channels: int, bitrate: int | None) -> dict[str, Any]:
    """libsndfile's one number, 0 (most bits) to 1 (fewest), for a bit rate in kbit/s or the format's default.

    MP3: linear in the bit rate of the MPEG version's table. Opus: linear in 6 to 256 kbit/s a channel.
    Vorbis: its quality, by the nominal rates of libvorbis for a pair of channels at 44.1 kHz.
    """
    assert spec.bitrates is not None
    bitrate = bitrate or spec.bitrates.default
    if spec.subtype == "MPEG_LAYER_III" and bitrate is not None:
        low, high = (32, 320) if samplerate >= 32000 else (8, 160) if samplerate >= 16000 else (8, 64)
        level = (high - bitrate) / (high - low)
        # 1 itself is refused; LAME takes the nearest rate of its table anyway.
        return {"compression_level": min(0.99, max(0.0, level)), "bitrate_mode": "CONSTANT"}
    if spec.subtype == "OPUS" and bitrate is not None:
        level = 1 - (bitrate / channels - 6) / 250
        return {"compression_level": min(1.0, max(0.0, level))}
    quality = spec.bitrates.quality
    if bitrate is not None:
        stereo = bitrate * 2 / channels * 44100 / samplerate
        quality = float(np.interp(stereo, [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500], range(11)))
    assert quality is not None
    return {"compression_level": 1 - quality / 10}


class _AvEncoder:
    """A lossy file that FFmpeg writes (PyAV), from float samples."""

    def __init__(
        self,
        path: Path,
        spec: Format,
        samplerate: int,
        channels: int,
        bitrate: int | None,
        tags: Tags | None,
        layout: tuple[str, ...],
    ):
        assert spec.bitrates is not None
        bitrate = bitrate or spec.bitrates.default
        assert bitrate is not None, "a format that FFmpeg writes has a bit rate by default"
        self._layout, self._samplerate = "+".join(layout), samplerate
        self._frames = 0  # so far
        self.tagged = spec.id3 == "first"
        self._sink = Sink(path, id3v2(tags.text, tags.cover, tags.cover_type) if tags and self.tagged else b"")
        self._container = av.open(
            self._sink, "w", format=spec.container, container_options=spec.muxer_options(samplerate)
        )
        try:
            with ffmpeg_errors(self._sink):
                stream = self._container.add_stream(
                    spec.codec, rate=samplerate, layout=self._layout, bit_rate=bitrate * 1000
                )
                assert isinstance(stream, av.AudioStream)
                self._stream = stream
                self._container.start_encoding()
        except OSError:
            self.abort()
            raise

    def write(self, frames: np.ndarray) -> None:
        if not len(frames):
            return
        # Interleaved, as PyAV 18.1 reads beyond the planes of a planar frame with eight channels.
        packed = np.ascontiguousarray(frames, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate, frame.pts = self._samplerate, self._frames
        self._frames += len(frames)
        with ffmpeg_errors(self._sink):
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with ffmpeg_errors(self._sink):
            if self._frames:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        self._sink.close()

    def abort(self) -> None:
        self._sink.close()
        with suppress(FFmpegError):
            self._container.close()  # what FFmpeg still wants to write goes nowhere


@contextmanager
def ffmpeg_errors(sink: Sink, *also: type[Exception]) -> Iterator[None]:
    """Errors of FFmpeg, and those that the sink remembers, become an OSError. also: what else PyAV raises."""
    try:
        yield
    except (FFmpegError, *also) as error:
        if sink.error is None:
            reason = error.strerror if isinstance(error, FFmpegError) else error
            raise OSError(errno.EIO, f"FFmpeg: {reason}") from error
    if sink.error is not None:
        raise sink.error
