"""The generator of LDM-dmx: a 1-D U-Net over latents that is told the noise's level and hears the mix.

Knows latents and nothing of audio: predicts v from noisy latents z, at every level of depth but the first ones
beside the conditioning latents c, interpolated to that level's length.

    z -- level 0 ------------------------------------------ level 0 -- v       level: inject, blocks, attention
          \\ level 1 -------------------------- level 1 /                       \\ strided convolution
           \\ ...                                ... /                          / transposed convolution
            \\ level 6 -- block, attention, block -- level 6 /                  -- joined by a 1 x 1 convolution

("Efficient and fast generative-based singing voice separation using a latent diffusion model", 2025, section
III-E.) The paper has the blocks, the conditioning, the step embedding, the doubling of channels and the
factors; that there are seven levels from 128 to 1024 channels, one block in the first three and two in the
others, and attention and conditioning in the last four, fits its text, its number of parameters and the
authors' other paper (arXiv 2511.21342). Ours: the modules in the middle, kernels, heads, groups, how the sides
are joined, the residual around the injection.

Axes: B batch, D latent channels, C channels of a layer, N latent frames, F features of the step embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf


@dataclass(frozen=True)
class GeneratorShape:
    """Defaults: our reading of the published network. Tuples have one value a level, the outermost first."""

    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512, 1024)  # channels
    factors: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)  # by which a level is shorter than the one before it
    blocks: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 2)  # residual blocks, on each side
    attentions: tuple[bool, ...] = (False, False, False, True, True, True, True)
    injections: tuple[bool, ...] = (False, False, False, True, True, True, True)  # of the conditioning latents
    heads: int = 8
    head_features: int = 64
    groups: int = 8  # of group norms
    features: int = 1024  # of the step embedding

    @property
    def multiple(self) -> int:
        """Latent frames; the length of a call must be a multiple of it."""
        return math.prod(self.factors)

    def check_levels(self) -> None:
        """ValueError where no network can have this shape."""
        lists = (self.widths, self.factors, self.blocks, self.attentions, self.injections)
        if not self.widths or len({len(values) for values in lists}) > 1:
            raise ValueError("widths, factors, blocks, attentions and injections must have one value a level")
        if any(factor != 1 and factor % 2 for factor in self.factors):
            raise ValueError(f"factors are {self.factors}, but must be 1 or even")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths are {self.widths}, but must be multiples of groups ({self.groups})")
        if self.features % 2 or min(*self.blocks, self.features, self.heads, self.head_features) < 1:
            raise ValueError("blocks, heads, head_features must be 1 or more, features even")


# --- parts -----------------------------------------------------------------------------------------------


class StepEmbedding(nn.Module):
    """Makes m [B, F] of t [B] in [0, 1]: random Fourier features, three linear layers with GELU (III-E1)."""

    frequencies: Tensor  # [F / 2]

    def __init__(self, features: int):
        super().__init__()
        # Drawn once and never learnt: with the weights, so that a checkpoint is whole.
        self.register_buffer("frequencies", torch.randn(features // 2))
        layers = [layer for _ in range(3) for layer in (nn.Linear(features, features), nn.GELU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, t: Tensor) -> Tensor:
        """[B] -> [B, F]."""
        angle = 2 * math.pi * self.frequencies.float() * t.float()[:, None]
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=-1))


class FilmBlock(nn.Module):
    """Two of [group norm, SiLU, convolution], the residual sum, and then FiLM: [B, C, N] -> [B, C, N].

    (Section III-E1 and figure 2; FiLM: Perez et al. 2018.)
    """

    def __init__(self, channels: int, groups: int, features: int):
        super().__init__()
        self.convs = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (
                    nn.GroupNorm(groups, channels),
                    nn.SiLU(),
                    nn.Conv1d(channels, channels, 3, padding=1),
                )
            )
        )
        self.film = nn.Linear(features, 2 * channels)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """[B, C, N], m [B, F] -> [B, C, N]."""
        x = x + self.convs(x)
        scale, shift = self.film(m)[..., None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class Attention(nn.Module):
    """x + self-attention over time, which knows no positions: [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, heads: int, head_features: int):
        super().__init__()
        self.heads, inner = heads, heads * head_features
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.out = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        y = self.qkv(self.norm(x.transpose(1, 2)))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in y.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v)  # [B, heads, N, C / heads]
        return x + self.out(attended.transpose(1, 2).flatten(2)).transpose(1, 2)


class Injection(nn.Module):
    """x + a 1 x 1 convolution of x and the conditioning latents, interpolated to its length (III-E2).

    [B, C, N], [B, D, M] -> [B, C, N].
    """

    def __init__(self, channels: int, latents: int):
        super().__init__()
        self.merge = nn.Conv1d(channels + latents, channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """[B, C, N], c [B, D, M] -> [B, C, N]."""
        heard = F.interpolate(c, size=x.shape[-1], mode="linear", align_corners=False)
        return x + self.merge(torch.cat([x, heard.to(x)], dim=1))


class Level(nn.Module):
    """One side of a level: injection where it has one, blocks, attention where it has one."""

    def __init__(self, shape: GeneratorShape, level: int, latents: int):
        super().__init__()
        width = shape.widths[level]
        self.inject = Injection(width, latents) if shape.injections[level] else None
        self.blocks = ModuleListOf(
            FilmBlock(width, shape.groups, shape.features) for _ in range(shape.blocks[level])
        )
        attends = shape.attentions[level]
        self.attention = Attention(width, shape.heads, shape.head_features) if attends else nn.Identity()

    def forward(self, x: Tensor, c: Tensor, m: Tensor) -> Tensor:
        """[B, C, N], c [B, D, M], m [B, F] -> [B, C, N]."""
        if self.inject is not None:
            x = self.inject(x, c)
        for block in self.blocks:
            x = block(x, m)
        return self.attention(x)


def shorten(channels_in: int, channels: int, factor: int) -> nn.Module:
    """A strided convolution: [B, C, N] -> [B, C', N / factor]."""
    return nn.Conv1d(channels_in, channels, 2 * factor + 1, stride=factor, padding=factor)


def lengthen(channels_in: int, channels: int, factor: int) -> nn.Module:
    """A transposed convolution, or a plain one for a factor of 1: [B, C, N] -> [B, C', N * factor]."""
    if factor == 1:
        return nn.Conv1d(channels_in, channels, 3, padding=1)
    return nn.ConvTranspose1d(channels_in, channels, 2 * factor, stride=factor, padding=factor // 2)


# --- the network -----------------------------------------------------------------------------------------


class Generator(nn.Module):
    """The U-Net of the file's head: v of noisy latents z, given the latents c of the mix.

    shape: its `check_levels` has passed. latents: D.
    """

    def __init__(self, shape: GeneratorShape, latents: int):
        super().__init__()
        levels, widths = range(len(shape.widths)), shape.widths
        outer = (widths[0], *widths[:-1])  # of the level around each
        self.step = StepEmbedding(shape.features)
        self.downs = nn.ModuleList(
            shorten(outer[k] if k else latents, widths[k], shape.factors[k]) for k in levels
        )
        self.encoder = ModuleListOf(Level(shape, k, latents) for k in levels)
        self.before = FilmBlock(widths[-1], shape.groups, shape.features)
        self.attention = Attention(widths[-1], shape.heads, shape.head_features)
        self.behind = FilmBlock(widths[-1], shape.groups, shape.features)
        # They join the two sides of each level but the deepest, whose sides have the middle between them.
        self.joins = nn.ModuleList(nn.Conv1d(2 * width, width, 1) for width in widths[:-1])
        self.decoder = ModuleListOf(Level(shape, k, latents) for k in levels)
        self.ups = nn.ModuleList(lengthen(widths[k], outer[k], shape.factors[k]) for k in levels)
        self.head = nn.Sequential(
            nn.GroupNorm(shape.groups, widths[0]), nn.SiLU(), nn.Conv1d(widths[0], latents, 3, padding=1)
        )

    def forward(self, z: Tensor, c: Tensor, t: Tensor) -> Tensor:
        """z, c [B, D, N], t [B] or [] in [0, 1] -> v [B, D, N] float32; N a multiple of `shape.multiple`."""
        m = self.step(t.to(z.device).expand(len(z)))
        x, sides = z, []
        for down, level in zip(self.downs, self.encoder, strict=True):
            x = level(down(x), c, m)
            sides.append(x)
        x = self.behind(self.attention(self.before(x, m)), m)
        for k in reversed(range(len(self.decoder))):
            if k < len(self.joins):
                x = self.joins[k](torch.cat([x, sides[k]], dim=1))
            x = self.ups[k](self.decoder[k](x, c, m))
        return self.head(x).float()
