"""The levels of SCNet: rows of the spectrogram become fewer, the higher the fewer, and later as many as before.

    rows  |--low--|----mid----|------high------|     each band has a convolution along rows of its own
               3 rows, stride 1   4, 4    16, 16     (Tong et al. 2024, arXiv:2401.13276, section 2)

Everything is in channels-last memory order, in which torch's convolutions and LSTMs take tensors as they are.

Axes: B batch, C channels, R rows (bins, or what they became), N frames, H hidden channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.scnet.config import SCNetConfig
from sepcli.nn.modules import ModuleListOf

SLAB_BYTES = 4 << 20  # of a slab's widest intermediate tensor, on a CPU


class Rows(NamedTuple):
    """Rows of one band at a level."""

    start: int  # the first, in the level's input
    stop: int
    before: int  # zeros in front of and behind them
    after: int
    made: int  # rows of its output


def row_plan(rows: int, config: SCNetConfig) -> tuple[Rows, ...]:
    """The bands of a level with that many rows. ValueError where one of them is empty."""
    ends = [math.ceil(rows * sum(config.shares[: k + 1])) for k in range(len(config.shares) - 1)]
    plan = []
    for (start, stop), stride, kernel in zip(
        pairwise((0, *ends, rows)), config.strides, config.kernels, strict=True
    ):
        zeros = kernel - 1 if stride == 1 else -(stop - start) % stride
        made = (stop - start + zeros - kernel) // stride + 1
        if stop <= start or made < 1:
            raise ValueError(f"{rows} rows are too few for bands of {', '.join(map(str, config.shares))}")
        plan.append(Rows(start, stop, zeros // 2, zeros - zeros // 2, made))
    return tuple(plan)


def rows_made(plan: Sequence[Rows]) -> int:
    """Rows of a level's output."""
    return sum(band.made for band in plan)


def channels_last(x: Tensor) -> Tensor:
    """[B, C, R, N] in that memory order; x itself where it is."""
    return x.contiguous(memory_format=torch.channels_last)


class ConvModule(nn.Module):
    """A residual branch along time, for each row by itself: [items, C, 1, N] -> the same.

    Norm, convolution, GLU, convolution of each channel, norm, SiLU, 1 x 1 convolution.
    """

    def __init__(self, channels: int, hidden: int, kernel: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.wide = nn.Conv1d(channels, 2 * hidden, kernel, padding=kernel // 2)
        self.depthwise = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.norm_hidden = nn.GroupNorm(1, hidden)
        self.out = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """As a convolution of images one row high, which can be in channels-last order."""
        y = F.glu(_convolved(self.norm(x), self.wide), dim=1)
        y = F.silu(self.norm_hidden(_convolved(y, self.depthwise)))
        return x + _convolved(y, self.out)


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A convolution along the last axis of [items, C, 1, N]."""
    padding = conv.padding[0]
    assert isinstance(padding, int)
    return F.conv2d(x, conv.weight[:, :, None], conv.bias, padding=(0, padding), groups=conv.groups)


class Band(nn.Module):
    """One band of an encoder level: fewer rows, then modules along time."""

    def __init__(self, channels: int, dim: int, kernel: int, stride: int, depth: int, config: SCNetConfig):
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, (kernel, 1), (stride, 1))
        hidden = dim // config.compress
        self.modules_in_time = ModuleListOf(ConvModule(dim, hidden, config.kernel) for _ in range(depth))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """[B, C, R of the level, N] -> [B, dim, rows.made, N]."""
        x = x[:, :, rows.start : rows.stop]
        if rows.before or rows.after:
            x = F.pad(x, (0, 0, rows.before, rows.after))
        x = channels_last(self.conv(x))
        batch, dim, made, frames = x.shape
        items = x.permute(0, 2, 3, 1).reshape(batch * made, 1, frames, dim).permute(0, 3, 1, 2)
        done = []
        for slab in _slabs(items):  # items do not see each other, so few at a time stay in the cache
            for module in self.modules_in_time:
                slab = module(slab)
            done.append(F.gelu(slab))
        items = done[0] if len(done) == 1 else torch.cat(done)
        return items.permute(0, 2, 3, 1).reshape(batch, made, frames, dim).permute(0, 3, 1, 2)


def _slabs(items: Tensor) -> tuple[Tensor, ...]:
    if items.device.type != "cpu" or not items.numel():
        return (items,)
    each = items[0].numel() * items.element_size()
    return items.split(max(1, SLAB_BYTES // each))


class EncoderLevel(nn.Module):
    """[B, C, R, N] -> the next level's input [B, dim, R', N], and the skip to the decoder, as large."""

    def __init__(self, channels: int, dim: int, config: SCNetConfig):
        super().__init__()
        self.bands = ModuleListOf(
            Band(channels, dim, kernel, stride, depth, config)
            for kernel, stride, depth in zip(config.kernels, config.strides, config.depths, strict=True)
        )
        self.mix = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, plan: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """plan: of R rows."""
        skip = torch.cat([band(x, rows) for band, rows in zip(self.bands, plan, strict=True)], dim=2)
        return self.mix(skip), skip


class Widening(nn.Module):
    """As many rows as before: for each band of an encoder level a transposed convolution, cut to its rows."""

    def __init__(self, channels: int, dim: int, config: SCNetConfig):
        super().__init__()
        self.bands = ModuleListOf(
            nn.ConvTranspose2d(channels, dim, (kernel, 1), (stride, 1))
            for kernel, stride in zip(config.kernels, config.strides, strict=True)
        )


def widened(x: Tensor, plan: Sequence[Rows], layers: Sequence[Widening]) -> Tensor:
    """[B, C, R', N] -> [B, D, R, N]: the outputs of several layers side by side, computed as one."""
    outputs, first = [], 0
    for k, rows in enumerate(plan):
        convs = [layer.bands[k] for layer in layers]
        y = F.conv_transpose2d(
            x[:, :, first : first + rows.made],
            torch.cat([conv.weight for conv in convs], dim=1),
            torch.cat([conv.bias for conv in convs if conv.bias is not None]),
            stride=convs[0].stride,
        )
        count = rows.stop - rows.start
        cut = (y.shape[2] - count) // 2
        outputs.append(y[:, :, cut : cut + count])
        first += rows.made
    return torch.cat(outputs, dim=2)


class Fusion(nn.Module):
    """The skip is added, and a convolution mixes: [B, C, R', N] -> the same.

    The published layer gives its convolution every channel twice. So both halves of its weight see the same
    input, and their sum sees it once.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """skip: of the encoder level with the same rows."""
        one, other = self.conv.weight.chunk(2, dim=1)
        return F.glu(F.conv2d(x + skip, one + other, self.conv.bias, padding=1), dim=1)
