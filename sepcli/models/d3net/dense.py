"""D3Net's network for one stem: the magnitudes of a mix in, the stem's out. Knows no audio.

    D2    a dense block: layer i sees what all before it made; its kernel's taps are 2^i bins and frames apart
    D3    a dense block of D2 blocks
    Band  a U-Net of D3 blocks
    Net   low band, high band -> beside each other -> with the full band -> D2 -> gate * filter -> magnitudes

A dense block would concatenate. Here a layer makes at once what it adds to the input of each later layer, and
what was added up for a layer is its input. (Takahashi and Mitsufuji, "Densely connected multidilated
convolutional networks for dense prediction tasks", CVPR 2021, section 3; facts of its published code.)

Axes: B batch, C channels of audio or of features, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf
from sepcli.nn.norm import Norm


@dataclass(frozen=True)
class BandShape:
    """What shapes one Band. Its scales are the D3 blocks, from the top down and up again: an odd number."""

    features: int  # channels of the first convolution
    growth: Sequence[int]  # channels that each D3 block gives
    layers: Sequence[int]  # of each D2 block in it
    blocks: int  # D2 blocks in each D3 block

    @property
    def halvings(self) -> int:
        """How often bins and frames are halved."""
        return len(self.growth) // 2


@dataclass(frozen=True)
class NetShape:
    """What shapes the network of one stem."""

    bins: int  # of the input
    estimated: int  # of these, from the lowest: those that the network estimates
    split: int  # where the high band begins
    low: BandShape
    high: BandShape
    full: BandShape
    growth: int  # of the last D2 block
    layers: int


class NormConv(nn.Module):
    """Norm, ReLU and a convolution of 3 x 3 taps: [B, C, N, F] -> [B, C', N, F]."""

    def __init__(self, channels_in: int, channels: int, dilation: int = 1):
        super().__init__()
        self.norm = Norm(channels_in)
        self.conv = nn.Conv2d(channels_in, channels, 3, dilation=dilation, padding=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv(F.relu(self.norm(x)))


class D2(nn.Module):
    """A multidilated dense block: [B, C, N, F] -> [B, growth, N, F]."""

    def __init__(self, channels_in: int, growth: int, layers: int):
        super().__init__()
        self.growth = growth
        self.first = NormConv(channels_in, growth * layers)
        self.layers = ModuleListOf(
            NormConv(growth, growth * (layers - i), dilation=2**i) for i in range(1, layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _dense(self.first(x), self.layers, self.growth)


class D3(nn.Module):
    """A dense block of D2 blocks: [B, C, N, F] -> [B, growth, N, F]."""

    def __init__(self, channels_in: int, growth: int, layers: int, blocks: int):
        super().__init__()
        self.growth = growth
        self.first = D2(channels_in, growth * blocks, layers)
        self.layers = ModuleListOf(D2(growth, growth * (blocks - i), layers) for i in range(1, blocks))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _dense(self.first(x), self.layers, self.growth)


def _dense(sums: Tensor, layers: nn.ModuleList, growth: int) -> Tensor:
    """The last of the layers' inputs: sums [B, growth * (layers + 1), N, F] -> [B, growth, N, F]."""
    for layer in layers:
        sums = sums[:, growth:] + layer(sums[:, :growth])
    return sums


class Up(nn.Module):
    """Twice the bins and frames, beside what was there on the way down; then a D3 block."""

    def __init__(self, channels_in: int, beside: int, growth: int, layers: int, blocks: int):
        super().__init__()
        self.norm = Norm(channels_in)
        self.conv = nn.ConvTranspose2d(channels_in, channels_in, 2, stride=2)
        self.block = D3(channels_in + beside, growth, layers, blocks)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """[B, C, N, F], [B, C', 2N, 2F] -> [B, growth, 2N, 2F]."""
        return self.block(torch.cat([self.conv(self.norm(x)), beside], dim=1))


class Band(nn.Module):
    """A U-Net of D3 blocks: [B, C, N, F] -> [B, growth, N, F]; N and F must be halved without a rest."""

    def __init__(self, channels: int, shape: BandShape):
        super().__init__()
        self.first = nn.Conv2d(channels, shape.features, 3, padding=1)
        depth, growth, layers, blocks = shape.halvings, shape.growth, shape.layers, shape.blocks
        before = [shape.features, *growth]  # channels that go into a D3 block on the way down
        self.down = ModuleListOf(D3(before[i], growth[i], layers[i], blocks) for i in range(depth))
        self.bottom = D3(before[depth], growth[depth], layers[depth], blocks)
        self.up = ModuleListOf(
            Up(growth[i - 1], growth[2 * depth - i], growth[i], layers[i], blocks)
            for i in range(depth + 1, 2 * depth + 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x, kept = self.first(x), []
        for block in self.down:
            kept.append(block(x))
            x = F.avg_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for up in self.up:
            x = up(x, kept.pop())
        return x


class Match(nn.Module):
    """Gives a band as many channels as the other has: [B, C, N, F] -> [B, C', N, F]."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.norm, self.conv = Norm(channels_in), nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv(self.norm(x))


class Net(nn.Module):
    """The network of the file's head: magnitudes [B, C, N, bins] -> the stem's [B, C, N, estimated]."""

    def __init__(self, channels: int, shape: NetShape):
        super().__init__()
        check_shape(shape)
        self.shape = shape
        level = usual_level(shape.bins)
        self.offset, self.scale = nn.Parameter(torch.zeros(shape.bins)), nn.Parameter(level)
        self.bands = ModuleListOf(Band(channels, band) for band in (shape.low, shape.high))
        self.full = Band(channels, shape.full)
        widths = [band.growth[-1] for band in (shape.low, shape.high)]
        self.match = nn.ModuleDict(
            {str(i): Match(width, max(widths)) for i, width in enumerate(widths) if width < max(widths)}
        )
        self.final = D2(max(widths) + shape.full.growth[-1], shape.growth, shape.layers)
        self.norm = Norm(shape.growth)
        self.gate, self.filter = (nn.Conv2d(shape.growth, channels, 1) for _ in range(2))
        self.out_scale = nn.Parameter(level[: shape.estimated].clone())
        self.out_bias = nn.Parameter(torch.zeros(shape.estimated))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = ((x - self.offset) / self.scale)[..., : self.shape.estimated]
        parts = x.split([self.shape.split, self.shape.estimated - self.shape.split], dim=-1)
        bands = [band(part) for band, part in zip(self.bands, parts, strict=True)]
        bands = [self.match[str(i)](y) if str(i) in self.match else y for i, y in enumerate(bands)]
        y = self.norm(self.final(torch.cat([torch.cat(bands, dim=-1), self.full(x)], dim=1)))
        return F.relu(self.gate(y).sigmoid() * self.filter(y) * self.out_scale + self.out_bias)


def usual_level(bins: int) -> Tensor:
    """Standard deviations of magnitudes to begin a training with, [bins]: they fall about as music's do.

    The published training measures them on its data set.
    """
    return 100 / (1 + torch.arange(bins) * (128 / bins))


def multiple(shape: NetShape) -> int:
    """What the number of frames must be a multiple of."""
    return 2 ** max(band.halvings for band in (shape.low, shape.high, shape.full))


def check_shape(shape: NetShape) -> None:
    """ValueError for a shape that no network can have."""
    if not 0 < shape.split < shape.estimated <= shape.bins:
        raise ValueError(
            f"split is {shape.split} of {shape.estimated} estimated bins, of {shape.bins} that there are"
        )
    bands = {
        "low": (shape.split, shape.low),
        "high": (shape.estimated - shape.split, shape.high),
        "full": (shape.estimated, shape.full),
    }
    for name, (bins, band) in bands.items():
        if len(band.growth) != len(band.layers) or len(band.growth) % 2 == 0:
            raise ValueError(
                f"the {name} band has {len(band.growth)} numbers of channels and {len(band.layers)} of layers, "
                "but must have an equal, odd number of both"
            )
        if bins % 2**band.halvings:
            raise ValueError(f"the {name} band has {bins} bins, but must have a multiple of {2**band.halvings}")
