"""A mix on its way into the engine, and its stems on their way out: rates, channels and lengths.

Knows blocks of samples and the engine; no files. Both directions stream, and what comes out at the end has
exactly as many frames as the mix has at that rate, so that at the mix's own rate nothing is gained or lost.

    mix [C, T] at its rate      -> Feed      -> [G, Cm, T'] at the model's rate   -> engine
    engine -> [S, G, Cm, T']    -> StemsBack -> [S, C, T"] at the output's rate
    mix [C, T] at its rate      -> MixAgain  -> [C, T"] at the output's rate, in step with the stems

G groups of Cm channels stand for the C channels of the mix (resample.ChannelMap). S stems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepcli.engine.pipeline import Engine, Progress, measure
from sepcli.errors import InputError
from sepcli.sound.resample import ChannelMap, Resampler, frames_at
from sepcli.system.background import ahead

DECODED_AHEAD = 8  # blocks, of a second or two each

Block = NDArray[np.float32]
Read = Callable[[], Iterable[Block]]  # gives the mix from its beginning, every time it is called


class Feed:
    """A mix on its way into the engine: at the model's rate, in the model's channels."""

    def __init__(self, read: Read, engine: Engine, samplerate: int, channels: int):
        """read: [C, T] blocks at `samplerate` Hz; called for every pass. InputError for too many channels."""
        self.engine = engine
        self.samplerate = samplerate
        self.channel_map = ChannelMap(channels, engine.ensemble.channels)
        self.frames = 0  # read so far in the current pass; all of them when the engine has ended
        self.frames_measured: int | None = None
        self._read = read
        self._stats = None
        self._open: list[Iterator[Tensor]] = []

    def measure(self) -> None:
        """The first pass, if the model asks for one."""
        if self.engine.normalize:
            self._stats = measure(self._blocks())
            self.frames_measured = self.frames

    def separate(self, progress: Progress | None = None) -> Iterator[Tensor]:
        """[S, G, Cm, T] blocks at the model's rate."""
        return self.engine.separate(self._blocks(), self._stats, progress)

    def _blocks(self) -> Iterator[Tensor]:
        blocks = ahead(self._converted(), DECODED_AHEAD)
        self._open.append(blocks)
        return blocks

    def _converted(self) -> Iterator[Tensor]:
        self.frames = 0
        resampler = Resampler(self.samplerate, self.engine.samplerate, self.channel_map.file_channels)
        for block in self._read():
            self.frames += block.shape[1]
            yield from self._split(resampler.process(block))
        yield from self._split(resampler.flush())

    def _split(self, block: Block) -> Iterator[Tensor]:
        if block.shape[1]:
            yield torch.from_numpy(np.ascontiguousarray(self.channel_map.split(block)))

    def close(self) -> None:
        """Stop the decoding thread, wherever it is."""
        for blocks in self._open:
            blocks.close()


class StemsBack:
    """Stems on their way out of the engine: in the mix's channels, at the output's rate, to the frame."""

    def __init__(self, feed: Feed, samplerate: int):
        self.frames = 0  # given so far
        self.samplerate = samplerate
        self._feed = feed
        self._stems = len(feed.engine.sources)
        self._channels = feed.channel_map.file_channels
        self._resampler = Resampler(feed.engine.samplerate, samplerate, self._stems * self._channels)

    def process(self, stems: Tensor) -> Block:
        """[S, G, Cm, T] at the model's rate -> [S, C, T'] at the output's."""
        joined = self._feed.channel_map.join(stems.numpy())
        flat = np.ascontiguousarray(joined.reshape(-1, joined.shape[-1]))
        return self._shaped(self._resampler.process(flat))

    def flush(self) -> Block:
        """What is left; with it exactly as many frames have come as the mix has at this rate."""
        return self._shaped(self._resampler.flush(self._wanted()))

    def _wanted(self) -> int:
        return frames_at(self._feed.frames, self._feed.samplerate, self.samplerate)

    def _shaped(self, flat: Block) -> Block:
        self.frames += flat.shape[1]
        return flat.reshape(self._stems, self._channels, -1)


def separated(
    read: Read, engine: Engine, samplerate: int, channels: int, progress: Progress | None = None
) -> Iterator[Block]:
    """The whole way of a mix: [S, C, n] blocks of stems at its own rate, as many frames in all as it has.

    read, samplerate, channels: as for Feed. Where more is wanted of the way (its length, the mix once more,
    another rate), Feed, StemsBack and MixAgain are put together by hand: track.py.
    """
    with closing(Feed(read, engine, samplerate, channels)) as feed:
        feed.measure()
        back = StemsBack(feed, samplerate)
        for chunk in feed.separate(progress):
            yield back.process(chunk)
        yield back.flush()


class MixAgain:
    """The mix at the output's rate, decoded in step with the stems that are taken out of it."""

    def __init__(self, read: Read, samplerate: int, channels: int, out_rate: int):
        self._blocks = self._converted(read, Resampler(samplerate, out_rate, channels))
        self._left = np.empty((channels, 0), np.float32)

    def take(self, frames: int) -> Block:
        """The next `frames` frames, [C, frames]."""
        parts, missing = [self._left], frames - self._left.shape[1]
        while missing > 0:
            block = next(self._blocks, None)
            if block is None:
                raise InputError(
                    "The input became shorter while it was being separated.",
                    remedy="Run again when nothing writes to it any more.",
                    code="changed",
                )
            parts.append(block)
            missing -= block.shape[1]
        joined = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self._left = joined[:, frames:]
        return joined[:, :frames]

    @staticmethod
    def _converted(read: Read, resampler: Resampler) -> Iterator[Block]:
        for block in read():
            yield resampler.process(block)
        yield resampler.flush()

    def close(self) -> None:
        self._blocks.close()
