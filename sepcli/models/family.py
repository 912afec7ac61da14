"""What a model family is, and where families come from: folders in `models/`, and installed packages.

Knows no family by name and keeps no list. A new folder with a `FAMILY` in it is a new family; so is an entry
point of the group `sepcli.families` in any installed package: the family's name = package.module:FAMILY.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sepcli import models
from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.objective import Objective
from sepcli.system.plugins import offered
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.entries import Entry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "sepcli.families"  # of entry points


@dataclass(frozen=True)
class Origin:
    """A trained model that gives a new network some of its weights before training begins.

    Both networks have their Config as `config`; fields that both Configs have must be equal.
    """

    kind: type[Separator]  # the trained model's class
    names: Mapping[str, str | tuple[str, ...]]  # {prefix of its weights' names: prefix of ours, or several}


@dataclass(frozen=True)
class Arch:
    """One network of a family."""

    name: str  # as in weights.toml and in checkpoints: "HTDemucs"
    config: type  # frozen dataclass; its defaults are the original constructor's and never change
    build: type[Separator]  # the network's class: build(config) is a network with fresh weights
    options: type | None = None  # frozen dataclass filled by `-O key=value`; nothing in it shapes weights
    base: Origin | None = None  # `train --base`: the model whose weights its frozen part gets
    # The prefix of the weights that one stem has for itself, with {} for its number among the sources. All
    # others know no stems: `train --init` takes them from a model of other stems too.
    of_stem: str | None = None
    teacher: Origin | None = None  # `distill --method consistency --teacher`: the model that it begins as

    def can(self, ability: type[Separator]) -> bool:
        """Whether its networks are Queryable, Inspectable or a Coder; no weights are needed to tell."""
        return issubclass(self.build, ability)


@dataclass(frozen=True)
class Package:
    """What a self-describing checkpoint says of itself."""

    arch: str
    config: Mapping[str, Any]  # constructor arguments as stored


@dataclass(frozen=True)
class Told:
    """What names and shapes of tensors tell of a checkpoint that says nothing."""

    arch: str
    config: Mapping[str, Any]  # the settings that follow from them
    # Published values of other settings, where the Config's defaults do not fit: names of stems above all.
    assumed: Mapping[str, Any] = field(default_factory=dict)
    # Another value of any setting in `config` makes other tensors. Then networks of the catalogue that have one
    # need not be built to see that they do not fit.
    exact: bool = False
    # Settings that the tensors do not tell, that not all such files share, and that are therefore not guessed.
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A network as other programs read it."""

    tensors: Mapping[str, Tensor]  # under the names of published files
    texts: Mapping[str, str]  # {suffix: content of a file beside them}: settings


@dataclass(frozen=True)
class Family:
    """Networks with one way of storing and training them."""

    name: str
    archs: Mapping[str, Arch]
    # A checkpoint's tensors under the names of the given network; nothing is left out or made up. The result is
    # loaded with strict=True.
    convert: Callable[[Checkpoint, Separator], dict[str, Tensor]]
    # What a checkpoint says of itself, None where it says nothing that this family knows. Without `describe`,
    # only sepcli's own header says what a file is.
    describe: Callable[[Checkpoint], Package | None] | None = None
    # What the tensors of a file that says nothing tell; None, or a LookupError or ValueError, for a file of
    # another family. Tensors have names and shapes but no values. `models/detection.py` proves the answer: all
    # tensors must fit.
    detect: Callable[[Checkpoint], Told | None] | None = None
    # Settings of one of its networks, by name, from the `model` part of the training toolkit's YAML.
    # ModelError, by name, for those that it does not know. None: the toolkit's files are not for this family.
    toolkit: Callable[[str, Mapping[str, Any]], dict[str, Any]] | None = None
    # More of them from its part `audio`, for families whose spectrogram stands there.
    toolkit_audio: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    # A network as other programs read it: tensors that `convert` reads. ModelError where they have no such one.
    export: Callable[[Any], Exported] | None = None
    # Config fields that change training or initial values but never a separation; not compared between
    # the catalogue and a checkpoint.
    training_only: frozenset[str] = field(default_factory=frozenset)
    # Top-level packages whose classes its published pickles name; read as names, never imported.
    packages: frozenset[str] = field(default_factory=frozenset)
    # Its own ways to be trained, by name: factory(model, criterion, **options) -> Objective. The options are
    # the factory's keyword-only parameters, all with defaults.
    objectives: Mapping[str, Callable[..., Objective]] = field(default_factory=dict)

    def arch(self, name: str) -> Arch:
        """Its network of that name; ModelError names the networks there are."""
        if name not in self.archs:
            raise ModelError(
                f"The family '{self.name}' has no network '{name}'; it has {', '.join(self.archs)}.",
                remedy="Correct `arch` in the catalogue, or update sepcli.",
            )
        return self.archs[name]


def entry_can(entry: Entry, ability: type[Separator]) -> bool:
    """`Arch.can` of a model of the catalogue."""
    if len(entry.members) != 1:  # an ensemble has none of them
        return False
    arch = get_family(entry.family).archs.get(entry.members[0].arch)
    return arch is not None and arch.can(ability)


# --- where families come from ---


def family_names() -> list[str]:
    """The names of all families, sorted. Nothing is imported."""
    return sorted({*_own_names(), *_offered()})


def get_family(name: str) -> Family:
    """The family of that name. A folder of sepcli's own wins over a package's family of the same name.

    ModelError names the families there are, or the package whose family can't be used.
    """
    if name in _own_names():
        return importlib.import_module(f"{models.__name__}.{name}").FAMILY
    offers = _offered().get(name, ())
    if not offers:
        raise ModelError(
            f"There is no model family '{name}'; there is {', '.join(family_names())}.",
            remedy="Correct `family` in the catalogue, update sepcli, or install the package that has it.",
            code="unknown_family",
        )
    if len(offers) > 1:
        raise ModelError(
            f"The packages {' and '.join(map(_package, offers))} both have a model family '{name}'.",
            remedy="Uninstall one of them.",
            code="two_families",
        )
    return _from_package(offers[0])


def all_families(notice: Callable[[str], None] = lambda text: None) -> Iterator[Family]:
    """Every family that can be used. notice: called with a sentence for each that can't, and why."""
    for name in family_names():
        try:
            yield get_family(name)
        except ModelError as error:
            notice(error.message)


def hidden_family(name: str) -> str | None:
    """The package whose family is not used, because sepcli has a family of that name itself."""
    offers = _offered().get(name, ()) if name in _own_names() else ()
    return " and ".join(_package(offer) for offer in offers) or None


def _own_names() -> list[str]:
    """Every folder in `models/`."""
    return [module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg]


def _offered() -> Mapping[str, Sequence[EntryPoint]]:
    """{family: the entry points that offer it}, of all installed packages."""
    return _offered_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _offered_on(path: tuple[str, ...]) -> Mapping[str, Sequence[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for offer in offered(GROUP):
        if offer not in found.setdefault(offer.name, []):  # a package may be on the path twice
            found[offer.name].append(offer)
    return found


def _package(offer: EntryPoint) -> str:
    return f"{offer.dist.name} {offer.dist.version}" if offer.dist else offer.module


def _from_package(offer: EntryPoint) -> Family:
    def broken(fact: str) -> ModelError:
        return ModelError(
            f"The model family '{offer.name}' of the package {_package(offer)} can't be used: {fact}.",
            remedy="Update or uninstall that package.",
            code="broken_family",
        )

    try:
        family = offer.load()
    except Exception as error:
        raise broken(f"{type(error).__name__}: {error}") from error
    if not isinstance(family, Family) or family.name != offer.name:
        raise broken(f"{offer.value} is no Family of that name")
    return family
