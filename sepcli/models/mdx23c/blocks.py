"""The parts of an MDX23C: a norm and an activation in front of each convolution or linear layer.

Modules have the names that published checkpoints give them. Axes: B batch, D channels, N frames, f bins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.mdx23c.config import MDX23CConfig
from sepcli.nn.modules import ModuleListOf

PIECE = 1 << 18  # values that a norm works on at once on a CPU: they stay in its cache


def activation(name: str) -> nn.Module:
    """ "gelu", "relu" or "elu" and its alpha. ValueError for another one."""
    if name in ("gelu", "relu"):
        return nn.GELU() if name == "gelu" else nn.ReLU()
    if name.startswith("elu"):
        return nn.ELU(float(name[3:] or 1))
    raise ValueError(f"the activation is '{name}', but must be gelu, relu, or elu and a number: elu1.0")


def normalisation(name: str, channels: int) -> nn.Module:
    """ "InstanceNorm", "BatchNorm", "GroupNorm" and their number, or "none". ValueError for another one."""
    if name == "InstanceNorm":
        return nn.InstanceNorm2d(channels, affine=True)
    if name == "BatchNorm":
        return nn.BatchNorm2d(channels)
    if name.startswith("GroupNorm") and name[9:].isdecimal():
        return nn.GroupNorm(int(name[9:]), channels)
    if name == "none":
        return nn.Identity()
    raise ValueError(
        f"the norm is '{name}', but must be InstanceNorm, BatchNorm, GroupNorm and a number, or none"
    )


class Layers(nn.Sequential):
    """Layers with a norm and an activation in front of each: [B, D, N, f] -> [B, D', N', f'].

    before: the channels in front of each layer.
    """

    def __init__(self, config: MDX23CConfig, layers: list[nn.Module], before: int):
        super().__init__()
        for layer in layers:
            self.extend([normalisation(config.norm, before), activation(config.act), layer])

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self)
        for norm, act, layer in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            x = layer(activated(norm, act, x))
        return x


class Down(nn.Module):
    """The next level: fewer frames and bins, more channels."""

    def __init__(self, config: MDX23CConfig, d: int, out: int):
        super().__init__()
        frames, bins = config.scale
        self.conv = Layers(config, [nn.Conv2d(d, out, (frames, bins), (frames, bins), bias=False)], d)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Back from the next level."""

    def __init__(self, config: MDX23CConfig, d: int, out: int):
        super().__init__()
        frames, bins = config.scale
        self.conv = Layers(config, [nn.ConvTranspose2d(d, out, (frames, bins), (frames, bins), bias=False)], d)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Block(nn.Module):
    """[B, D, N, f] -> [B, D', N, f]: neighbours, all frequencies, neighbours, and a shortcut."""

    def __init__(self, config: MDX23CConfig, d: int, out: int, f: int):
        super().__init__()
        narrow = max(f // config.bottleneck, 1)
        self.tfc1 = Layers(config, [nn.Conv2d(d, out, 3, 1, 1, bias=False)], d)
        self.tdf = Layers(config, [nn.Linear(f, narrow, bias=False), nn.Linear(narrow, f, bias=False)], out)
        self.tfc2 = Layers(config, [nn.Conv2d(out, out, 3, 1, 1, bias=False)], out)
        self.shortcut = nn.Conv2d(d, out, 1, 1, 0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tfc1(x)
        y = add(y, self.tdf(y))
        return add(self.tfc2(y), self.shortcut(x))


class TfcTdf(nn.Module):
    """The blocks of a level: [B, D, N, f] -> [B, D', N, f]."""

    def __init__(self, config: MDX23CConfig, d: int, out: int, f: int):
        super().__init__()
        self.blocks = ModuleListOf(Block(config, d if k == 0 else out, out, f) for k in range(config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


# --- elementwise steps, in place where no gradient needs what they overwrite ---


def add(into: Tensor, other: Tensor) -> Tensor:
    return into + other if torch.is_grad_enabled() else into.add_(other)


def activated(norm: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """act(norm(x)); x stays as it is."""
    if torch.is_grad_enabled() or norm.training:
        return act(norm(x))
    if not isinstance(norm, nn.InstanceNorm2d) or x.device.type != "cpu":
        fresh = norm(x)
        return act(fresh) if fresh is x else _in_place(act)(fresh)
    return _instance_normed(norm, _in_place(act), x)


def _instance_normed(norm: nn.InstanceNorm2d, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Norm and activation of a few channels at a time, so that memory is read and written once.

    An InstanceNorm is a GroupNorm whose groups are channels, which torch computes six times faster on a CPU.
    """
    weight, bias = norm.weight.float(), norm.bias.float()
    out = torch.empty_like(x)
    at_once = max(1, PIECE // (x.shape[2] * x.shape[3]))
    for item, target in zip(x, out, strict=True):
        for start in range(0, len(item), at_once):
            piece = slice(start, start + at_once)
            values = item[None, piece].float()
            values = torch.group_norm(values, values.shape[1], weight[piece], bias[piece], norm.eps)
            target[piece] = act(values)[0]
    return out


def _in_place(act: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(act, nn.GELU):
        return torch.ops.aten.gelu_
    if isinstance(act, nn.ELU):
        return lambda x: F.elu_(x, act.alpha)
    return torch.relu_
