"""Between a complex spectrogram and the real channels of a network.

Knows nothing of layers or of audio files. There are two ways in and out:

    complex as channels (cac)   [L.re, L.im, R.re, R.im] in, and the stems' spectrograms come out as such
    magnitude                   |spec| in; the stems' magnitudes come out and take the phase of the mix

Axes: B batch, S sources, C audio channels, F frequency bins, N frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_channels(spec: Tensor, cac: bool) -> Tensor:
    """Channels out of a spectrogram: complex [B, C, F, N] -> real [B, 2C, F, N], or magnitudes [B, C, F, N]."""
    if not cac:
        return spec.abs()
    return torch.view_as_real(spec).permute(0, 1, 4, 2, 3).flatten(1, 2)


def from_complex_channels(x: Tensor) -> Tensor:
    """Spectrograms out of channels: real [B, S, 2C, F, N] -> complex [B, S, C, F + 1, N], Nyquist bin silent.

    In the memory order of the inverse STFT: F last.
    """
    x = x.unflatten(2, (-1, 2)).permute(0, 1, 2, 5, 4, 3)
    spec = F.pad(x, (0, 0, 0, 1))
    return torch.view_as_complex(spec).transpose(-1, -2)


def from_magnitudes(magnitudes: Tensor, mix: Tensor, *, damped: bool) -> Tensor:
    """Spectrograms out of magnitudes [B, S, C, F, N] and the phase of the mix: complex [B, S, C, F, N].

    mix: complex [B, C, F, N].
    Where the mix is exactly zero the phase is 0; or with `damped` (a negative number of Wiener iterations)
    the result fades out with it. "Magnitudes" are a network's output and may be negative.
    """
    if damped:
        phase = mix / (1e-8 + mix.abs())
    else:
        phase = torch.sgn(mix)
        phase = torch.where(phase == 0, torch.ones_like(phase), phase)
    return magnitudes * phase[:, None]
