"""From scores of tracks to the few numbers of a protocol: which metric, and how tracks and runs are averaged.

Knows no models, files or tables. The protocols of the field (docs/evaluation.md has the formulas):

    musdb   museval's SDR (and ISR, SIR, SAR if asked): median over frames, then median over tracks
    mdx     uSDR: mean over tracks
    sisdr   SI-SDR and its improvement over the mix: mean over tracks

Each is taken stem by stem over the tracks that have the stem and where the metric is defined; the mean over the
stems comes last, so that a stem that few songs have weighs as much as the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """name: in full, as it is always printed. column: of tables for programs."""

    name: str
    column: str


METRICS = {
    "sdr": Metric("museval v4 SDR (median of 1 s frames)", "museval_sdr_db"),
    "isr": Metric("museval v4 ISR (median of 1 s frames)", "museval_isr_db"),
    "sir": Metric("museval v4 SIR (median of 1 s frames)", "museval_sir_db"),
    "sar": Metric("museval v4 SAR (median of 1 s frames)", "museval_sar_db"),
    "usdr": Metric("uSDR (MDX 2021, whole track)", "usdr_db"),
    "si_sdr": Metric("SI-SDR (whole track, means kept)", "si_sdr_db"),
    "si_sdri": Metric("SI-SDRi over the mix (whole track, means kept)", "si_sdri_db"),
}
ZERO_MEAN = {
    "si_sdr": Metric("SI-SDR (whole track, means removed)", "si_sdr_zero_mean_db"),
    "si_sdri": Metric("SI-SDRi over the mix (whole track, means removed)", "si_sdri_zero_mean_db"),
}

Statistic = Callable[[Sequence[float]], float]
MEDIAN, MEAN = "median over tracks", "mean over tracks"
STATISTICS: dict[str, Statistic] = {
    MEDIAN: lambda values: float(np.median(values)), MEAN: lambda values: float(np.mean(values)),
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """metrics: in the order in which they are shown. statistics: over tracks, the protocol's own first."""

    metrics: tuple[str, ...]
    statistics: tuple[str, ...]


PROTOCOLS = {
    "musdb": Protocol(("sdr", "isr", "sir", "sar"), (MEDIAN, MEAN)),
    "mdx": Protocol(("usdr",), (MEAN,)),
    "sisdr": Protocol(("si_sdr", "si_sdri"), (MEAN,)),
}


@dataclass(frozen=True)
class Value:
    """One number of a summary, NaN where it is undefined.

    std: over runs, of a sample (n - 1); None for one run. tracks: how many counted, in the first run.
    """

    value: float
    std: float | None
    tracks: int


@dataclass(frozen=True)
class Line:
    """A metric's summary for one model. stems: sorted by name. mean: over the stems."""

    protocol: str
    metric: str
    statistic: str
    stems: Mapping[str, Value]
    mean: Value


Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # track -> stem -> metric -> dB


def metric(key: str, *, zero_mean: bool = False) -> Metric:
    return ZERO_MEAN.get(key, METRICS[key]) if zero_mean else METRICS[key]


def summarize(runs: Sequence[Scores], protocols: Iterable[str]) -> list[Line]:
    """The lines of those protocols for the runs of one model: the mean over runs, and their deviation.

    Metrics that no track has are left out. Values that are undefined (NaN) are left out of their statistic.
    """
    stems = sorted({stem for run in runs for track in run.values() for stem in track})
    there = {key for run in runs for track in run.values() for stem in track.values() for key in stem}
    lines = []
    for protocol in protocols:
        for statistic in PROTOCOLS[protocol].statistics:
            for key in PROTOCOLS[protocol].metrics:
                if key in there:
                    lines.append(_line(runs, stems, protocol, key, statistic))
    return lines


def defined(run: Scores, stem: str, key: str) -> list[float]:
    """That metric of that stem in every track where it is defined."""
    values = [track[stem].get(key, math.nan) for track in run.values() if stem in track]
    return [value for value in values if not math.isnan(value)]


def _line(runs: Sequence[Scores], stems: Sequence[str], protocol: str, key: str, statistic: str) -> Line:
    over_tracks = STATISTICS[statistic]
    table = []  # [runs][stems]
    for run in runs:
        each = [defined(run, stem, key) for stem in stems]
        table.append([over_tracks(values) if values else math.nan for values in each])
    counts = [len(defined(runs[0], stem, key)) for stem in stems] if runs else []
    values = {stem: _over_runs([row[k] for row in table], counts[k]) for k, stem in enumerate(stems)}
    tracks = max(counts, default=0)
    mean = _over_runs([float(np.mean(row)) if row else math.nan for row in table], tracks)
    return Line(protocol, key, statistic, values, mean)


def _over_runs(values: Sequence[float], tracks: int) -> Value:
    if len(values) == 1:
        return Value(values[0], None, tracks)
    with np.errstate(invalid="ignore"):  # +inf in several runs has no deviation
        return Value(float(np.mean(values)), float(np.std(values, ddof=1)), tracks)
