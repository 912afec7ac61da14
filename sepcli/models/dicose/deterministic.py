"""The deterministic separators of DiCoSe: one U-Net that is told which target, and the paper's control of two.

    Deterministic          mix, label -> U-Net -> target
    DoubleDeterministic    mix, label -> base, frozen -> taps
                           mix, label -> U-Net, fed these taps -> target

The second has the size and the wiring of the diffusion model, but neither noise nor time, so that a gain of
diffusion over it is not due to size. That its own input is the mix is our reading: the paper only calls it
double.
(DiCoSe 2024, sections 3 and 5.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sepcli.models.dicose.frame import DicoseConfig, Framed
from sepcli.models.dicose.unet import Taps, UNet

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


class Base(UNet):
    """The deterministic U-Net: [B, 1, T] and one-hot labels [B, L] -> targets, in float32."""

    def __init__(self, config: DicoseConfig):
        super().__init__(config, labels=len(config.sources))

    def hear(self, mix: Tensor, label: Tensor, inject: Taps | None = None) -> tuple[Tensor, Taps]:
        """Mix [B, 1, T], labels [B, L] -> targets [B, 1, T] float32, and the taps. inject: see UNet.forward."""
        target, taps = self(mix.to(self.dtype), self.condition(label), inject)
        return target.float(), taps


class Deterministic(Framed):
    """One U-Net, see the file's head: one pass for each target."""

    def __init__(self, config: DicoseConfig):
        super().__init__(config)
        self.unet = Base(config)

    def estimate(self, mix: Tensor, label: Tensor) -> Tensor:
        """One target for each row: mix [B, 1, T], one-hot labels [B, L] -> [B, 1, T]."""
        return self.unet.hear(mix, label)[0]

    def separate(self, mix: Tensor, noise: Noise | None) -> Tensor:
        """See Framed; there is no noise."""
        return self.stems(self.estimate(*self.rows(mix)))


class DoubleDeterministic(Framed):
    """Two U-Nets, see the file's head: two passes for each target; `base` does not learn."""

    def __init__(self, config: DicoseConfig):
        super().__init__(config)
        self.unet = Base(config)
        self.base = Base(config).requires_grad_(False)

    def estimate(self, mix: Tensor, label: Tensor) -> Tensor:
        """One target for each row: mix [B, 1, T], one-hot labels [B, L] -> [B, 1, T]."""
        with torch.no_grad():
            _, taps = self.base.hear(mix, label)
        return self.unet.hear(mix, label, taps)[0]

    def separate(self, mix: Tensor, noise: Noise | None) -> Tensor:
        """See Framed; there is no noise."""
        return self.stems(self.estimate(*self.rows(mix)))
