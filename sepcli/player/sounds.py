"""Stems as a browser takes them: MP3 for the ear, maxima for the eye. A few blocks are in memory at a time.

Knows files of stems and no page. MP3, because Chrome, Firefox and Safari all decode it, and it takes half
the room of FLAC or less, which they decode as well (not all know Ogg and Opus). What MP3 loses is the exact
beginning: an encoder puts some silence in front, and browsers may differ in how much of it they take away. So
each page has a click with it, encoded in the same way, at a place that is known.

Axes: C channels, T samples.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from sepcli.sound import layouts
from sepcli.sound.decode import AudioReader
from sepcli.sound.encode import AudioWriter
from sepcli.sound.formats import output_rate
from sepcli.sound.probe import probe
from sepcli.sound.resample import resampled

KBITS = 96  # kbit/s a channel: 1.44 MB a minute of a stereo stem
_BINS = 1024  # of a waveform at least, where it has so many samples; at most twice as many
_FIRST_HOP = 64  # samples in a bin at first
_CLICK_SECONDS = 0.25  # from the beginning of the click's file to its middle
_CLICK_FRAMES = 32  # how long it is
_TEXT_BYTES = 3 << 16  # of a file that become text at a time; a multiple of 3

Block = NDArray[np.float32]


class Peaks:
    """The maxima of a stream's absolute values, over all channels and bins of equal length.

    The length of a bin doubles whenever there are too many, so the stream may have any length.
    """

    def __init__(self, bins: int = _BINS):
        self.hop = _FIRST_HOP  # samples in a bin; the last bin may have fewer
        self._bins = bins
        self._values = np.empty(0, np.float32)
        self._open, self._open_samples = np.float32(0), 0  # of the bin that is not full

    def add(self, block: Block) -> None:
        """block [C, T]."""
        heard = np.abs(block).max(axis=0)
        if self._open_samples:
            heard = self._fill(heard)
        whole = len(heard) // self.hop * self.hop
        self._values = np.concatenate([self._values, heard[:whole].reshape(-1, self.hop).max(axis=1)])
        self._fill(heard[whole:])
        while len(self._values) >= 2 * self._bins:
            self._double()

    def _fill(self, heard: Block) -> Block:
        """Put what there is room for into the open bin; what is left."""
        taken = heard[: self.hop - self._open_samples]
        if len(taken):
            self._open = max(self._open, taken.max())
            self._open_samples += len(taken)
        if self._open_samples == self.hop:
            self._values = np.append(self._values, self._open)
            self._open, self._open_samples = np.float32(0), 0
        return heard[len(taken) :]

    def _double(self) -> None:
        """Make one bin of two."""
        if len(self._values) % 2:  # the last full bin becomes part of the open one
            self._open = max(self._open, self._values[-1])
            self._open_samples += self.hop
            self._values = self._values[:-1]
        self._values = self._values.reshape(-1, 2).max(axis=1)
        self.hop *= 2

    def values(self) -> Block:
        """One maximum for each bin so far."""
        return np.append(self._values, self._open) if self._open_samples else self._values


@dataclass(frozen=True)
class Sound:
    """A stem as an MP3 file, and its waveform."""

    file: Path
    frames: int  # of the stem, at `samplerate`
    samplerate: int  # Hz, of the MP3
    channels: int  # of the MP3: 1 or 2
    seconds: float
    peaks: tuple[float, ...]  # of each bin, full scale at 1.0
    bin_seconds: float
    folded: bool  # whether more than two channels were brought to two


def encode_all(files: Sequence[Path], folder: Path) -> list[Sound]:
    """Encode stems at the same time, one a core, into `folder`, which exists.

    InputError where a stem can't be read, OutputError where an MP3 can't be written.
    """
    stop = Event()
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
        try:
            waiting = [
                pool.submit(encode, file, folder / f"{number}.mp3", stop) for number, file in enumerate(files)
            ]
            return [each.result() for each in waiting]
        except BaseException:
            stop.set()
            raise


def encode(source: Path, target: Path, stop: Event | None = None) -> Sound:
    """Encode one stem. stop: set by somebody who no longer needs it."""
    info = probe(source)
    rate, _ = output_rate("mp3", info.samplerate)
    matrix = fold_down(info.layout or layouts.default(info.channels), info.channels)
    channels = len(matrix)
    peaks = Peaks()
    reader = AudioReader(source, info)

    def blocks() -> Iterator[Block]:
        for block in reader:
            if stop is not None and stop.is_set():
                return
            peaks.add(block)
            yield block if channels == info.channels else (matrix @ block).astype(np.float32)

    frames = _write(target, resampled(blocks(), info.samplerate, rate, channels), rate, channels)
    return Sound(
        file=target,
        frames=frames,
        samplerate=rate,
        channels=channels,
        seconds=reader.frames_read / info.samplerate,
        peaks=tuple(float(value) for value in peaks.values()),
        bin_seconds=peaks.hop / info.samplerate,
        folded=channels != info.channels,
    )


def lossless(source: Path, target: Path) -> None:
    """Encode a WAV of 16 bits as FLAC, which Chrome, Firefox and Safari decode to the same samples.

    InputError, OutputError, as `encode_all`.
    """
    info = probe(source)
    with AudioWriter(
        target, samplerate=info.samplerate, channels=info.channels, format="flac", depth="16"
    ) as writer:
        for block in AudioReader(source, info):
            writer.write(block)


@dataclass(frozen=True)
class Outline:
    """The waveform of a file, as in `Sound`."""

    samplerate: int
    seconds: float
    peaks: tuple[float, ...]
    bin_seconds: float


def outline(source: Path) -> Outline:
    """Read a file for its waveform. InputError where it can't be read."""
    info = probe(source)
    peaks, reader = Peaks(), AudioReader(source, info)
    for block in reader:
        peaks.add(block)
    rate = info.samplerate
    return Outline(rate, reader.frames_read / rate, tuple(map(float, peaks.values())), peaks.hop / rate)


def click(target: Path, samplerate: int, channels: int) -> int:
    """Write a click as an MP3 like those of `encode`; the frame of its middle."""
    middle = round(_CLICK_SECONDS * samplerate)
    sound = np.zeros((channels, 2 * middle), np.float32)
    half = _CLICK_FRAMES // 2
    sound[:, middle - half : middle + half + 1] = 0.9 * np.hanning(_CLICK_FRAMES + 1).astype(np.float32)
    _write(target, [sound], samplerate, channels)
    return middle


def _write(target: Path, blocks: Iterable[Block], samplerate: int, channels: int) -> int:
    """An MP3 of the blocks; how many frames it has."""
    with AudioWriter(
        target, samplerate=samplerate, channels=channels, format="mp3", bitrate=KBITS * channels
    ) as writer:
        for block in blocks:
            writer.write(block)
    return writer.frames_written


def fold_down(layout: Sequence[str], channels: int) -> NDArray[np.float32]:
    """What brings channels [C, T] to at most two: a matrix [1 or 2, C].

    Surround channels go to their side and the centre to both, each at -3 dB (ITU-R BS.775); LFE is left out.
    All is lowered alike, so that nothing clips. Channels without names go left and right in turn.
    """
    if channels <= 2:
        return np.eye(channels, dtype=np.float32)
    weights = np.zeros((2, channels))
    for index, name in enumerate(layout or ["L", "R"] * channels):
        if index >= channels or name.startswith("LFE"):
            continue
        front = name in ("FL", "FR", "L", "R")
        for side, letter in enumerate("LR"):
            if name.endswith(letter) or not name.endswith(("L", "R")):
                weights[side, index] = 1.0 if front else np.sqrt(0.5)
    return (weights / weights.sum(axis=1).max()).astype(np.float32)


def base64_of(file: Path) -> Iterator[str]:
    """The bytes of a file as base64, piece by piece."""
    with open(file, "rb") as binary:
        while data := binary.read(_TEXT_BYTES):
            yield base64.b64encode(data).decode("ascii")
