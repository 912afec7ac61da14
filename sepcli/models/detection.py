"""Which network a file is for that does not say so: from the names and shapes of its tensors.

    each family's `detect`     ->  a network, and settings that shapes tell     at most one may claim a file
    the catalogue              ->  entries whose networks have tensors of the same names and shapes
                                   (of those, the ones whose file has the name of this one, if there are any)
    what shapes leave open     ->  as in those entries, if they agree; without any entry, as published

A notice says whatever was not told by the file itself. Knows no family by name, and loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import torch

from sepcli.errors import ModelError, SepcliError, parameter
from sepcli.models.config import make_config
from sepcli.models.family import Arch, Family, Told
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.entries import Entry, Member
from sepcli.weights.toolkit import Toolkit


@dataclass(frozen=True)
class Found:
    """A network for a file, with a Config that makes its tensors those of the file."""

    family: Family
    arch: Arch
    config: Any
    segment: Fraction | float | None  # seconds of a call, where an entry has another than its network's
    notice: str  # for the user: what was taken from where


def find_network(checkpoint: Checkpoint, families: Iterable[Family], entries: Iterable[Entry]) -> Found | None:
    """The network whose tensors have exactly the file's names and shapes; None where no family knows one.

    ModelError where two families claim the file, or where entries that fit it have different settings.
    """
    empty, entries = checkpoint.shapes_only(), list(entries)
    found = [each for family in families if (each := _in_family(empty, family, entries)) is not None]
    if len(found) > 1:
        claims = " and ".join(f"{each.arch.name} of the family '{each.family.name}'" for each in found)
        raise ModelError(
            f"'{checkpoint.path}' does not say which network it is for; its tensors are those of {claims}.",
            remedy=f"Say which it is: {parameter('model', 'NAME=FILE')}, with a NAME of `sepcli models list`.",
            code="ambiguous",
        )
    return found[0] if found else None


def takes_toolkit(checkpoint: Checkpoint, families: Iterable[Family]) -> bool:
    """Whether the tensors are of a network whose settings can stand in a YAML of the training toolkit."""
    empty = checkpoint.shapes_only()
    return any(family.toolkit is not None and _told(empty, family) is not None for family in families)


def find_configured(checkpoint: Checkpoint, families: Iterable[Family], toolkit: Toolkit) -> Found:
    """The network of a file whose settings stand in a YAML of the training toolkit.

    The tensors tell which network it is. ModelError where they are of none that such a YAML is for, or where
    the two contradict each other.
    """
    empty, families = checkpoint.shapes_only(), list(families)
    readable = [family for family in families if family.toolkit is not None]
    claims = [(family, told) for family in readable if (told := _told(empty, family)) is not None]
    if not claims:
        names = ", ".join(family.name for family in readable) or "none"
        raise ModelError(
            f"The tensors of '{checkpoint.path}' are not of a network that sepcli knows with a YAML "
            f"(families: {names}).{_first_names(empty)}",
            remedy="Leave the YAML out if the file says what it is, or check that it is the file you meant.",
            code="unknown_network",
        )
    family, told = claims[0]
    arch = family.arch(told.arch)
    assert family.toolkit is not None
    said = family.toolkit(told.arch, toolkit.model)
    if family.toolkit_audio is not None:
        said |= family.toolkit_audio(toolkit.audio)
    for name, value in told.config.items():
        if name in said and not same_setting(_tuples(said[name]), _tuples(value)):
            raise _contradiction(checkpoint, toolkit, name, _text(said[name]), _text(value))
    made = told.assumed.get("sources")
    if made is not None and len(made) != len(toolkit.sources):
        stems = f"{len(toolkit.sources)} ({', '.join(toolkit.sources)})"
        raise _contradiction(checkpoint, toolkit, "the number of stems", stems, str(len(made)))
    known = {field.name for field in fields(arch.config)}
    more = {
        "sources": toolkit.sources,
        "chunk": toolkit.chunk,
        "samplerate": toolkit.samplerate,
        "normalize": toolkit.normalize,
    }
    more = {name: value for name, value in more.items() if name in known and value is not None}
    config = make_config(arch, {**told.assumed, **more, **said, **told.config})
    notice = f"The settings and names of stems are those of '{toolkit.path.name}'."
    return Found(family, arch, config, None, notice)


def _contradiction(checkpoint: Checkpoint, toolkit: Toolkit, name: str, said: str, told: str) -> ModelError:
    return ModelError(
        f"'{toolkit.path.name}' gives {name} as {said}, but by the tensors of '{checkpoint.path.name}' it is "
        f"{told}.",
        remedy="Give the YAML that belongs to this checkpoint, or correct it.",
        code="config_mismatch",
    )


def _first_names(checkpoint: Checkpoint) -> str:
    """A sentence with the first names of a file's tensors."""
    payload = checkpoint.payload
    names = list(payload)[:3] if isinstance(payload, Mapping) else []
    return f" It begins with {', '.join(map(repr, names))}." if names else ""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _told(empty: Checkpoint, family: Family) -> Told | None:
    """What a family's `detect` says; None for a file of another one."""
    if family.detect is None:
        return None
    try:
        return family.detect(empty)
    except (SepcliError, LookupError, ValueError, ArithmeticError):  # nothing is where that family has it
        return None


def _in_family(empty: Checkpoint, family: Family, entries: list[Entry]) -> Found | None:
    told = _told(empty, family)
    if told is None:
        return None
    arch = family.arch(told.arch)
    tried: list[tuple[Any, bool]] = []  # entries share Configs, and building a network takes a while

    shaped = make_config(arch, {**told.assumed, **told.config})

    def fitting(config: Any) -> bool:
        if told.exact and any(
            not same_setting(getattr(config, name), getattr(shaped, name)) for name in told.config
        ):
            return False
        known = [result for other, result in tried if other == config]
        if not known:
            known = [fits(empty, family, arch, config)]
            tried.append((config, known[0]))
        return known[0]

    of_family = [entry for entry in entries if entry.family == family.name]
    same = [(entry, config) for entry in of_family for config in _configs(arch, entry) if fitting(config)]
    says = f"'{empty.path}' does not say which network it is for; its tensors are those of {arch.name}"
    called = [(entry, config) for entry, config in same if _called(entry, arch, config, empty.path.name)]
    if told.missing and not called and (same or fits(empty, family, arch, shaped)):
        raise _unknown_settings(says, told.missing, list(dict.fromkeys(entry.name for entry, _ in same)))
    same = called or same
    if same:
        entry, config = same[0]
        _refuse_differences(says, family, same)
        stems = ", ".join(entry.own_sources) or "none of its own"
        notice = (
            f"{says}, as in '{entry.name}' of the catalogue. The settings of '{entry.name}' are used, and its "
            f"names of stems: {stems}."
        )
        return Found(family, arch, config, entry.segment, notice)
    if not fits(empty, family, arch, shaped):
        return None
    settings = ", ".join(
        f"{field.name} = {_text(getattr(shaped, field.name))}"
        for field in fields(shaped)
        if field.name not in told.config and field.name not in family.training_only
    )
    return Found(
        family, arch, shaped, None, f"{says}. What they do not tell is taken to be as published: {settings}."
    )


def _unknown_settings(says: str, missing: tuple[str, ...], alike: list[str]) -> ModelError:
    entries = f" The catalogue has such tensors in {', '.join(alike[:3])}." if alike else ""
    return ModelError(
        f"{says}. They do not tell {' and '.join(missing)}.{entries}",
        remedy=f"Name an entry that has these settings, {parameter('model', 'NAME=FILE')}; or give them in a "
        "catalogue of your own (docs/models.md).",
        code="unknown_settings",
    )


def _called(entry: Entry, arch: Arch, config: Any, name: str) -> bool:
    """Whether a file of that name is this network of the entry's, by its sources or by other programs' name."""
    return name in entry.aliases or any(
        name == file.filename
        for member in entry.members
        if member.arch == arch.name and entry_config(arch, entry, member) == config
        for file in member.file.sources
    )


def fits(empty: Checkpoint, family: Family, arch: Arch, config: Any) -> bool:
    """Whether a network of this config has exactly the tensors of a checkpoint (`Checkpoint.shapes_only`)."""
    try:
        with torch.device("meta"):
            model = arch.build(config)
            tensors = family.convert(empty, model)
    except (SepcliError, LookupError, ValueError, TypeError, RuntimeError):
        return False
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return ours == {name: tensor.shape for name, tensor in tensors.items()}


def entry_config(arch: Arch, entry: Entry, member: Member) -> Any:
    """The Config that the catalogue gives one network of an entry."""
    named = {"sources": entry.own_sources} if "sources" in {field.name for field in fields(arch.config)} else {}
    return make_config(arch, {**named, **member.config})


def _configs(arch: Arch, entry: Entry) -> list[Any]:
    """The different Configs of those members of an entry that are such a network."""
    configs: list[Any] = []
    for member in entry.members:
        config = entry_config(arch, entry, member) if member.arch == arch.name else None
        if config is not None and config not in configs:
            configs.append(config)
    return configs


def _refuse_differences(says: str, family: Family, same: list[tuple[Entry, Any]]) -> None:
    """ModelError where the entries that fit a file do not agree on what it computes."""
    (first, ours), differing, names = same[0], set[str](), [same[0][0].name]
    for entry, theirs in same[1:]:
        found = {
            field.name
            for field in fields(ours)
            if field.name not in family.training_only
            and not same_setting(getattr(ours, field.name), getattr(theirs, field.name))
        }
        found |= {"segment"} if entry.segment != first.segment else set()
        if found:
            differing |= found
            names += [entry.name] if entry.name not in names else []
    if differing:
        raise ModelError(
            f"{says}, of which the catalogue has some that differ in {', '.join(sorted(differing))}: "
            f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}.",
            remedy=f"Say which it is: {parameter('model', 'NAME=FILE')}; or give the YAML that came with it "
            f"({parameter('config')}), or its settings in a catalogue of your own (docs/models.md).",
            code="ambiguous",
        )


def same_setting(one: Any, other: Any) -> bool:
    """Whether two values of a setting mean the same: published files say [] where the default is None."""
    return one == other or (one in (None, ()) and other in (None, ()))


def _text(value: Any) -> str:
    if value in (None, ()):
        return "none"
    return " ".join(map(_text, value)) if isinstance(value, tuple) else str(value)
