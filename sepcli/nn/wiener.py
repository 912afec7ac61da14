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

Sony's (D3Net) keeps C from being singular in another way: no sqrt(eps) I, but a floor below every power; and
where C is singular all the same, C^H / |C|^2 in the place of its inverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sepcli.nn.doubles import double_place

SONY_FLOOR = 1e-10  # below a source's power, as a share of its highest
SONY_SINGULAR = 1e-10  # determinants below it


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


def wiener_from_stems(mix: Tensor, stems: Tensor) -> Tensor:
    """Sony's filter, one iteration in double precision: complex [B, C, N, F], [B, S, C, N, F] -> the latter.

    stems: estimates with a phase. C is 1 or 2.
    """
    device = double_place(mix.device)
    x, y = (each.to(device, torch.complex128) for each in (mix, stems))
    power = y.abs().square().mean(dim=2)
    power = power + SONY_FLOOR * power.amax(dim=(2, 3), keepdim=True)
    spatial, covariance = _covariances(y, power, torch.finfo(torch.float64).eps)
    return _filtered(power, spatial, _solved_or_scaled(covariance, x)).to(mix.device, stems.dtype)


def _improved(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """One iteration of the file's head: mix [B, C, N, F], stems [B, S, C, N, F] -> stems."""
    power = y.abs().square().mean(dim=2)
    spatial, covariance = _covariances(y, power, eps)
    for channel in range(x.shape[1]):
        covariance[:, channel, channel] += math.sqrt(eps)
    return _filtered(power, spatial, _solved(covariance, x))


def _covariances(y: Tensor, power: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """R [B, S, C, C, F] and the sum of v R [B, C, C, N, F], of stems [B, S, C, N, F] and v [B, S, N, F]."""
    products = torch.einsum("bscnf,bsdnf->bscdf", y, y.conj())
    spatial = products / (eps + power.sum(dim=2))[:, :, None, None]
    return spatial, torch.einsum("bsnf,bscdf->bcdnf", power.to(y.dtype), spatial)


def _filtered(power: Tensor, spatial: Tensor, white: Tensor) -> Tensor:
    """v R w: v [B, S, N, F], R [B, S, C, C, F], w [B, C, N, F] -> stems [B, S, C, N, F]."""
    return power.to(white.dtype)[:, :, None] * torch.einsum("bscdf,bdnf->bscnf", spatial, white)


def _solved(matrix: Tensor, x: Tensor) -> Tensor:
    """C^-1 x: matrices [B, C, C, N, F] and vectors [B, C, N, F] -> [B, C, N, F]."""
    adjugate, determinant = _adjugate(matrix)
    return _times(adjugate, x) / determinant[:, None]


def _solved_or_scaled(matrix: Tensor, x: Tensor) -> Tensor:
    """The same; where the determinant is below SONY_SINGULAR, C^H x / (|C|^2 + eps)."""
    adjugate, determinant = _adjugate(matrix)
    singular = determinant.abs() < SONY_SINGULAR
    determinant = torch.where(singular, torch.ones_like(determinant), determinant)
    norm = matrix.abs().square().sum(dim=(1, 2)) + torch.finfo(torch.float64).eps
    scaled = _times(matrix.transpose(1, 2).conj(), x) / norm[:, None]
    return torch.where(singular[:, None], scaled, _times(adjugate, x) / determinant[:, None])


def _adjugate(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Adjugates [B, C, C, N, F] and determinants [B, N, F] of matrices [B, C, C, N, F]; C is 1 or 2."""
    if matrix.shape[1] == 1:
        return torch.ones_like(matrix), matrix[:, 0, 0]
    a, b, c, d = matrix.flatten(1, 2).unbind(1)
    return torch.stack([d, -b, -c, a], dim=1).unflatten(1, (2, 2)), a * d - b * c


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """[B, C, C, N, F] and [B, C, N, F] -> [B, C, N, F]."""
    return (matrix * x[:, None]).sum(dim=2)
