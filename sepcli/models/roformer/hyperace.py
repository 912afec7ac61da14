"""A convolutional network beside a mask estimator, whose masks are added to its own (HyperACE, version 2).

    [B, D, T, K] -> backbone: stem, p2 ... p5, ever coarser -> hypergraph over all at the size of p4
                 -> decoder from p5 up to p2 -> T frames, K bands -> bands doubled four times -> F bins -> masks

A map's norm (InstanceNorm) spans the whole call, so that a call's length changes the result, and some forty of
them in a row make rounding errors grow: two ways to compute it in float32 differ by 1e-4 of the peak. The names
of modules are those of the published files. (Facts of the published networks of unwa's BS-Roformer-HyperACE.)

Axes: B batch, D values of a band, T frames, K bands, F bins, P = T' * K' points of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf

EPS = 1e-8  # of the norms
REPEATS = (2, 4, 4, 2)  # bottlenecks of p2 ... p5
STRIDES = ((2, 1), (2, 1), (2, 1), (2, 2), (2, 2))  # of the stem, p2 ... p5, along time and bands
HYPEREDGES = 32
HEADS = 8
DOUBLINGS = 4  # of the bands


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, eps=EPS, affine=True)


class Conv(nn.Module):
    """A linear layer at each point, norm, SiLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T, K] -> [B, outputs, T, K]."""
        return F.silu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """A 3 x 3 convolution in each channel, a linear layer at each point, norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int] = (1, 1)):
        super().__init__()
        self.dwconv = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.pwconv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T, K] -> [B, outputs, T / stride, K / stride], rounded up."""
        return F.silu(self.bn(self.pwconv(self.dwconv(x))))


class Bottleneck(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.dsconv1 = SeparableConv(channels, channels)
        self.dsconv2 = SeparableConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, K] -> the same shape."""
        return x + self.dsconv2(self.dsconv1(x))


class TwoPaths(nn.Module):
    """Bottlenecks on one path, a linear layer on the other, then both together (C3k)."""

    def __init__(self, channels: int, repeats: int):
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels), Conv(channels, channels)
        self.cv3 = Conv(2 * channels, channels)
        self.m = nn.Sequential(*(Bottleneck(channels) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, K] -> the same shape."""
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], dim=1))


class Stage(nn.Module):
    """TwoPaths in half of the output's channels (C3k2)."""

    def __init__(self, inputs: int, outputs: int, repeats: int = 1):
        super().__init__()
        self.cv1 = Conv(inputs, outputs // 2)
        self.m = TwoPaths(outputs // 2, repeats)
        self.cv2 = Conv(outputs // 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T, K] -> [B, outputs, T, K]."""
        return self.cv2(self.m(self.cv1(x)))


class Backbone(nn.Module):
    """[B, D, T, K] -> maps p2, p3, p4, p5."""

    def __init__(self, dim: int, widths: Sequence[int]):
        super().__init__()
        stem, *levels = widths
        self.stem = SeparableConv(dim, stem, STRIDES[0])
        inputs = stem
        for level, (outputs, repeats, stride) in enumerate(
            zip(levels, REPEATS, STRIDES[1:], strict=True), start=2
        ):
            stage = nn.Sequential(SeparableConv(inputs, outputs, stride), Stage(outputs, outputs, repeats))
            self.add_module(f"p{level}", stage)
            inputs = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        maps, x = [], self.stem(x)
        for level in range(2, 6):
            x = self.get_submodule(f"p{level}")(x)
            maps.append(x)
        return maps


class Hyperedges(nn.Module):
    """How much each point belongs to each hyperedge: [B, P, c] -> [B, P, M], with sum 1 over the points."""

    def __init__(self, channels: int):
        super().__init__()
        self.global_proto = nn.Parameter(torch.randn(HYPEREDGES, channels) * channels**-0.5)
        self.context_mapper = nn.Linear(2 * channels, HYPEREDGES * channels, bias=False)
        self.query_proj = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class. The mean over heads of their similarities is that of all values together."""
        context = torch.cat([x.mean(1), x.amax(1)], dim=-1)
        prototypes = self.global_proto + self.context_mapper(context).unflatten(-1, (HYPEREDGES, -1))
        scale = (x.shape[-1] // HEADS) ** -0.5 / HEADS
        return (self.query_proj(x) @ prototypes.transpose(1, 2) * scale).softmax(dim=1)


class HypergraphConv(nn.Module):
    """Points to hyperedges and back: [B, P, c] and memberships [B, P, M] -> [B, P, c]."""

    def __init__(self, channels: int):
        super().__init__()
        self.W_e = nn.Linear(channels, channels, bias=False)
        self.W_v = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, members: Tensor) -> Tensor:
        """See the class."""
        edges = F.silu(self.W_e(members.transpose(1, 2) @ x))
        return x + F.silu(self.W_v(members @ edges))


class HypergraphLayer(nn.Module):
    """All points of a map through hyperedges: [B, c, T, K] -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.adaptive_hyperedge_gen = Hyperedges(channels)
        self.hypergraph_conv = HypergraphConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        points = x.flatten(2).transpose(1, 2)
        points = self.hypergraph_conv(points, self.adaptive_hyperedge_gen(points))
        return points.transpose(1, 2).reshape(x.shape)


class HypergraphPaths(nn.Module):
    """A hypergraph on one path, a linear layer on the other, then both together (C3AH)."""

    def __init__(self, channels: int):
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels), Conv(channels, channels)
        self.ahc = HypergraphLayer(channels)
        self.cv3 = Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, K] -> the same shape."""
        return self.cv3(torch.cat([self.ahc(self.cv2(x)), self.cv1(x)], dim=1))


class Correlation(nn.Module):
    """Maps p2, p3, p4, p5 -> one map of p4's size and width."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        p2, p3, p4, p5 = widths
        self.parts = [p4 // 2, p4 // 4, p4 // 4]
        self.fuse_conv = Conv(p2 + p3 + p4 + p5, p4)
        self.high_order_branch = ModuleListOf(HypergraphPaths(p4 // 2) for _ in range(2))
        self.high_order_fuse = Conv(p4, p4 // 2)
        self.low_order_branch = nn.Sequential(TwoPaths(p4 // 4, 1))
        self.final_fuse = Conv(p4, p4)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """See the class."""
        x = self.fuse_conv(torch.cat([_resized(each, maps[2]) for each in maps], dim=1))
        high, low, same = x.split(self.parts, dim=1)
        high = self.high_order_fuse(torch.cat([branch(high) for branch in self.high_order_branch], dim=1))
        return self.final_fuse(torch.cat([high, self.low_order_branch(low), same], dim=1))


class Gate(nn.Module):
    """x + gamma * y, with a gamma for each channel that begins at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Both and the result [B, channels, T, K]."""
        return x + self.gamma * y


class Decoder(nn.Module):
    """Maps p2 ... p5 and that of the correlation -> one map of p2's size and width."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        p4 = widths[2]
        for level, width in enumerate(widths, start=2):
            self.add_module(f"skip_p{level}", Conv(width, width))
            self.add_module(f"h_to_d{level}", Conv(p4, width))
            self.add_module(f"fusion_d{level}", Gate(width))
            if level > 2:
                self.add_module(f"up_d{level}", Stage(width, widths[level - 3]))
        self.final_d2 = Stage(widths[0], widths[0])

    def forward(self, maps: Sequence[Tensor], correlation: Tensor) -> Tensor:
        """See the class."""
        x: Tensor | None = None
        for level in range(5, 1, -1):
            skip = self.get_submodule(f"skip_p{level}")(maps[level - 2])
            if x is not None:
                x = self.get_submodule(f"up_d{level + 1}")(_resized(x, skip))
            x = skip if x is None else skip + x
            more = self.get_submodule(f"h_to_d{level}")(_resized(correlation, x))
            x = self.get_submodule(f"fusion_d{level}")(x, more)
        return self.final_d2(cast(Tensor, x))


class FrequencyBlock(nn.Module):
    """Convolutions in time and frequency around two layers over all frequencies, added to a linear layer."""

    def __init__(self, channels: int, bands: int):
        super().__init__()
        self.tfc1 = nn.Sequential(_norm(channels), nn.SiLU(), _conv3(channels, channels))
        self.tdf = nn.Sequential(
            _norm(channels),
            nn.SiLU(),
            nn.Linear(bands, bands // 4, bias=False),
            _norm(channels),
            nn.SiLU(),
            nn.Linear(bands // 4, bands, bias=False),
        )
        self.tfc2 = nn.Sequential(_norm(channels), nn.SiLU(), _conv3(channels, channels))
        self.shortcut = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, bands] -> the same shape."""
        y = self.tfc1(x)
        return self.tfc2(y + self.tdf(y)) + self.shortcut(x)


class Doubling(nn.Module):
    """Half as many channels on twice as many bands."""

    def __init__(self, channels: int, bands: int):
        super().__init__()
        self.conv = SeparableConv(channels, channels)
        self.out_conv = nn.Module()
        self.out_conv.blocks = nn.Sequential(*(FrequencyBlock(channels // 2, 2 * bands) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, T, bands] -> [B, channels / 2, T, 2 * bands]."""
        x = self.conv(x).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).flatten(3)
        return cast(nn.Module, self.out_conv.blocks)(x)


class Upsampling(nn.Module):
    """[B, c, T, K] -> masks [B, values, T, F]."""

    def __init__(self, channels: int, bands: int, bins: int, values: int):
        super().__init__()
        self.bins = bins
        for number in range(1, DOUBLINGS + 1):
            self.add_module(f"block{number}", Doubling(channels, bands))
            channels, bands = channels // 2, 2 * bands
        self.final_conv = _conv3(channels, values)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for number in range(1, DOUBLINGS + 1):
            x = self.get_submodule(f"block{number}")(x)
        return self.final_conv(F.interpolate(x, (x.shape[2], self.bins), mode="bilinear"))


class HyperAce(nn.Module):
    """The network of the file's head: tokens [B, D, T, K] -> masks [B, values of a bin, T, F].

    widths: channels of the stem and of p2 ... p5; published 64, 256, 384, 512, 768.
    """

    def __init__(self, widths: Sequence[int], dim: int, bands: int, bins: int, values: int):
        super().__init__()
        if len(widths) != len(STRIDES):
            raise ValueError(f"head has {len(widths)} widths, but must have {len(STRIDES)}")
        if widths[1] % 16 or widths[3] % 16:
            raise ValueError("the second and fourth width of head must be multiples of 16")
        self.backbone = Backbone(dim, widths)
        self.hyperace = Correlation(widths[1:])
        self.decoder = Decoder(widths[1:])
        self.upsample_head = Upsampling(widths[1], bands, bins, values)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        maps = self.backbone(tokens)
        x = self.decoder(maps, self.hyperace(maps))
        return self.upsample_head(_resized(x, tokens))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """x with the frames and bands of another map."""
    return F.interpolate(x, like.shape[2:], mode="bilinear")


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
