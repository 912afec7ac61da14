"""Stem files for DJs (NI Stems, `.stem.mp4`): a mix and four stems as the tracks of one MP4 file.

Knows tracks of samples and the box that describes them; not how stems are made or which ones are wanted.

    track 1      the mix; the only one that is enabled, so that a player without stems plays it alone
    track 2-5    the stems, disabled
    moov/udta    tags and cover, and the box `stem`: JSON with the names and colours of the four stems, and with
                 the settings of a compressor and a limiter, both off

All tracks are stereo and have one codec, rate and length: AAC, or ALAC for a bit depth. The document of the
format is not public. What is written here has the structure of published stem files (one comes with stempeg),
and what Mixxx asks for: five stereo tracks of one rate, the names and colours in the box.

FFmpeg writes the tracks and keeps their packets interleaved, so memory does not grow with the samples. It has
no way to write the box. That goes into the finished file, where `moov` is the last box: nothing has to move.
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from numpy.typing import NDArray

from sepcli.errors import Warned, from_os
from sepcli.sound.boxes import box, boxes
from sepcli.sound.encode import ffmpeg_errors, quantize
from sepcli.sound.formats import FORMATS, Format, is_integer
from sepcli.sound.sink import Sink
from sepcli.sound.tags import Tags, add_cover

COLORS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9")  # of the four stems, as DJ programs have them by default

# Off; the values are those that Native Instruments' tool begins with.
_COMPRESSOR = {
    "enabled": False,
    "input_gain": 0.5,
    "output_gain": 0.5,
    "threshold": 0,  # dB
    "ratio": 3,
    "attack": 0.003,  # seconds
    "release": 0.3,  # seconds
    "hp_cutoff": 300,  # Hz
    "dry_wet": 50,  # per cent
}
_LIMITER = {"enabled": False, "threshold": 0, "ceiling": -0.35, "release": 0.05}  # dB, dB, seconds


def manifest(stems: Sequence[str]) -> dict[str, Any]:
    """What the box `stem` holds, for the names of four stems."""
    return {
        "version": 1,
        "mastering_dsp": {"compressor": _COMPRESSOR, "limiter": _LIMITER},
        "stems": [{"name": name, "color": color} for name, color in zip(stems, COLORS, strict=True)],
    }


class StemFileWriter:
    """One stem file: `write` blocks, then `close`; or `abort`, which removes it.

    path: the file. names: of the tracks, the mix first. samplerate: Hz, 44100 or 48000. depth: "16" or "24" for
    ALAC, "lossy" for AAC. bitrate: kbit/s of each track, None for the usual one.

    `warnings` is complete after `close`. OutputError: the file can't be written.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        *,
        samplerate: int,
        format: str = "stem.mp4",
        depth: str = "lossy",
        bitrate: int | None = None,
        tags: Tags | None = None,
    ):
        spec = FORMATS[format]
        assert spec.bitrates is not None and len(names) == spec.stems + 1, names
        assert depth == "lossy" or depth in spec.depths, depth
        self.path, self.depth, self.frames_written = path, depth, 0
        self.warnings: list[Warned] = []  # code: tags
        self._samplerate, self._names = samplerate, tuple(names)
        # FFmpeg's samples; 24 bits are the upper ones of 32.
        self._kind = {"lossy": "flt", "16": "s16", "24": "s32"}[depth]
        try:
            self._sink = Sink(path)
        except OSError as error:
            raise from_os(error, path) from error
        self._container = av.open(
            self._sink,
            "w",
            format=spec.container,
            container_options=spec.muxer_options(samplerate),
            metadata_errors="replace",
        )
        try:
            with ExitStack() as stack, ffmpeg_errors(self._sink):
                self._streams = [self._track(name, spec, bitrate) for name in names]
                self._streams[0].disposition = Disposition.default
                picture = self._tag(spec, tags, stack) if tags is not None else None
                self._container.start_encoding()
                if picture is not None:
                    self._container.mux(picture)
        except OSError as error:
            self.abort()
            raise from_os(error, path) from error

    def _track(self, name: str, spec: Format, bitrate: int | None) -> av.AudioStream:
        codec = spec.codec if self.depth == "lossy" else spec.exact_codec
        stream = self._container.add_stream(codec, rate=self._samplerate, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        if self.depth == "lossy":
            kilobits = bitrate or (spec.bitrates and spec.bitrates.default)
            assert kilobits is not None
            stream.bit_rate = kilobits * 1000
        else:
            stream.codec_context.format = self._kind + "p"
        stream.disposition = Disposition(0)
        stream.metadata.update(handler_name=name, title=name)
        return stream

    def _tag(self, spec: Format, tags: Tags, stack: ExitStack) -> av.Packet | None:
        """Give the container its texts and its cover; the packet of the picture, to be written first."""
        texts = replace(tags, text={**tags.text, "title": tags.title}).texts(spec)
        self._container.metadata.update(texts)
        if not tags.cover:
            return None
        if failure := _refused(tags.cover):
            self.warnings.append(Warned(f"The cover could not be written: {failure}.", "tags"))
            return None
        source = stack.enter_context(av.open(BytesIO(tags.cover), "r"))
        return next(add_cover(source, self._container))

    def write(self, block: NDArray[np.float32]) -> None:
        """Add a block [K, C, T] of K tracks, mono or stereo, full scale at 1.0; ALAC rounds and clamps it."""
        self.write_ints(quantize(block, self.depth)) if is_integer(self.depth) else self._put(block)

    def write_ints(self, block: NDArray[np.int32]) -> None:
        """Add a block [K, C, T] in the range of the depth: it is written digit for digit."""
        assert is_integer(self.depth), "AAC takes no integers"
        self._put(block.astype(np.int16) if self.depth == "16" else np.left_shift(block, 8))

    def _put(self, block: NDArray) -> None:
        """block: samples of the kind that FFmpeg is given."""
        count, channels, frames = block.shape
        assert count == len(self._streams) and channels in (1, 2), block.shape
        if not frames:
            return
        if channels == 1:
            block = np.repeat(block, 2, axis=1)
        packed = np.ascontiguousarray(block.swapaxes(1, 2)).reshape(count, 1, -1)
        try:
            for stream, samples in zip(self._streams, packed, strict=True):
                frame = av.AudioFrame.from_ndarray(samples, format=self._kind, layout="stereo")
                frame.sample_rate, frame.pts = self._samplerate, self.frames_written
                with ffmpeg_errors(self._sink):
                    self._container.mux(stream.encode(frame))
        except OSError as error:
            raise from_os(error, self.path) from error
        self.frames_written += frames

    def close(self) -> None:
        """Complete the file."""
        try:
            with ffmpeg_errors(self._sink):
                if self.frames_written:
                    for stream in self._streams:
                        self._container.mux(stream.encode(None))
                self._container.close()
            self._sink.close()
            text = json.dumps(manifest(self._names[1:]), ensure_ascii=False)
            _add_to_udta(self.path, box(b"stem", text.encode()))
        except OSError as error:
            raise from_os(error, self.path) from error

    def abort(self) -> None:
        """Stop and remove what has been written."""
        with suppress(OSError):
            self._sink.close()
        with suppress(FFmpegError):
            self._container.close()  # what FFmpeg still wants to write goes nowhere
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _refused(cover: bytes) -> str:
    """Why FFmpeg can't write this cover; "" where it can. Tried first: a failure would cost the whole file."""
    try:
        with ExitStack() as stack:
            source = stack.enter_context(av.open(BytesIO(cover), "r"))
            trial = stack.enter_context(av.open(BytesIO(), "w", format="mp4"))
            picture = next(add_cover(source, trial))
            trial.start_encoding()
            trial.mux(picture)
    except FFmpegError as error:
        return f"FFmpeg: {error.strerror}"
    except (ValueError, IndexError, StopIteration):  # no codec that the format takes, or no picture in it
        return "it is no picture that MP4 holds"
    return ""


def _add_to_udta(path: Path, data: bytes) -> None:
    """Add a box to the user data of a file whose last box is `moov`, as FFmpeg writes them. OSError."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        at, begin, end = next((place for kind, *place in boxes(file, 0, size) if kind == b"moov"), (0, 0, 0))
        if end != size:
            raise OSError(errno.EIO, "FFmpeg has not put the index of the file at its end")
        grown = [at]
        udta = next((each for each in boxes(file, begin, end) if each[0] == b"udta"), None)
        if udta is None:
            data, place = box(b"udta", data), end
        else:
            place = udta[3]
            grown.append(udta[1])
        file.seek(place)
        behind = file.read()
        file.seek(place)
        file.write(data + behind)
        for each in grown:
            file.seek(each)
            (before,) = struct.unpack(">I", file.read(4))
            file.seek(each)
            file.write(struct.pack(">I", before + len(data)))
