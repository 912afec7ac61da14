"""Twice the sample rate and back, inside time-domain networks: fixed filters of windowed sincs.

Files are resampled elsewhere (sound/resample.py). These are the values that the networks were trained with,
also where a better filter exists (J. O. Smith, Digital Audio Resampling Home Page).

Axes: B batch, C channels, T samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ZEROS = 24  # zero crossings of the sinc on each side
_ROLLOFF = 0.945  # cut-off as a fraction of the lower Nyquist frequency


def sinc_filters(old: int, new: int) -> Tensor:
    """Windowed sincs that turn `old` samples into `new`, one a phase: [new, 1, taps].

    Output sample n·new + i is input at time n·old + i·old/new, interpolated as
        y(t) = sum over k of x[k] · sinc(c·(k - t)) · cos²(pi·c·(k - t) / (2·zeros)),  c the cut-off,
    each filter scaled to sum 1 so that a constant stays one.
    """
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_ZEROS * old / cutoff)
    steps = torch.arange(-width, width + old, dtype=torch.float32)
    filters = []
    for phase in range(new):
        x = ((steps / old - phase / new) * cutoff).clamp(-_ZEROS, _ZEROS) * math.pi
        filter = torch.where(x == 0, 1.0, torch.sin(x) / x) * torch.cos(x / _ZEROS / 2) ** 2
        filters.append(filter / filter.sum())
    return torch.stack(filters)[:, None]


def double_and_halve(device: torch.device) -> tuple[Tensor, Tensor]:
    """The filters of `upsampled` and of `downsampled`."""
    return sinc_filters(1, 2).to(device), sinc_filters(2, 1).to(device)


def upsampled(x: Tensor, filters: Tensor) -> Tensor:
    """Double the sample rate: [B, C, T] -> [B, C, 2T]; beyond its ends the signal stays at its last value."""
    batch, channels, samples = x.shape
    width = (filters.shape[-1] - 1) // 2
    x = F.pad(x, (width, width), mode="replicate").reshape(batch * channels, 1, -1)
    return F.conv1d(x, filters).transpose(1, 2).reshape(batch, channels, 2 * samples)


def downsampled(x: Tensor, filters: Tensor) -> Tensor:
    """Halve the sample rate: [B, C, T] -> [B, C, T // 2]."""
    batch, channels, samples = x.shape
    width = (filters.shape[-1] - 2) // 2
    x = F.pad(x, (width, width + 2), mode="replicate").reshape(batch * channels, 1, -1)
    return F.conv1d(x, filters, stride=2).view(batch, channels, -1)[..., : samples // 2]
