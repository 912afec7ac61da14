"""Batches to train on: which tracks, from when, mixed how, as a pure function of (seed, epoch, item).

Knows tracks, windows and augmentations; nothing of networks. Item i of epoch e is drawn with a random generator
seeded by (seed, e, i) and by nothing else. So a batch is the same for any number of worker processes or ranks,
and wherever a run begins.

    an item  =  one window of a track that has several sources        with probability `aligned`;
                sources that the track lacks come from other tracks
             or a window for every source from a track of its own     otherwise

The rest, where it is wanted, is one more source: the mixture of a track minus the sources, so that a track
needs only its sources and its mixture; or, without these, the sum of all its other stems.

A track is drawn in proportion to weight x duration, the window uniformly within it. A file that is shorter
than the window (a one-shot, a loop) is put at a random place in silence. A file that can't be read is named in
`Batch.problems`, and another draw by the same generator takes its place.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepcli.data.augment import Augmentation
from sepcli.data.layouts import Problem, find_tracks
from sepcli.data.windows import read_window
from sepcli.engine.device import tune_process
from sepcli.errors import InputError, SepcliError, Spelling, UsageError, spell, spelling
from sepcli.system import HANGUP
from sepcli.system.processes import starting

TRIES = 20  # draws for one window, until it is given up
SILENT = 1e-3  # RMS, -60 dBFS: a window below it counts as silent for `skip_silent`


@dataclass(frozen=True)
class DataSource:
    """A folder of tracks to draw from."""

    path: str
    layout: str = "auto"  # as in data/layouts.py
    stems: tuple[str, ...] = ()  # only these (names of files), where others are mislabelled; () = all
    weight: float = 1.0  # how often its tracks are drawn, relative to their duration
    # Other names for stems, {"guitar": "other", "piano": "other"}; stems that get the same name are added up.
    rename: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()  # names of tracks to leave out, as they are kept for validation


@dataclass
class Batch:
    """The examples of a training step."""

    stems: Tensor  # [B, S, C, T] float32; the mix is their sum
    items: list[str]  # for each row, which tracks it is from, and from when; before Remix, which exchanges them
    problems: list[str]  # files that could not be read, and why


@dataclass(frozen=True)
class _Piece:
    """A track to draw windows from."""

    name: str
    files: Mapping[str, tuple[Path, ...]]  # {source: the files that add up to it}
    seconds: float
    weight: float
    less: tuple[Path, ...] = ()  # files that are subtracted from the rest


class Batches(torch.utils.data.Dataset[Batch]):
    """The batch of each step: `batches[step]` gives this rank's rows. Picklable; the tracks are looked up once.

    sources: the names of the stems, in order. samplerate: Hz. samples: T of a batch. batch_size: rows of all
    ranks together. aligned: the share of items that are one window of a track that has at least two of the
    sources; sources that it lacks are drawn from other tracks. skip_silent: the share of silent windows (below
    -60 dBFS RMS; of an aligned item: in all its sources) that are drawn again, because stems like vocals are
    silent for long stretches. The rest does not count as one of them. steps_per_epoch: an epoch ends after so
    many steps; it only numbers the random generators. rest: the name of one more source, the last: all that the
    sources are not. examples: how many different items there are, which are then repeated; 0: always new ones.

    UsageError for values that can't be and for sources that no track has.
    """

    def __init__(
        self,
        data: Sequence[DataSource],
        *,
        sources: Sequence[str],
        samplerate: int,
        channels: int,
        samples: int,
        batch_size: int,
        seed: int,
        aligned: float,
        augment: Sequence[Augmentation] = (),
        rank: int = 0,
        world: int = 1,
        steps_per_epoch: int = 1000,
        skip_silent: float = 0.0,
        rest: str | None = None,
        examples: int = 0,
    ):
        self.rest, self.augment = rest, tuple(augment)
        self.sources = (*sources, *([rest] if rest else []))
        self.samplerate, self.channels, self.samples = samplerate, channels, samples
        self.batch_size, self.seed, self.steps_per_epoch = batch_size, seed, steps_per_epoch
        self.rank, self.world = rank, world
        self.aligned, self.skip_silent, self.examples = aligned, skip_silent, examples
        self._check()
        # How much must be read, so that `samples` are left when all augmentations have taken their margins.
        self.read_samples = samples
        for augmentation in reversed(self.augment):
            self.read_samples += augmentation.extra(self.read_samples, samplerate)
        self.problems: list[Problem] = []  # files that were broken when the tracks were looked up
        wanted = tuple(sources) if rest else ()
        pieces = [piece for source in data for piece in _pieces(source, self.problems, wanted, rest)]
        self._together = self._by_sources(pieces)
        self._having = {name: _Urn([p for p in pieces if name in p.files]) for name in self.sources}
        self._check_tracks(pieces)

    @property
    def aligned_seconds(self) -> float:
        """The duration of all tracks that have several of the sources: aligned items come from these."""
        return sum(urn.seconds for urn in self._together.values())

    @property
    def seconds(self) -> dict[str, float]:
        """{source: the duration of all tracks that have it}."""
        return {name: urn.seconds for name, urn in self._having.items()}

    def __getitem__(self, step: int) -> Batch:
        """This rank's rows of a step. InputError where too many draws could not be read."""
        if self.examples:
            step %= self.examples // self.batch_size
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self.batch_size // self.world
        first = step * self.batch_size + self.rank * rows
        shape = (rows, len(self.sources), self.channels, self.read_samples)
        stems = np.zeros(shape, np.float32)
        items: list[str] = []
        problems: list[str] = []
        for row in range(rows):
            # Each item has two generators: a window that is drawn again does not change how the item is varied.
            rng = np.random.default_rng((self.seed, epoch, first + row, 0))
            items.append(self._draw(rng, stems[row], problems))
        rngs = [np.random.default_rng((self.seed, epoch, first + row, 1)) for row in range(rows)]
        batch = torch.from_numpy(stems)
        for augmentation in self.augment:
            batch = augmentation(batch, rngs, sources=self.sources, samplerate=self.samplerate)
        return Batch(batch[..., : self.samples].contiguous(), items, problems)

    def _draw(self, rng: np.random.Generator, out: np.ndarray, problems: list[str]) -> str:
        """Fill `out` [S, C, T] with an item; its description."""
        drawn: list[str] = []
        together: tuple[str, ...] = ()
        if rng.random() < self.aligned:
            together, urn = self._draw_together(rng)
            rows = [self.sources.index(name) for name in together]
            window = np.empty((len(rows), *out.shape[1:]), np.float32)
            drawn.append(self._window(rng, urn, together, window, problems))
            out[rows] = window
        for index, name in enumerate(self.sources):
            if name not in together:
                row = out[index : index + 1]
                drawn.append(f"{name} of " + self._window(rng, self._having[name], [name], row, problems))
        return ", ".join(drawn)

    def _by_sources(self, pieces: Sequence[_Piece]) -> dict[tuple[str, ...], _Urn]:
        """{sources: tracks that have exactly these}, of tracks with at least two (or with the only one)."""
        groups: dict[tuple[str, ...], list[_Piece]] = {}
        for piece in pieces:
            has = tuple(name for name in self.sources if name in piece.files)
            if len(has) >= min(2, len(self.sources)):
                groups.setdefault(has, []).append(piece)
        return {has: _Urn(group) for has, group in groups.items()}

    def _draw_together(self, rng: np.random.Generator) -> tuple[tuple[str, ...], _Urn]:
        """One group of `_by_sources`, drawn in proportion to weight x duration."""
        edges = np.cumsum([urn.weight for urn in self._together.values()])
        index = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        return list(self._together.items())[min(index, len(edges) - 1)]

    def _window(
        self, rng: np.random.Generator, urn: _Urn, names: Sequence[str], out: np.ndarray, problems: list[str]
    ) -> str:
        """Fill `out` [len(names), C, T] with a window of a track; its description."""
        failed: list[str] = []
        for attempt in range(TRIES):
            piece = urn.draw(rng)
            slack = round(piece.seconds * self.samplerate) - self.read_samples
            start = int(rng.integers(min(0, slack), max(0, slack) + 1)) / self.samplerate  # seconds
            try:
                self._read(piece, start, names, out)
            except InputError as problem:
                failed.append(problem.message)
                continue
            skips = attempt + 1 < TRIES and self.skip_silent and rng.random() < self.skip_silent
            if skips and self._is_silent(names, out):
                continue
            problems += failed
            return f"{piece.name} at {start:.2f} s"
        raise InputError(
            f"{len(failed)} draws of {' and '.join(names)} could not be read, the last: {failed[-1]}",
            remedy="Check the data with `sepcli dataset check`.",
            code="broken",
        )

    def _read(self, piece: _Piece, start: float, names: Sequence[str], out: np.ndarray) -> None:
        """Fill `out` [len(names), C, T] from `start` (seconds) of a track on."""
        for stem, name in zip(out, names, strict=True):
            parts = [
                read_window(path, start, self.read_samples, self.samplerate, self.channels)
                for path in piece.files[name]
            ]
            stem[:] = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
            for path in piece.less if name == self.rest else ():
                stem -= read_window(path, start, self.read_samples, self.samplerate, self.channels)

    def _is_silent(self, names: Sequence[str], window: np.ndarray) -> bool:
        """Whether all sources of a window [S, C, T] but the rest are below -60 dBFS. names: of the sources."""
        flats = [stem.reshape(-1) for name, stem in zip(names, window, strict=True) if name != self.rest]
        return bool(flats) and all(float(np.dot(flat, flat)) < SILENT**2 * flat.size for flat in flats)

    def _check(self) -> None:
        """Raise UsageError for values that can't be."""

        def refuse(fact: str, remedy: str) -> None:
            raise UsageError(fact, remedy=remedy)

        if not self.sources or len(set(self.sources)) < len(self.sources):
            refuse(f"The sources are {self.sources!r}.", "Name each wanted stem once.")
        for name, share in (("aligned", self.aligned), ("skip_silent", self.skip_silent)):
            if not 0 <= share <= 1:
                refuse(f"{name} is {share}, but must be a share.", "Give a number from 0 to 1.")
        if self.batch_size < 1 or self.batch_size % self.world:
            refuse(
                f"A batch of {self.batch_size} can't be divided among {self.world} processes.",
                "Make the batch size a multiple of their number.",
            )
        if self.examples < 0 or self.examples % self.batch_size:
            refuse(
                f"{self.examples} examples, in batches of {self.batch_size}: that leaves a rest.",
                "Make data.examples a multiple of run.batch_size, or 0.",
            )
        for augmentation in self.augment:
            augmentation.chosen(self.sources)  # refuses names that are no sources
            if self.world > 1 and self.batch_size // self.world % augmentation.group:
                refuse(
                    f"{type(augmentation).__name__} mixes groups of {augmentation.group} rows, and a process "
                    f"has {self.batch_size // self.world}: the number of processes would matter.",
                    "Make the batch size a multiple of both, or the group smaller.",
                )

    def _check_tracks(self, pieces: Sequence[_Piece]) -> None:
        """Raise UsageError where the tracks lack what is to be drawn from them."""
        has = ", ".join(f"{name} {urn.seconds / 60:.1f} min" for name, urn in self._having.items())
        if self.aligned > 0 and not self._together:
            raise UsageError(
                f"aligned is {self.aligned:g}, but no track has two of {', '.join(self.sources)} ({has}).",
                remedy="Set aligned to 0, or add tracks that have several of them.",
                code="no_aligned_tracks",
            )
        for name, urn in self._having.items():
            if not urn.pieces and self.aligned < 1:
                stems = sorted({stem for piece in pieces for stem in piece.files})
                raise UsageError(
                    f"No track has the stem {name!r}; the data has {', '.join(stems)}.",
                    remedy="Add tracks that have it, or rename a stem.",
                    code="no_such_stem",
                )


class _Urn:
    """Tracks to draw from, in proportion to weight x duration."""

    def __init__(self, pieces: Sequence[_Piece]):
        self.pieces = list(pieces)
        self.seconds = sum(piece.seconds for piece in pieces)
        self._edges = np.cumsum([piece.weight * piece.seconds for piece in pieces])
        self.weight = float(self._edges[-1]) if self.pieces else 0.0

    def draw(self, rng: np.random.Generator) -> _Piece:
        """One of the tracks."""
        at = rng.random() * self._edges[-1]
        return self.pieces[min(int(np.searchsorted(self._edges, at, side="right")), len(self.pieces) - 1)]


def _pieces(
    source: DataSource, problems: list[Problem], sources: Sequence[str], rest: str | None
) -> Iterator[_Piece]:
    """The tracks of a data source. rest: the name of what the `sources` leave of each track; None: unused."""
    if not source.weight > 0:
        raise UsageError(
            f"{source.path} has the weight {source.weight}.", remedy="Give a weight above 0, or leave it out."
        )
    seen: set[str] = set()
    for track in find_tracks(source.path, source.layout, problems=problems):
        files: dict[str, tuple[Path, ...]] = {}
        for stem, path in track.stems.items():
            seen.add(stem)
            if not source.stems or stem in source.stems:
                name = source.rename.get(stem, stem)
                files[name] = (*files.get(name, ()), path)
        if files and track.name not in source.exclude:
            less: tuple[Path, ...] = ()
            if rest:
                others, less = _others(files, track.mixture, sources)
                files = {name: files[name] for name in files if name in sources}
                files |= {rest: others} if others else {}
            yield _Piece(f"{Path(source.path).name}/{track.name}", files, track.seconds, source.weight, less)
    absent = sorted({*source.stems, *source.rename} - seen)
    if absent:
        raise UsageError(
            f"{source.path} has no stem {' or '.join(map(repr, absent))}; it has {', '.join(sorted(seen))}.",
            remedy="Correct `stems` and `rename` of this data source: they take the names of files.",
            code="no_such_stem",
        )


def _others(
    files: Mapping[str, tuple[Path, ...]], mixture: Path | None, sources: Sequence[str]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """(files to add, files to subtract) for the rest of a track: what the sources are not. ((), ()) if none.

    Where a track has a mixture and all sources, the rest is the mixture minus these, because a track need not
    have files of all its other stems. Else it is the sum of the other stems.
    """
    if mixture is not None and all(name in files for name in sources):
        return (mixture,), tuple(path for name in sources for path in files[name])
    return tuple(path for name, paths in files.items() if name not in sources for path in paths), ()


def batches_from(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """The batches of steps start ... stop - 1, in order, prefetched by `workers` processes (0: made here).

    The processes are spawned, use one thread each, and end with the iterator. They write parameters as this
    process does (errors.parameter). An error in one of them is raised here.
    """
    if workers == 0:
        yield from (batches[step] for step in range(start, stop))
        return
    loader = torch.utils.data.DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=min(workers, max(1, stop - start)),
        collate_fn=_as_it_is,
        worker_init_fn=partial(_start_worker, spelling()),
        multiprocessing_context="spawn",
    )
    with starting():
        made = iter(loader)
    try:
        for batch in made:
            if isinstance(batch, SepcliError):
                raise batch
            yield batch
    finally:
        del made  # its processes end with it, also where an error keeps this frame alive


class _Guarded(torch.utils.data.Dataset["Batch | SepcliError"]):
    """Gives our own errors as results. Raised in a worker, they would arrive wrapped in a traceback."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | SepcliError:
        try:
            return self.batches[step]
        except SepcliError as problem:
            return problem


def _as_it_is(batch: Any) -> Any:
    """In place of torch's collation, which would copy."""
    return batch


def _start_worker(rule: Spelling, _: int) -> None:
    """In a new process, before its first batch. rule: how parameters are written."""
    spell(rule)
    # Signals to the whole group are for the parent, which then ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    tune_process()  # the pages of a batch are used again: up to 40 % more items a second
