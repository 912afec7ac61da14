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

PIECE = 1 << 18  # values that a norm measures at once on a CPU: they stay in its cache
SLAB = 1 << 21  # values that a layer hears at once on a CPU


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

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """onto: what is added to the result, and overwritten by it where no gradient needs it."""
        parts = list(self)
        steps = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
        for norm, act, layer in steps[:-1]:
            x = through(layer, x, norm, act)
        norm, act, layer = steps[-1]
        return through(layer, x, norm, act, onto)


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
        y = self.tdf(y, onto=y)
        return through(self.shortcut, x, onto=self.tfc2(y))


class TfcTdf(nn.Module):
    """The blocks of a level: [B, D, N, f] -> [B, D', N, f]."""

    def __init__(self, config: MDX23CConfig, d: int, out: int, f: int):
        super().__init__()
        self.blocks = ModuleListOf(Block(config, d if k == 0 else out, out, f) for k in range(config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


# --- a layer, and what stands in front of it, some frames at a time ---


def through(
    layer: nn.Module,
    x: Tensor,
    norm: nn.Module | None = None,
    act: nn.Module | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """layer(act(norm(x))) + onto. Without gradients `onto`, which may be x, is overwritten by it.

    On a CPU a few frames at a time: what stands between norm and layer, and the copies that a convolution makes
    in an order of its own, then stay in the cache and take no memory.
    """
    keep = torch.is_grad_enabled() or (norm is not None and norm.training)
    if keep or x.device.type != "cpu":
        normed = x if norm is None else norm(x)
        if act is not None:
            normed = act(normed) if keep or normed is x else _in_place(act)(normed)
        made = layer(normed)
        if onto is None:
            return made
        return onto + made if keep else onto.add_(made)
    scaling = None if norm is None else _scaling(norm, x)
    act_ = None if act is None else _in_place(act)
    up, down, halo = _reach(layer)
    frames = x.shape[2]
    at_once = frames_at_once(x) // down * down or down
    out = onto
    for start in range(0, frames, at_once):
        stop = min(start + at_once, frames)
        piece = x[:, :, max(start - halo, 0) : stop + halo]
        if scaling is not None:
            piece = torch.addcmul(scaling[1], piece, scaling[0])
        if act_ is not None:
            piece = act_(piece if scaling is not None else piece.clone())
        made = _run(layer, piece.to(x.dtype), int(start == 0) * halo, int(stop == frames) * halo)
        if out is None:
            out = made.new_empty(*made.shape[:2], frames * up // down, made.shape[3])
        into = out[:, :, start * up // down : stop * up // down]
        into.copy_(made) if onto is None else into.add_(made)
    assert out is not None
    return out


def frames_at_once(x: Tensor) -> int:
    """How many of the frames of [B, D, N, f] are SLAB values, at least one."""
    return max(1, SLAB // (x.numel() // x.shape[2]))


def _reach(layer: nn.Module) -> tuple[int, int, int]:
    """A layer makes so many frames of so many, and hears so many more on both sides."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.stride[0], 1, 0
    if isinstance(layer, nn.Conv2d):
        return 1, layer.stride[0], int(layer.padding[0])
    return 1, 1, 0


def _run(layer: nn.Module, x: Tensor, before: int, after: int) -> Tensor:
    """A layer over some frames, with zeros for those that stand before and after all."""
    if isinstance(layer, nn.Conv2d) and layer.padding[0]:
        if before or after:
            x = F.pad(x, (0, 0, before, after))
        frequency = int(layer.padding[1])
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, (0, frequency))
    return layer(x)


def _scaling(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The factor and the summand, [B, D, 1, 1] in float32, that a norm is for this x. None: it is none."""
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None and norm.running_var is not None
        mean, scale = norm.running_mean.float(), (norm.running_var.float() + norm.eps).rsqrt()
    elif isinstance(norm, nn.InstanceNorm2d | nn.GroupNorm):
        mean, scale = _moments(x, norm.num_groups if isinstance(norm, nn.GroupNorm) else x.shape[1], norm.eps)
    else:
        return None
    assert norm.weight is not None and norm.bias is not None
    factor = scale * norm.weight.float()
    summand = norm.bias.float() - mean * factor
    return factor.view(-1, x.shape[1], 1, 1), summand.view(-1, x.shape[1], 1, 1)


def _moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """[B, D, N, f] -> mean and 1 / deviation of each group of channels, [B, D] each.

    By GroupNorm, whose sums are exact and fast, over a few groups at a time: what it writes stays in the cache.
    """
    size, values = x.shape[1] // groups, x.shape[2] * x.shape[3]
    at_once = max(1, PIECE // (size * values)) * size
    means, scales = [], []
    for piece in (part for item in x for part in item.split(at_once)):  # channels of one item
        channels = len(piece)
        _, mean, scale = torch.native_group_norm(
            piece[None].float().contiguous(), None, None, 1, channels, values, channels // size, eps
        )
        means.append(mean[0])
        scales.append(scale[0])
    mean, scale = (torch.cat(parts).view(len(x), groups) for parts in (means, scales))
    return mean.repeat_interleave(size, 1), scale.repeat_interleave(size, 1)


def _in_place(act: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(act, nn.GELU):
        return torch.ops.aten.gelu_
    if isinstance(act, nn.ELU):
        return lambda x: F.elu_(x, act.alpha)
    return torch.relu_
