"""How a codec is trained: to give back what it hears, by the run's criterion.

    x / scale -> encoder -> decoder -> y        criterion(y, x / scale)         scale = RMS of the mono example

The latents hold no level and the decoder makes its own (`seanet.py`), so examples are compared at the level
that the networks work at: a quiet one pulls as much as a loud one, and how loud recordings are is not learnt. A
silent example has nothing to give back, and pulls not at all.

Axes: B batch, S = 1 source, C channels, T samples.
"""

from __future__ import annotations

from typing import Any

import torch

from sepcli.errors import UsageError
from sepcli.family import check_trains
from sepcli.losses import Criterion, Loss
from sepcli.models.ldm.codec import Codec, level

SILENCE = 1e-4  # RMS, -80 dBFS: an example below is not learnt from


class Reconstruction:
    """See the file's head."""

    alone = True  # it is validated on its own stem, whatever else stands beside it

    def __init__(self, model: Codec, criterion: Criterion):
        check_trains("reconstruction", model, Codec)
        if model.codebooks:
            raise UsageError("Codebooks are not trained here, and would not fit the latents any more.",
                             remedy="Set model.config.codebooks to 0.")
        self.criterion = criterion

    def __call__(self, model: Codec, batch: Any) -> Loss:
        wave = batch.stems.sum(1)  # [B, C, T]
        scale = level(wave)
        heard = scale > SILENCE
        wave = wave / scale
        made = model(wave)[:, 0]
        return self.criterion(torch.where(heard, made, 0.0)[:, None], torch.where(heard, wave, 0.0)[:, None])
