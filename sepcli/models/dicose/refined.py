"""DiCoSe: a frozen deterministic U-Net estimates a target, a second one refines it, from noise of a low level.

    mix, label -> base -> estimate, taps          once for each target
    estimate + sigma_max eps -> sampler -> target          of D or g, each call fed the same taps

Diffusion goes down the levels of noise with a denoiser. Consistency, distilled from it, goes to the end in one
call; it may then add noise again and repeat. `sigma_max`, the level of the start, says how far a result may be
from the estimate. (DiCoSe 2024, sections 3 and 4; constants of its code.)

Axes: R rows, each a target of an item of the batch; T samples, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.models.config import check_options
from sepcli.models.dicose.deterministic import Base
from sepcli.models.dicose.sampled import Network, Sampled, SampledConfig, draws, told
from sepcli.models.dicose.unet import Taps, UNet
from sepcli.nn.diffusion import (
    Denoise,
    Draw,
    consistency_sample,
    consistency_scalings,
    consistency_sigmas,
    edm_scalings,
    karras_sigmas,
    preconditioned,
    stochastic_euler,
)

RHO = 9.0  # of all its schedules


class Refined(Sampled):
    """The frame of both: estimate by `base`, which does not learn, then `refine`."""

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.unet = UNet(config, labels=len(config.sources), timed=True)
        self.base = Base(config).requires_grad_(False)

    def hear(self, mix: Tensor, label: Tensor) -> tuple[Tensor, Taps]:
        """The base: mix [R, 1, T], one-hot labels [R, L] -> estimates [R, 1, T], taps for the second U-Net."""
        with torch.no_grad():
            return self.base.hear(mix, label)

    def refine(self, network: Network, estimate: Tensor, draw: Draw) -> Tensor:
        """Estimates [R, 1, T] -> targets [R, 1, T]. draw: number 0 is the noise of the start."""
        raise NotImplementedError

    def sample(self, mix: Tensor, noise: Noise) -> Tensor:
        """See Sampled."""
        rows, label = self.rows(mix)
        estimate, taps = self.hear(rows, label)
        with draws(noise, self.sources, mix, self.options.draws) as draw:
            refined = self.refine(
                told(self.unet, label, taps), estimate, lambda k: draw(k).flatten(0, 1)[:, None]
            )
        return self.stems(refined.clamp(-1, 1))

    def edm(self, network: Network) -> Denoise:
        """The network as a denoiser without bounds on its result: as a teacher, and in the loss on noise."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return preconditioned(network, x, sigma, edm_scalings(sigma, self.config.sigma_data))

        return denoise


# --- diffusion -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of the sampler. The defaults are those of the paper's best result."""

    steps: int = 5
    corrections: int = 2  # times that each step is done
    sigma_max: float = 0.01  # noise added to the estimate, full scale being 1
    sigma_min: float = 1e-4
    churn: float = 20.0  # noise added in each step, over the number of steps

    def __post_init__(self) -> None:
        check_options(self, steps=1, corrections=1, sigma_min=1e-6, sigma_max=self.sigma_min, churn=0)

    @property
    def draws(self) -> int:
        """Numbers drawn for each sample of a target: the start's and the sampler's."""
        return 1 + self.steps * (2 * self.corrections - 1)


class Diffusion(Refined):
    """The diffusion model of the file's head: 1 + steps * corrections passes for each target."""

    options: DiffusionOptions

    def __init__(self, config: SampledConfig):
        super().__init__(config)
        self.options = DiffusionOptions()

    def denoiser(self, network: Network) -> Denoise:
        """The denoiser that is trained and sampled: its result stays within full scale."""
        denoise = self.edm(network)
        return lambda x, sigma: denoise(x, sigma).clamp(-1, 1)

    def refine(self, network: Network, estimate: Tensor, draw: Draw) -> Tensor:
        """See Refined."""
        options = self.options
        sigmas = karras_sigmas(options.steps, options.sigma_min, options.sigma_max, RHO)
        return stochastic_euler(
            self.denoiser(network),
            estimate + sigmas[0] * draw(0),
            sigmas,
            lambda k: draw(k + 1),
            churn=options.churn,
            corrections=options.corrections,
        )


# --- consistency -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConsistencyConfig(SampledConfig):
    """`SampledConfig` and the lowest level. The defaults are those of the published checkpoints."""

    sigma_min: float = 1e-4  # the level that the function leads to


@dataclass(frozen=True)
class ConsistencyOptions:
    """Options of the sampler. The default steps are those of the paper's best result; one step loses 1.3 dB."""

    steps: int = 4
    sigma_max: float | None = None  # noise added to the estimate; None: as published for so many steps

    def __post_init__(self) -> None:
        check_options(self, steps=1, sigma_max=0)

    @property
    def draws(self) -> int:
        """Numbers drawn for each sample of a target: the start's, and one before each further call."""
        return self.steps

    @property
    def level(self) -> float:
        """sigma_max, or, where that is None, as published for so many steps (for 3 and above 4: as for 4)."""
        published = {1: 0.01244, 2: 0.2497}
        return published.get(self.steps, 0.2495) if self.sigma_max is None else self.sigma_max


class Consistency(Refined):
    """The consistency model of the file's head: 1 + steps passes for each target."""

    options: ConsistencyOptions

    def __init__(self, config: ConsistencyConfig):
        super().__init__(config)
        self.options = ConsistencyOptions()

    def function(self, network: Network) -> Denoise:
        """The consistency function g(x, sigma), which leads to `sigma_min`."""
        config = self.config

        def g(x: Tensor, sigma: Tensor) -> Tensor:
            return preconditioned(
                network, x, sigma, consistency_scalings(sigma, config.sigma_data, config.sigma_min)
            )

        return g

    def refine(self, network: Network, estimate: Tensor, draw: Draw) -> Tensor:
        """See Refined."""
        low = self.config.sigma_min
        sigmas = consistency_sigmas(self.options.steps, low, self._level(), RHO)
        return consistency_sample(
            self.function(network), estimate + sigmas[0] * draw(0), sigmas, lambda k: draw(k + 1), sigma_min=low
        )

    def used(self) -> Mapping[str, Any]:
        """See Separator: the options, with the level that follows from the steps."""
        return asdict(self.options) | {"sigma_max": self._level()}

    def _level(self) -> float:
        return max(self.options.level, self.config.sigma_min)
