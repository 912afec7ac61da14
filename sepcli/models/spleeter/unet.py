"""The U-Net of Spleeter: the magnitudes of a mix in, one stem's logits out. Knows no audio.

    down k = 0..5   conv 5x5, stride 2 -> c[k]     c[k] -> norm -> activation -> down k + 1
    up   k = 0..5   transposed conv 5x5, stride 2 -> activation -> norm -> dropout -> with c[4 - k] in front
    last            conv 4x4, dilation 2

c[5] goes to the first `up` as it is. (Jansson et al., "Singing Voice Separation with Deep U-Net Convolutional
Networks", 2017; Hennequin et al., "Spleeter", 2020, and its published code.)

Axes: B batch, C channels of audio, N frames, F bins. N and F are multiples of 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf
from sepcli.nn.norm import Norm

ACTIVATIONS = ("LeakyReLU", "ReLU", "ELU")
LEVELS = 6
MULTIPLE = 2**LEVELS  # of frames and of bins
FEW = 16  # channels: to so few, one convolution that gives all four values of each 2 x 2 is faster
DROPOUT = 0.5  # after the first three of `up`, in training


def activation(name: str) -> nn.Module:
    """The activation that a Config names. ValueError for another name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"the activation is '{name}', but must be one of {', '.join(ACTIVATIONS)}")
    return {"LeakyReLU": nn.LeakyReLU(0.2), "ReLU": nn.ReLU(), "ELU": nn.ELU()}[name]


def keras_norm(channels: int) -> Norm:
    """Batch normalisation with the constants of Keras."""
    return Norm(channels, epsilon=1e-3, momentum=0.01)


class Down(nn.Module):
    """A convolution that halves both axes; padded as TensorFlow does, by one before and two after."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N / 2, F / 2]."""
        return self.conv(F.pad(x, (1, 2, 1, 2)))


class Up(nn.Module):
    """A transposed convolution that doubles both axes: of the full result one row and column are cut off at the
    beginning, two at the end."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels, 5, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', 2N, 2F]."""
        if self.conv.out_channels > FEW:
            return self.conv(x)[..., :-1, :-1]
        bias = None if self.conv.bias is None else self.conv.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, _by_parity(self.conv.weight), bias, padding=1), 2)


def _by_parity(weight: Tensor) -> Tensor:
    """A transposed kernel [C, C', 5, 5] of stride 2 as the kernel [4C', C, 3, 3] of a convolution.

    Output 2m + p gets input m + d by the tap p - 2d + 1; four rows a channel: (even, even), (even, odd), ...
    """
    padded = F.pad(weight.transpose(0, 1), (0, 1, 0, 1))  # the even ones have no third tap
    taps = [[3, 1, 5], [4, 2, 0]]
    kernels = [padded[:, :, rows][..., columns] for rows in taps for columns in taps]
    return torch.stack(kernels, dim=1).flatten(0, 1)


class UNet(nn.Module):
    """The network of the file's head: [B, C, N, F] -> [B, C, N, F]."""

    def __init__(self, channels: int, filters: Sequence[int], down: str, up: str):
        """filters: channels of the convolutions. down, up: activations on the way down and up."""
        super().__init__()
        if len(filters) != LEVELS:
            raise ValueError(f"filters has {len(filters)} numbers, but must have {LEVELS}")
        before = [channels, *filters[:-1]]
        self.down = ModuleListOf(Down(a, b) for a, b in zip(before, filters, strict=True))
        self.down_norms = ModuleListOf(keras_norm(count) for count in filters[:-1])
        after = [*reversed(filters[:-1]), 1]
        inputs = [filters[-1], *(2 * count for count in after[:-1])]
        self.up = ModuleListOf(Up(a, b) for a, b in zip(inputs, after, strict=True))
        self.up_norms = ModuleListOf(keras_norm(count) for count in after)
        self.last = nn.Conv2d(1, channels, 4, dilation=2, padding=3)
        self.down_activation, self.up_activation = activation(down), activation(up)
        self.apply(_initialise)
        # torch documents the argument; its stub has left it out.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C, N, F]."""
        x = x.contiguous(memory_format=torch.channels_last)  # transposed convolutions are faster in that order
        skips = []
        for down, norm in zip(self.down[:-1], self.down_norms, strict=True):
            skips.append(down(x))
            x = self.down_activation(norm(skips[-1]))
        x = self.down[-1](x)
        for k, (up, norm) in enumerate(zip(self.up, self.up_norms, strict=True)):
            x = norm(self.up_activation(up(x)))
            if k < 3:
                x = F.dropout(x, DROPOUT, self.training)
            if skips:
                x = torch.cat([skips.pop(), x], dim=1)
        return self.last(x)


def _initialise(module: Any) -> None:
    """He's uniform initialisation, as published; no biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
