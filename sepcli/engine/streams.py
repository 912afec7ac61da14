"""A mix on its way into the engine, and its stems on their way out: rates, channels and lengths.

Knows blocks of samples and the engine; no files. All three streams work block by block. At the end, exactly as
many frames have come out as the mix has at the output's rate; at the mix's own rate nothing is gained or lost.

    mix [C, T] at its rate    -> InputStream  -> [G, Cm, T'] at the model's rate   -> engine
    engine -> [S, G, Cm, T']  -> OutputStream -> [S, C, T"] at the output's rate
    mix [C, T] at its rate    -> MixStream    -> [C, T"] at the output's rate, in step with the stems

G groups of Cm channels stand for the C channels of the mix (channels.ChannelMap). S stems.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepcli.engine.pipeline import Engine, Progress, Stats
from sepcli.errors import InputError
from sepcli.sound.channels import ChannelMap
from sepcli.sound.resample import Resampler, frames_at
from sepcli.system.background import prefetch

DECODED_AHEAD = 8  # blocks, of a second or two each

Block = NDArray[np.float32]  # samples, [..., frames]
Read = Callable[[], Iterable[Block]]  # gives the mix from its beginning, every time it is called


class InputStream:
    """A mix on its way into the engine: at the model's rate, in the model's channels."""

    def __init__(
        self, read: Read, engine: Engine, samplerate: int, channels: int, layout: tuple[str, ...] = ()
    ):
        """read: [C, T] blocks at `samplerate` Hz; called for every pass. layout: the channels' names, if known.

        InputError for too many channels.
        """
        self.engine = engine
        self.samplerate = samplerate
        self.channel_map = ChannelMap(channels, engine.channels, layout)
        self.frames = 0  # read so far in the current pass; all of them when the engine has ended
        self.frames_measured: int | None = None
        self._read = read
        self._stats: Stats | None = None
        self._open: list[Generator[Tensor, None, None]] = []

    def measure(self) -> None:
        """Go once through the mix for its statistics, if the model asks for them."""
        if self.engine.normalize:
            self._stats = self.engine.measure(self._blocks())
            self.frames_measured = self.frames

    def separate(self, progress: Progress | None = None) -> Iterator[Tensor]:
        """[S, G, Cm, T] blocks of stems at the model's rate."""
        return self.engine.separate(self._blocks(), self._stats, progress)

    def _blocks(self) -> Iterator[Tensor]:
        """[G, Cm, T] blocks at the model's rate, decoded by a thread that runs ahead."""
        blocks = prefetch(self._converted(), DECODED_AHEAD)
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
        """[C, T] -> [G, Cm, T]; nothing for an empty block."""
        if block.shape[1]:
            yield torch.from_numpy(np.ascontiguousarray(self.channel_map.split(block)))

    def close(self) -> None:
        """Stop the decoding thread, however far it is."""
        for blocks in self._open:
            blocks.close()


class OutputStream:
    """Stems on their way out of the engine: in the mix's channels, at the output's rate, to the frame."""

    def __init__(self, mix: InputStream, samplerate: int):
        """mix: the stream that the stems are separated from. samplerate: of the output, Hz."""
        self.frames = 0  # given so far
        self.samplerate = samplerate
        self._mix = mix
        self._stems = len(mix.engine.sources)
        self._channels = mix.channel_map.file_channels
        self._resampler = Resampler(mix.engine.samplerate, samplerate, self._stems * self._channels)

    def process(self, stems: Tensor) -> Block:
        """[S, G, Cm, T] at the model's rate -> [S, C, T'] at the output's."""
        joined = self._mix.channel_map.join(stems.numpy())
        flat = np.ascontiguousarray(joined.reshape(-1, joined.shape[-1]))
        return self._shaped(self._resampler.process(flat))

    def flush(self) -> Block:
        """The last frames [S, C, T']; with them exactly as many have come as the mix has at this rate."""
        return self._shaped(self._resampler.flush(self._wanted()))

    def _wanted(self) -> int:
        return frames_at(self._mix.frames, self._mix.samplerate, self.samplerate)

    def _shaped(self, flat: Block) -> Block:
        self.frames += flat.shape[1]
        return flat.reshape(self._stems, self._channels, -1)


def separated(
    read: Read, engine: Engine, samplerate: int, channels: int, progress: Progress | None = None
) -> Generator[Block, None, None]:
    """Separate a mix: [S, C, n] blocks of stems at the mix's own rate, as many frames in all as it has.

    read, samplerate, channels: as for InputStream. A caller that needs more on the way (the length, the mix
    once more, another rate) puts InputStream, OutputStream and MixStream together by hand: track.py.
    """
    with closing(InputStream(read, engine, samplerate, channels)) as mix:
        mix.measure()
        out = OutputStream(mix, samplerate)
        for chunk in mix.separate(progress):
            yield out.process(chunk)
        yield out.flush()


class MixStream:
    """The mix once more, at the output's rate, decoded in step with the stems that are taken out of it."""

    def __init__(self, read: Read, samplerate: int, channels: int, out_rate: int):
        """read, samplerate, channels: as for InputStream. out_rate: of the output, Hz."""
        self._blocks = self._converted(read, Resampler(samplerate, out_rate, channels))
        self._left: Block = np.empty((channels, 0), np.float32)

    def take(self, frames: int) -> Block:
        """The next `frames` frames, [C, frames]. InputError where the mix has become shorter."""
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

    def ended(self) -> bool:
        """Whether nothing is left to take."""
        while not self._left.shape[1]:
            block = next(self._blocks, None)
            if block is None:
                return True
            self._left = block
        return False

    @staticmethod
    def _converted(read: Read, resampler: Resampler) -> Generator[Block, None, None]:
        for block in read():
            yield resampler.process(block)
        yield resampler.flush()

    def close(self) -> None:
        """Stop reading."""
        self._blocks.close()
