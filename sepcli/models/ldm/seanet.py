"""SEANet: EnCodec's encoder and decoder between a waveform and its latents. Knows no codebooks and no files.

    x [B, C, T] -> Conv k7 -> (residual block, ELU, Conv k2r stride r) for each r -> LSTM -> ELU -> Conv k7 -> z
    z [B, D, N] -> Conv k7 -> LSTM -> (ELU, transposed Conv k2r stride r, residual block) for each r
                -> ELU -> Conv k7 -> y [B, C, hop N]                     hop = the product of the ratios r

The encoder takes the ratios in reverse and doubles its channels with each; the decoder halves them again. After
every convolution stands GroupNorm of one group, over channels and time, also after the decoder's last one. So
the latents hardly depend on the level of x, and the level of y does not depend on z at all: the caller has to
keep the level (`codec.py`). Every length is one stream: statistics are taken over the whole call.

This is the non-causal 48 kHz model of Défossez et al. 2022, "High Fidelity Neural Audio Compression" (section
3.1), with the names of its published weights.

Axes: B batch, C channels, T samples, N = ceil(T / hop) latents, D values of a latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SeanetConfig:
    """The defaults are those of the published 48 kHz model."""

    samplerate: int = 48000  # Hz
    channels: int = 2
    filters: int = 32  # channels after the first convolution; doubled at every ratio
    latent: int = 128  # D
    ratios: tuple[int, ...] = (8, 5, 4, 2)  # in the decoder's order
    residuals: int = 1  # residual blocks at every ratio
    lstm_layers: int = 2
    kernel: int = 7  # samples or latents, of the first convolution
    last_kernel: int = 7
    residual_kernel: int = 3
    dilation_growth: int = 2  # of the residual blocks at one ratio, from block to block
    compress: int = 2  # a residual block works on so many times fewer channels

    @property
    def hop(self) -> int:
        """Samples from one latent to the next."""
        return math.prod(self.ratios)

    def check(self) -> None:
        """ValueError where no network can have these values."""
        positive = (
            "samplerate",
            "filters",
            "latent",
            "residuals",
            "lstm_layers",
            "kernel",
            "last_kernel",
            "residual_kernel",
            "dilation_growth",
            "compress",
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.channels not in (1, 2):
            raise ValueError(f"channels is {self.channels}, but must be 1 or 2")
        if not self.ratios or min(self.ratios) < 2:
            raise ValueError(f"ratios are {self.ratios}, but must be one or more numbers of at least 2")
        if self.filters % self.compress:
            raise ValueError(f"filters ({self.filters}) must be a multiple of compress ({self.compress})")


class Conv(nn.Module):
    """Mirror at both ends, convolve, normalise: [B, C, T] -> [B, C', ceil(T / stride)]."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, dilation=dilation)
        self.norm = nn.GroupNorm(1, channels)
        self.stride, self.padding = stride, (kernel - 1) * dilation + 1 - stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', ceil(T / stride)]."""
        right = self.padding // 2
        return self.norm(self.conv(_mirrored(x, self.padding - right, right + -x.shape[-1] % self.stride)))


class ConvTranspose(nn.Module):
    """Convolve, normalise, then cut the ends off, in the published order: [B, C, N] -> [B, C', stride N]."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels_in, channels, 2 * stride, stride)
        self.norm = nn.GroupNorm(1, channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', stride N]."""
        left = self.stride - self.stride // 2  # of `stride` samples too many, the odd one
        return self.norm(self.conv(x))[..., left : left + self.stride * x.shape[-1]]


class Residual(nn.Module):
    """Two convolutions through fewer channels, and a third as the way around them: [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int, dilation: int, compress: int):
        super().__init__()
        hidden = channels // compress
        self.block = nn.ModuleList(
            [nn.ELU(), Conv(channels, hidden, kernel, dilation=dilation), nn.ELU(), Conv(hidden, channels, 1)]
        )
        self.shortcut = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        y = x
        for layer in self.block:
            y = layer(y)
        return self.shortcut(x) + y


class Memory(nn.Module):
    """An LSTM forward in time, added to its input: [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N] -> [B, C, N]."""
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class Encoder(nn.Module):
    """The encoder of the file's head: [B, C, T] -> latents [B, D, ceil(T / hop)]."""

    def __init__(self, config: SeanetConfig):
        super().__init__()
        width = config.filters
        layers: list[nn.Module] = [Conv(config.channels, width, config.kernel)]
        for ratio in reversed(config.ratios):
            layers += _residuals(width, config)
            layers += [nn.ELU(), Conv(width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        layers += [Memory(width, config.lstm_layers), nn.ELU(), Conv(width, config.latent, config.last_kernel)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, D, ceil(T / hop)]."""
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """The decoder of the file's head: latents [B, D, N] -> [B, C, hop N]."""

    def __init__(self, config: SeanetConfig):
        super().__init__()
        width = config.filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [Conv(config.latent, width, config.kernel), Memory(width, config.lstm_layers)]
        for ratio in config.ratios:
            layers += [nn.ELU(), ConvTranspose(width, width // 2, ratio)]
            width //= 2
            layers += _residuals(width, config)
        layers += [nn.ELU(), Conv(width, config.channels, config.last_kernel)]
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor) -> Tensor:
        """[B, D, N] -> [B, C, hop N]."""
        for layer in self.layers:
            z = layer(z)
        return z


def _residuals(width: int, config: SeanetConfig) -> list[nn.Module]:
    return [
        Residual(width, config.residual_kernel, config.dilation_growth**block, config.compress)
        for block in range(config.residuals)
    ]


def _mirrored(x: Tensor, left: int, right: int) -> Tensor:
    """Mirrored at both ends, [..., T] -> [..., left + T + right]; a T too short for that gets silence first."""
    if not left and not right:
        return x
    short = max(left, right) + 1 - x.shape[-1]
    if short <= 0:
        return F.pad(x, (left, right), mode="reflect")
    return F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")[..., :-short]
