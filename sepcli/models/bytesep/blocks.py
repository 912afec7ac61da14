"""The parts of bytesep's U-Nets: residual blocks, plain and separable, and the way up.

Norms come before their convolutions, with a leaky ReLU between. Axes: B batch, C channels, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

SLOPE = 0.01  # of the leaky ReLU


class NormConv(nn.Module):
    """Batch norm, leaky ReLU, and a convolution that keeps the size: [B, C, N, F] -> [B, C', N, F]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv(F.leaky_relu(self.norm(x), SLOPE))


class Residual(nn.Module):
    """Two convolutions of 3 x 3 beside the identity, or beside one of 1 x 1 where channels change.

    separable: each is one of 1 x 1, one of 3 x 3 for each channel alone, and another of 1 x 1; and each of the
    two stands beside an identity of its own.
    """

    def __init__(self, inputs: int, outputs: int, *, separable: bool):
        super().__init__()
        self.separable = separable
        self.first = _conv(inputs, outputs, separable=separable)
        self.second = _conv(outputs, outputs, separable=separable)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N, F]."""
        beside, y = x if self.shortcut is None else self.shortcut(x), self.first(x)
        if self.separable:
            beside = y = y + beside
        return self.second(y) + beside


def _conv(inputs: int, outputs: int, *, separable: bool) -> nn.Sequential:
    """A convolution of 3 x 3, or three small ones."""
    if not separable:
        return nn.Sequential(NormConv(inputs, outputs, 3))
    return nn.Sequential(
        NormConv(inputs, outputs, 1),
        NormConv(outputs, outputs, 3, groups=outputs),
        NormConv(outputs, outputs, 1),
    )


class Stage(nn.Module):
    """Residual blocks in a row."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, separable: bool):
        super().__init__()
        widths = [inputs] + [outputs] * (blocks - 1)
        self.blocks = ModuleListOf(Residual(width, outputs, separable=separable) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N, F]."""
        for block in self.blocks:
            x = block(x)
        return x


class Up(nn.Module):
    """A level up: twice the bins, mostly twice the frames too; the skip beside it; and a stage.

    By a transposed convolution; separable: by doubling, and one of 1 x 1.
    """

    def __init__(self, inputs: int, outputs: int, factors: Sequence[int], blocks: int, *, separable: bool):
        super().__init__()
        self.factors, size = tuple(factors), (factors[0], factors[1])
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = (
            nn.Conv2d(inputs, outputs, 1, bias=False)
            if separable
            else nn.ConvTranspose2d(inputs, outputs, size, stride=size, bias=False)
        )
        self.stage = Stage(2 * outputs, outputs, blocks, separable=separable)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', n N, 2 F], as large as the skip."""
        if isinstance(self.conv, nn.ConvTranspose2d):
            x = self.conv(F.relu(self.norm(x)))
        else:  # the original doubles first, which is the same and more work
            x = self.conv(F.leaky_relu(self.norm(x), SLOPE))
            x = F.interpolate(x, scale_factor=[float(factor) for factor in self.factors])
        return self.stage(torch.cat([x, skip], dim=1))
