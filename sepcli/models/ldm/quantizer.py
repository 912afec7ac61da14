"""Residual vector quantiser: each latent as the sum of one vector from each of several codebooks.

    z -> nearest of codebook 0 -> what is left -> nearest of codebook 1 -> ... -> codes [Q, B, N] -> their sum

Every codebook refines those before it, so fewer codebooks are fewer bits (Défossez et al. 2022, section 3.2).
The quantiser is here to show how much quality quantising costs; codebooks are loaded, not trained.

Axes: B batch, D values and N latents, Q codebooks of K vectors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.errors import UsageError


class Quantizer(nn.Module):
    """Q codebooks of K vectors; empty until they are loaded. rate: latents a second."""

    codebooks: Tensor  # [Q, K, D]

    def __init__(self, count: int, size: int, latent: int, rate: int):
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(count, size, latent))
        self.bitrate = math.log2(size) * rate / 1000  # kbit/s of one codebook

    def count(self, bandwidth: float | None) -> int:
        """The number of codebooks for a bandwidth in kbit/s; None: all. UsageError outside their range."""
        if bandwidth is None:
            return len(self.codebooks)
        most = len(self.codebooks) * self.bitrate
        if not self.bitrate <= bandwidth <= most:
            raise UsageError(
                f"The bandwidth is {bandwidth:g} kbit/s, but this codec has {self.bitrate:g} to {most:g}.",
                remedy=f"Choose one of them: {self.bitrate:g} for each of its {len(self.codebooks)} codebooks.",
            )
        return int(bandwidth / self.bitrate + 1e-9)

    def encode(self, z: Tensor, bandwidth: float | None = None) -> Tensor:
        """Latents [B, D, N] -> codes [Q', B, N], int64; Q' follows from the bandwidth, see `count`."""
        left, codes = z.transpose(1, 2), []  # [B, N, D]
        for book in self.codebooks[: self.count(bandwidth)]:
            distance = left.square().sum(-1, keepdim=True) - 2 * left @ book.T + book.square().sum(-1)
            codes.append(distance.argmin(-1))
            left = left - F.embedding(codes[-1], book)
        return torch.stack(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [Q', B, N], Q' <= Q -> latents [B, D, N]."""
        total = sum(F.embedding(code, book) for code, book in zip(codes, self.codebooks, strict=False))
        assert isinstance(total, Tensor), "there is at least one codebook"
        return total.transpose(1, 2)
