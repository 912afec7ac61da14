"""From a denoiser to samples: noise levels, preconditioning, and the ways down from noise to data.

Knows tensors and functions: no network, no audio. Data x_0 with noise of deviation sigma is x = x_0 + sigma
eps, and a denoiser D(x, sigma) is the mean of x_0 given x. From it follows the direction in which x changes
with sigma (Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", eqs. 1, 3):

    dx / dsigma = (x - D(x, sigma)) / sigma                  sigma_max --------------------> 0
                                                              noise                        data

A consistency function g(x, sigma) jumps to the end of that way in one call (Song et al. 2023, "Consistency
models", section 3). A sampler's condition is inside its denoiser. Noise is an argument: `draw(k)` is the k-th
standard normal of x's shape. So a sampler is a pure function.

Axes: x is [B, ...]; a sigma is one number (a tensor without axes) or one an example [B], in units of the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x [B, ...], sigma [] or [B]) -> [B, ...]
Draw = Callable[[int], Tensor]  # k -> the k-th standard normal, of the sampler's shape
MAX_CHURN = math.sqrt(2) - 1  # at most doubles the noise's power at once (Karras et al. 2022, algorithm 2)


# --- noise levels ----------------------------------------------------------------------------------------


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """`steps` levels from sigma_max down to sigma_min, then 0: [steps + 1] (Karras et al. 2022, eq. 5).

    A larger rho puts more of them at the lower end. One step begins at sigma_max.
    """
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (top + ramp * (bottom - top)) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def karras_sigma(t: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The curve of `karras_sigmas` at any t: 0 gives sigma_max, 1 sigma_min."""
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (top + t * (bottom - top)) ** rho


def consistency_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """The levels of multistep consistency sampling, [steps]: a grid that ends at sigma_min, without its end.

    At sigma_min itself a consistency function changes nothing, so it is not called there.
    """
    return karras_sigmas(steps + 1, sigma_min, sigma_max, rho)[:steps]


# --- preconditioning -------------------------------------------------------------------------------------


class Scalings(NamedTuple):
    """The factors of D(x, sigma) = skip x + out F(in_ x, noise): they keep a network's input and target at unit
    variance."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor  # sigma as the network is told it, c_noise


def edm_scalings(sigma: Tensor, sigma_data: float) -> Scalings:
    """Karras et al. 2022, table 1 (last column). sigma_data: deviation of the data."""
    total = sigma.square() + sigma_data**2
    return Scalings(sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4)


def consistency_scalings(sigma: Tensor, sigma_data: float, sigma_min: float) -> Scalings:
    """As `edm_scalings`, but with g(x, sigma_min) = x exactly (Song et al. 2023, appendix C)."""
    edm, above = edm_scalings(sigma, sigma_data), sigma - sigma_min
    skip = sigma_data**2 / (above.square() + sigma_data**2)
    return edm._replace(skip=skip, out=above * sigma_data * edm.in_)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """The weight of a squared error at sigma: 1 / out^2 (Karras et al. 2022, table 1)."""
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def preconditioned(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, scalings: Scalings
) -> Tensor:
    """skip x + out F(in_ x, noise), of x's shape (Karras et al. 2022, eq. 7). network: (x, noise [B]) -> F."""
    skip, out, in_ = (along(scale, x) for scale in scalings[:3])
    return skip * x + out * network(in_ * x, scalings.noise.to(x).expand(len(x)))


def along(values: Tensor, x: Tensor) -> Tensor:
    """One value [], or one for each example [B] -> a shape that multiplies x [B, ...]."""
    return values.to(x).reshape(-1, *[1] * (x.dim() - 1)) if values.dim() else values.to(x)


# --- from noise to data ----------------------------------------------------------------------------------


def stochastic_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, draw: Draw, *, churn: float = 0.0, corrections: int = 1
) -> Tensor:
    """From x at sigmas[0] to sigmas[-1]; (len(sigmas) - 1) * corrections calls.

    Each step first adds noise up to sigma_hat = sigma (1 + gamma), gamma = churn / steps at most sqrt(2) - 1,
    and goes down from there (Karras et al. 2022, algorithm 2 without its second order). It is repeated
    `corrections` times, noise taking x back up in between (Mariani et al. 2024, "Multi-source diffusion
    models", algorithm 1). draw: 2 * corrections - 1 numbers a step, in the order of use.
    """
    steps = len(sigmas) - 1
    gamma, k = min(churn / steps, MAX_CHURN), 0
    for sigma, below in itertools.pairwise(sigmas):
        for correction in range(corrections):
            hat = sigma * (1 + gamma)
            if gamma:
                x = x + (hat.square() - sigma.square()).sqrt() * draw(k)
            x = x + slope(denoise, x, hat) * (below - hat)
            if correction < corrections - 1:
                x = x + (sigma.square() - below.square()).sqrt() * draw(k + 1)
            k += 1 if correction == corrections - 1 else 2
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """From x at sigmas[0] to sigmas[-1] in second order, nothing random (Karras et al. 2022, algorithm 1).

    sigmas: [steps + 1], or [steps + 1, B] for a way of its own for each example. A step to 0 is Euler's, since
    there is no direction at 0. Two calls a step.
    """
    for sigma, below in itertools.pairwise(sigmas):
        here, step = slope(denoise, x, sigma), along(below - sigma, x)
        euler = x + step * here
        x = euler if not below.any() else x + step * (here + slope(denoise, euler, below)) / 2
    return x


def heun_hops(denoise: Denoise, x: Tensor, grid: Tensor, start: Tensor, hops: int) -> Tensor:
    """x at grid[start], each example from its own start [B], to grid[start + hops] (Kim et al. 2024, CTM)."""
    return heun(denoise, x, grid[start + torch.arange(hops + 1, device=start.device)[:, None]])


def slope(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """dx / dsigma (Karras et al. 2022, eqs. 1 and 3)."""
    return (x - denoise(x, sigma)) / along(sigma, x)


def consistency_sample(g: Denoise, x: Tensor, sigmas: Tensor, draw: Draw, *, sigma_min: float) -> Tensor:
    """From x at sigmas[0] by one call of g for each of `sigmas` [K] (Song et al. 2023, algorithm 1).

    Between two calls the result gets noise up to the next level again: K - 1 times, since the result
    of g has the level sigma_min. draw: K - 1 numbers.
    """
    for k, sigma in enumerate(sigmas):
        if k:
            x = x + (sigma.square() - sigma_min**2).clamp(min=0).sqrt() * draw(k - 1)
        x = g(x, sigma)
    return x


def v_noised(clean: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Data and normals [B, ...], t [B] in [0, 1] -> z_phi, and the v to be learnt from it; see `v_ddim`."""
    phi = along(t, clean) * math.pi / 2
    return phi.cos() * clean + phi.sin() * eps, phi.cos() * eps - phi.sin() * clean


def v_ddim(predict_v: Denoise, z: Tensor, steps: int) -> Tensor:
    """From standard normals z to data in `steps` equal steps of an angle, nothing random.

    z_phi = cos(phi) z_0 + sin(phi) eps for phi from pi / 2 to 0, and the network gives v = cos(phi) eps
    - sin(phi) z_0 (Salimans and Ho 2022, "Progressive distillation", appendix D: a step is a rotation).
    predict_v: (z, t []) -> v, where t = phi / (pi / 2) in [0, 1].
    """
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t, below in itertools.pairwise(times):
        phi, lower = t * math.pi / 2, below * math.pi / 2
        v = predict_v(z, t.float())
        clean, noise = phi.cos() * z - phi.sin() * v, phi.sin() * z + phi.cos() * v
        z = lower.cos() * clean + lower.sin() * noise
    return z
