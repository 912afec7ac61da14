"""Are the stems of a song what their names say? HT Demucs' quality matrix, and what it decides.

Found by running a trusted model on every stem alone: what a clean drum track gives back is drums.

    P_ij   share of segments where V(y_ij) - V(x_i) > -10 dB          V(z) = 10 log10(mean of z^2), in dBFS
           x_i  stem i of the song        y_ij  part j of what the model makes of x_i

A song is kept where every P_ii > 70 % and every P_ij < 30 % (Rouard, Massa, Defossez 2022, section 4, and the
slides on it). Ours: segments where x_i itself is under -60 dBFS say nothing and are left out. A stem that has
no other segments, or that the model has no source for, has no row: it neither keeps nor rejects. A song
without any row is rejected, for nothing speaks for it.

Knows the engine and tracks of stems; nothing of reports, pictures or where songs come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepcli.engine.pipeline import Engine
from sepcli.engine.streams import separated
from sepcli.errors import InputError, ModelError, SepcliError, UsageError
from sepcli.sound.decode import AudioReader, probe

Matrix = Mapping[str, Mapping[str, float]]  # stem i -> part j -> P_ij in %; no key for a stem without a row
# (song, stem, audio seconds done of that stem, audio seconds of it or None)
SongProgress = Callable[[str, str, float, float | None], None]


class Song(Protocol):
    """What is filtered: data.layouts.StemTrack, or anything else with a name and files."""

    @property
    def name(self) -> str: ...
    @property
    def stems(self) -> Mapping[str, Path]: ...


@dataclass(frozen=True)
class Rule:
    """How the matrix is measured and what it has to be. The published values, but for our own floor."""

    keep_above: float = 70.0  # %: of every P_ii
    off_below: float = 30.0  # %: of every P_ij, i != j
    segment: float = 1.0  # seconds
    threshold: float = -10.0  # dB: a part that is louder than this, relative to its stem, is there
    floor: float = -60.0  # dBFS: a stem's segments below say nothing

    def __post_init__(self) -> None:
        for name, value in (("--keep-above", self.keep_above), ("--off-below", self.off_below)):
            if not 0 <= value <= 100:
                raise UsageError(
                    f"{name} is {value:g}, but must be 0 to 100 (%).",
                    remedy="The published values are --keep-above 70 --off-below 30.",
                )
        if not 0.01 <= self.segment <= 600:
            raise UsageError(
                f"--segment is {self.segment:g}, but must be 0.01 to 600 (seconds).",
                remedy="The published value is --segment 1.",
            )
        for name, value, usual in (("--threshold", self.threshold, -10), ("--floor", self.floor, -60)):
            if not -200 <= value <= 0:
                raise UsageError(
                    f"{name} is {value:g}, but must be -200 to 0 (dB).",
                    remedy=f"The usual value is {name} {usual}.",
                )


@dataclass(frozen=True)
class Row:
    """What the model makes of one stem.

    shares: part -> P_ij in %, for every source of the model; empty where no segment was judged.
    judged, segments: how many segments reach the floor, and how many there are.
    """

    stem: str
    shares: Mapping[str, float]
    judged: int
    segments: int


@dataclass(frozen=True)
class Verdict:
    """What became of one song.

    reasons: why it is rejected; empty where it is kept. notes: what else should be known, such as stems
    without a row. error: why it could not be measured; then there are no rows or only some.
    """

    name: str
    rows: tuple[Row, ...] = ()
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: SepcliError | None = None
    audio_seconds: float = 0.0  # of all its stems
    seconds: float = 0.0  # that it took
    files: Mapping[str, Any] = field(default_factory=dict)  # stem -> [bytes, mtime in ns], as measured

    @property
    def status(self) -> str:
        """ "kept", "rejected" or "failed"."""
        return "failed" if self.error is not None else "rejected" if self.reasons else "kept"

    @property
    def matrix(self) -> dict[str, dict[str, float]]:
        return {row.stem: dict(row.shares) for row in self.rows if row.shares}


# --- the decision ---


def judge(matrix: Matrix, rule: Rule) -> tuple[str, ...]:
    """Why a song of this matrix is rejected, the plainest reasons first; () where it is kept."""
    if not matrix:
        return ("none of its stems could be judged",)
    missing = tuple(
        f"{stem} is found in {shares[stem]:.1f} % of its own stem, but must be in more than"
        f" {rule.keep_above:g} %"
        for stem, shares in matrix.items()
        if not shares[stem] > rule.keep_above
    )
    leaking = tuple(
        f"{part} is found in {share:.1f} % of the {stem} stem, but must be in less than {rule.off_below:g} %"
        for stem, shares in matrix.items()
        for part, share in shares.items()
        if part != stem and not share < rule.off_below
    )
    return missing + leaking


def violation(matrix: Matrix, rule: Rule) -> float:
    """By how many percentage points the worst cell breaks the rule; negative: by how many all keep it."""
    worst = [
        rule.keep_above - share if part == stem else share - rule.off_below
        for stem, shares in matrix.items()
        for part, share in shares.items()
    ]
    return max(worst, default=100.0)


# --- the matrix ---


class SegmentPower:
    """The mean square of each segment of a signal that comes in blocks. Memory: one number a segment."""

    def __init__(self, frames: int):
        """frames: the length of a segment."""
        self.length = frames
        self.frames = 0  # seen so far
        self._sums: list[NDArray[np.float64]] = []  # [...] of each segment, the last one open

    def add(self, block: NDArray[Any]) -> None:
        """[..., C, T]: the mean over channels counts."""
        count = block.shape[-1]
        if not count:
            return
        power = np.square(block, dtype=np.float64).mean(axis=-2)  # [..., T]
        begun = self.frames % self.length  # of the open segment
        cuts = [0, *range(self.length - begun, count, self.length)]
        sums = list(np.moveaxis(np.add.reduceat(power, cuts, axis=-1), -1, 0))
        if begun:
            self._sums[-1] = self._sums[-1] + sums.pop(0)
        self._sums += sums
        self.frames += count

    def values(self) -> NDArray[np.float64]:
        """[..., N] of the N whole segments; a shorter rest at the end is not one, as in average pooling."""
        whole = self._sums[: self.frames // self.length]
        return np.stack(whole, axis=-1) / self.length if whole else np.empty((0,))


def shares_of(stem: NDArray[Any], parts: NDArray[Any], rule: Rule) -> tuple[NDArray[np.float64], int]:
    """(P_i. in % [S], how many segments it is of), from powers: stem [N], parts [S, N]."""
    judged = stem > 10 ** (rule.floor / 10)
    count = int(judged.sum())
    there = parts[:, judged] > stem[judged] * 10 ** (rule.threshold / 10)
    return 100.0 * there.mean(axis=1) if count else np.full(len(parts), np.nan), count


def measure_stem(
    stem: str, path: Path, engine: Engine, rule: Rule, progress: SongProgress | None = None, song: str = ""
) -> tuple[Row, float]:
    """(the row of one stem, its audio seconds); streams, so its length does not matter.

    A stem without a segment above the floor never reaches the model. InputError: the file can't be read to
    its end. ModelError: the model gives samples that are not finite.
    """
    info = probe(path)
    length = max(1, round(rule.segment * info.samplerate))

    def read() -> Iterator[NDArray[np.float32]]:
        reader = AudioReader(path, info)
        yield from reader
        if reader.warnings:  # separation takes what there is; a data set should not
            raise InputError(reader.warnings[0], remedy="Copy or download it again.", code="damaged")

    own = SegmentPower(length)
    for block in read():
        own.add(block)
    seconds = own.frames / info.samplerate
    powers = own.values()
    if not (powers > 10 ** (rule.floor / 10)).any():
        return Row(stem, {}, 0, powers.size), seconds

    parts = SegmentPower(length)
    told = _told(progress, song, stem, seconds)
    with closing(separated(read, engine, info.samplerate, info.channels, told)) as blocks:
        for block in blocks:
            parts.add(block)
    found = parts.values()  # [S, N]
    if not np.isfinite(found).all():
        raise ModelError(
            f"The model gives samples that are not finite for '{path}'.",
            remedy="Use --precision float32.",
            code="not_finite",
        )
    shares, judged = shares_of(powers, found, rule)
    row = dict(zip(engine.sources, (float(share) for share in shares), strict=True))
    return Row(stem, row, judged, powers.size), seconds


def _told(progress: SongProgress | None, song: str, stem: str, seconds: float):
    if progress is None:
        return None
    return lambda done, total: progress(song, stem, done, seconds)


# --- songs ---


def measure_song(song: Song, engine: Engine, rule: Rule, progress: SongProgress | None = None) -> Verdict:
    """The song's matrix and what follows from it; a broken file becomes its `error`, never an exception.

    DeviceError passes: the next song would meet the same.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    audio_seconds = 0.0
    files: dict[str, Any] = {}
    error: SepcliError | None = None
    try:
        files = fingerprint(song)
        for stem in engine.sources:
            if stem in song.stems:
                row, seconds = measure_stem(stem, song.stems[stem], engine, rule, progress, song.name)
                rows.append(row)
                audio_seconds += seconds
    except (InputError, ModelError) as problem:
        error = problem
    except OSError as problem:
        error = InputError(
            f"'{problem.filename}' can't be read: {problem.strerror}.",
            remedy="Check the path and its permissions.",
            code="unreadable",
        )
    measured = Verdict(
        song.name,
        tuple(rows),
        (),
        () if error else tuple(_notes(song, engine.sources, rows)),
        error,
        audio_seconds,
        time.perf_counter() - began,
        files,
    )
    return decided(measured, rule)


def decided(verdict: Verdict, rule: Rule) -> Verdict:
    """The same measurements under this rule's limits: other limits need no new measurement."""
    reasons = () if verdict.error is not None else judge(verdict.matrix, rule)
    return replace(verdict, reasons=reasons)


def _notes(song: Song, sources: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    for stem in song.stems:
        if stem not in sources:
            yield f"{stem} is not judged: the model has no such stem, but {', '.join(sources)}"
    for row in rows:
        if not row.shares:
            what = "silent throughout" if row.segments else "shorter than a segment"
            yield f"{row.stem} is not judged: it is {what}"


def fingerprint(song: Song) -> dict[str, list[int]]:
    """stem -> [bytes, mtime in ns]: whether its files are those that were measured."""
    stats = {stem: Path(path).stat() for stem, path in song.stems.items()}
    return {stem: [stat.st_size, stat.st_mtime_ns] for stem, stat in stats.items()}
