"""Scores one track under one model: references and estimates side by side, block by block.

Knows tracks (their stem files, their mixture), the engine and the scorers of scorers.py; nothing of tables,
processes or command lines. Scores are taken where the listener is: at the track's own rate and channels, on
what `separate` would write before it makes integers of it. References are read in step with the estimates, so
memory does not grow with the track.

    files -> Material -- mix -------> Estimator -- [S, C, n] --> scorers -> {stem: {metric: value}}
                      -- references -----------------------------^

Axes: S stems, C channels, n frames of a block.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sepcli.data.layouts import StemTrack
from sepcli.engine.pipeline import Engine, Progress
from sepcli.engine.streams import Block, separated
from sepcli.errors import InputError
from sepcli.evaluation.scorers import Ratios, Scorer, Voices, Windowed
from sepcli.metrics.masks import ORACLES, Wiener, learn, make_mask, masked
from sepcli.metrics.windows import WindowRule
from sepcli.sound.decode import AudioReader

BLOCK_FRAMES = 65536


# --- a track's audio ---------------------------------------------------------------------------------------


class InStep:
    """Cuts a stream of [C, n] blocks anew: `take` gives as many frames as are asked for.

    So one stream is read in step with the blocks of another. channels: of the result.
    """

    def __init__(self, blocks: Generator[Block], channels: int):
        self.channels = channels
        self._blocks = blocks
        self._left: Block | None = np.empty((channels, 0), np.float32)  # None: ended

    def take(self, frames: int) -> Block:
        """The next frames, [C, frames]; silence after the end. A mono stream fills all channels."""
        out, at = np.zeros((self.channels, frames), np.float32), 0
        while at < frames and self._left is not None:
            part = self._left[:, : frames - at]
            out[:, at : at + part.shape[1]] = part
            at += part.shape[1]
            self._left = self._left[:, part.shape[1] :]
            if self._left.shape[1] == 0:
                self._left = next(self._blocks, None)
        return out

    def close(self) -> None:
        """Close the stream, and with it its file."""
        self._blocks.close()


class Stems:
    """Several stems of a track, read in step with each other."""

    def __init__(self, stems: Sequence[InStep], channels: int):
        self._stems, self._channels = stems, channels

    def take(self, frames: int) -> Block:
        """The next frames of all stems, [S, C, frames]; silence after the end of a stem."""
        if not self._stems:
            return np.zeros((0, self._channels, frames), np.float32)
        return np.stack([stem.take(frames) for stem in self._stems])

    def close(self) -> None:
        """Close all their files."""
        for stem in self._stems:
            stem.close()


class Material:
    """A track as an evaluation sees it: its mix and its references, or a part of them.

    seconds: only so much, from `start` (seconds) on. silent: stems that count as part of the track even where
    it has no file of them; they are then silence. The mix is the mixture's file where there is one, else the
    sum of all stems, as long as the shortest of them. A mono file in a stereo track is on both sides.
    InputError where a file has another rate, or a number of channels that doesn't fit.
    """

    def __init__(
        self, track: StemTrack, seconds: float | None = None, silent: Iterable[str] = (), start: float = 0.0
    ):
        self.track, self.samplerate, self._start = track, track.samplerate, start
        self.stems = tuple(sorted({*track.stems, *silent}))
        left = max(track.frames - round(start * track.samplerate), 0)
        self.frames = left if seconds is None else min(left, round(seconds * track.samplerate))
        self._readers = {
            path: AudioReader(path, block=BLOCK_FRAMES)
            for path in [*track.stems.values(), *([track.mixture] if track.mixture else [])]
        }
        shaping = [self._readers[track.mixture]] if track.mixture else self._readers.values()
        self.channels = max(reader.channels for reader in shaping)
        for path, reader in self._readers.items():
            self._check(path, reader)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.samplerate

    def mix(self) -> Generator[Block]:
        """The mix from its beginning, in [C, n] blocks: `frames` in all, or fewer where its file breaks off."""
        left = self.frames
        if self.track.mixture is not None:
            with closing(self._read(self.track.mixture)) as blocks:
                for block in blocks:
                    block = block[:, :left]
                    left -= block.shape[1]
                    yield np.repeat(block, self.channels // block.shape[0], axis=0)
                    if left == 0:
                        return
            return
        with closing(self.references(sorted(self.track.stems))) as stems:
            while left:
                block = stems.take(min(left, BLOCK_FRAMES)).sum(axis=0)
                left -= block.shape[1]
                yield block

    def references(self, names: Sequence[str]) -> Stems:
        """A new reader of these stems, from their beginning."""
        paths = [self.track.stems.get(name) for name in names]
        return Stems([InStep(self._read(path), self.channels) for path in paths], self.channels)

    def _read(self, path: Path | None) -> Generator[Block]:
        """The blocks of a file from `start` on; none for None (a stem without a file), or if it ends before."""
        if path is None:
            return
        info, first = self._readers[path].info, round(self._start * self.samplerate)
        if not first or info.frames is None or info.frames > first:
            yield from AudioReader(path, info, start=self._start, block=BLOCK_FRAMES)

    def _check(self, path: Path, reader: AudioReader) -> None:
        if reader.samplerate != self.samplerate:
            raise InputError(
                f"'{self.track.name}' is at {self.samplerate} Hz, but {path.name} at {reader.samplerate} Hz.",
                remedy="Bring a track's files to one rate; `sepcli dataset check` finds such tracks.",
                code="rates",
            )
        if reader.channels not in (1, self.channels):
            raise InputError(
                f"'{self.track.name}' has {self.channels} channels, but {path.name} has {reader.channels}.",
                remedy="Give a track's files the same channels; `sepcli dataset check` finds such tracks.",
                code="channels",
            )


# --- estimators --------------------------------------------------------------------------------------------


class Estimator(Protocol):
    """Makes stems of a mix: a model, an oracle, or one that does no work at all."""

    def sources(self, material: Material) -> tuple[str, ...]:
        """The stems that it makes of this track."""
        ...

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        """The stems as [S, C, n] blocks at the track's rate, in the order of `sources`, as long as the mix."""
        ...


class Model:
    """A separator, run by the engine exactly as `separate` runs it."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def sources(self, material: Material) -> tuple[str, ...]:
        """The stems that it makes of this track."""
        return self.engine.sources

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        """The stems as [S, C, n] blocks (see Estimator)."""
        return separated(material.mix, self.engine, material.samplerate, material.channels, progress)


@dataclass(frozen=True)
class Constant:
    """The mix as every stem, times `share`: 1 is the mix itself, 0 is silence. A model must beat both."""

    share: float

    def sources(self, material: Material) -> tuple[str, ...]:
        """The stems that it makes of this track."""
        return material.stems

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        """The stems as [S, C, n] blocks (see Estimator)."""
        for block in material.mix():
            yield np.repeat(block[None] * np.float32(self.share), len(material.stems), axis=0)


@dataclass(frozen=True)
class Oracle:
    """Masks that know the true stems (metrics/masks.py) and the rest of the mixture."""

    name: str  # in masks.ORACLES

    def sources(self, material: Material) -> tuple[str, ...]:
        """The stems that it makes of this track."""
        return material.stems

    def estimate(self, material: Material, progress: Progress | None = None) -> Iterator[Block]:
        """The stems as [S, C, n] blocks (see Estimator)."""
        mask = make_mask(self.name)
        if isinstance(mask, Wiener):
            learn(mask, (both[1:] for both in self._blocks(material)))
        for block in masked(mask, self._blocks(material), material.frames):
            yield block[: len(material.stems)].astype(np.float32)

    def _blocks(self, material: Material) -> Iterator[Block]:
        """[1 + S, C, n] blocks: the mix, the stems, and the rest of the mixture's file where there is one."""
        with closing(material.references(material.stems)) as references:
            for block in material.mix():
                stems = references.take(block.shape[-1])
                rest = [] if material.track.mixture is None else [(block - stems.sum(axis=0))[None]]
                yield np.concatenate([block[None], stems, *rest])


PSEUDO_MODELS: dict[str, Estimator] = {
    "mixture": Constant(1.0), "silence": Constant(0.0), **{f"oracle:{name}": Oracle(name) for name in ORACLES}
}  # fmt: skip


# --- scores ------------------------------------------------------------------------------------------------

EXTRA_METRICS = ("isr", "sir", "sar")


@dataclass(frozen=True)
class TrackScores:
    """The scores of a track. Metrics have their names in metrics/summary.py."""

    stems: dict[str, dict[str, float]]  # {stem: {metric: value}}, NaN where a metric is undefined
    frames: int  # how many frames of one second museval's metrics have
    silent_frames: int  # how many of these are left out, as a reference or an estimate is silent


def score(
    material: Material,
    estimator: Estimator,
    names: Sequence[str],
    *,
    extra: bool = False,
    zero_mean: bool = False,
    windows: Sequence[WindowRule] = (),
    voices: Sequence[str] = (),
    pesq: bool = False,
    progress: Progress | None = None,
) -> TrackScores:
    """All metrics of the stems `names`; the track has each of them and the estimator makes it.

    A stem whose file is silent is left out: it counts as absent. extra: ISR, SIR and SAR too, for which the
    track is held in memory. zero_mean: remove each signal's mean before an SI-SDR. windows: the rules of
    protocols that score windows; these score silent stems, too, and all stems of the track decide which windows
    count. voices: stems that are measured as voices; pesq: by PESQ, too. InputError where a file can't be read.
    """
    shape = names, material.channels, material.samplerate
    ratios = Ratios(*shape, extra=extra, zero_mean=zero_mean)
    scorers: list[Scorer] = [ratios]
    if windows:
        scorers.append(Windowed(*shape, windows))
    singing = Voices(names, material.samplerate, voices, pesq=pesq) if set(voices) & set(names) else None
    if singing is not None:
        scorers.append(singing)
    others = [name for name in material.stems if name not in names] if windows else []
    spent = run_scorers(material, estimator, names, scorers, others=others, progress=progress)
    stems: dict[str, dict[str, float]] = {}
    for each in scorers:
        for name, scores in each.scores().items():
            stems.setdefault(name, {}).update(scores)
    for name in singing.voices if singing is not None else ():
        # The real-time factor is undefined where the other metrics of a voice are.
        stems[name]["rtf"] = spent / material.seconds if stems[name]["voiced"] else np.nan
    silent = ratios.silent_frames()
    return TrackScores(stems, len(silent), int(silent.sum()))


def run_scorers(
    material: Material,
    estimator: Estimator,
    names: Sequence[str],
    scorers: Sequence[Scorer],
    *,
    others: Sequence[str] = (),
    progress: Progress | None = None,
) -> float:
    """Give the whole track to the scorers. Returns the seconds that the estimates took, the scorers' left out.

    names: the stems to score. others: stems whose references the scorers get besides, after `names`.
    """
    made = estimator.sources(material)
    rows = [made.index(name) for name in names]
    with ExitStack() as stack:
        references = stack.enter_context(closing(material.references([*names, *others])))
        mix = stack.enter_context(closing(InStep(material.mix(), material.channels)))
        estimates, spent = iter(estimator.estimate(material, progress)), 0.0
        while True:
            began = time.perf_counter()
            block = next(estimates, None)
            spent += time.perf_counter() - began
            if block is None:
                return spent
            s, x = references.take(block.shape[-1]), mix.take(block.shape[-1])
            for each in scorers:
                each.add(s, block[rows], x)
