"""How long the windows of a U-Net of valid convolutions are: what goes in, what comes out, and the margins.

in |----------------------------------------|          in = out + 2 margins, whatever is between
out       |-------------------------|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.separator import Segment


@dataclass(frozen=True)
class Windows:
    """The sizes of a U-Net.

    downs: for each level, the samples that its convolutions take away, and its factor: (n - 1) f + 1 samples
    become n. bottom, last: what is taken away at the lowest level, and at the end. ups: as downs, the lowest
    first: n samples become (n - 1) f + 1, then the convolutions take away. least: samples at the lowest level.
    """

    downs: Sequence[tuple[int, int]]
    bottom: int
    ups: Sequence[tuple[int, int]]
    last: int = 0
    least: int = 1

    def sizes(self, lowest: int) -> tuple[int, int]:
        """Samples in and out, for as many at the lowest level after its convolution."""
        taken = lowest + self.bottom
        for lost, factor in reversed(self.downs):
            taken = (taken - 1) * factor + 1 + lost
        made = lowest
        for lost, factor in self.ups:
            made = (made - 1) * factor + 1 - lost
        return taken, made - self.last

    def whole(self, samples: int) -> tuple[int, int]:
        """The smallest window that gives as many samples or more: in and out."""
        made = self.sizes(1)[1]
        step = self.sizes(2)[1] - made
        return self.sizes(max(1 - (made - samples) // step, self.least))

    def segment(self, samples: int) -> Segment:
        """Calls whose result has as many samples or more; ValueError where margins would be unequal."""
        taken, made = self.whole(samples)
        if (taken - made) % 2:
            raise ValueError("the margins of these kernels are not equal")
        return Segment(samples=taken, exact=True, margin=(taken - made) // 2)

    def run(self, stems_of: Callable[[Tensor], Tensor], mix: Tensor, segment: Segment) -> Tensor:
        """[B, C, T] -> [B, S, C, T], by a network [B, C, in] -> [B, S, C, out].

        Of a call of the segment's length only the middle is made; in the margins there is silence.
        """
        samples = mix.shape[-1]
        if samples == segment.samples:
            return F.pad(stems_of(mix), (segment.margin, segment.margin))
        taken, made = self.whole(samples)
        before = (taken - made) // 2
        return stems_of(F.pad(mix, (before, taken - before - samples)))[..., :samples]
