"""How Spleeter is trained: the magnitudes that each network gives, against those of the true stem.

    stems [B, S, C, T] -> mix = their sum -> magnitudes -> networks -> mean |estimate - magnitude of the stem|

On the bins that the networks see, each block of frames an example. What makes stems of the estimates (masks,
phases) is no part of it. (The published code; Jansson et al. 2017 have the same loss.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

import torch

from sepcli.models.objective import Examples, Objective, check_on_magnitudes, rest_of
from sepcli.models.spleeter.network import Spleeter
from sepcli.nn.losses import Criterion, Loss
from sepcli.nn.stft import spleeter_stft


class Magnitudes(Objective):
    """The objective of the file's head; the terms of the loss are "l1" or "mse", of magnitudes."""

    def __init__(self, model: Spleeter, criterion: Criterion):
        check_on_magnitudes(criterion)
        self.criterion = criterion
        self.rest = rest_of(model)

    def __call__(self, model: Spleeter, batch: Examples) -> Loss:
        """See Objective."""
        frames, bins = model.config.frames, model.config.bins
        mix = spleeter_stft(batch.stems.sum(dim=1), model.window).abs()  # [B, C, N, F]
        stems = batch.stems[:, : len(model.known)]
        stems = spleeter_stft(stems, model.window)[..., :bins].abs()  # [B, S, C, N, bins]
        estimates = torch.cat([model.magnitudes(block) for block in mix.split(frames, dim=2)], dim=3)
        return self.criterion(estimates.float().flatten(3), stems.flatten(3))
