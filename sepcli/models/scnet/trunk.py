"""The trunk of SCNet: LSTMs along rows and along frames, in turns on frames and on their spectrum along time.

Axes: B batch, D channels, R rows, N frames (of a spectrum N / 2 + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepcli.models.scnet.levels import channels_last
from sepcli.nn.modules import ModuleListOf

ROWS, FRAMES = 2, 3  # axes of [B, D, R, N]


class Path(nn.Module):
    """x + linear(LSTM(norm(x))) along one axis: [B, D, R, N] -> the same, channels last."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.lstm = nn.LSTM(dim, hidden, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, dim)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """The LSTM gets [sequence, items, D]: along rows, of one batch item, that is x's own memory."""
        other = ROWS + FRAMES - axis
        y = self.norm(x).permute(axis, 0, other, 1)
        y = self.linear(self.lstm(y.flatten(1, 2))[0]).unflatten(1, (len(x), -1))
        return x + (y.permute(1, 3, 0, 2) if axis == ROWS else y.permute(1, 3, 2, 0))


class Layer(nn.Module):
    """A path along rows, then one along frames."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.rows = Path(dim, hidden)
        self.frames = Path(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, R, N] -> the same."""
        return self.frames(self.rows(x, ROWS), FRAMES)


class Trunk(nn.Module):
    """Layers on frames and on their spectrum by turns: [B, D, R, N] -> the same. N is even."""

    def __init__(self, dim: int, layers: int, expand: int):
        super().__init__()
        widths = [dim * (1 + k % 2) for k in range(layers)]
        self.layers = ModuleListOf(Layer(width, width * expand) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """The spectrum is in float32 always: cuFFT has no other for most lengths."""
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = channels_last((_from_spectrum if number % 2 else _to_spectrum)(x.float()).to(x.dtype))
        return x


def _to_spectrum(x: Tensor) -> Tensor:
    """[B, D, R, N] -> [B, 2 D, R, N / 2 + 1]: all real parts, then all imaginary parts."""
    spectrum = torch.fft.rfft(x, norm="ortho")
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


def _from_spectrum(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.complex(*x.chunk(2, dim=1)), norm="ortho")
