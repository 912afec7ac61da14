"""The parts of the 1-D U-Net: residual blocks told their target, attention over time, folding of samples.

Knows nothing of levels or taps, and of a target only the vector m that stands for it. Attributes have the names
of the published checkpoints, which is why some modules are nested deeper than they need. (The network is
`UNet1d` of audio-diffusion-pytorch 0.0.43, as in Mariani et al. 2024, "Multi-Source Diffusion Models"; DiCoSe
keeps it.)

Axes: B batch, C channels of a layer, N positions, D features of m.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Group norm, FiLM where it is given, SiLU, convolution of 3: [B, C, N] -> [B, C', N]."""

    def __init__(self, channels_in: int, channels: int, groups: int):
        super().__init__()
        self.groupnorm = nn.GroupNorm(groups, channels_in)
        self.project = nn.Conv1d(channels_in, channels, 3, padding=1)

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """[B, C, N] -> [B, C', N]. film: scale and shift, each [B, C, 1]."""
        x = self.groupnorm(x)
        if film is not None:
            scale, shift = film
            x = x * (scale + 1) + shift
        return self.project(F.silu(x))


class Film(nn.Module):
    """Scale and shift made of m: [B, D] -> two of [B, C, 1] (Perez et al. 2018)."""

    def __init__(self, features: int, channels: int):
        super().__init__()
        self.to_scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * channels))

    def forward(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> scale, shift, each [B, C, 1]."""
        scale, shift = self.to_scale_shift(m)[..., None].chunk(2, dim=1)
        return scale, shift


class ResBlock(nn.Module):
    """Two convolution blocks around a skip; the second one hears m. [B, C, N] -> [B, C', N]."""

    def __init__(self, channels_in: int, channels: int, *, groups: int, features: int):
        super().__init__()
        self.block1 = ConvBlock(channels_in, channels, groups)
        self.to_scale_shift = Film(features, channels)
        self.block2 = ConvBlock(channels, channels, groups)
        same = channels_in == channels
        self.to_out = nn.Identity() if same else nn.Conv1d(channels_in, channels, 1)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """[B, C, N], m [B, D] -> [B, C', N]."""
        return self.block2(self.block1(x), self.to_scale_shift(m)) + self.to_out(x)


class Patch(nn.Module):
    """The stem: a residual block at full rate, then samples folded into channels: [B, A, T] -> [B, W, T/p]."""

    def __init__(self, audio_channels: int, width: int, patch: int, features: int):
        super().__init__()
        self.patch = patch
        groups = min(patch, audio_channels)
        self.block = ResBlock(audio_channels, width // patch, groups=groups, features=features)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """[B, A, T], m [B, D] -> [B, W, T/p]."""
        x = self.block(x, m).unflatten(-1, (-1, self.patch))  # [B, C, N, p]
        return x.transpose(2, 3).flatten(1, 2)


class Unpatch(nn.Module):
    """The head, which is the stem backwards: [B, W, T/p] -> [B, A, T]."""

    def __init__(self, audio_channels: int, width: int, patch: int, features: int):
        super().__init__()
        self.patch = patch
        groups = min(patch, audio_channels)
        self.block = ResBlock(width // patch, audio_channels, groups=groups, features=features)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """[B, W, T/p], m [B, D] -> [B, A, T]."""
        x = x.unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(2)  # [B, C, N p]
        return self.block(x, m)


class Only(nn.Module):
    """A list of one module, as the published checkpoints have it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module_list = nn.ModuleList([module])

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """As the module."""
        return self.module_list[0](x, m)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, with a gain and no bias: [..., C] -> [..., C]."""

    def __init__(self, channels: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return F.layer_norm(x, self.g.shape, self.g)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [B, C, N]."""

    def __init__(self, channels: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        gain = self.g.flatten()
        return F.layer_norm(x.transpose(1, 2), gain.shape, gain).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with a norm before and behind: [B, N, C] -> [B, N, C]. It knows no positions."""

    def __init__(self, channels: int, heads: int, head_features: int):
        super().__init__()
        self.heads, inner = heads, heads * head_features
        self.norm = LayerNorm(channels)
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_kv = nn.Linear(channels, 2 * inner, bias=False)
        out = nn.Sequential(nn.Linear(inner, channels, bias=False), LayerNorm(channels))
        self.attention = nn.ModuleDict({"to_out": out})

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        x = self.norm(x)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, N, C / heads]
            for y in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.attention["to_out"](attended.transpose(1, 2).flatten(2))


class OverTime(nn.Module):
    """Applies a module that takes [B, N, C] to [B, C, N] -> [B, C, N]."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.fn = module

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        return self.fn(x.transpose(1, 2)).transpose(1, 2)


class Transformer(nn.Module):
    """x + attention, then x + feed-forward: [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, heads: int, head_features: int, multiplier: int):
        super().__init__()
        inner = multiplier * channels
        self.attention = OverTime(Attention(channels, heads, head_features))
        self.feed_forward = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv1d(channels, inner, 1, bias=False),
            nn.GELU(),
            ChannelNorm(inner),
            nn.Conv1d(inner, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class TimeFeatures(nn.Module):
    """Features of a number c [B]: [c, sin(2 pi w c), cos(2 pi w c)], [B, 1 + 2F]; in float32.

    The frequencies w [F] are learnt.
    """

    def __init__(self, frequencies: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(frequencies))

    def forward(self, c: Tensor) -> Tensor:
        """[B] -> [B, 1 + 2F]."""
        c = c.float()[:, None]
        angle = 2 * math.pi * self.weights.float() * c
        return torch.cat([c, angle.sin(), angle.cos()], dim=-1)
