"""Demucs+Gibbs: a Demucs that is told some of the stems estimates the others, again and again.

    mix, all stems outside a block -> Demucs -> the stems of that block          another block in each step

The network is a time-domain Demucs with further inputs: each stem, or zeros where the stem is masked, and for
each stem a channel of ones or zeros that says which of the two it is, since a stem may be silent. The network
learns to estimate the masked stems from any others (an orderless NADE). A separation begins with all stems
masked, which is an ordinary separation. Then blocks of stems are masked and estimated anew, given the others:
this is block Gibbs sampling, except that the network gives a mean, so that only the choice of blocks is random.
(Manilow et al. 2022, "Improving source separation by explicitly modeling dependencies between sources", arXiv
2203.15140.)

Ours, where we know of nothing published: the channels that say which stems are masked; how many are masked in
training (each number equally often, as in the orderless NADE of Uria, Murray and Larochelle 2014); and how
large blocks are. They shrink as in Coconet (Huang et al. 2017, "Counterpoint by convolution"):

    alpha_n = max(alpha_min, alpha_max - n / (eta T) (alpha_max - alpha_min))          in step n of T

is the share of the stems in a block. Their number is rounded up or down at random, so that the mean is right;
it is at least one, since an empty block changes nothing, and never all, since that would be the beginning
again.

Axes: B batch, S sources, C channels, T samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import narrowed_copy, source_indices
from sepcli.models.config import check_options
from sepcli.models.demucs.demucs import Demucs, DemucsConfig
from sepcli.models.objective import Examples, Objective, check_trains
from sepcli.nn.losses import Criterion, Loss


@dataclass(frozen=True)
class GibbsOptions:
    """How blocks are drawn; all of it ours. The paper takes 256 or 512 steps."""

    steps: int = 32
    alpha_max: float = 0.75  # share of the stems in the first blocks
    alpha_min: float = 0.25  # and in the last
    eta: float = 0.75  # share of the steps after which alpha_min is reached

    def __post_init__(self) -> None:
        check_options(self, steps=0, alpha_max=(0, 1), alpha_min=(0, self.alpha_max), eta=(1e-6, 1))

    def alpha(self, step: int) -> float:
        """The share of the stems in the block of that step: alpha_n of the file's head."""
        fallen = step / (self.eta * self.steps) * (self.alpha_max - self.alpha_min)
        return max(self.alpha_min, self.alpha_max - fallen)


def drawn_block(alpha: float, step: int, sources: Sequence[str], seed: int) -> list[bool]:
    """The block of that step, [S]: True where a stem is in it.

    A function of its arguments alone, the same along the track: chunks that overlap take the same blocks.
    """
    noise = Noise(seed, [0], [0])

    def uniform(name: str) -> float:
        return 0.5 * math.erfc(noise.normal(step, name, 1, 1).item() / math.sqrt(2))

    order = sorted(sources, key=uniform)
    size = min(max(1, math.floor(alpha * len(sources) + uniform("size of the block"))), len(sources) - 1)
    return [name in order[:size] for name in sources]


class GibbsDemucs(Demucs):
    """The network of the file's head: [B, C, T] -> [B, S, C, T] in 1 + steps passes."""

    normalize = False  # each call is standardised, and there is nothing to learn from the track's level
    draws_noise = True
    options: GibbsOptions

    def __init__(self, config: DemucsConfig):
        count = len(config.sources)
        if count < 2:
            raise ValueError("there must be two sources or more to tell apart")
        super().__init__(config, extra=count * config.audio_channels + count)
        self.known = self.sources  # those it was built for; `sources` are those that were selected
        self.options = GibbsOptions()

    def conditional(self, mix: Tensor, stems: Tensor, masked: Tensor) -> Tensor:
        """One pass: mix [B, C, T], stems [B, S, C, T], masked [B, S] -> the stems, masked ones estimated."""

        def given(mean: Tensor, divisor: Tensor) -> Tensor:
            # In the units of the network's results. No product with the mask: masked stems may hold anything.
            standard = (stems - mean[:, None]) / divisor[:, None]
            shown = standard.masked_fill(masked[..., None, None], 0.0).flatten(1, 2)
            flags = (~masked).to(mix)[..., None].expand(-1, -1, mix.shape[-1])
            return torch.cat([shown, flags], dim=1)

        return torch.where(masked[..., None, None], self.with_extra(mix, given), stems)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32. Of the noise only the seed counts."""
        batch, channels, samples = mix.shape
        stems = mix.new_zeros(batch, len(self.known), channels, samples)
        blocks = [[True] * len(self.known)]  # the ordinary separation
        seed = noise.seed if noise else 0
        blocks += [
            drawn_block(self.options.alpha(step), step, self.known, seed) for step in range(self.options.steps)
        ]
        for block in blocks:
            stems = self.conditional(mix, stems, torch.tensor([block] * batch, device=mix.device))
        return stems[:, source_indices(self.known, self.sources)]

    def used(self) -> Mapping[str, Any]:
        """See Separator: the sampler's options."""
        return asdict(self.options)

    def select(self, sources: Sequence[str]) -> GibbsDemucs:
        """See Separator. Every stem depends on all others, so narrowing saves no work."""
        return narrowed_copy(self, sources)


class Orderless(Objective):
    """Some stems of each example are masked, at random, and estimated from the mix and the others.

    How many is drawn first, each number equally often, so that all masked, where a separation begins, is one
    case in S. The loss is the criterion's, averaged over the masked stems alone.
    """

    def __init__(self, model: GibbsDemucs, criterion: Criterion):
        check_trains("orderless", model, GibbsDemucs)
        self.criterion = criterion

    def __call__(self, model: GibbsDemucs, batch: Examples) -> Loss:
        stems = batch.stems  # [B, S, C, T]
        masked = drawn_masks(*stems.shape[:2]).to(stems.device)
        estimate = model.conditional(stems.sum(1), stems, masked).float()
        # Stems that are not masked are their own references, without error.
        losses = [self.criterion(estimate[row : row + 1], stems[row : row + 1]) for row in range(len(stems))]
        shares = masked.float().mean(1)  # [B]
        parts = {name: torch.stack([loss.parts[name] for loss in losses]) for name in losses[0].parts}
        total = torch.stack([loss.total for loss in losses])
        return Loss((total / shares).mean(), {name: (each / shares).mean() for name, each in parts.items()})


def drawn_masks(examples: int, sources: int) -> Tensor:
    """The masked stems of each example, bool [B, S]: 1 to S at random, each number equally often."""
    count = torch.randint(1, sources + 1, (examples, 1))
    rank = torch.rand(examples, sources).argsort(dim=1).argsort(dim=1)
    return rank < count
