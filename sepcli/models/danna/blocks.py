"""The parts of danna-sep's U-Net: multidilated dense blocks, and attention among near frames.

The D2 block is not that of Sony (D3Net): its convolution comes first, its norm after the sum, and it gives
what all of its layers made. Attributes have the names of the published files.

Axes: B batch, C channels, F bins, N frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

QUERIES = 2  # frames of a block of attention
MEMORY = 3  # frames at each side of it that it sees too


class D2(nn.Module):
    """[B, C, F, N] -> [B, layers * growth, F, N]; the taps of layer i are 2^i bins and frames apart."""

    def __init__(self, channels: int, growth: int, layers: int):
        super().__init__()
        self.growth = growth
        inputs = [channels] + [growth] * (layers - 1)
        self.conv_layers = ModuleListOf(
            nn.Conv2d(inputs[i], growth * (layers - i), 3, dilation=2**i, padding=2**i, bias=False)
            for i in range(layers)
        )
        self.bn_layers = ModuleListOf(nn.Sequential(nn.BatchNorm2d(growth), nn.ReLU()) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """See the class. A layer makes at once what it adds to the input of each later one."""
        made, sums = [], None
        for conv, norm in zip(self.conv_layers, self.bn_layers, strict=True):
            y = conv(x)
            sums = y if sums is None else sums[:, self.growth :] + y
            x = norm(sums[:, : self.growth])
            made.append(x)
        return torch.cat(made, dim=1)


class D3(nn.Module):
    """D2 blocks, each of which sees the input and what all before it made: [B, C, F, N] -> [B, C', F, N]."""

    def __init__(self, channels: int, growth: int, layers: int, blocks: int):
        super().__init__()
        self.d2_layers = ModuleListOf(
            D2(channels + block * growth * layers, growth, layers) for block in range(blocks)
        )
        self.outputs = channels + blocks * growth * layers  # C'

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for block in self.d2_layers:
            x = torch.cat([x, block(x)], dim=1)
        return x


class LocalAttention(nn.Module):
    """Attention of two frames to eight, of all bins to all: [B, C, F, N] -> [B, C', F, N].

        |---memory---|--queries--|---memory---|        frames, a block every two

    Beyond both ends there are frames whose keys and values are 0. They take their share of the attention, as
    in the original, whose mask is too weak (1e-9) to keep it from them.
    """

    def __init__(self, channels: int, outputs: int, width: int, heads: int):
        """width: channels of keys, of all heads together."""
        super().__init__()
        self.heads = heads
        self.qkv_conv = nn.Conv2d(channels, 3 * width, 3, padding=1)
        self.out_conv = nn.Conv2d(width, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        frames = x.shape[-1]
        x = F.pad(self.qkv_conv(x), (0, -frames % QUERIES))
        q, k, v = x.unflatten(1, (3, self.heads, -1)).unbind(1)  # [B, heads, D, F, N]
        q = q.unflatten(-1, (-1, QUERIES))
        k, v = (F.pad(each, (MEMORY, MEMORY)).unfold(-1, QUERIES + 2 * MEMORY, QUERIES) for each in (k, v))
        # [B, heads, D, F, blocks, frames] -> [B, heads, blocks, F * frames, D]
        q, k, v = (each.permute(0, 1, 4, 3, 5, 2).flatten(3, 4) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.unflatten(3, (-1, QUERIES)).permute(0, 1, 5, 3, 2, 4)  # [B, heads, D, F, blocks, frames]
        return self.out_conv(y.flatten(4, 5).flatten(1, 2)[..., :frames])
