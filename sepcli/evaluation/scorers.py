"""Scorers: each takes a track's references and estimates block by block, then says how good each stem is.

Knows the metrics and the stems' names; no files and no models. The answer is

    {stem: {metric: value}}     NaN where a metric is undefined; metrics/summary.py has the keys

Axes: A all references, the scored stems first; S scored stems; C channels; T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sepcli.engine.streams import Block
from sepcli.metrics.bsseval import BssEval
from sepcli.metrics.sdr import Sums, frame_samples
from sepcli.metrics.spectral import Distance
from sepcli.metrics.voice import VoiceSums
from sepcli.metrics.windows import WindowRule, WindowSums

StemScores = dict[str, dict[str, float]]


class Scorer(Protocol):
    """Measures a track. To be given all blocks in order, then asked once."""

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block: references [A, C, T], estimates [S, C, T], mix [C, T]."""
        ...

    def scores(self) -> StemScores:
        """The scores of each stem; to be called once, after the last block."""
        ...


class Ratios:
    """The distortion ratios of whole tracks: museval's SDR, uSDR, SI-SDR. A silent stem has none.

    extra: ISR, SIR and SAR too, for which the track is held in memory. zero_mean: remove each signal's mean
    before an SI-SDR.
    """

    def __init__(self, names: Sequence[str], channels: int, samplerate: int, *, extra: bool, zero_mean: bool):
        self.names, self._zero_mean = names, zero_mean
        frame, count = frame_samples(samplerate), len(names)
        self._sums, self._before = (Sums(count, channels, frame) for _ in range(2))
        self._bss = BssEval(count, channels, frame) if extra else None

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block (see Scorer)."""
        references = references[: len(self.names)]
        self._sums.add(references, estimates)
        self._before.add(references, np.broadcast_to(mix, references.shape))
        if self._bss is not None:
            self._bss.add(references, estimates)

    def silent_frames(self) -> NDArray[np.bool_]:
        """[N] frames of a second: True where museval leaves one out for a silent reference or estimate."""
        return self._sums.silent_frames()

    def scores(self) -> StemScores:
        """The scores of each stem (see Scorer)."""
        si_sdr = self._sums.si_sdr(zero_mean=self._zero_mean)
        metrics = {
            "sdr": _medians(self._sums.museval_sdr()),
            "usdr": self._sums.usdr(),
            "si_sdr": si_sdr,
            "si_sdri": si_sdr - self._before.si_sdr(zero_mean=self._zero_mean),
        }
        if self._bss is not None:
            metrics |= {name: _medians(frames) for name, frames in self._bss.result().items()}
        present = self._sums.present()
        return {
            name: {metric: float(values[k]) for metric, values in metrics.items()}
            for k, name in enumerate(self.names)
            if present[k]
        }


class Windowed:
    """The protocols that score windows: each stem's mean over the windows of the track, and their number."""

    def __init__(self, names: Sequence[str], channels: int, samplerate: int, rules: Sequence[WindowRule]):
        self.names, self.rules = names, rules
        self._sums = WindowSums(len(names), channels, samplerate)

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block (see Scorer)."""
        self._sums.add(references, estimates, mix)

    def scores(self) -> StemScores:
        """The scores of each stem (see Scorer)."""
        found: StemScores = {name: {} for name in self.names}
        for rule in self.rules:
            values = self._sums.windows(rule).si_sdri
            for k, name in enumerate(self.names):
                mean = float(values[k].mean()) if values.size else np.nan
                found[name] |= {rule.metric: mean, rule.count: float(values.shape[1])}
        return found


class Voices:
    """How near voices are to the real ones where they sing: spectra, pitch, and PESQ if `pesq` is set.

    voices: the stems among `names` that are voices. A voice that never sings has NaN for all metrics and 0
    voiced seconds.
    """

    def __init__(self, names: Sequence[str], samplerate: int, voices: Sequence[str], *, pesq: bool):
        self.voices = [name for name in names if name in voices]
        self._rows = [names.index(name) for name in self.voices]
        self._sums = VoiceSums(len(self.voices), samplerate, pesq=pesq)

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block (see Scorer)."""
        self._sums.add(references[self._rows], estimates[self._rows])

    def scores(self) -> StemScores:
        """The scores of each stem (see Scorer)."""
        found = self._sums.result()
        return {
            name: {metric: float(values[k]) for metric, values in found.items()}
            for k, name in enumerate(self.voices)
        }


class AbsoluteError:
    """The mean absolute error of the waveform, full scale being 1.0. A silent stem has one, too."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._sums, self._samples = np.zeros(len(names)), 0

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block (see Scorer)."""
        error = np.abs(estimates - references).mean(axis=1)
        self._sums += error.sum(axis=-1, dtype=np.float64)
        self._samples += error.shape[-1]

    def scores(self) -> StemScores:
        """The scores of each stem (see Scorer)."""
        means = self._sums / max(self._samples, 1)
        return {name: {"l1": float(mean)} for name, mean in zip(self.names, means, strict=True)}


class SpectralDistance:
    """The log-spectral distance of whole tracks where the reference sounds. A silent stem has none."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._distance = Distance(len(names))

    def add(self, references: Block, estimates: Block, mix: Block) -> None:
        """Take the next block (see Scorer)."""
        self._distance.add(references, estimates)

    def scores(self) -> StemScores:
        """The scores of each stem (see Scorer)."""
        found = zip(self.names, self._distance.result().tolist(), strict=True)
        return {name: {"lsd": value} for name, value in found if not np.isnan(value)}


def _medians(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S, N] -> [S]: the median of the frames that are defined, NaN where none is."""
    return np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in frames])
