"""Scores of a Separator in memory, for whoever trains it: a number for each stem; nothing is kept.

Models run through the engine of `separate`, so a network that is chosen by these numbers is one whose stems
users get.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from sepcli.data.layouts import StemTrack
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Separator
from sepcli.engine.settings import Settings
from sepcli.evaluation.scorers import AbsoluteError, Ratios, Scorer, SpectralDistance
from sepcli.evaluation.scoring import Material, Model, run_scorers


def mean_scores(
    model: Separator,
    tracks: Sequence[StemTrack],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seconds_limit: float | None = None,
    *,
    metric: str = "usdr",
    overlap: float = 0.25,
) -> dict[str, float]:
    """{stem: its mean score over the tracks that have it}; a stem that no track has is left out.

    metric: "usdr", in dB, where a silent stem counts as absent; "lsd", the log-spectral distance of the frames
    in which the stem sounds (metrics/spectral.py), where a silent stem counts as absent, too; or "l1", the mean
    absolute error of the waveform, full scale being 1.0, where silent stems count. model: in any mode; a copy
    of it is prepared and run, so it stays as it is. seconds_limit: only so many seconds from the beginning of
    each track. InputError for a track that can't be read.
    """
    engine = Engine(copy.deepcopy(model), Settings(overlap=overlap), device, dtype)
    estimator = Model(engine)
    found: dict[str, list[float]] = {}
    for track in tracks:
        names = [name for name in engine.sources if name in track.stems]
        if names:
            material = Material(track, seconds_limit)
            scorer = _scorer(metric, names, material)
            run_scorers(material, estimator, names, [scorer])
            for name, scores in scorer.scores().items():
                found.setdefault(name, []).append(scores[metric])
    return {name: float(np.mean(found[name])) for name in engine.sources if name in found}


def _scorer(metric: str, names: Sequence[str], material: Material) -> Scorer:
    """The scorer that gives this metric."""
    if metric == "l1":
        return AbsoluteError(names)
    if metric == "lsd":
        return SpectralDistance(names)
    return Ratios(names, material.channels, material.samplerate, extra=False, zero_mean=False)
