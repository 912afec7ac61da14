"""What loading gives, and how it becomes a model of the wanted stems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sepcli.engine.counterpart import WithCounterpart
from sepcli.engine.separator import Separator, source_indices
from sepcli.weights.entries import Entry


@dataclass(frozen=True)
class Loaded:
    """A model and where it came from.

    model: narrowed to the wanted stems. sources: all stems the model has by name. hashes: sha256 of each file
    used, in the members' order. more: stems that it gives on request (Separator.more).
    """

    name: str
    model: Separator
    sources: tuple[str, ...]
    hashes: tuple[str, ...]
    origin: str
    entry: Entry | None = None
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def network(self) -> Separator:
        """The network itself, without the counterpart that the catalogue declares."""
        return self.model.network if isinstance(self.model, WithCounterpart) else self.model


def together(
    name: str, model: Separator, sources: tuple[str, ...], loaded: Sequence[Loaded], entry: Entry | None
) -> Loaded:
    """A model that is made of those."""
    hashes = tuple(digest for each in loaded for digest in each.hashes)
    return Loaded(name, model, sources, hashes, ", ".join(dict.fromkeys(each.origin for each in loaded)), entry)


def narrowed(model: Separator, wanted: Sequence[str]) -> Separator:
    """The model for these stems; a model of queries alone has none before it is bound, and stays as it is."""
    if not wanted or tuple(wanted) == tuple(model.sources):
        return model
    return model.select(wanted).eval().requires_grad_(False)


def wanted_of(
    sources: Sequence[str], targets: Sequence[str] | None, more: Collection[str] = ()
) -> tuple[str, ...]:
    """The targets, each once, or all sources. more: stems on request. UsageError for a stem that it lacks."""
    wanted = tuple(dict.fromkeys(targets or sources))
    source_indices((*sources, *more), wanted)
    return wanted
