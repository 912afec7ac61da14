"""Run a separator over a track of any length: blocks in, stems out, in bounded memory.

What a separator is made of decides how: a *stage* is one network or an ensemble of one rate (engine.stage has
what happens there); a *chain* hands a stem of one step to the next; a *blend* runs several separators side by
side. The last two are made of any of the three, each at its own rate and in its own channels.

    blocks -> stage | chain of ... | blend of ... -> stems

Sees only Separators and tensors: no model's name and no progress bar; a file only between networks that have no
room together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, tee
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sepcli.engine.blend import Blend
from sepcli.engine.chain import Chain, Taking
from sepcli.engine.chunking import BlockQueue
from sepcli.engine.combine import Combiner
from sepcli.engine.ondemand import OnDemand, forget
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from sepcli.engine.several import Several
from sepcli.engine.stage import Progress, Stage
from sepcli.engine.statistics import Measuring, Meter, Stats, measure
from sepcli.sound.resample import Resampler
from sepcli.sound.spool import Spool


class Engine:
    """A model made ready for one device, precision and way of cutting; then any number of tracks.

    model: narrowed to the wanted stems already. The order of the stems that come out is `model.sources`.
    scratch: the folder for temporary files of chains that need them; None: the system's.
    """

    def __init__(
        self,
        model: Separator,
        settings: Settings,
        device: torch.device,
        dtype: torch.dtype,
        scratch: Path | None = None,
    ):
        self.settings, self._device, self._dtype, self._scratch = settings, device, dtype, scratch
        self._root = self._made(model)
        self.sources = model.sources
        self.samplerate, self.channels = model.samplerate, model.channels
        self.normalize = model.normalize

    def _made(self, model: Separator) -> Node:
        """What runs the model."""
        if isinstance(model, Chain):
            model = model if model.fits(self._device) else model.one_by_one()
            return _Chained(model, self._members(model), self._scratch)
        if isinstance(model, Blend):
            return _Blended(model, self._members(model))
        if isinstance(model, OnDemand):
            return _Waiting(model, self._made, self._device)
        return Stage(model, self.settings, self._device, self._dtype)

    def _members(self, model: Several) -> list[Node]:
        return [_fitted(self._made(member), model.samplerate, model.channels) for member in model.members]

    @property
    def stage(self) -> Stage:
        """What a model runs in that is one network, or an ensemble."""
        assert isinstance(self._root, Stage)
        return self._root

    def measure(self, blocks: Iterable[Tensor]) -> Stats:
        """[G, C, T] blocks at the model's rate -> what `separate` wants where the model is `normalize`."""
        return measure(blocks, self._root.meter())

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """[G, C, T] float32 blocks at the model's rate -> [S, G, C, T] blocks on the CPU, as many samples.

        G counts independent groups of channels (the two sides of a stereo file for a mono model, the pairs of
        a surround file); each is an item of the batch. stats: the track's, where the model is `normalize`.
        """
        return self._root.separate(blocks, stats, progress)


class Node(Protocol):
    """A separator as it is run: a stage, or several of them together."""

    sources: tuple[str, ...]
    samplerate: int  # Hz
    channels: int
    normalize: bool

    def meter(self) -> Measuring:
        """What finds the statistics of a track for it."""
        ...

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """As Engine.separate."""
        ...


class _Group:
    """Several nodes of one rate and channel count."""

    def __init__(self, model: Separator, members: list[Node]):
        self.members = members
        self.sources = model.sources
        self.samplerate, self.channels = model.samplerate, model.channels
        self.normalize = model.normalize

    def meter(self) -> Measuring:
        """See Node."""
        return _GroupMeter(self.members)

    def _stats(self, stats: Stats | None) -> tuple[Stats | None, ...]:
        """Those of each member."""
        return (None,) * len(self.members) if stats is None else stats.members


class _GroupMeter(Meter):
    """Statistics of a track for each node that wants them."""

    def __init__(self, members: list[Node]):
        super().__init__()
        self._members = [member.meter() if member.normalize else None for member in members]

    def add(self, block: Tensor) -> None:
        """See Measuring."""
        super().add(block)
        for member in self._members:
            if member is not None:
                member.add(block)

    def stats(self) -> Stats:
        """See Measuring."""
        own = super().stats()
        members = tuple(None if member is None else member.stats() for member in self._members)
        return Stats(own.mean, own.scale, own.frames, members)


class _Waiting:
    """A node that is there only while it works."""

    def __init__(self, model: OnDemand, made: Callable[[Separator], Node], device: torch.device):
        self._model, self._made, self._device = model, made, device
        self.sources, self.normalize = model.sources, model.normalize
        self.samplerate, self.channels = model.samplerate, model.channels

    def meter(self) -> Measuring:
        """See Node."""
        return Meter()

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """See Node."""
        first = next(blocks, None)  # after which nothing before it needs its memory any more
        if first is None:
            return
        node = self._made(self._model.load())
        try:
            yield from node.separate(chain([first], blocks), stats, progress)
        finally:
            del node
            forget(self._device)


class _Chained(_Group):
    """Steps one after another: a stem of what was made before is the next one's mix.

    A step that wants a standardised track gets it by the statistics of the whole mix. scratch: where temporary
    files go, if the steps work in turn.
    """

    def __init__(self, model: Chain, members: list[Node], scratch: Path | None):
        super().__init__(model, members)
        self.names, self.takings = model.names, model.takings
        self.in_turn, self.scratch = model.in_turn, scratch

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """See Node."""
        (first, *later), (of_first, *of_later) = self.members, self._stats(stats)
        last = len(later)
        shared = _SharedProgress(last + 1, progress)
        # Side by side they end together, so the last one tells.
        told = [shared.of(n) if self.in_turn else progress if n == last else None for n in range(last + 1)]
        stems = first.separate(blocks, of_first, told[0])
        names = list(self.names[0])
        for n, (step, taking, its) in enumerate(zip(later, self.takings, of_later, strict=True), 1):
            at = names.index(taking.stem)
            if self.in_turn:
                stems = _through_file(stems, self.scratch)
            stems = _taken_apart(stems, at, step, taking, its, told[n])
            names[at : at + 1] = taking.given
        if names == list(self.sources):
            return stems
        order = [names.index(name) for name in self.sources]
        return (block[order] for block in stems)


def _through_file(stems: Iterator[Tensor], scratch: Path | None) -> Iterator[Tensor]:
    """The same blocks, once all of them are made; they wait in a temporary file."""
    first = next(stems, None)
    if first is None:
        return
    shape = first.shape[:-1]
    with tempfile.TemporaryDirectory(prefix="chain-", dir=scratch) as folder:
        spool = Spool(Path(folder) / "stems", shape.numel())
        try:
            for block in chain([first], stems):
                spool.write(block.reshape(-1, block.shape[-1]).numpy())
            for flat in spool.blocks():
                yield torch.from_numpy(flat.copy("C")).view(*shape, -1)
        finally:
            spool.close()


def _taken_apart(
    stems: Iterator[Tensor],
    at: int,
    step: Node,
    taking: Taking,
    stats: Stats | None,
    progress: Progress | None,
) -> Iterator[Tensor]:
    """[S, G, C, T] blocks of stems -> the same with what `step` gives in place of the stem at that position.

    The other stems wait until the step has made as many samples.
    """
    waiting = BlockQueue()

    def taken() -> Iterator[Tensor]:
        for block in stems:
            waiting.put(block)
            yield block[at]

    for made in step.separate(taken(), stats, progress):
        before = waiting.take(made.shape[-1])
        yield torch.cat([before[:at], taking.instead(before[at], made), before[at + 1 :]])


class _Blended(_Group):
    """Members side by side. The one that is farthest behind goes next, so that little has to wait."""

    def __init__(self, model: Blend, members: list[Node]):
        super().__init__(model, members)
        self.model = model

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """See Node."""
        *inputs, mixes = tee(blocks, len(self.members) + 1)
        shared = _SharedProgress(len(self.members), progress)
        streams = [
            member.separate(own, its, shared.of(index))
            for index, (member, own, its) in enumerate(
                zip(self.members, inputs, self._stats(stats), strict=True)
            )
        ]
        combiners = [Combiner(self.model.method, self.model.factors(k)) for k in range(len(self.sources))]
        made = [BlockQueue() for _ in streams]  # stems of each member, [S', G, C, T]
        combined = [BlockQueue() for _ in combiners]  # each source, [G, C, T]
        mix = BlockQueue()
        running = set(range(len(streams)))
        while running:
            behind = min(running, key=lambda index: made[index].end)
            block = next(streams[behind], None)
            if block is None:
                running.remove(behind)
            else:
                made[behind].put(block)
            count = min(queue.held for queue in made)
            if count:
                while mix.held < count:
                    mix.put(next(mixes))
                stems, part = [queue.take(count) for queue in made], mix.take(count)
                for k, combiner in enumerate(combiners):
                    combined[k].put(combiner.process(self.model.estimates(k, stems, part)))
            if not running:
                for combiner, queue in zip(combiners, combined, strict=True):
                    last = combiner.flush()
                    if last is not None:
                        queue.put(last)
            count = min(queue.held for queue in combined)
            if count:
                yield torch.stack([queue.take(count) for queue in combined])


class _SharedProgress:
    """The progress of several members over one track as one: their mean."""

    def __init__(self, members: int, told: Progress | None):
        self._done = [0.0] * members
        self._told = told

    def of(self, member: int) -> Progress | None:
        """What is told of the progress of the member at that position."""
        if self._told is None:
            return None

        def tell(done: float, total: float | None) -> None:
            self._done[member] = done
            assert self._told is not None
            self._told(sum(self._done) / len(self._done), total)

        return tell


# --- a node at another rate or in other channels ---


def _fitted(node: Node, samplerate: int, channels: int) -> Node:
    """The node for blocks of this rate and channel count; itself where these are its own."""
    if (node.samplerate, node.channels) == (samplerate, channels):
        return node
    return _Converted(node, samplerate, channels)


class _Converted:
    """A node that is given blocks of another rate, or one mono channel at a time, and gives stems like them."""

    def __init__(self, node: Node, samplerate: int, channels: int):
        assert node.channels in (1, channels), f"{node.channels} channels of {channels}"
        self.node = node
        self.sources, self.normalize = node.sources, node.normalize
        self.samplerate, self.channels = samplerate, channels

    def meter(self) -> Measuring:
        """See Node."""
        return _ConvertedMeter(self)

    def separate(
        self, blocks: Iterator[Tensor], stats: Stats | None = None, progress: Progress | None = None
    ) -> Iterator[Tensor]:
        """See Node."""
        way = _Way(self)
        back: Resampler | None = None
        for stems in self.node.separate(way.there(blocks), stats, progress):
            apart = stems.reshape(len(stems), way.groups, self.channels, -1)  # channels of their own groups
            flat = apart.flatten(0, -2)
            if back is None:
                back = Resampler(self.node.samplerate, self.samplerate, len(flat))
            made = back.process(flat.numpy())
            if made.shape[1]:
                yield torch.from_numpy(made).view(*apart.shape[:-1], -1)
        if back is not None:
            rest = torch.from_numpy(np.ascontiguousarray(back.flush(way.frames)))
            if rest.shape[1]:
                yield rest.view(len(self.sources), way.groups, self.channels, -1)


class _Way:
    """Blocks on their way to a node of another rate or channel count."""

    def __init__(self, converted: _Converted):
        self._converted = converted
        self._resampler: Resampler | None = None
        self.frames = self.groups = 0  # of what has been given so far

    def there(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """[G, C, T] blocks -> [G', C', T'] blocks as the node takes them."""
        for block in blocks:
            yield from self.process(block)
        yield from self.flush()

    def process(self, block: Tensor) -> Iterator[Tensor]:
        """One block; nothing where not yet enough is final."""
        self.groups, self.frames = block.shape[0], self.frames + block.shape[-1]
        flat = block.flatten(0, 1)
        if self._resampler is None:
            rates = self._converted.samplerate, self._converted.node.samplerate
            self._resampler = Resampler(*rates, len(flat))
        return self._shaped(self._resampler.process(flat.numpy()))

    def flush(self) -> Iterator[Tensor]:
        """What is left in the end."""
        return iter(()) if self._resampler is None else self._shaped(self._resampler.flush())

    def _shaped(self, flat: np.ndarray) -> Iterator[Tensor]:
        if flat.shape[1]:
            yield torch.from_numpy(np.ascontiguousarray(flat)).view(
                -1, self._converted.node.channels, flat.shape[1]
            )


class _ConvertedMeter:
    """The statistics of a track as a node of another rate or channel count sees it."""

    def __init__(self, converted: _Converted):
        self._way, self._meter = _Way(converted), converted.node.meter()

    def add(self, block: Tensor) -> None:
        """See Measuring."""
        for part in self._way.process(block):
            self._meter.add(part)

    def stats(self) -> Stats:
        """See Measuring."""
        for part in self._way.flush():
            self._meter.add(part)
        return self._meter.stats()
