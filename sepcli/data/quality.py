"""Are the stems of a song what their names say? HT Demucs' quality matrix, and what it decides.

A trusted model separates every stem by itself: a clean drum track should come back as drums and nothing else.

    P_ij   share of segments where V(y_ij) - V(x_i) > -10 dB          V(z) = 10 log10(mean of z^2), in dBFS
           x_i  stem i of the song        y_ij  part j of what the model makes of x_i

A song is kept where every P_ii > 70 % and every P_ij < 30 % (Rouard, Massa, Defossez 2022, section 4, and the
slides on it). Our addition: segments where x_i itself is below -60 dBFS say nothing and are left out. A stem
with no other segments, or for which the model has no source, has no row in the matrix and does not count. A
song without any row is rejected, because nothing speaks for it.

Knows the engine and songs of stems; nothing of reports, pictures or where songs come from.
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

from sepcli.engine.pipeline import Engine, Progress
from sepcli.engine.streams import separated
from sepcli.errors import InputError, ModelError, SepcliError, UsageError, from_os, parameter
from sepcli.sound.decode import AudioReader
from sepcli.sound.probe import probe

Matrix = Mapping[str, Mapping[str, float]]  # {stem i: {part j: P_ij in %}}; no key for a stem without a row
# (song, stem, audio seconds of that stem that are done, its audio seconds or None)
SongProgress = Callable[[str, str, float, float | None], None]


class Song(Protocol):
    """A song to be filtered: a data.layouts.StemTrack, or anything else with a name and files."""

    @property
    def name(self) -> str:
        """What it is called in the report."""
        ...

    @property
    def stems(self) -> Mapping[str, Path]:
        """{stem: its file}."""
        ...


@dataclass(frozen=True)
class Rule:
    """How the matrix is measured, and what it must be. All defaults but the floor are the published ones.

    UsageError for a value outside its range.
    """

    keep_above: float = 70.0  # %: every P_ii must be above
    off_below: float = 30.0  # %: every P_ij, i != j, must be below
    segment: float = 1.0  # seconds
    threshold: float = -10.0  # dB: a part that is louder than this, relative to its stem, is found
    floor: float = -60.0  # dBFS: segments of a stem that are quieter say nothing

    def __post_init__(self) -> None:
        for name, low, high, unit, usual in (
            ("keep_above", 0, 100, "%", 70),
            ("off_below", 0, 100, "%", 30),
            ("segment", 0.01, 600, "seconds", 1),
            ("threshold", -200, 0, "dB", -10),
            ("floor", -200, 0, "dB", -60),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(
                    f"{parameter(name, f'{value:g}')} is out of range: {low:g} to {high:g} ({unit}).",
                    remedy=f"The usual value is {parameter(name, usual)}.",
                )


@dataclass(frozen=True)
class Row:
    """A row of the matrix: what the model makes of one stem."""

    stem: str
    shares: Mapping[str, float]  # {part: P_ij in %}, all sources of the model; empty where no segment counts
    judged: int  # how many segments reach the floor, so that they count
    segments: int  # how many there are


@dataclass(frozen=True)
class Verdict:
    """The decision on one song, with what it is based on."""

    name: str
    rows: tuple[Row, ...] = ()
    reasons: tuple[str, ...] = ()  # why it is rejected; empty where it is kept
    notes: tuple[str, ...] = ()  # what else the user should know, such as stems without a row
    error: SepcliError | None = None  # why it could not be measured; then there are no rows, or only some
    audio_seconds: float = 0.0  # of all its stems together
    seconds: float = 0.0  # that the measurement took
    files: Mapping[str, Any] = field(default_factory=dict)  # {stem: [bytes, mtime in ns]} when it was measured

    @property
    def status(self) -> str:
        """ "kept", "rejected" or "failed"."""
        return "failed" if self.error is not None else "rejected" if self.reasons else "kept"

    @property
    def matrix(self) -> dict[str, dict[str, float]]:
        """{stem i: {part j: P_ij in %}}, without stems of which no segment counts."""
        return {row.stem: dict(row.shares) for row in self.rows if row.shares}


# --- the decision ---


def judge(matrix: Matrix, rule: Rule) -> tuple[str, ...]:
    """Why a song with this matrix is rejected: first what is missing, then what leaks. () where it is kept."""
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
    """By how many percentage points the worst cell breaks the rule; negative where all cells keep it."""
    worst = [
        rule.keep_above - share if part == stem else share - rule.off_below
        for stem, shares in matrix.items()
        for part, share in shares.items()
    ]
    return max(worst, default=100.0)


# --- the matrix ---


class SegmentPower:
    """The mean square of each segment of a signal that comes in blocks. Memory holds a number for each."""

    def __init__(self, frames: int):
        """frames: the length of a segment."""
        self.length = frames
        self.frames = 0  # so many have come
        self._sums: list[NDArray[np.float64]] = []  # [...] of each segment; the last one may be incomplete

    def add(self, block: NDArray[Any]) -> None:
        """Add the next block [..., C, T]. The power is a mean over channels."""
        count = block.shape[-1]
        if not count:
            return
        power = np.square(block, dtype=np.float64).mean(axis=-2)  # [..., T]
        begun = self.frames % self.length  # frames of the incomplete segment
        cuts = [0, *range(self.length - begun, count, self.length)]
        sums = list(np.moveaxis(np.add.reduceat(power, cuts, axis=-1), -1, 0))
        if begun:
            self._sums[-1] = self._sums[-1] + sums.pop(0)
        self._sums += sums
        self.frames += count

    def values(self) -> NDArray[np.float64]:
        """The mean squares [..., N] of the whole segments. An incomplete one at the end does not count."""
        whole = self._sums[: self.frames // self.length]
        return np.stack(whole, axis=-1) / self.length if whole else np.empty((0,))


def shares_of(stem: NDArray[Any], parts: NDArray[Any], rule: Rule) -> tuple[NDArray[np.float64], int]:
    """(the row P_i of the matrix in % [S], how many segments count), from powers: stem [N], parts [S, N]."""
    judged = stem > 10 ** (rule.floor / 10)
    count = int(judged.sum())
    there = parts[:, judged] > stem[judged] * 10 ** (rule.threshold / 10)
    return 100.0 * there.mean(axis=1) if count else np.full(len(parts), np.nan), count


def measure_stem(
    stem: str, path: Path, engine: Engine, rule: Rule, progress: SongProgress | None = None, song: str = ""
) -> tuple[Row, float]:
    """(the row of one stem, its audio seconds). The file is streamed, so its length does not matter.

    A stem without a segment above the floor never reaches the model. InputError where the file can't be read to
    its end; ModelError where the model gives samples that are not finite.
    """
    info = probe(path)
    length = max(1, round(rule.segment * info.samplerate))

    def read() -> Iterator[NDArray[np.float32]]:
        reader = AudioReader(path, info)
        yield from reader
        if reader.warnings:  # a separation may use a damaged file, a data set should not
            raise InputError(
                f"'{path}': {reader.warnings[0]}", remedy="Copy or download it again.", code="damaged"
            )

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
            remedy=f"Use {parameter('precision', 'float32')}.",
            code="not_finite",
        )
    shares, judged = shares_of(powers, found, rule)
    row = dict(zip(engine.sources, (float(share) for share in shares), strict=True))
    return Row(stem, row, judged, powers.size), seconds


def _told(progress: SongProgress | None, song: str, stem: str, seconds: float) -> Progress | None:
    """The engine's callback that tells `progress` which stem of which song it is."""
    if progress is None:
        return None
    return lambda done, total: progress(song, stem, done, seconds)


# --- songs ---


def measure_song(song: Song, engine: Engine, rule: Rule, progress: SongProgress | None = None) -> Verdict:
    """Measure a song and decide on it. A broken file becomes the `error` of the verdict, never an exception.

    DeviceError is raised: the next song would meet the same.
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
        error = from_os(problem, problem.filename or song.name, reading=InputError)
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
    """The verdict by the limits of this rule, from the same measurements. Other limits need no new ones."""
    reasons = () if verdict.error is not None else judge(verdict.matrix, rule)
    return replace(verdict, reasons=reasons)


def _notes(song: Song, sources: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """Which stems have no row, and why."""
    for stem in song.stems:
        if stem not in sources:
            yield f"{stem} is not judged: the model has no such stem, but {', '.join(sources)}"
    for row in rows:
        if not row.shares:
            what = "silent throughout" if row.segments else "shorter than a segment"
            yield f"{row.stem} is not judged: it is {what}"


def fingerprint(song: Song) -> dict[str, list[int]]:
    """{stem: [bytes, mtime in ns]}: tells whether the files are still the ones that were measured."""
    stats = {stem: Path(path).stat() for stem, path in song.stems.items()}
    return {stem: [stat.st_size, stat.st_mtime_ns] for stem, stat in stats.items()}
