"""One track under one model: references and estimates side by side, block by block.

Knows tracks (their stem files, their mixture) and the engine; nothing of tables, processes or command lines.
Scores are taken where the listener is: at the track's own rate and channels, on what `separate` would write
before it turns samples into a file. References are read in step with the estimates, so memory does not grow
with the track.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sepcli.audio import AudioReader
from sepcli.errors import InputError
from sepcli.feed import Feed, StemsBack
from sepcli.pipeline import Engine, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from sepcli.data.layouts import Track

BLOCK_FRAMES = 65536

Block = NDArray[np.float32]


class Stems:
    """Some stems of a track as one stream of [S, C, n] blocks, silent where a file has ended.

    A mono file in a stereo track is on both sides. InputError for another rate or number of channels than the
    track has.
    """

    def __init__(self, track: Track, names: Sequence[str]):
        self.track = track
        self._readers = [_open(track, track.stems[name]) for name in names]
        self._blocks = [iter(reader) for reader in self._readers]
        self._left: list[Block | None] = [
            np.empty((reader.channels, 0), np.float32) for reader in self._readers]  # None: ended

    def take(self, frames: int) -> Block:
        """The next so many frames, [S, C, frames]."""
        out = np.zeros((len(self._readers), self.track.channels, frames), np.float32)
        for k in range(len(self._readers)):
            self._fill(k, out[k])
        return out

    def _fill(self, k: int, out: Block) -> None:
        at, frames = 0, out.shape[1]
        while at < frames and (left := self._left[k]) is not None:
            if left.shape[1] == 0:
                self._left[k] = next(self._blocks[k], None)
                continue
            count = min(left.shape[1], frames - at)
            out[:, at : at + count] = left[:, :count]
            self._left[k] = left[:, count:]
            at += count

    def close(self) -> None:
        for blocks in self._blocks:
            blocks.close()  # type: ignore[attr-defined]  (a generator)


class Material:
    """A track as an evaluation sees it: the mix, the references, and how much of them.

    seconds: only the beginning. The mix is the mixture's file where there is one, else the sum of all stems.
    """

    def __init__(self, track: Track, seconds: float | None = None):
        self.track = track
        self.samplerate, self.channels = track.samplerate, track.channels
        self.frames = track.frames if seconds is None else min(track.frames, round(seconds * track.samplerate))

    def mix(self) -> Iterator[Block]:
        """[C, n] blocks from the beginning, `frames` in all where the file is not shorter."""
        left = self.frames
        if self.track.mixture is not None:
            reader = _open(self.track, self.track.mixture)
            with closing(iter(reader)) as blocks:  # type: ignore[type-var]
                for block in blocks:
                    block = block[:, :left]
                    if block.shape[0] != self.channels:
                        block = np.repeat(block, self.channels, axis=0)
                    left -= block.shape[1]
                    yield block
                    if left == 0:
                        return
            return
        with closing(self.references(sorted(self.track.stems))) as stems:
            while left:
                block = stems.take(min(left, BLOCK_FRAMES)).sum(axis=0)
                left -= block.shape[1]
                yield block

    def references(self, names: Sequence[str]) -> Stems:
        return Stems(self.track, names)


def _open(track: Track, path: Path) -> AudioReader:
    reader = AudioReader(path, block=BLOCK_FRAMES)
    if reader.samplerate != track.samplerate:
        raise InputError(
            f"'{track.name}' has files of {track.samplerate} Hz, but {path.name} has {reader.samplerate} Hz.",
            remedy="Bring a track's files to one rate; `sepcli dataset check` finds such tracks.",
            code="rates",
        )
    if reader.channels not in (1, track.channels):
        raise InputError(
            f"'{track.name}' has {track.channels} channels, but {path.name} has {reader.channels}.",
            remedy="Give all files of a track the same channels; `sepcli dataset check` finds such tracks.",
            code="channels",
        )
    return reader


class Estimator(Protocol):
    """Whatever makes stems of a mix: a model, an oracle, or no work at all."""

    def sources(self, track: Track) -> tuple[str, ...]:
        """The stems it makes of that track."""
        ...

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        """[S, C, n] blocks at the track's rate, S in the order of `sources`, as many samples as the mix."""
        ...


class ModelEstimator:
    """A separator through the engine, exactly as `separate` runs it."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def sources(self, track: Track) -> tuple[str, ...]:
        return self.engine.sources

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        with closing(Feed(material.mix, self.engine, material.samplerate, material.channels)) as feed:
            feed.measure()
            back = StemsBack(feed, material.samplerate)
            for chunk in feed.separate(progress):
                yield back.process(chunk)
            yield back.flush()
