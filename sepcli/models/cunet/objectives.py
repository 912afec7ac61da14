"""How CU-Net is trained: the magnitudes that it gives for each stem, against those of the true one.

    stems [B, S, C, T] -> mix = their sum -> magnitudes -> network, once for each stem -> mean |estimate - true|

(The published program; it draws one stem for each example, here all stems of a mix are learnt at once.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

import torch

from sepcli.models.cunet.network import CUNet
from sepcli.models.objective import Examples, Objective, check_on_magnitudes
from sepcli.nn.losses import Criterion, Loss
from sepcli.nn.stft import centred_stft


class Magnitudes(Objective):
    """The objective of the file's head; the terms of the loss are "l1" or "mse", of magnitudes."""

    def __init__(self, model: CUNet, criterion: Criterion):
        check_on_magnitudes(criterion)
        self.criterion = criterion

    def __call__(self, model: CUNet, batch: Examples) -> Loss:
        """See Objective. Blocks that are not whole are left out."""
        waves = torch.cat([batch.stems.sum(dim=1, keepdim=True), batch.stems], dim=1)[:, :, 0]
        sizes = centred_stft(waves, model.window, model.config.hop)[:, :, :-1].abs()  # [B, 1 + S, F, N]
        blocks = torch.cat(sizes.unfold(-1, model.config.frames, model.config.frames).unbind(-2))
        estimates = model.masks(blocks[:, 0], model.known) * blocks[:, :1]
        return self.criterion(estimates.float().flatten(2)[:, :, None], blocks[:, 1:].flatten(2)[:, :, None])
