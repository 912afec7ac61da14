"""Meta-TasNet's masks: for each stem a network of dilated convolutions, whose weights a few numbers tell.

Generated layers hold no weights of their own: two linear layers make them of a stem's embedding. Independent
ones hold those of all stems. Either way the stems are groups of one convolution. Attributes have the names of
the published files.

Axes: B batch, S sources, C channels of a stem, K frames, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

GROUPS = 8  # of a norm, for each stem
EPSILON = 1e-8  # added to variances


@dataclass(frozen=True)
class MaskShape:
    """What shapes the masks of one stage."""

    stems: int
    latent: int  # channels of the masks
    inputs: int  # channels that come in: the latent, and that of the stage before
    bottleneck: int  # channels between blocks
    hidden: int  # channels in a block
    kernel: int  # taps of its dilated convolution
    layers: int  # blocks in a row, each with twice the dilation of the one before
    stack: int  # such rows
    embedding: int  # numbers of a stem; 0: independent weights
    narrow: int  # that are left of them before each layer
    bias: bool  # independent only: in what a block adds


class Conv(nn.Module):
    """A convolution for each stem: [B, S * C, K] -> [B, S * C', K]."""

    def __init__(
        self, shape: MaskShape, inputs: int, outputs: int, size: int = 1, dilation: int = 0, bias: bool = False
    ):
        """dilation: of a convolution of each channel by itself; 0: of all channels of a stem together."""
        super().__init__()
        self.per_group, self.size, self.dilation = (1 if dilation else inputs), size, dilation or 1
        self.groups = shape.stems * (inputs if dilation else 1)
        self.padding = self.dilation * (size // 2)
        if shape.embedding:
            self.bottleneck = nn.Linear(shape.embedding, shape.narrow)
            self.kernel = nn.Linear(shape.narrow, outputs * self.per_group * size)
        else:
            total, groups = shape.stems, self.groups
            self.conv = nn.Conv1d(
                total * inputs,
                total * outputs,
                size,
                padding=self.padding,
                dilation=self.dilation,
                groups=groups,
                bias=bias,
            )

    def forward(self, x: Tensor, stems: Tensor | None) -> Tensor:
        """stems: their embeddings [S, E], for generated weights."""
        if stems is None:
            return self.conv(x)
        weight = self.kernel(self.bottleneck(stems)).view(-1, self.per_group, self.size)
        return F.conv1d(x, weight, padding=self.padding, dilation=self.dilation, groups=self.groups)


class Norm(nn.Module):
    """A group norm for each stem, over its groups and all frames: [B, S * C, K] -> the same."""

    def __init__(self, shape: MaskShape, channels: int):
        super().__init__()
        self.groups = GROUPS * shape.stems
        if shape.embedding:
            self.bottleneck = nn.Linear(shape.embedding, shape.narrow)
            self.affine = nn.Linear(shape.narrow, 2 * channels)  # factors, then summands
        else:
            self.group_norm = nn.GroupNorm(self.groups, shape.stems * channels, eps=EPSILON)

    def forward(self, x: Tensor, stems: Tensor | None) -> Tensor:
        """stems: their embeddings [S, E], for generated weights."""
        if stems is None:
            return self.group_norm(x)
        factor, summand = self.affine(self.bottleneck(stems)).chunk(2, dim=1)
        return F.group_norm(x, self.groups, factor.flatten(), summand.flatten(), EPSILON)


class Block(nn.Module):
    """[B, S * C, K] -> what it adds to its input, and to the masks: twice [B, S * C, K]."""

    def __init__(self, shape: MaskShape, dilation: int):
        super().__init__()
        width, hidden = shape.bottleneck, shape.hidden
        self.conv1d = Conv(shape, width, hidden)
        self.prelu_1, self.norm_1 = nn.PReLU(), Norm(shape, hidden)
        self.dconv1d = Conv(shape, hidden, hidden, shape.kernel, dilation)
        self.prelu_2, self.norm_2 = nn.PReLU(), Norm(shape, hidden)
        self.res_out = Conv(shape, hidden, width, bias=shape.bias)
        self.skip_out = Conv(shape, hidden, width, bias=shape.bias)

    def forward(self, x: Tensor, stems: Tensor | None) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.norm_1(self.prelu_1(self.conv1d(x, stems)), stems)
        x = self.norm_2(self.prelu_2(self.dconv1d(x, stems)), stems)
        return self.res_out(x, stems), self.skip_out(x, stems)


class Masks(nn.Module):
    """[B, S, inputs, K] -> [B, S, latent, K], whose sum over S is 1."""

    def __init__(self, shape: MaskShape):
        super().__init__()
        width = shape.bottleneck
        self.prelu_1, self.norm_1 = nn.PReLU(), Norm(shape, shape.inputs)
        self.in_conv = Conv(shape, shape.inputs, width)
        self.prelu_2, self.norm_2 = nn.PReLU(), Norm(shape, width)
        self.tcn = ModuleListOf(
            Block(shape, 2**layer) for _ in range(shape.stack) for layer in range(shape.layers)
        )
        self.prelu_3, self.norm_3 = nn.PReLU(), Norm(shape, width)
        self.mask_output = Conv(shape, width, shape.latent)
        self.prelu_4, self.norm_4 = nn.PReLU(), Norm(shape, shape.latent)

    def forward(self, x: Tensor, stems: Tensor | None) -> Tensor:
        """stems: their embeddings [S, E], for generated weights."""
        count = x.shape[1]
        x = self.in_conv(self.norm_1(self.prelu_1(x.flatten(1, 2)), stems), stems)
        x = self.norm_2(self.prelu_2(x), stems)
        sums = torch.zeros_like(x)
        for block in self.tcn:
            more, skip = block(x, stems)
            x, sums = x + more, sums + skip
        x = self.mask_output(self.norm_3(self.prelu_3(sums), stems), stems)
        return self.norm_4(self.prelu_4(x), stems).unflatten(1, (count, -1)).softmax(dim=1)
