"""A network of one stem as a separator of two: the stem, and the mix minus it.

Knows no family. Many networks are trained on one stem alone; what is left of the mix is as good a stem, and the
two add up to the mix exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator, source_indices


class WithCounterpart(Separator):
    """The stems `sources` of a network that makes one of them; the other, `counterpart`, is the mix minus it.

    network: a separator of one stem. sources: one or both of its stem and the counterpart, in any order; None:
    both, the network's own first.
    """

    def __init__(self, network: Separator, counterpart: str, sources: Sequence[str] | None = None):
        super().__init__()
        (stem,) = network.sources
        self.network, self.counterpart = network, counterpart
        self.sources = (stem, counterpart) if sources is None else tuple(sources)
        self.whole = (stem, counterpart)
        self.samplerate, self.channels, self.segment = network.samplerate, network.channels, network.segment
        self.normalize, self.half, self.options = network.normalize, network.half, network.options
        self.keeps_silence, self.draws_noise = network.keeps_silence, network.draws_noise

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator."""
        self.network.prepare(samples, device, dtype)
        self.eval()

    def used(self) -> Mapping[str, Any]:
        """See Separator."""
        return self.network.used()

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator."""
        return self.network.notices(device)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]"""
        stem = self.network(mix, noise=noise)
        rest = mix[:, None] - stem
        return torch.cat([rest if name == self.counterpart else stem for name in self.sources], dim=1)

    def select(self, sources: Sequence[str]) -> Separator:
        """See Separator. Without the counterpart it is the network alone."""
        source_indices(self.sources, sources)
        if self.counterpart not in sources:
            return self.network.select(sources)
        return WithCounterpart(self.network, self.counterpart, sources).eval()
