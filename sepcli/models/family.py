"""What a model family is, and how one is found: by the name of its folder in `models/`.

Knows no family by name and keeps no list: a new folder with a `FAMILY` in it is a new family.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sepcli import models
from sepcli.engine.separator import Separator
from sepcli.errors import ModelError, UsageError
from sepcli.models.objective import Objective
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.entries import Entry


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
    build: type[Separator]  # the network's class: build(config) is a network with fresh weights
    options: type | None = None  # frozen dataclass filled by `-O key=value`; nothing in it shapes weights
    base: Origin | None = None  # `train --base`: its part that does not learn
    teacher: Origin | None = None  # `distill --method consistency --teacher`: what it begins as

    def can(self, ability: type[Separator]) -> bool:
        """Whether its networks are Queryable, Inspectable or a Coder; no weights are needed to tell."""
        return issubclass(self.build, ability)


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


def entry_can(entry: Entry, ability: type[Separator]) -> bool:
    """`Arch.can` of a model of the catalogue."""
    if len(entry.members) != 1:  # an ensemble has none of them
        return False
    arch = get_family(entry.family).archs.get(entry.members[0].arch)
    return arch is not None and arch.can(ability)


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
