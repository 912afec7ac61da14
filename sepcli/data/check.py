"""What is wrong with a folder of stems: the whole of `sepcli dataset check` but its display.

Reads every file once from beginning to end, all files of a track side by side, a block at a time: memory holds
a few blocks, whatever the length. Knows files and levels; nothing of models.

Where a track has a mixture, the stems should add up to it. If they don't, each stem s_k is compared with what
the others leave of the mixture, r_k = m - (sum of s_j, j != k), which is s_k itself where all is right:

    correlation of s_k and r_k  -> its peak lies at the time by which s_k is early, and is negative where s_k
                                   has the wrong sign

The correlation is summed over blocks of N samples, each against the 2 N samples around it, so that all lags up
to N / 2 count alike. The sum of all stems is compared with the mixture in the same way, because all stems
together may be early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sepcli.data.layouts import Problem, StemTrack, find_tracks
from sepcli.data.windows import to_channels
from sepcli.errors import InputError
from sepcli.sound.decode import AudioReader
from sepcli.sound.resample import resampled

BLOCK = 1 << 15  # samples; lags are searched up to half of it, 0.37 s at 44.1 kHz
LENGTHS = 0.1  # seconds by which the files of a track may differ: encoders add up to 50 ms
LIKENESS = 0.5  # the correlation of a stem and what the others leave, above which its lag is believed
SAME = 0.9  # the correlation of the sum and the mixture, above which a lag of all stems together is believed
EXACT = 200.0  # dB, for "exactly equal": float32 holds 150


@dataclass(frozen=True)
class Limits:
    """What counts as a problem."""

    silent: float = -60.0  # dBFS: a stem is silent if the peak of its whole file is lower
    snr: float = 20.0  # dB: the mixture over its difference to the sum of the stems; lossy stems reach about 25


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a track."""

    kind: str  # "broken" "not_finite" "silent" "lengths" "sum" "lag" "polarity" "level"
    message: str  # a full sentence


@dataclass(frozen=True)
class FileReport:
    """What decoding a file gave."""

    path: str
    samplerate: int  # Hz
    channels: int
    seconds: float  # of audio that could be decoded
    peak_dbfs: float  # -200 for digital silence
    rms_dbfs: float


@dataclass(frozen=True)
class SumReport:
    """The sum of the stems, compared with the mixture."""

    snr_db: float  # the energy of the mixture over the energy of (mixture - sum); 200 where they are equal
    gain_db: float  # that brings the sum nearest to the mixture
    snr_after_gain_db: float
    lag_samples: Mapping[str, int]  # {stem: by how much it is early, at the mixture's rate}, where it is clear
    common_lag_samples: int  # by how much all stems together are early; then `lag_samples` is empty
    inverted: tuple[str, ...]  # stems with the wrong sign


@dataclass(frozen=True)
class TrackReport:
    """All that was found about a track."""

    name: str
    seconds: float  # of the mixture, else of the longest stem
    stems: Mapping[str, FileReport]
    mixture: FileReport | None
    sum: SumReport | None  # None: no mixture, or some file could not be read to its end
    problems: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def check_dataset(
    root: Path | str,
    layout: str = "auto",
    limits: Limits | None = None,
    *,
    begun: Callable[[int], None] = lambda tracks: None,
) -> Iterator[TrackReport]:
    """Check all tracks below `root`: yields a report on each, in the order of their names.

    begun: called first, with the number of tracks. InputError where there are no tracks; a file that can't be
    read is a finding.
    """
    limits = limits or Limits()
    problems: list[Problem] = []
    tracks = {track.name: track for track in find_tracks(root, layout, problems=problems)}
    broken: dict[str, list[str]] = {}
    for problem in problems:
        broken.setdefault(problem.track if isinstance(problem, Problem) else "", []).append(str(problem))
    names = sorted({*tracks, *broken})
    begun(len(names))
    for name in names:
        findings = [Finding("broken", message) for message in broken.get(name, ())]
        if name in tracks:
            yield check_track(tracks[name], limits, findings)
        else:
            yield TrackReport(name, 0.0, {}, None, None, tuple(findings))


def check_track(track: StemTrack, limits: Limits, known: Sequence[Finding] = ()) -> TrackReport:
    """Check a track: reads all its files. known: what is wrong with it already."""
    paths = dict(track.stems)
    if track.mixture is not None:
        paths[""] = track.mixture  # the last; no stem has an empty name
    channels = min(2, track.channels)
    files = {name: _File(path, track.samplerate, channels) for name, path in paths.items()}
    comparison = _Comparison(list(track.stems)) if track.mixture is not None else None
    for blocks in _side_by_side(list(files.values())):
        if comparison is not None:
            comparison.add(blocks)
    findings = [*known, *(finding for file in files.values() for finding in file.findings)]
    reports = {name: file.report() for name, file in files.items()}
    mixture = reports.pop("", None)
    whole = not any(finding.kind in ("broken", "not_finite") for finding in findings)
    findings += [
        Finding("silent", f"{name} is silent: its peak is {_level(report.peak_dbfs)}.")
        for name, report in reports.items()
        if report.peak_dbfs < limits.silent and not files[name].failed
    ]
    seconds = {name or "mixture": report.seconds for name, report in {**reports, "": mixture}.items() if report}
    if whole and max(seconds.values()) - min(seconds.values()) > LENGTHS:
        lengths = ", ".join(f"{name} {length:.2f} s" for name, length in seconds.items())
        findings.append(Finding("lengths", f"Its files differ in length: {lengths}."))
    total = comparison.report() if comparison is not None and whole else None
    if total is not None:
        findings += _judged(total, track, limits)
    length = mixture.seconds if mixture is not None else max(report.seconds for report in reports.values())
    return TrackReport(track.name, length, reports, mixture, total, tuple(findings))


def _judged(total: SumReport, track: StemTrack, limits: Limits) -> Iterator[Finding]:
    """Why the sum of the stems is not the mixture; nothing where it is."""
    if total.snr_db >= limits.snr:
        return
    common = total.common_lag_samples
    apart = {name: lag for name, lag in total.lag_samples.items() if lag}
    late = {"The sum of the stems": common} if common else apart
    for name, lag in late.items():
        how = f"{abs(lag)} samples ({abs(lag) / track.samplerate * 1000:.1f} ms)"
        yield Finding("lag", f"{name} is {how} {'early' if lag > 0 else 'late'} against the mixture.")
    for name in total.inverted:
        yield Finding("polarity", f"{name} stands in the mixture with the opposite sign.")
    if total.snr_after_gain_db >= limits.snr:
        yield Finding("level", f"The mixture is the sum of the stems times {total.gain_db:+.1f} dB.")
    elif not late and not total.inverted:
        why = f"{total.snr_db:.1f} dB SNR; one is missing or was processed"
        yield Finding("sum", f"The stems don't add up to the mixture: {why}.")


class _File:
    """A file as a stream of blocks at the rate and channels of its track. It is measured on the way."""

    def __init__(self, path: Path, samplerate: int, channels: int):
        """samplerate, channels: of the blocks. Levels are measured on the file as it is."""
        self.path = path
        self.findings: list[Finding] = []
        self.failed = False
        self._wanted = (samplerate, channels)
        self._peak, self._energy, self._frames = 0.0, 0.0, 0
        self._samplerate, self._channels = samplerate, channels  # of the file, once it is open

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks [C, BLOCK] float32, the last one shorter; they end where the file can't be read on."""
        samplerate, channels = self._wanted
        waiting = np.zeros((channels, 0), np.float32)
        try:
            reader = AudioReader(self.path)
            self._samplerate, self._channels = reader.samplerate, reader.channels
            blocks = (to_channels(block.T, channels).T for block in self._measured(reader))
            for block in resampled(blocks, reader.samplerate, samplerate, channels):
                waiting = np.concatenate([waiting, block], axis=1)
                while waiting.shape[1] >= BLOCK:
                    yield waiting[:, :BLOCK]
                    waiting = waiting[:, BLOCK:]
            for warning in reader.warnings:
                self.findings.append(Finding("broken", warning))
        except InputError as problem:
            self.failed = True
            kind = problem.code if problem.code == "not_finite" else "broken"
            self.findings.append(Finding(kind, problem.message))
        yield waiting

    def _measured(self, blocks: AudioReader) -> Iterator[np.ndarray]:
        """The same blocks; their levels are added up."""
        for block in blocks:
            self._peak = max(self._peak, float(np.abs(block).max()))
            self._energy += float(np.square(block, dtype=np.float64).sum())
            self._frames += block.shape[1]
            yield block

    def report(self) -> FileReport:
        """The levels of all that was read."""
        mean = self._energy / max(1, self._frames * self._channels)
        return FileReport(
            str(self.path), self._samplerate, self._channels, self._frames / self._samplerate,
            _decibels(self._peak**2), _decibels(mean),
        )  # fmt: skip


def _side_by_side(files: Sequence[_File]) -> Iterator[np.ndarray]:
    """All files side by side: [F, C, BLOCK] up to the end of the longest; the others end in silence."""
    streams = [file.blocks() for file in files]
    while True:
        blocks = [next(stream, None) for stream in streams]
        channels = next((len(block) for block in blocks if block is not None), 0)
        if not channels:
            return
        out = np.zeros((len(blocks), channels, BLOCK), np.float32)
        for row, block in zip(out, blocks, strict=True):
            if block is not None:
                row[:, : block.shape[1]] = block
        yield out


class _Comparison:
    """Compares stems with their mixture, block by block: collects energies and correlations."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        count = len(names)
        # Energies: of the mixture, of the sum, of mixture x sum, of mixture - sum.
        self._mix = self._sum = self._both = self._rest = 0.0
        # In mono, for each stem s_k and r_k, and last for the sum and the mixture: their energies, and their
        # correlation as a spectrum of 2 BLOCK samples.
        self._one, self._other = np.zeros(count + 1), np.zeros(count + 1)
        self._correlation = np.zeros((count + 1, BLOCK + 1), np.complex128)
        self._window = np.zeros((count + 1, 2 * BLOCK), np.float32)  # mono, the newest samples at its end

    def add(self, blocks: np.ndarray) -> None:
        """Add the next blocks [S + 1, C, BLOCK], the mixture last."""
        mix, total = blocks[-1].astype(np.float64), blocks[:-1].sum(axis=0, dtype=np.float64)
        self._mix += float((mix**2).sum())
        self._sum += float((total**2).sum())
        self._both += float((mix * total).sum())
        self._rest += float(((mix - total) ** 2).sum())
        self._correlate(blocks.mean(axis=1))

    def _correlate(self, block: np.ndarray) -> None:
        """Add to the correlations. block: [S + 1, BLOCK] in mono."""
        self._window = np.concatenate([self._window[:, BLOCK:], block], axis=1)
        half = BLOCK // 2
        one, other = _pairs(self._window[:, half : half + BLOCK])
        self._one += np.square(one, dtype=np.float64).sum(axis=1)
        self._other += np.square(other, dtype=np.float64).sum(axis=1)
        _, around = _pairs(np.fft.rfft(self._window))
        self._correlation += np.fft.rfft(one, 2 * BLOCK).conj() * around

    def report(self) -> SumReport:
        """What all blocks say. Nothing can be added afterwards."""
        self._correlate(np.zeros((len(self.names) + 1, BLOCK), np.float32))  # the second half of the last block
        factor = self._both / self._sum if self._sum > 0 and self._both > 0 else 1.0
        after = self._mix - 2 * factor * self._both + factor**2 * self._sum
        scale = np.sqrt(self._one * self._other)
        lags, likeness = np.zeros(len(scale), int), np.zeros(len(scale))
        for row in np.flatnonzero(scale):
            correlation = np.fft.irfft(self._correlation[row])[: BLOCK + 1]
            peak = int(np.argmax(np.abs(correlation)))
            lags[row], likeness[row] = peak - BLOCK // 2, correlation[peak] / scale[row]
        common = int(lags[-1]) if likeness[-1] > SAME else 0
        clear = [] if common else [row for row in range(len(self.names)) if abs(likeness[row]) > LIKENESS]
        return SumReport(
            _ratio(self._mix, self._rest), 20 * math.log10(factor), _ratio(self._mix, after),
            {self.names[row]: int(lags[row]) for row in clear}, common,
            tuple(self.names[row] for row in clear if likeness[row] < 0),
        )  # fmt: skip


def _pairs(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[S + 1, ...], the mixture last -> (every s_k, then the sum), (every r_k, then the mixture)."""
    stems, mix = signals[:-1], signals[-1:]
    total = stems.sum(axis=0, keepdims=True)
    return np.concatenate([stems, total]), np.concatenate([mix - total + stems, mix])


def _ratio(signal: float, error: float) -> float:
    """A ratio of energies in dB, between -EXACT and EXACT. Two silences count as equal."""
    if error <= signal * 10 ** (-EXACT / 10):
        return EXACT
    return max(-EXACT, 10 * math.log10(signal / error)) if signal > 0 else -EXACT


def _decibels(power: float) -> float:
    """A power in dB, -EXACT at least."""
    return max(-EXACT, 10 * math.log10(power)) if power > 0 else -EXACT


def _level(decibels: float) -> str:
    return "0, digital silence" if decibels == -EXACT else f"{decibels:.1f} dBFS"
