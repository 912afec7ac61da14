"""The multichannel Wiener filter: from estimated magnitudes to stems, by where each is in the stereo image.

Knows no model. Every source j has a power v in each bin and frame, and a spatial covariance R in each bin; both
are estimated from each other in turn (expectation-maximisation, Nugraha et al., "Multichannel audio source
separation with deep neural networks", 2016; Liutkus and Stöter, norbert, 2019):

    v[j] = mean over channels |y[j]|^2        R[j] = sum over frames y[j] y[j]^H / (eps + sum over frames v[j])
    C = sqrt(eps) I + sum over j v[j] R[j]    y[j] = v[j] R[j] C^-1 x

Axes: B batch, S sources, C channels, N frames, F bins. The programs that use it differ in `eps`, in windows and
in where they begin:

    norbert, double precision   eps 2.2e-16   the mix's phase
    norbert, single (Spleeter)  eps 1.2e-7    soft mask of power 1
    openunmix                   eps 1e-10     the mix's phase; windows of 300 frames
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wiener(
    mix: Tensor,
    magnitudes: Tensor,
    *,
    eps: float,
    mask_power: float | None = None,
    iterations: int = 1,
    frames: int | None = None,
    residual: bool = False,
) -> Tensor:
    """The stems of a mix: complex [B, C, N, F], magnitudes [B, S, C, N, F] -> complex [B, S, C, N, F].

    mask_power: begin with a soft mask, of magnitudes raised to it; None: with the mix's phase. iterations: 0
    gives this beginning. frames: of a window that is filtered for itself; None: all. residual: one more source,
    the last, begins as what the others leave of the mix. C is 1 or 2.
    """
    assert mix.shape[1] in (1, 2), "the covariances are inverted in closed form"
    windows = zip(
        mix.split(frames or mix.shape[2], 2), magnitudes.split(frames or mix.shape[2], 3), strict=True
    )
    done = []
    for x, sizes in windows:
        if mask_power is None:
            y = torch.polar(sizes, x.angle()[:, None].expand_as(sizes))
        else:
            power = sizes.pow(mask_power)
            y = x[:, None] * (power / (eps + power.sum(dim=1, keepdim=True)))
        if residual:
            y = torch.cat([y, x[:, None] - y.sum(dim=1, keepdim=True)], dim=1)
        if iterations:
            # The published level: a larger mix is brought to a peak of 10, which decides what eps means.
            scale = (x.abs().amax(dim=(1, 2, 3), keepdim=True) / 10).clamp(min=1)
            x, y = x / scale, y / scale[:, None]
            for _ in range(iterations):
                y = _improved(x, y, eps)
            y = y * scale[:, None]
        done.append(y)
    return torch.cat(done, dim=3)


def _improved(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """One iteration of the file's head: mix [B, C, N, F], stems [B, S, C, N, F] -> stems."""
    power = y.abs().square().mean(dim=2)  # v [B, S, N, F]
    products = torch.einsum("bscnf,bsdnf->bscdf", y, y.conj())
    spatial = products / (eps + power.sum(dim=2))[:, :, None, None]  # R [B, S, C, C, F]
    power = power.to(y.dtype)
    covariance = torch.einsum("bsnf,bscdf->bcdnf", power, spatial)
    for channel in range(x.shape[1]):
        covariance[:, channel, channel] += math.sqrt(eps)
    white = _solved(covariance, x)
    return power[:, :, None] * torch.einsum("bscdf,bdnf->bscnf", spatial, white)


def _solved(matrix: Tensor, x: Tensor) -> Tensor:
    """C^-1 x: matrices [B, C, C, N, F] and vectors [B, C, N, F] -> [B, C, N, F]."""
    if x.shape[1] == 1:
        return x / matrix[:, 0]
    a, b, c, d = matrix.flatten(1, 2).unbind(1)
    first, second = x[:, 0], x[:, 1]
    determinant = a * d - b * c
    return torch.stack([d * first - b * second, a * second - c * first], dim=1) / determinant[:, None]
