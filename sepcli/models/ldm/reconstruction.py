"""How a codec is trained: to give back its input, by the run's criterion.

    x / scale -> encoder -> z + noise -> decoder -> y        criterion(y, x / scale)        scale = RMS, in mono

The latents hold no level and the decoder makes its own (`seanet.py`), so examples are compared at the level at
which the networks work: a quiet example counts as much as a loud one, and the level of recordings is not
learnt. A silent example has nothing to give back, and counts nothing.

Noise on the latents makes room in them for the errors of a diffusion model: the features that matter most to
the criterion take up most of the latents, and the decoder does not magnify errors. (Ours; a variational codec
has this by itself: Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", section
3.1.)

Axes: B batch, S = 1 source, C channels, T samples, D values and N latents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sepcli.errors import UsageError
from sepcli.models.ldm.codec import Codec, level
from sepcli.models.objective import Examples, Objective, check_trains
from sepcli.nn.losses import Criterion, Loss

SILENT_EXAMPLE = 1e-4  # RMS, -80 dBFS: nothing is learnt from an example below


class Reconstruction(Objective):
    """See the file's head.

    noise: how much there is on the latents at most, beside each channel's deviation; an example has a level of
    its own, drawn from 0 to this.
    """

    alone = True  # it is validated on its own stem, whatever else stands beside it

    def __init__(self, model: Codec, criterion: Criterion, *, noise: float = 0.0):
        check_trains("reconstruction", model, Codec)
        if model.codebooks:
            raise UsageError(
                "Codebooks are not trained here, and would not fit the latents any more.",
                remedy="Set model.config.codebooks to 0.",
            )
        if not 0 <= noise < math.inf:
            raise UsageError(
                f"objective_options.noise is {noise:g}, but must be 0 or more.", remedy="Try 0.5; 0 is none."
            )
        self.criterion, self.noise = criterion, noise

    def __call__(self, model: Codec, batch: Examples) -> Loss:
        wave = batch.stems.sum(1)  # [B, C, T]
        scale = level(wave)
        heard = scale > SILENT_EXAMPLE
        wave = wave / scale
        z, again = model.encode(wave)
        made = model.decode(self._noisy(z), again, wave.shape[-1])
        return self.criterion(torch.where(heard, made, 0.0)[:, None], torch.where(heard, wave, 0.0)[:, None])

    def _noisy(self, z: Tensor) -> Tensor:
        """[B, D, N] -> the same under noise."""
        if not self.noise:
            return z
        deviation = z.detach().std((0, 2), correction=0)[:, None]  # [D, 1], of what the batch has
        levels = self.noise * torch.rand(len(z), 1, 1).to(z)
        return z + levels * deviation * torch.randn_like(z)
