"""How D3Net is trained: the magnitudes that each network gives, against those of the true stem.

    stems [B, S, C, T] -> mix = their sum -> magnitudes -> networks -> mean (estimate - magnitude of the stem)^2

On the bins that the networks estimate. Patches, swapped channels, phases and the Wiener filter are no part of
it. (The published program for training.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

import torch

from sepcli.models.d3net.dense import multiple
from sepcli.models.d3net.network import D3Net
from sepcli.models.objective import Examples, Objective, check_on_magnitudes, rest_of
from sepcli.nn.losses import Criterion, Loss
from sepcli.nn.stft import centred_stft


class Magnitudes(Objective):
    """The objective of the file's head; the terms of the loss are "l1" or "mse", of magnitudes."""

    def __init__(self, model: D3Net, criterion: Criterion):
        check_on_magnitudes(criterion)
        self.criterion = criterion
        self.rest = rest_of(model)
        self.multiple = max(multiple(net.shape) for net in model.nets)  # of frames

    def __call__(self, model: D3Net, batch: Examples) -> Loss:
        """See Objective."""
        stems = batch.stems[:, : len(model.nets)]
        waves = torch.cat([batch.stems.sum(dim=1, keepdim=True), stems], dim=1)
        sizes = (
            centred_stft(waves, model.window, model.config.hop).abs().transpose(-1, -2)
        )  # [B, 1 + S, C, N, F]
        sizes = sizes[..., : sizes.shape[-2] // self.multiple * self.multiple, :]
        estimates = torch.stack([net(sizes[:, 0]) for net in model.nets], dim=1)
        return self.criterion(estimates.float().flatten(3), sizes[:, 1:, ..., : model.config.bins].flatten(3))
