"""What a model family is, and how one is found: by the name of its folder in `models/`.

Knows no family by name and keeps no list: a new folder with a `FAMILY` in it is a new family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sepcli import models
from sepcli.engine.separator import Separator
from sepcli.errors import ModelError, UsageError
from sepcli.nn.losses import Loss
from sepcli.weights.checkpoint import Checkpoint

# objective(model, batch) -> Loss, batch.stems [B, S, C, T]. It may have `margin`, so many samples that it wants
# on each side of what the network is trained on; `rest`, the name of one more source that it wants, the last of
# batch.stems: all that the network's own are not; `alone`, true where the network's own stems are all that is
# in a mix, in training and so in validation; `after_step(model)`, called after each update of the weights; and
# `state_dict()` with `load_state_dict(state)`, for what it keeps from step to step.
Objective = Callable[[nn.Module, Any], Loss]


@dataclass(frozen=True)
class Origin:
    """A trained model whose weights are part of a network before that learns anything.

    Both have their Config as `config`; fields of the same name must be equal.
    """

    kind: type[Separator]
    names: Mapping[str, str | tuple[str, ...]]  # {prefix of its weights' names: prefix of ours, or several}


@dataclass(frozen=True)
class Arch:
    """One network of a family."""

    name: str  # as in weights.toml and in checkpoints: "HTDemucs"
    config: type  # frozen dataclass; its defaults are the original constructor's and never change
    build: Callable[[Any], Separator]  # config -> network with fresh weights
    options: type | None = None  # frozen dataclass filled by `-O key=value`; nothing in it shapes weights
    base: Origin | None = None  # `train --base`: its part that does not learn
    teacher: Origin | None = None  # `distill --method consistency --teacher`: what it begins as


@dataclass(frozen=True)
class Package:
    """What a self-describing checkpoint says of itself."""

    arch: str
    config: dict[str, Any]  # constructor arguments as stored


@dataclass(frozen=True)
class Family:
    name: str
    archs: Mapping[str, Arch]
    # The package a checkpoint claims to be, or None where it carries no description this family knows.
    describe: Callable[[Checkpoint], Package | None]
    # Pure: tensors under our names for that network, to be loaded with strict=True.
    convert: Callable[[Checkpoint, Separator], dict[str, Tensor]]
    # Config fields that change training or initial values but never a separation; not compared between
    # the catalogue and a checkpoint.
    training_only: frozenset[str] = field(default_factory=frozenset)
    # Top-level packages whose classes its published pickles name; read as names, never imported.
    packages: frozenset[str] = field(default_factory=frozenset)
    # Its own ways to be trained, by name: factory(model, criterion, **options) -> Objective. The options are
    # the factory's keyword-only parameters, all with defaults.
    objectives: Mapping[str, Callable[..., Objective]] = field(default_factory=dict)


def check_word(name: str, value: str, *allowed: str) -> None:
    """UsageError where an option of an objective is none of these words."""
    if value not in allowed:
        raise UsageError(
            f"objective_options.{name} is '{value}', but can be {' or '.join(allowed)}.",
            remedy=f"Correct objective_options.{name}.",
        )


def check_trains(objective: str, model: Separator, *allowed: type) -> None:
    """UsageError where an objective of that name does not train such a network."""
    if not isinstance(model, allowed):
        raise UsageError(
            f"The objective '{objective}' does not train a {type(model).__name__}.",
            remedy=f"It trains {', '.join(kind.__name__ for kind in allowed)}.",
        )


def check_options(options: Any, **least: float) -> None:
    """UsageError where an option is below the least that it can be; None follows from the others."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:
            raise UsageError(
                f"-O {name}={value:g} is too little: the least is {bound:g}.",
                code="bad_option",
                remedy=f"Give {name} as {bound:g} or more, or leave it out.",
            )


def family_names() -> list[str]:
    """Every folder in `models/`, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg)


def get_family(name: str) -> Family:
    """The family of that name; ModelError names those there are."""
    if name not in family_names():
        raise ModelError(
            f"There is no model family '{name}'; this version has {', '.join(family_names())}.",
            remedy="Correct `family` in the catalogue, or update sepcli.",
            code="unknown_family",
        )
    return importlib.import_module(f"{models.__name__}.{name}").FAMILY
