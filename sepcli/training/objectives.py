"""What a step of training asks of a network: objective(model, batch) -> Loss.

Knows the contract of separators and batches; nothing of optimisers or files. The default is here; a family that
trains in its own way brings its own (`Family.objectives`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.family import Family, Objective
from sepcli.losses import Criterion, Loss
from sepcli.separator import Separator


def choose_objective(
    name: str, options: Mapping[str, Any], family: Family, model: Separator, criterion: Criterion
) -> Objective:
    """The objective of that name, "separation" or one of the family's; UsageError names those there are."""
    known = {"separation": lambda model, criterion: Separation(criterion, model.normalize), **family.objectives}
    if name not in known:
        raise UsageError(f"There is no objective '{name}' for the family '{family.name}'.",
                         remedy=f"There is {', '.join(known)}.")
    parameters = inspect.signature(known[name]).parameters.values()
    allowed = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise UsageError(f"The objective '{name}' has no option {', '.join(unknown)}.",
                         remedy=f"It has {', '.join(allowed) or 'none'}: correct [objective_options].")
    return known[name](model, criterion, **options)


class Separation:
    """Take the sum of the stems apart again, all stems in one pass.

    normalize: the network wants a standardised track. An example is standardised by its own mean and deviation
    instead of its track's: what is mixed at random has no track.
    """

    def __init__(self, criterion: Criterion, normalize: bool):
        self.criterion = criterion
        self.normalize = normalize

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        stems = batch.stems  # [B, S, C, T]
        mix = stems.sum(1)
        if self.normalize:
            mean, scale = standard(mix)
            mix, stems = (mix - mean) / scale, stems / scale[:, None]
        return self.criterion(model(mix), stems)


def standard(mix: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, T] -> mean, scale [B, 1, 1] of the mean over channels, as the pipeline does with a whole track.

    The floor is far above the pipeline's: a nearly silent example must not be blown up to full scale.
    """
    mono = mix.mean(1, keepdim=True)
    return mono.mean(-1, keepdim=True), mono.std(-1, keepdim=True) + 1e-3
