"""A bank of filters that splits audio into K bands of equal width, each at 1 / K of the rate, and joins them.

(PQMF: pseudo quadrature mirror filters.) The filters of published networks are in their files; a fresh network
gets a bank of ours.

Axes: B batch, C channels, K bands, T samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BETA = 9.0  # of the Kaiser window


class FilterBank(nn.Module):
    """[B, C, T] -> [B, C * K, T / K + taps / K] and back; K divides T and taps."""

    analysis: Tensor  # [K, 1, taps]
    synthesis: Tensor  # [K, K, taps / K]

    def __init__(self, bands: int, taps: int):
        super().__init__()
        self.bands, self.taps = bands, taps
        analysis = modulated(bands, taps)
        self.register_buffer("analysis", analysis[:, None])
        # Output j of a convolution at the low rate is sample j of every K.
        phases = bands * analysis.view(bands, taps // bands, bands).flip(1)
        self.register_buffer("synthesis", phases.permute(2, 0, 1).contiguous())

    def split(self, wave: Tensor) -> Tensor:
        """[B, C, T] -> [B, C * K, T / K + taps / K], a channel's bands beside each other, the lowest first."""
        batch, channels, _ = wave.shape
        padded = F.pad(wave, (self.taps - self.bands, self.taps)).view(batch * channels, 1, -1)
        return F.conv1d(padded, self.analysis, stride=self.bands).view(batch, channels * self.bands, -1)

    def join(self, bands: Tensor) -> Tensor:
        """[B, C * K, T / K + taps / K] -> [B, C, T]."""
        batch, count, samples = bands.shape
        each = bands.reshape(batch * count // self.bands, self.bands, samples)
        phases = F.conv1d(F.pad(each, (0, self.taps // self.bands - 1)), self.synthesis)
        wave = phases.transpose(1, 2).reshape(batch, count // self.bands, -1)
        return wave[..., : -self.taps]


def modulated(bands: int, taps: int) -> Tensor:
    """[K, taps] float32 filters, reversed in time: a windowed low-pass, moved to the middle of each band.

    What is split with them is joined again with an error of -64 dB (4 bands, 64 taps). The cut-off is the one
    whose prototype is the most nearly orthogonal to itself, moved by multiples of 2 K samples. (Lin and
    Vaidyanathan, "A Kaiser window approach for the design of prototype filters of cosine modulated
    filterbanks", IEEE Signal Processing Letters 5(6), 1998.)
    """
    time = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2
    window = torch.kaiser_window(taps, periodic=False, beta=BETA, dtype=torch.float64, device="cpu")
    cutoffs = torch.linspace(0.5, 1, 1001, dtype=torch.float64, device="cpu") / bands
    low = torch.sinc(cutoffs[:, None] * time) * window
    low = low / low.norm(dim=-1, keepdim=True)
    moves = range(2 * bands, taps, 2 * bands)
    errors = torch.stack([(low[:, :-move] * low[:, move:]).sum(dim=-1).abs() for move in moves]).sum(dim=0)
    band = torch.arange(bands, dtype=torch.float64, device="cpu")[:, None]
    phase = (2 * band + 1) * math.pi / (2 * bands) * time + (-1) ** band * math.pi / 4
    filters = low[errors.argmin()] * torch.cos(phase)
    return (filters / filters.norm(dim=-1, keepdim=True) / math.sqrt(bands)).flip(-1).float()
