"""A matrix for each band of a spectrogram: bands side by side that are equally wide are one batched product.

Knows no family. Axes: K bands, N frames of all items of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn


def runs(widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first band, number of bands, bins of each), for bands of these widths in bins."""
    found, first = [], 0
    for width, group in groupby(widths):
        count = len(list(group))
        found.append((first, count, width))
        first += count
    return found


class BandLinear(nn.Module):
    """A linear layer for each of some bands: [K, N, in] -> [K, N, out]."""

    def __init__(self, bands: int, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(bands, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(bands, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, bands: slice = slice(None)) -> Tensor:
        """With the matrices of `bands`."""
        return torch.baddbmm(self.bias[bands][:, None], x, self.weight[bands].transpose(1, 2))
