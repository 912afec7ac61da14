"""Bins into bands, and bands into masks: products of many matrices at once (nn/bands.py).

    [N, B, 2 F] --norm, linear: one matrix a band--> [N, B, K, D]
    [K, N B, D] --norm, MLP, GLU: one a band-------> [N B, 2 F]       the mask of one stem

A bin is two values side by side, its real and its imaginary part. Published files have all real parts of a band
first; checkpoint.py brings them into this order.

Axes: N frames, B batch (each channel is an item), F bins, K bands, D values of a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.bsrnn.config import BSRNNConfig
from sepcli.nn.bands import BandLinear, runs
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.pieces import at_once

EPS = 1e-7  # of every norm, beside the variance


def standardised(x: Tensor, dims: Sequence[int]) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over these axes, in float32 at least; constants become zeros."""
    precise = x.float() if x.element_size() < 4 else x
    variance, mean = torch.var_mean(precise, tuple(dims), correction=0, keepdim=True)
    return (precise - mean) * (variance + EPS).rsqrt()


class BandSplit(nn.Module):
    """[N, B, 2 F] float32 -> [N, B, K, D]: each band is normalised over time, and brought to D values."""

    def __init__(self, config: BSRNNConfig):
        super().__init__()
        self.runs, self.ends = runs(config.bands), [0, *accumulate(config.bands)]
        shapes = [(count, 2 * width) for _, count, width in self.runs]
        self.gammas = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)
        self.betas = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
        self.linears = ModuleListOf(BandLinear(count, values, config.dim) for count, values in shapes)

    def forward(self, bins: Tensor) -> Tensor:
        """See the class."""
        rows = []
        for (first, count, width), gamma, beta, linear in zip(
            self.runs, self.gammas, self.betas, self.linears, strict=True
        ):
            low = 2 * self.ends[first]
            run = bins[..., low : low + 2 * count * width].unflatten(-1, (count, 2 * width))
            run = standardised(run, (0, 3)).to(gamma.dtype)
            run = torch.addcmul(beta, run, gamma).flatten(0, 1).transpose(0, 1)
            rows.append(linear(run))
        return torch.cat(rows).transpose(0, 1).contiguous().unflatten(0, bins.shape[:2])


class Masker(nn.Module):
    """The mask of one stem: [K, N B, D], standardised -> [N B, 2 F]."""

    def __init__(self, config: BSRNNConfig):
        super().__init__()
        bands, dim, hidden = len(config.bands), config.dim, config.dim * config.mask_expansion
        self.runs = runs(config.bands)
        self.gamma = nn.Parameter(torch.ones(bands, dim))
        self.beta = nn.Parameter(torch.zeros(bands, dim))
        self.first = BandLinear(bands, dim, hidden)
        self.second = BandLinear(bands, hidden, hidden)
        self.last = ModuleListOf(BandLinear(count, hidden, 4 * width) for _, count, width in self.runs)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        masks = []
        for (first, count, _), last in zip(self.runs, self.last, strict=True):
            step = at_once(tokens.shape[1], tokens.device)
            for begin in range(0, count, step):
                part = slice(begin, min(begin + step, count))
                bands = slice(first + part.start, first + part.stop)
                x = torch.addcmul(self.beta[bands][:, None], tokens[bands], self.gamma[bands][:, None])
                x = self.second(self.first(x, bands).tanh(), bands).tanh()
                masks += F.glu(last(x, part), dim=-1).unbind()
        return torch.cat(masks, dim=-1)
