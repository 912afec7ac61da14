"""The parts of TFC-TDF v2: convolutions over time and frequency, and linear layers along frequency.

Each part is what it is trained as, with its norm. `fold` makes the norm part of the weights, or one factor and
summand a channel, which is what runs afterwards in eval mode.

Axes: B batch, C channels, N frames, F bins. Tensors are [B, C, N, F] in the memory order [B, N, F, C]
(channels last), in which convolutions are faster on a CPU, transposed ones above all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf
from sepcli.nn.norm import Norm

EPSILON = 1e-5  # of batch norms
SLAB_BYTES = 2 << 20  # of what the linear layers work on at once, on a CPU


def factor_and_summand(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """A batch norm of these tensors, [C] each, as x * factor + summand."""
    factor = weight.double() / (variance.double() + EPSILON).sqrt()
    return factor.float(), (bias.double() - mean.double() * factor).float()


def as_factor(norm: Norm) -> tuple[Tensor, Tensor]:
    """In eval mode it is x * factor + summand, [C] float32 each."""
    return factor_and_summand(norm.weight.detach(), norm.bias.detach(), norm.mean, norm.variance)


class ConvNorm(nn.Module):
    """A convolution, a batch norm unless it is folded already, and ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool):
        super().__init__()
        self.conv = conv
        self.norm = Norm(conv.out_channels, epsilon=EPSILON) if norm else None
        self.ready: tuple[Tensor, Tensor] | None = None  # weight and bias

    def fold(self, device: torch.device, dtype: torch.dtype) -> None:
        """Set up what runs in eval mode."""
        weight, bias = self.conv.weight.detach(), self.conv.bias
        assert bias is not None
        bias = bias.detach()
        if self.norm is not None:
            transposed = isinstance(self.conv, nn.ConvTranspose2d)
            weight, bias = folded(weight, bias, *as_factor(self.norm), transposed=transposed)
        weight = weight.to(device, dtype, memory_format=torch.channels_last)
        self.ready = weight, bias.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N', F']."""
        if self.ready is None or self.training:
            x = self.conv(x)
            return F.relu(x if self.norm is None else self.norm(x))
        weight, bias = self.ready
        if isinstance(self.conv, nn.ConvTranspose2d):
            return F.conv_transpose2d(x, weight, bias, stride=2).relu_()
        return F.conv2d(x, weight, bias, stride=self.conv.stride, padding=self.conv.padding).relu_()  # pyright: ignore[reportArgumentType]


class FrequencyLinear(nn.Module):
    """A linear layer along frequency, the same for all channels and frames; a batch norm, and ReLU."""

    def __init__(self, channels: int, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = Norm(channels, epsilon=EPSILON)
        self.ready: tuple[Tensor, Tensor, Tensor] | None = None  # weight, factor and summand

    def fold(self, device: torch.device, dtype: torch.dtype) -> None:
        """Set up what runs in eval mode."""
        tensors = self.linear.weight.detach(), *as_factor(self.norm)
        weight, factor, summand = (tensor.to(device, dtype) for tensor in tensors)
        self.ready = weight, factor, summand

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C, N, F']."""
        rows = torch.matmul(self.linear.weight, x.permute(0, 2, 3, 1))
        return F.relu(self.norm(rows.permute(0, 3, 1, 2)))

    def run(self, rows: Tensor) -> Tensor:
        """The same with what `fold` has set up: frames [n, F, C] -> [n, F', C]."""
        assert self.ready is not None
        weight, factor, summand = self.ready
        outputs, inputs = weight.shape
        weight = weight.expand(len(rows), -1, -1)
        # The factor of a channel may come before the product as well: it goes where there are fewer bins.
        if outputs < inputs:
            return torch.addcmul(summand, torch.bmm(weight, rows), factor).relu_()
        return torch.baddbmm(summand.expand(len(rows), outputs, -1), weight, rows * factor).relu_()


class Block(nn.Module):
    """Convolutions (TFC), then two linear layers along frequency beside the identity (TDF)."""

    def __init__(self, channels: int, bins: int, convs: int, bottleneck: int, *, norm: bool):
        super().__init__()
        self.convs = ModuleListOf(
            ConvNorm(nn.Conv2d(channels, channels, 3, padding=1), norm=norm) for _ in range(convs)
        )
        inner = bins // bottleneck
        self.linears = ModuleListOf(
            [FrequencyLinear(channels, bins, inner), FrequencyLinear(channels, inner, bins)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> the same."""
        for conv in self.convs:
            x = conv(x)
        first, second = self.linears
        if self.training or first.ready is None:
            return x + second(first(x))
        batch, channels, frames, bins = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch * frames, bins, channels)
        for slab in rows.split(_frames_at_once(rows)):
            slab += second.run(first.run(slab))
        return rows.view(batch, frames, bins, channels).permute(0, 3, 1, 2)


def _frames_at_once(rows: Tensor) -> int:
    """How many of the frames [n, F, C]: on a CPU so few that they stay in its cache."""
    if rows.device.type != "cpu":
        return len(rows)
    return max(1, SLAB_BYTES // (rows[0].numel() * rows.element_size()))


def folded(
    weight: Tensor, bias: Tensor, factor: Tensor, summand: Tensor, *, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution whose result is multiplied by factor and added to summand, [C'] each."""
    shape = (1, -1, 1, 1) if transposed else (-1, 1, 1, 1)
    return weight * factor.view(shape), bias * factor + summand
