"""The 1-D U-Net of DiCoSe, MSDM and ISDM: waveform in, waveform out, told what to do by a vector m.

    x -> stem -> encoder 1 .. n -> bottleneck -> decoder 1 .. n -> + -> head -> y       decoder 1 is the deepest
           |         `------ skips, times 1/sqrt(2) -----^          ^
           `--------------------------------------------------------'

`condition` makes m of a one-hot label (which target), of a scalar time (how noisy x is), or of both.

Taps. Each of the 2n + 3 stages (stem, encoders, bottleneck, decoders, head) has an input. Besides its result,
`forward` returns the inputs of all stages, as `Taps`. A second network of the same shape takes them as
`inject`: it adds them to the inputs of its own stages, without projection or scale:

    _, taps = base(mix, base.condition(label))
    y, _ = refiner(x, refiner.condition(label, time), inject=taps)

Skips are saved before the addition (this concerns the stem's skip; levels save their own results). For
published weights this is exact, down to one oddity: the original takes the outputs of stages instead, but adds
its stem's skip to the last one in place, which makes it the input of the head after all.

Attributes have the names of the published checkpoints (below `unet.`). Knows nothing of sources, samplers or
files.
Axes: B batch, A audio channels, T samples, L labels, D features of m, C channels of a level, N positions there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepcli.models.dicose.blocks import (
    Attention,
    Only,
    OverTime,
    Patch,
    ResBlock,
    TimeFeatures,
    Transformer,
    Unpatch,
)
from sepcli.nn.modules import ModuleListOf


@dataclass(frozen=True)
class Shape:
    """How wide and deep the network is. The defaults are those of every published checkpoint."""

    width: int = 256  # channels behind the stem
    patch: int = 16  # samples that the stem folds into channels
    multipliers: tuple[int, ...] = (1, 2, 4, 4, 4, 4, 4)  # of `width`: behind the stem and each level
    factors: tuple[int, ...] = (4, 4, 4, 2, 2, 2)  # by which each encoder shortens; even
    blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 2)  # residual blocks of each encoder
    attentions: tuple[bool, ...] = (False, False, False, True, True, True)  # a transformer in that level
    heads: int = 8
    head_features: int = 128
    ff_multiplier: int = 2  # inner channels of a transformer's feed-forward, over its own
    groups: int = 8  # of group norms, but in stem and head

    @property
    def multiple(self) -> int:
        """Samples; the length of a call must be a multiple of it. 8192 as published."""
        return self.patch * math.prod(self.factors)

    def check(self) -> None:
        """ValueError where no network can have this shape."""
        levels = len(self.factors)
        if not levels == len(self.blocks) == len(self.attentions) == len(self.multipliers) - 1:
            raise ValueError(
                f"factors, blocks and attentions must be one for each level and multipliers one more, but are "
                f"{levels}, {len(self.blocks)}, {len(self.attentions)} and {len(self.multipliers)}"
            )
        if any(factor < 2 or factor % 2 for factor in self.factors):
            raise ValueError(f"factors are {self.factors}, but must be even")
        if self.width % self.patch or self.width % 2:
            raise ValueError(f"width is {self.width}, but must be even and a multiple of patch ({self.patch})")
        if any(self.width * multiplier % self.groups for multiplier in self.multipliers):
            raise ValueError(f"the channels of every level must be a multiple of groups ({self.groups})")


class Taps(NamedTuple):
    """The inputs of all stages, [B, C, N] each; see the file's head."""

    stem: Tensor  # [B, A, T]
    encoder: tuple[Tensor, ...]
    bottleneck: Tensor
    decoder: tuple[Tensor, ...]  # the deepest first
    head: Tensor

    def ordered(self) -> tuple[Tensor, ...]:
        """All taps in the order of the stages."""
        return (self.stem, *self.encoder, self.bottleneck, *self.decoder, self.head)

    def to(self, dtype: torch.dtype) -> Taps:
        """The taps in another type."""
        return self.of(tap.to(dtype) for tap in self.ordered())

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Taps:
        """The inverse of `ordered`: an odd number of tensors -> Taps."""
        stem, *inner, head = tensors
        middle = len(inner) // 2
        return cls(stem, tuple(inner[:middle]), inner[middle], tuple(inner[middle + 1 :]), head)


class Encoder(nn.Module):
    """Shorten, residual blocks, transformer: [B, C, N] -> [B, C', N / factor], and each result for skips."""

    def __init__(self, channels_in: int, channels: int, factor: int, blocks: int, attends: bool, shape: Shape):
        super().__init__()
        self.downsample = nn.Conv1d(channels_in, channels, 2 * factor + 1, stride=factor, padding=factor)
        self.blocks = nn.ModuleList(_block(channels, channels, shape) for _ in range(blocks))
        self.transformer = _transformer(channels, shape) if attends else None

    def forward(self, x: Tensor, m: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, C, N], m [B, D] -> [B, C', N / factor], and the skips in the order of the modules."""
        x, skips = self.downsample(x), []
        for block in self.blocks:
            x = block(x, m)
            skips.append(x)
        if self.transformer is not None:
            x = self.transformer(x)
            skips.append(x)
        return x, tuple(skips)


class Bottleneck(nn.Module):
    """Block, attention without a residual path (so published), block. [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, shape: Shape):
        super().__init__()
        self.pre_block = _block(channels, channels, shape)
        self.attention = OverTime(Attention(channels, shape.heads, shape.head_features))
        self.post_block = _block(channels, channels, shape)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """[B, C, N], m [B, D] -> [B, C, N]."""
        return self.post_block(self.attention(self.pre_block(x, m)), m)


class Decoder(nn.Module):
    """An encoder backwards, with a residual block for each of its skips: [B, C, N] -> [B, C', factor N]."""

    def __init__(self, channels: int, channels_out: int, factor: int, blocks: int, attends: bool, shape: Shape):
        super().__init__()
        self.blocks = nn.ModuleList(_block(2 * channels, channels, shape) for _ in range(blocks + attends))
        self.transformer = _transformer(channels, shape) if attends else None
        self.upsample = nn.ConvTranspose1d(
            channels, channels_out, 2 * factor, stride=factor, padding=factor // 2
        )

    def forward(self, x: Tensor, skips: tuple[Tensor, ...], m: Tensor) -> Tensor:
        """[B, C, N], m [B, D] -> [B, C', factor N]. skips: as the encoder of this level gave them."""
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([x, skip * math.sqrt(0.5)], dim=1), m)
        if self.transformer is not None:
            x = self.transformer(x)
        return self.upsample(x)


class UNet(nn.Module):
    """The network of the file's head.

    channels: A, of x and of y. labels: L, 0 where there is no label. timed: whether a time is told.
    """

    def __init__(self, shape: Shape, *, channels: int = 1, labels: int = 0, timed: bool = False):
        super().__init__()
        shape.check()
        assert labels or timed, "m is made of something"
        features = 4 * shape.width
        self.to_mapping = nn.Sequential(
            nn.Linear(features, features), nn.GELU(), nn.Linear(features, features), nn.GELU()
        )
        if timed:
            position = nn.Sequential(TimeFeatures(shape.width // 2), nn.Linear(shape.width + 1, features))
            self.to_time = nn.Sequential(position, nn.GELU())
        if labels:
            self.to_features = nn.Sequential(nn.Linear(labels, features), nn.GELU())
        self.channels, self.labels, self.timed, self.multiple = channels, labels, timed, shape.multiple

        widths = [shape.width * multiplier for multiplier in shape.multipliers]
        levels = list(zip(widths, widths[1:], shape.factors, shape.blocks, shape.attentions, strict=False))
        self.to_in = Only(Patch(channels, shape.width, shape.patch, features))
        self.downsamples = ModuleListOf(Encoder(*level, shape) for level in levels)
        self.bottleneck = Bottleneck(widths[-1], shape)
        self.upsamples = ModuleListOf(
            Decoder(inner, outer, factor, blocks, attends, shape)
            for outer, inner, factor, blocks, attends in reversed(levels)
        )
        self.to_out = Only(Unpatch(channels, shape.width, shape.patch, features))

    def condition(self, label: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """The vector m [B, D] of a one-hot label [B, L], a time [B] (in diffusion models c_noise), or both."""
        assert (label is not None, time is not None) == (self.labels > 0, self.timed)
        heard = []
        if time is not None:
            features, linear, act = self._time_parts()
            heard.append(act(linear(features(time).to(self.dtype))))
        if label is not None:
            heard.append(self.to_features(label.to(self.dtype)))
        return self.to_mapping(sum(heard))

    def forward(self, x: Tensor, m: Tensor, inject: Taps | None = None) -> tuple[Tensor, Taps]:
        """x [B, A, T], m [B, D] -> y [B, A, T] and its taps. T is a multiple of `multiple`.

        inject: the taps of another network, for as many items of the batch.
        """
        given_stem = _plus(x, inject and inject.stem)
        stem = self.to_in(given_stem, m)

        x, given_encoder, skips = stem, [], []
        for i, encoder in enumerate(self.downsamples):
            given_encoder.append(_plus(x, inject and inject.encoder[i]))
            x, saved = encoder(given_encoder[-1], m)
            skips.append(saved)

        given_bottleneck = _plus(x, inject and inject.bottleneck)
        x = self.bottleneck(given_bottleneck, m)

        given_decoder = []
        for i, (decoder, saved) in enumerate(zip(self.upsamples, reversed(skips), strict=True)):
            given_decoder.append(_plus(x, inject and inject.decoder[i]))
            x = decoder(given_decoder[-1], saved, m)

        given_head = _plus(x + stem, inject and inject.head)
        taps = Taps(given_stem, tuple(given_encoder), given_bottleneck, tuple(given_decoder), given_head)
        return self.to_out(given_head, m), taps

    @property
    def dtype(self) -> torch.dtype:
        """The type that it computes in."""
        return next(self.to_mapping.parameters()).dtype

    def compute_in(self, dtype: torch.dtype) -> None:
        """Convert all weights but the time's frequencies: they make angles of many turns."""
        if not self.timed:
            self.to(dtype)
            return
        features, _, _ = self._time_parts()
        frequencies = features.weights.data
        self.to(dtype)
        features.weights.data = frequencies

    def _time_parts(self) -> tuple[TimeFeatures, nn.Linear, nn.Module]:
        """The modules within `to_time`, which have numbers for names."""
        position, act = self.to_time
        assert isinstance(position, nn.Sequential)
        features, linear = position
        assert isinstance(features, TimeFeatures) and isinstance(linear, nn.Linear)
        return features, linear, act


def _plus(x: Tensor, tap: Tensor | None) -> Tensor:
    return x if tap is None else x + tap


def _block(channels_in: int, channels: int, shape: Shape) -> ResBlock:
    return ResBlock(channels_in, channels, groups=shape.groups, features=4 * shape.width)


def _transformer(channels: int, shape: Shape) -> Transformer:
    return Transformer(channels, shape.heads, shape.head_features, shape.ff_multiplier)
