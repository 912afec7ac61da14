"""The common part of the separators that sample: noise, and U-Nets as denoisers. Knows no sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.models.dicose.frame import DicoseConfig, Framed
from sepcli.models.dicose.unet import Taps, UNet
from sepcli.nn.diffusion import Draw
from sepcli.system.background import prefetch

Network = Callable[[Tensor, Tensor], Tensor]  # (x [B, A, T], c_noise [B]) -> F [B, A, T], float32


@dataclass(frozen=True)
class SampledConfig(DicoseConfig):
    """`DicoseConfig` and the level of stems. The defaults are those of the published checkpoints."""

    sigma_data: float = 0.2  # deviation of a stem for which the networks were scaled, full scale being 1


class Sampled(Framed):
    """A separator that draws noise. A subclass has `sample`, and sets `options` to their defaults."""

    draws_noise = True

    def sample(self, mix: Tensor, noise: Noise) -> Tensor:
        """Draw the stems: [B, 1, T], T a multiple of `config.multiple` -> [B, S, 1, T]."""
        raise NotImplementedError

    def separate(self, mix: Tensor, noise: Noise | None) -> Tensor:
        """See Framed. noise: None stands for seed 0, and every item at the beginning of a track."""
        return self.sample(mix, noise or Noise(0, [0] * len(mix), [0] * len(mix)))

    def used(self) -> Mapping[str, Any]:
        """See Separator: the sampler's options."""
        return asdict(self.options)


def told(unet: UNet, label: Tensor | None = None, taps: Taps | None = None) -> Network:
    """The U-Net as a function of x and the noise's level, all else being fixed.

    label: one-hot [B, L]. taps: of another U-Net, added to this one's.
    """

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        return unet(x.to(unet.dtype), unet.condition(label, c_noise), taps)[0].float()

    return network


@contextmanager
def draws(noise: Noise, sources: Sequence[str], like: Tensor, count: int) -> Iterator[Draw]:
    """The standard normals of a sampler: k -> [B, len(sources), T], for rising k below `count`.

    like: [B, ..., T], on the device where they are wanted. A thread draws the next numbers while the network
    computes; which numbers it draws does not depend on that.
    """

    def drawn() -> Iterator[tuple[int, Tensor]]:
        for k in range(count):
            yield k, torch.cat([noise.normal(k, source, 1, like.shape[-1]) for source in sources], dim=1)

    with closing(prefetch(drawn(), depth=2)) as numbers:
        yield lambda k: next(value for number, value in numbers if number == k).to(like.device)
