"""Batches to train on: which tracks, from when, mixed how, as a pure function of (seed, epoch, item).

Knows tracks, windows and augmentations; nothing of networks. Item i of epoch e is drawn with a random
generator seeded by (seed, e, i) and by nothing else, so a batch is the same whatever the number of worker
processes or ranks, and wherever a run begins.

    an item  =  one window of a track that has several sources        with probability `aligned`;
                what the track lacks comes from others
             or a window for every source from a track of its own     otherwise

The rest, where one is wanted, is one more source: what a track's mixture is without the sources, so that a
recording of each source and the mixture is all that a track must have; or else all its other stems.

A track is drawn in proportion to weight x duration, the window uniformly within it. A file that is shorter
than the window (a one-shot, a loop) lies at a random place in silence. A file that can't be read is named in
`Batch.problems` and another draw, by the same generator, takes its place.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sepcli.data.augment import Augmentation
from sepcli.data.layouts import Problem, find_tracks
from sepcli.data.windows import read_window
from sepcli.engine.device import tune_process
from sepcli.errors import InputError, SepcliError, UsageError

TRIES = 20  # draws for one window until reading is given up
SILENT = 1e-3  # RMS, -60 dBFS: a window below counts as silent for `skip_silent`


@dataclass(frozen=True)
class DataSource:
    """A folder of tracks to draw from."""

    path: str
    layout: str = "auto"  # as in data/layouts.py
    stems: tuple[str, ...] = ()  # only these (names in the files), where others are mislabelled; () = all
    weight: float = 1.0  # how often its tracks are drawn, relative to their duration
    # Stems under another name, {"guitar": "other", "piano": "other"}; several of one name are added up.
    rename: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()  # tracks left out, by name: those that are kept for validation


@dataclass
class Batch:
    """What a training step gets."""

    stems: Tensor  # [B, S, C, T] float32; the mix is their sum
    items: list[str]  # B times: which tracks, from when; before Remix, which deals them out anew
    problems: list[str]  # files that could not be read, and why


@dataclass(frozen=True)
class _Piece:
    """A track as it is drawn from: the files that add up to each source; of the rest, those to take away."""

    name: str
    files: Mapping[str, tuple[Path, ...]]
    seconds: float
    weight: float
    less: tuple[Path, ...] = ()


class Batches(torch.utils.data.Dataset):
    """step -> Batch: this rank's rows of the global batch. Picklable; the tracks are looked up once.

    sources: the stems' names, in order. samplerate: Hz. samples: T of a batch. batch_size: rows of all ranks
    together. aligned: the share of items that are one window of a track that has at least two of the sources;
    what it lacks is drawn from other tracks.
    skip_silent: the share of silent windows (below -60 dBFS RMS; of an aligned item: in all sources) that are
    drawn again, because stems like vocals are silent for long stretches. The rest does not count there.
    steps_per_epoch: only numbers the random generators: an epoch ends after so many steps.
    rest: the name of one more source, the last: all that the sources are not.
    examples: so many different items are all there are, over and over; 0: new ones for ever.
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
        # What has to be read, so that `samples` are left when all augmentations have taken their margins.
        self.read_samples = samples
        for augmentation in reversed(self.augment):
            self.read_samples += augmentation.extra(self.read_samples, samplerate)
        self.problems: list[Problem] = []  # files that were broken already when the tracks were looked up
        wanted = tuple(sources) if rest else ()
        pieces = [piece for source in data for piece in _pieces(source, self.problems, wanted, rest)]
        self._together = self._by_sources(pieces)
        self._having = {name: _Urn([p for p in pieces if name in p.files]) for name in self.sources}
        self._check_tracks(pieces)

    @property
    def aligned_seconds(self) -> float:
        """The duration of all tracks that aligned items come from: those with several of the sources."""
        return sum(urn.seconds for urn in self._together.values())

    @property
    def seconds(self) -> dict[str, float]:
        """The duration of all tracks that have a source, by source."""
        return {name: urn.seconds for name, urn in self._having.items()}

    def __getitem__(self, step: int) -> Batch:
        if self.examples:
            step %= self.examples // self.batch_size
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self.batch_size // self.world
        first = step * self.batch_size + self.rank * rows
        shape = (rows, len(self.sources), self.channels, self.read_samples)
        stems, items, problems = np.zeros(shape, np.float32), [], []
        for row in range(rows):
            # Two generators an item: a redrawn window does not change how the item is varied.
            rng = np.random.default_rng((self.seed, epoch, first + row, 0))
            items.append(self._draw(rng, stems[row], problems))
        rngs = [np.random.default_rng((self.seed, epoch, first + row, 1)) for row in range(rows)]
        batch = torch.from_numpy(stems)
        for augmentation in self.augment:
            batch = augmentation(batch, rngs, sources=self.sources, samplerate=self.samplerate)
        return Batch(batch[..., : self.samples].contiguous(), items, problems)

    def _draw(self, rng: np.random.Generator, out: np.ndarray, problems: list[str]) -> str:
        """Fill `out` [S, C, T] with one item; what it is."""
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
        """The tracks with at least two of the sources (or the only one), by which of them they have."""
        groups: dict[tuple[str, ...], list[_Piece]] = {}
        for piece in pieces:
            has = tuple(name for name in self.sources if name in piece.files)
            if len(has) >= min(2, len(self.sources)):
                groups.setdefault(has, []).append(piece)
        return {has: _Urn(group) for has, group in groups.items()}

    def _draw_together(self, rng: np.random.Generator) -> tuple[tuple[str, ...], _Urn]:
        """One of these groups, in proportion to weight x duration."""
        edges = np.cumsum([urn.weight for urn in self._together.values()])
        index = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        return list(self._together.items())[min(index, len(edges) - 1)]

    def _window(
        self, rng: np.random.Generator, urn: _Urn, names: Sequence[str], out: np.ndarray, problems: list[str]
    ) -> str:
        """Fill `out` [len(names), C, T] from one window of one track; what it is."""
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
        for stem, name in zip(out, names, strict=True):
            parts = [
                read_window(path, start, self.read_samples, self.samplerate, self.channels)
                for path in piece.files[name]
            ]
            stem[:] = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
            for path in piece.less if name == self.rest else ():
                stem -= read_window(path, start, self.read_samples, self.samplerate, self.channels)

    def _is_silent(self, names: Sequence[str], window: np.ndarray) -> bool:
        """window [S, C, T] of sources `names`: whether all of them but the rest are below -60 dBFS."""
        flats = [stem.reshape(-1) for name, stem in zip(names, window, strict=True) if name != self.rest]
        return bool(flats) and all(float(np.dot(flat, flat)) < SILENT**2 * flat.size for flat in flats)

    def _check(self) -> None:
        def refuse(fact: str, remedy: str) -> None:
            raise UsageError(fact, remedy=remedy)

        if not self.sources or len(set(self.sources)) < len(self.sources):
            refuse(f"The sources are {self.sources!r}.", "Name each wanted stem once.")
        for name, share in (("aligned", self.aligned), ("skip_silent", self.skip_silent)):
            if not 0 <= share <= 1:
                refuse(f"{name} is {share}, but is a share.", "Give a number from 0 to 1.")
        if self.batch_size < 1 or self.batch_size % self.world:
            refuse(
                f"A batch of {self.batch_size} can't be divided among {self.world} processes.",
                "Make the batch size a multiple of their number.",
            )
        if self.examples < 0 or self.examples % self.batch_size:
            refuse(
                f"There shall be {self.examples} examples, in batches of {self.batch_size}.",
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
    """Pieces to draw from, in proportion to weight x duration."""

    def __init__(self, pieces: Sequence[_Piece]):
        self.pieces = list(pieces)
        self.seconds = sum(piece.seconds for piece in pieces)
        self._edges = np.cumsum([piece.weight * piece.seconds for piece in pieces])
        self.weight = float(self._edges[-1]) if self.pieces else 0.0

    def draw(self, rng: np.random.Generator) -> _Piece:
        at = rng.random() * self._edges[-1]
        return self.pieces[min(int(np.searchsorted(self._edges, at, side="right")), len(self.pieces) - 1)]


def _pieces(
    source: DataSource, problems: list[Problem], sources: Sequence[str], rest: str | None
) -> Iterator[_Piece]:
    """The source's tracks; with what the `sources` leave of each as `rest`, where that is wanted."""
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
    """The files that add up to what the sources are not, and those to take away from that; () and () if none.

    The mixture without the sources, where a track has all of them; not all other stems of a track need exist.
    """
    if mixture is not None and all(name in files for name in sources):
        return (mixture,), tuple(path for name in sources for path in files[name])
    return tuple(path for name, paths in files.items() if name not in sources for path in paths), ()


def batches_from(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """The batches of steps start ... stop - 1, in order, read ahead by `workers` processes (0: in this one).

    The processes are spawned (nothing is inherited), use one thread each, and end with the iterator. What
    they raise is raised here.
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
        worker_init_fn=_start_worker,
        multiprocessing_context="spawn",
    )
    for batch in loader:
        if isinstance(batch, SepcliError):
            raise batch
        yield batch


class _Guarded(torch.utils.data.Dataset):
    """Gives our own errors as results: raised in a worker they would arrive wrapped in a traceback."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | SepcliError:
        try:
            return self.batches[step]
        except SepcliError as problem:
            return problem


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _start_worker(_: int) -> None:
    # Ctrl-C and a SIGTERM to the whole group are for the parent, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    tune_process()  # the pages of a batch are used again: up to 40 % more items a second
