"""Models and tracks in, scores out.

Knows which tracks there are and what a model makes of them; the mathematics is in metrics/, one track's work
in scoring.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch

from sepcli.metrics.sdr import Sums, frame_samples
from sepcli.pipeline import Engine, Settings
from sepcli.scoring import Material, Model
from sepcli.separator import Separator

if TYPE_CHECKING:
    from sepcli.data.layouts import Track


def usdr(
    model: Separator,
    tracks: Sequence[Track],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seconds_limit: float | None = None,
    *,
    overlap: float = 0.25,
) -> dict[str, float]:
    """{stem: uSDR in dB}: each stem's mean over the tracks that have it; a stem that none has is left out.

    model: in any mode; a copy of it is prepared and run, so it stays as it is. seconds_limit: of each track
    only the first so many. The engine is that of `separate`. InputError for a track that can't be read.
    """
    engine = Engine(copy.deepcopy(model), Settings(overlap=overlap), device, dtype)
    estimator, scores = Model(engine), {}
    for track in tracks:
        wanted = [name for name in engine.sources if name in track.stems]
        if not wanted:
            continue
        rows = [engine.sources.index(name) for name in wanted]
        material = Material(track, seconds_limit)
        sums = Sums(len(wanted), material.channels, frame_samples(track.samplerate))
        with closing(material.references(wanted)) as references:
            for block in estimator.estimate(material):
                sums.add(references.take(block.shape[-1]), block[rows])
        for name, value in zip(wanted, sums.usdr(), strict=True):
            scores.setdefault(name, []).append(float(value))
    return {name: float(np.mean(scores[name])) for name in engine.sources if name in scores}
