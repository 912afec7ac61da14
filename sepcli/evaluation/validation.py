"""Scores of a Separator in memory, for whoever trains it: a number for each stem, and nothing kept.

The engine is that of `separate`, so what is chosen by these numbers is what users get.
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
    """{stem: its mean over the tracks that have it}; a stem that none has is left out.

    metric: "usdr", in dB, where a stem that is silent counts as absent; "lsd", the log-spectral distance of the
    frames in which the stem sounds (metrics/spectral.py), likewise; or "l1", the mean absolute error of the
    waveform with full scale at 1.0, silent stems included.
    model: in any mode; a copy of it is prepared and run, so it stays as it is. seconds_limit: of each track
    only the first so many. InputError for a track that can't be read.
    """
    engine = Engine(copy.deepcopy(model), Settings(overlap=overlap), device, dtype)
    estimator, found = Model(engine), {}
    for track in tracks:
        names = [name for name in engine.sources if name in track.stems]
        if names:
            material = Material(track, seconds_limit)
            listens = _scorer(metric, names, material)
            run_scorers(material, estimator, names, [listens])
            for name, scores in listens.scores().items():
                found.setdefault(name, []).append(scores[metric])
    return {name: float(np.mean(found[name])) for name in engine.sources if name in found}


def _scorer(metric: str, names: Sequence[str], material: Material) -> Scorer:
    if metric == "l1":
        return AbsoluteError(names)
    if metric == "lsd":
        return SpectralDistance(names)
    return Ratios(names, material.channels, material.samplerate, extra=False, zero_mean=False)
