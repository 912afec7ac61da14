"""The objectives that every network can be trained with, and how one is chosen by its name.

Knows the contract of separators and batches; nothing of optimisers or files. A family that trains in a way of
its own brings its own objectives (`Family.objectives`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sepcli.engine.separator import Separator
from sepcli.errors import UsageError, did_you_mean
from sepcli.loading import load_model
from sepcli.models.family import Family
from sepcli.models.objective import Examples, Objective, rest_of
from sepcli.nn.losses import Criterion, Loss


def separation(model: Separator, criterion: Criterion) -> Separation:
    """The default objective, for this network."""
    return Separation(criterion, model.normalize, rest_of(model))


def choose_objective(
    name: str, options: Mapping[str, Any], family: Family, model: Separator, criterion: Criterion
) -> Objective:
    """The objective of this name: "separation", "matching", or one of the family's.

    UsageError, naming what there is, for a name or an option that does not exist.
    """
    known = {"separation": separation, "matching": Matching, **family.objectives}
    if name not in known:
        raise UsageError(
            f"There is no objective '{name}' for the family '{family.name}'.",
            remedy=f"There is {', '.join(known)}.",
        )
    parameters = inspect.signature(known[name]).parameters.values()
    allowed = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise UsageError(
            f"The objective '{name}' has no option {', '.join(unknown)}.",
            remedy=f"It has {', '.join(allowed) or 'none'}: correct [objective_options].",
        )
    return known[name](model, criterion, **options)


class Separation(Objective):
    """Take the sum of the stems apart again, all stems in one pass.

    normalize: the network wants a standardised track. An example is standardised by its own mean and deviation
    instead, because stems that are mixed at random have no track. rest: as in Objective; it is in the mix only.
    """

    def __init__(self, criterion: Criterion, normalize: bool, rest: str | None = None):
        self.criterion = criterion
        self.normalize = normalize
        self.rest = rest

    def __call__(self, model: nn.Module, batch: Examples) -> Loss:
        stems = batch.stems  # [B, S, C, T]
        mix = stems.sum(1)
        if self.normalize:
            mean, scale = standard(mix)
            mix, stems = (mix - mean) / scale, stems / scale[:, None]
        return self.criterion(model(mix), stems[:, :-1] if self.rest else stems)


class Matching(Objective):
    """Separation, while layers of the network learn to tell examples apart as layers of a teacher do.

    What is matched are the similarities [B, B] of a layer's outputs for the B examples, not the outputs
    themselves. So the two layers may have any shapes, and nothing but the network is learnt (Tung and Mori
    2019, "Similarity-preserving knowledge distillation", eqs. 1 to 4). A batch must have several examples.

    teacher: a model as for `separate --model`, run on each batch. layers: pairs [module of the teacher, module
    of the network], by their names in torch. weight: of the mean over layers, beside the criterion.
    """

    def __init__(
        self,
        model: Separator,
        criterion: Criterion,
        *,
        teacher: str = "",
        layers: Sequence[Sequence[str]] = (),
        weight: float = 1.0,
    ):
        if not teacher or not layers or any(len(pair) != 2 for pair in layers):
            raise UsageError(
                'The objective "matching" needs a teacher and pairs of layers.',
                remedy="Give both in objective_options; `sepcli distill --match` does.",
            )
        self.plain = separation(model, criterion)
        self.rest = self.plain.rest
        self.teacher = load_model(teacher).model.eval().requires_grad_(False)
        self.weight = weight
        self.layers = [
            (_layer(self.teacher, theirs, "teacher"), _layer(model, ours, "student")) for theirs, ours in layers
        ]

    def __call__(self, model: nn.Module, batch: Examples) -> Loss:
        mix = batch.stems.sum(1)
        self.teacher.to(mix.device)
        theirs, ours = _heard([layer for layer, _ in self.layers]), _heard([layer for _, layer in self.layers])
        with theirs as wanted, torch.no_grad():
            mean, scale = standard(mix) if self.teacher.normalize else (0.0, 1.0)
            self.teacher((mix - mean) / scale)
        with ours as found:
            loss = self.plain(model, batch)
        distances = [
            (similarities(a) - similarities(b)).square().mean() for a, b in zip(wanted, found, strict=True)
        ]
        distance = torch.stack(distances).mean()
        return Loss(loss.total + self.weight * distance, {**loss.parts, "matching": distance.detach()})


def similarities(values: Tensor) -> Tensor:
    """Outputs of a layer [B, ...] -> how alike examples are, [B, B]; each row has length 1."""
    rows = values.float().flatten(1)
    return nn.functional.normalize(rows @ rows.T, dim=1)


def _layer(model: nn.Module, name: str, whose: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        guess = did_you_mean(name, [known for known, _ in model.named_modules() if known])
        raise UsageError(
            f"The {whose} has no layer '{name}'. {guess}".rstrip(),
            remedy=f"Its outermost are {', '.join(known for known, _ in model.named_children())}.",
        ) from None


def _first(out: Any) -> Tensor:
    """A layer's output, or its first one where it has several."""
    return out if isinstance(out, Tensor) else out[0]


@contextmanager
def _heard(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that holds the outputs of these layers after the block, in their order."""
    found: dict[int, Tensor] = {}
    values: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, __, out, k=k: found.__setitem__(k, _first(out)))
        for k, layer in enumerate(layers)
    ]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()
        values += [found[k] for k in range(len(layers))]


def standard(mix: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, T] -> mean and scale of the mean over channels, [B, 1, 1]: what the pipeline measures of a track.

    The scale's floor is far above the pipeline's: a nearly silent example must not be blown up to full scale.
    """
    mono = mix.mean(1, keepdim=True)
    return mono.mean(-1, keepdim=True), mono.std(-1, keepdim=True) + 1e-3
