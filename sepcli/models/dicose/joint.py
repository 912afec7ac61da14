"""MSDM and ISDM: the stems of a mix are drawn together, by denoisers that know stems and no mix.

That the stems add up to the mix y comes in while sampling (Mariani et al. 2024, "Multi-source diffusion models
for simultaneous music generation and separation", the section on source separation). There are two ways. Both
are written here as denoisers, which any sampler can use: D(x, sigma) of the stems becomes D'(x, sigma) of the
stems given y.

    Dirac      one stem c is not sampled but always y - sum of the others; whatever the denoiser would take from
               it, the others take over:                      D'_j = D_j + (x_c - D_c)
    Gaussian   all are sampled, and share the missing part:   D'_j = D_j + (y - sum_i x_i) / (2 w^2), where the
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
from torch import Tensor

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
from sepcli.nn.modules import ModuleListOf

POSTERIORS = ("dirac", "gaussian")
WIDTH = 0.75  # w, as published
MOST_STEPS = 10_000


# --- posteriors ------------------------------------------------------------------------------------------


def complete(x: Tensor, mix: Tensor, constrained: int) -> Tensor:
    """Put in the missing stem: all stems but one [B, S - 1, T], mix [B, 1, T] -> all [B, S, T], of sum mix.

    constrained: the position of the missing stem.
    """
    rest = mix - x.sum(1, keepdim=True)
    return torch.cat([x[:, :constrained], rest, x[:, constrained:]], dim=1)


def dirac(denoise: Denoise, mix: Tensor, constrained: int) -> Denoise:
    """The Dirac posterior: a denoiser of all stems [B, S, T] -> one of all but `constrained`, given the mix.

    mix: [B, 1, T]. The new denoiser takes and gives [B, S - 1, T].
    """

    def posterior(x: Tensor, sigma: Tensor) -> Tensor:
        whole = complete(x, mix, constrained)
        denoised = denoise(whole, sigma)
        removed = whole[:, constrained] - denoised[:, constrained]
        others = torch.cat([denoised[:, :constrained], denoised[:, constrained + 1 :]], dim=1)
        return others + removed[:, None]

    return posterior


def gaussian(denoise: Denoise, mix: Tensor, width: float = WIDTH) -> Denoise:
    """The Gaussian posterior: a denoiser of all stems [B, S, T] -> one of them given the mix [B, 1, T].

    width: w.
    """

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
        """The levels of noise, from sigma_max down to 0: [steps + 1]."""
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
    """The least number of steps from `options.steps` on that is stable; None where none below MOST_STEPS is."""
    steps = range(options.steps, MOST_STEPS)
    return next((n for n in steps if is_stable(replace(options, steps=n), sources)), None)


# --- separators ------------------------------------------------------------------------------------------


class Joint(Sampled):
    """The frame of MSDM and ISDM. All stems are drawn, whichever are wanted: each depends on all others."""

    options: JointOptions

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        if len(config.sources) < 2:
            raise ValueError("there must be two sources or more to tell apart")
        self.options = JointOptions()

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """The network: all stems with noise [B, S, T], c_noise [B] -> F [B, S, T]."""
        raise NotImplementedError

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser: all stems with noise [B, S, T] -> their means, within full scale.

        (So in the code of DiCoSe and in that of MSDM.)
        """
        scalings = edm_scalings(sigma, self.config.sigma_data)
        return preconditioned(self.stems_network, x, sigma, scalings).clamp(-1, 1)

    def filled(self) -> JointOptions:
        """The options, with those filled in that follow from others."""
        options = self.options
        if options.churn is None:
            options = replace(options, churn=self._churn(options.posterior))
        if options.posterior == "dirac" and options.constrained is None:
            options = replace(options, constrained=self.known[0])
        return options

    def _churn(self, posterior: str) -> float:
        return 40.0

    def used(self) -> Mapping[str, Any]:
        """See Separator: all options, filled in."""
        return asdict(self.filled())

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator: where the options make an unstable sampler."""
        options = self.filled()
        if is_stable(options, len(self.known)):
            return ()
        least = stable_steps(options, len(self.known))
        enough = parameter("options", f"steps={least}")
        advice = "" if least is None else f" With these options it is stable from {enough} on."
        return (
            f"{type(self).__name__} with {options.steps} steps grows without bounds instead of converging: "
            f"its steps are too long for the mix's sum.{advice}",
        )

    def sample(self, mix: Tensor, noise: Noise) -> Tensor:
        """See Sampled."""
        options = self.filled()
        if options.posterior == "dirac":
            assert options.constrained is not None
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
    """Multi-source diffusion: one network whose channels are the stems."""

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.unet = UNet(config, channels=len(config.sources), timed=True)

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """See Joint."""
        return told(self.unet)(x, c_noise)

    def _churn(self, posterior: str) -> float:
        return 20.0 if posterior == "dirac" else 40.0


class ISDM(Joint):
    """Independent-source diffusion, "weakly supervised": a network for each stem that never heard the rest."""

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.unets = ModuleListOf(UNet(config, timed=True) for _ in config.sources)

    def stems_network(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """See Joint."""
        parts = zip(self.unets, x.split(1, dim=1), strict=True)
        return torch.cat([told(unet)(part, c_noise) for unet, part in parts], dim=1)
