"""From scores of tracks to the few numbers of a protocol: which metric, and how tracks and runs are averaged.

Knows no models, files or tables. The protocols of the field (docs/evaluation.md has the formulas):

    musdb   museval's SDR (and ISR, SIR, SAR if asked): median over frames, then median over tracks
    mdx     uSDR: mean over tracks
    sisdr   SI-SDR and its improvement over the mix: mean over tracks
    msdm    SI-SDRi in windows of 4 s: mean over the windows of all tracks
    dicose  the same with another choice of windows (windows.py)
    ldm     spectra, pitch and PESQ of a voice, with the time it took to make it: mean over tracks (voice.py)

Each statistic is taken stem by stem, over the tracks that have the stem and where the metric is defined. The
mean over the stems comes last, so that a stem that few songs have weighs as much as the others. A mean has an
interval (interval.py), a median has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sepcli.metrics.interval import Column, half_width
from sepcli.metrics.windows import DICOSE, MSDM, WindowRule


@dataclass(frozen=True)
class Metric:
    """How a metric is shown, and how a track's value of it is weighed."""

    name: str  # in full, as it is always printed
    column: str  # its name in tables for programs
    unit: str = "dB"
    weight: str | None = None  # the key of the metric that weighs a track in a mean; None: all weigh the same
    head: str = ""  # above its column, in a table whose title says the rest
    digits: int = 2  # after the decimal point, in tables


METRICS = {
    "sdr": Metric("museval v4 SDR (median of 1 s frames)", "museval_sdr_db"),
    "isr": Metric("museval v4 ISR (median of 1 s frames)", "museval_isr_db"),
    "sir": Metric("museval v4 SIR (median of 1 s frames)", "museval_sir_db"),
    "sar": Metric("museval v4 SAR (median of 1 s frames)", "museval_sar_db"),
    "usdr": Metric("uSDR (MDX 2021, whole track)", "usdr_db"),
    "si_sdr": Metric("SI-SDR (whole track, means kept)", "si_sdr_db"),
    "si_sdri": Metric("SI-SDRi over the mix (whole track, means kept)", "si_sdri_db"),
    MSDM.metric: Metric(
        "SI-SDRi over the mix (4 s windows, MSDM's choice)", "si_sdri_msdm_db", weight=MSDM.count
    ),
    MSDM.count: Metric("4 s windows, MSDM's choice", "windows_msdm", ""),
    DICOSE.metric: Metric(
        "SI-SDRi over the mix (4 s windows, DiCoSe's choice)", "si_sdri_dicose_db", weight=DICOSE.count
    ),
    DICOSE.count: Metric("4 s windows, DiCoSe's choice", "windows_dicose", ""),
    "lsd": Metric("log-spectral distance (voiced frames)", "lsd", "", head="LSD"),
    "mel_mae": Metric("mean absolute error of log-mels (voiced frames)", "mel_mae_db", head="Mel-MAE (dB)"),
    "log_f0_rmse": Metric(
        "log-F0 root mean square error (frames voiced in both)", "log_f0_rmse", "", head="log-F0 RMSE", digits=3
    ),
    "pesq": Metric("PESQ (P.862.2 wide band, pieces of 10 s)", "pesq_wb", "MOS-LQO", head="PESQ"),
    "rtf": Metric("seconds of computing for a second of audio", "rtf", "", head="computing (s/s)", digits=3),
    "voiced": Metric("voiced seconds", "voiced_s", "s", head="voiced (s)"),
}
ZERO_MEAN = {
    "si_sdr": Metric("SI-SDR (whole track, means removed)", "si_sdr_zero_mean_db"),
    "si_sdri": Metric("SI-SDRi over the mix (whole track, means removed)", "si_sdri_zero_mean_db"),
}

Statistic = Callable[[Sequence[float], Sequence[float]], float]  # of values and their weights
MEDIAN, MEAN, POOLED = "median over tracks", "mean over tracks", "mean over all windows"
STATISTICS: dict[str, Statistic] = {
    MEDIAN: lambda values, weights: float(np.median(values)),
    MEAN: lambda values, weights: float(np.mean(values)),
    POOLED: lambda values, weights: float(np.average(values, weights=weights)),
}


@dataclass(frozen=True)
class Protocol:
    """A protocol of the field: its metrics, and how they are averaged over tracks.

    Metrics of windows and of voices are computed only if a protocol that needs them is asked for; all others
    always are.
    """

    metrics: tuple[str, ...]  # in the order in which they are shown
    statistics: tuple[str, ...]  # over tracks, the protocol's own first
    windows: WindowRule | None = None  # which windows it scores; None: whole tracks
    voice: bool = False  # measures voices; all its metrics are in one table


PROTOCOLS = {
    "musdb": Protocol(("sdr", "isr", "sir", "sar"), (MEDIAN, MEAN)),
    "mdx": Protocol(("usdr",), (MEAN,)),
    "sisdr": Protocol(("si_sdr", "si_sdri"), (MEAN,)),
    "msdm": Protocol((MSDM.metric,), (POOLED,), MSDM),
    "dicose": Protocol((DICOSE.metric,), (POOLED,), DICOSE),
    "ldm": Protocol(("lsd", "mel_mae", "log_f0_rmse", "pesq", "rtf"), (MEAN,), voice=True),
}


@dataclass(frozen=True)
class Value:
    """One number of a summary, NaN where it is undefined."""

    value: float
    std: float | None  # the standard deviation over runs (of a sample, n - 1); None for one run
    tracks: int  # how many tracks counted, in the first run
    interval: float | None = None  # half of the 95 % one over tracks, of the mean over runs; None for a median


@dataclass(frozen=True)
class Line:
    """The summary of a metric for one model."""

    protocol: str
    metric: str  # its key
    statistic: str
    stems: Mapping[str, Value]  # sorted by name
    mean: Value  # over the stems


Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # {track: {stem: {metric: value}}} of one run


def metric(key: str, *, zero_mean: bool = False) -> Metric:
    """The metric of that key. zero_mean: as it is named when means are removed before an SI-SDR."""
    return ZERO_MEAN.get(key, METRICS[key]) if zero_mean else METRICS[key]


def summarize(runs: Sequence[Scores], protocols: Iterable[str]) -> list[Line]:
    """The lines of those protocols for the runs of one model: means over runs, and their standard deviation.

    Metrics and stems that no track has are left out. Undefined values (NaN) do not count in a statistic.
    """
    stems: dict[str, set[str]] = {}  # of each metric
    for run in runs:
        for track in run.values():
            for stem, scores in track.items():
                for key in scores:
                    stems.setdefault(key, set()).add(stem)
    return [
        _line(runs, sorted(stems[key]), protocol, key, statistic)
        for protocol in protocols
        for statistic in PROTOCOLS[protocol].statistics
        for key in PROTOCOLS[protocol].metrics
        if key in stems
    ]


def defined(run: Scores, stem: str, key: str) -> dict[str, float]:
    """{track: the metric of the stem}, for the tracks where it is defined."""
    values = {name: track[stem].get(key, math.nan) for name, track in run.items() if stem in track}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _line(runs: Sequence[Scores], stems: Sequence[str], protocol: str, key: str, statistic: str) -> Line:
    over_tracks = STATISTICS[statistic]
    table = []  # [runs][stems]
    for run in runs:
        row = []
        for stem in stems:
            values = defined(run, stem, key)
            weights = [_weight(run, name, stem, key) for name in values]
            row.append(over_tracks([*values.values()], weights) if values else math.nan)
        table.append(row)
    columns = [_column(runs, stem, key) for stem in stems]
    wide = statistic != MEDIAN
    counts = [len(defined(runs[0], stem, key)) for stem in stems]
    values = {
        stem: _over_runs([row[k] for row in table], counts[k], columns[k : k + 1] if wide else [])
        for k, stem in enumerate(stems)
    }
    mean = _over_runs([float(np.mean(row)) for row in table], max(counts), columns if wide else [])
    return Line(protocol, key, statistic, values, mean)


def _weight(run: Scores, track: str, stem: str, key: str) -> float:
    """What the value of a track weighs in a mean."""
    by = METRICS[key].weight
    return 1.0 if by is None else run[track][stem][by]


def _column(runs: Sequence[Scores], stem: str, key: str) -> Column:
    """{track: (its mean over the runs in which it is defined, its weight)}."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for track, value in defined(run, stem, key).items():
            found.setdefault(track, []).append((value, _weight(run, track, stem, key)))
    return {track: (float(np.mean([value for value, _ in each])), each[0][1]) for track, each in found.items()}


def _over_runs(values: Sequence[float], tracks: int, columns: Sequence[Column]) -> Value:
    """The mean of a statistic over runs. columns: of the stems behind it; empty where there is no interval."""
    half = half_width(columns) if columns else math.nan
    interval = None if math.isnan(half) else half
    if len(values) == 1:
        return Value(values[0], None, tracks, interval)
    with np.errstate(invalid="ignore"):  # +inf in several runs has no deviation
        return Value(float(np.mean(values)), float(np.std(values, ddof=1)), tracks, interval)
