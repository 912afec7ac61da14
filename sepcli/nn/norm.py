"""Batch normalisation with the constants of published programs. Knows no network.

torch's own also counts the batches that it saw, which no published file of these programs does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Norm(nn.Module):
    """Batch normalisation: [B, C, ...] -> the same."""

    mean: Tensor  # [C]
    variance: Tensor  # [C]

    def __init__(self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.1):
        """epsilon: added to the variance. momentum: the share of a batch in the running statistics."""
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, self.training, self.momentum, self.epsilon
        )


def keep_statistics(network: nn.Module) -> None:
    """Have all batch normalisation use the mean and variance that it has, also in training, and keep them."""
    for module in network.modules():
        if isinstance(module, Norm | _BatchNorm):
            module.eval()
