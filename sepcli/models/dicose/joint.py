"""MSDM and ISDM: the stems of a mix are drawn together, by denoisers that know stems and no mix.

What says that the stems add up to the mix y is added while sampling (Mariani et al. 2024, "Multi-source
diffusion models for simultaneous music generation and separation", the section on source separation). Both
ways are written here as denoisers, D(x, sigma) of the stems turned into D'(x, sigma) of the stems given y, for
any sampler:

    Dirac      one stem c is not sampled but always y - sum of the others; what the denoiser would take from it
               the others have to take over:              D'_j = D_j + (x_c - D_c)
    Gaussian   all are sampled, and share what is missing: D'_j = D_j + (y - sum_i x_i) / (2 w^2), where the
               sum may be off by a deviation of w sigma

(x - D') / sigma is then the paper's step, s_j - s_c under Dirac with s = (x - D) / sigma. Under Dirac the stems
returned add up to the mix exactly: the constrained stem is made from the final others, where the authors' code
keeps its last but one value.

Axes: B batch, S sources, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sepcli.engine.noise import Noise
from sepcli.engine.separator import source_indices
from sepcli.errors import UsageError, parameter
from sepcli.models.config import check_options
from sepcli.models.dicose.sampled import Sampled, SampledConfig, draws, told
from sepcli.models.dicose.unet import UNet
from sepcli.nn.diffusion import (
    MAX_CHURN,
    Denoise,
    edm_scalings,
    karras_sigmas,
    preconditioned,
    stochastic_euler,
)

POSTERIORS = ("dirac", "gaussian")
WIDTH = 0.75  # w, as published
MOST_STEPS = 10_000


# --- posteriors ------------------------------------------------------------------------------------------


def complete(x: Tensor, mix: Tensor, constrained: int) -> Tensor:
    """All stems but one [B, S - 1, T] and mix [B, 1, T] -> all stems [B, S, T], whose sum is the mix."""
    rest = mix - x.sum(1, keepdim=True)
    return torch.cat([x[:, :constrained], rest, x[:, constrained:]], dim=1)


def dirac(denoise: Denoise, mix: Tensor, constrained: int) -> Denoise:
    """A denoiser of all stems [B, S, T] -> one of the stems but `constrained` [B, S - 1, T], given the mix."""

    def posterior(x: Tensor, sigma: Tensor) -> Tensor:
        whole = complete(x, mix, constrained)
        denoised = denoise(whole, sigma)
        removed = whole[:, constrained] - denoised[:, constrained]
        others = torch.cat([denoised[:, :constrained], denoised[:, constrained + 1 :]], dim=1)
        return others + removed[:, None]

    return posterior


def gaussian(denoise: Denoise, mix: Tensor, width: float = WIDTH) -> Denoise:
    """A denoiser of all stems [B, S, T] -> one given the mix [B, 1, T]."""

    def posterior(x: Tensor, sigma: Tensor) -> Tensor:
        missing = mix - x.sum(1, keepdim=True)
        return denoise(x, sigma) + missing / (2 * width**2)

    return posterior


# --- options ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointOptions:
    """How MSDM and ISDM sample; the defaults are the published ones."""

    steps: int = 150
    corrections: int = 2  # times that each step is done
    posterior: str = "dirac"  # or "gaussian"
    churn: float | None = None  # noise added in a step; None: 20 for MSDM with Dirac, else 40
    sigma_max: float = 1.0
    sigma_min: float = 1e-4
    rho: float = 7.0
    constrained: str | None = None  # with Dirac, the stem that is the rest; None: the first

    def __post_init__(self) -> None:
        check_options(self, steps=1, corrections=1, churn=0, sigma_min=1e-6, sigma_max=self.sigma_min, rho=1)
        if self.posterior not in POSTERIORS:
            raise UsageError(
                f"The option posterior is '{self.posterior}', but can be {' or '.join(POSTERIORS)}.",
                code="bad_option",
                remedy=f"Correct posterior ({parameter('options')}), or leave it out.",
            )

    @property
    def draws(self) -> int:
        """Numbers drawn for each sample of a stem: the start's and the sampler's."""
        return 1 + self.steps * (2 * self.corrections - 1)

    def sigmas(self) -> Tensor:
        """[steps + 1]."""
        return karras_sigmas(self.steps, self.sigma_min, self.sigma_max, self.rho)


def is_stable(options: JointOptions, sources: int) -> bool:
    """Whether a mistake in the mixture's sum shrinks in every step but the last; `churn` must be filled in.

    A step goes the share a = 1 - sigma_next / sigma_hat of the way from x to D'. Where the sum of the stems is
    off by r, D' answers with S r (Dirac) or S r / (2 w^2) (Gaussian), so r is multiplied by 1 minus that times
    a. The last step goes all the way.
    """
    if options.steps < 2:
        return False
    sigmas = options.sigmas().double()
    assert options.churn is not None
    hat = sigmas[:-2] * (1 + min(options.churn / options.steps, MAX_CHURN))
    answer = sources if options.posterior == "dirac" else sources / (2 * WIDTH**2)
    return bool(((1 - sigmas[1:-1] / hat) * answer).max() < 2)


def stable_steps(options: JointOptions, sources: int) -> int | None:
    """The least number of steps from `options.steps` on that is stable."""
    steps = range(options.steps, MOST_STEPS)
    return next((n for n in steps if is_stable(replace(options, steps=n), sources)), None)


# --- separators ------------------------------------------------------------------------------------------


class Joint(Sampled):
    """Draws all stems, whichever are wanted: each depends on all others."""

    options: JointOptions

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        if len(config.sources) < 2:
            raise ValueError("there must be two sources or more to tell apart")
        self.options = JointOptions()

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """[B, S, T] -> F [B, S, T]."""
        raise NotImplementedError

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """All stems [B, S, T] with noise -> their means, within full scale (DiCoSe and MSDM, both codes)."""
        scalings = edm_scalings(sigma, self.config.sigma_data)
        return preconditioned(self.stems_network, x, sigma, scalings).clamp(-1, 1)

    def filled(self) -> JointOptions:
        """The options with those that follow from others."""
        options = self.options
        if options.churn is None:
            options = replace(options, churn=self._churn(options.posterior))
        if options.posterior == "dirac" and options.constrained is None:
            options = replace(options, constrained=self.known[0])
        return options

    def _churn(self, posterior: str) -> float:
        return 40.0

    def used(self) -> Mapping[str, Any]:
        return asdict(self.filled())

    def notices(self, device: torch.device) -> Sequence[str]:
        options = self.filled()
        if is_stable(options, len(self.known)):
            return ()
        least = stable_steps(options, len(self.known))
        advice = "" if least is None else f" With these options it is stable from -O steps={least} on."
        return (
            f"{type(self).__name__} with {options.steps} steps grows without bounds instead of converging: "
            f"its steps are too long for the mix's sum.{advice}",
        )

    def sample(self, mix: Tensor, noise: Noise) -> Tensor:
        options = self.filled()
        if options.posterior == "dirac":
            constrained = source_indices(self.known, [options.constrained])[0]
            sampled = [name for name in self.known if name != options.constrained]
            x = self._draw(dirac(self.denoise, mix, constrained), sampled, mix, noise, options)
            stems = complete(x, mix, constrained)
        else:
            stems = self._draw(gaussian(self.denoise, mix), self.known, mix, noise, options)
        return stems[:, source_indices(self.known, self.sources), None]

    def _draw(
        self, posterior: Denoise, sampled: Sequence[str], mix: Tensor, noise: Noise, options: JointOptions
    ) -> Tensor:
        """[B, len(sampled), T]: draw 0 of the noise is the start, the others are the sampler's."""
        sigmas = options.sigmas()
        assert options.churn is not None
        with draws(noise, sampled, mix, options.draws) as draw:
            return stochastic_euler(
                posterior,
                sigmas[0] * draw(0),
                sigmas,
                lambda k: draw(k + 1),
                churn=options.churn,
                corrections=options.corrections,
            )


class MSDM(Joint):
    """One network of all stems, its channels."""

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.unet = UNet(config, channels=len(config.sources), timed=True)

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return told(self.unet)(x, c_noise)

    def _churn(self, posterior: str) -> float:
        return 20.0 if posterior == "dirac" else 40.0


class ISDM(Joint):
    """A network for each stem, that never heard the others ("weakly supervised")."""

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.unets = nn.ModuleList(UNet(config, timed=True) for _ in config.sources)

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        parts = zip(self.unets, x.split(1, dim=1), strict=True)
        return torch.cat([told(unet)(part, c_noise) for unet, part in parts], dim=1)
