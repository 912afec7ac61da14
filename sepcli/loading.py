"""From what the user calls a model to a separator that is ready: catalogue -> file -> checkpoint -> network.

Knows no family by name; asks each whether it knows a file. Downloads only what the wanted stems need.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from math import isclose
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch

from sepcli.engine.ensemble import Ensemble
from sepcli.engine.separator import Queryable, Separator, source_indices
from sepcli.errors import ModelError, UsageError
from sepcli.models.family import Arch, Family, Package, family_names, get_family
from sepcli.weights import download
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.entries import Catalog, Entry, Member
from sepcli.weights.modelspec import read_model

OWN_FORMAT = "sepcli"  # the safetensors header key of checkpoints that sepcli wrote itself

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Loaded:
    """A model and where it came from.

    model: narrowed to the wanted stems. sources: all stems the model has by name. hashes: sha256 of each file
    used, in the members' order.
    """

    name: str
    model: Separator
    sources: tuple[str, ...]
    hashes: tuple[str, ...]
    origin: str
    entry: Entry | None = None


def load_model(
    spec: str,
    *,
    catalog: Catalog | None = None,
    targets: Sequence[str] | None = None,
    options: Mapping[str, str] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    notice: Notice = lambda text: None,
) -> Loaded:
    """The separator that `spec` names, on the CPU, in float32, in eval mode.

    targets: the wanted stems, None for all; what only other stems need is not downloaded. options: the model's
    own, {name: value as text}. progress: bytes done and in all, during a download. notice: called with each
    sentence the user should see.
    ModelError where the model can't be had, UsageError for a stem or option it does not have.
    """
    catalog = load_catalog() if catalog is None else catalog
    options = options or {}
    wanted = read_model(spec, catalog)
    if wanted.entry is not None:
        return _load_entry(wanted.entry, wanted.file, targets, options, progress, notice)
    if wanted.hub is not None:
        hub = wanted.hub
        fetched = download.fetch_hf(hub.repo, hub.revision, hub.path, progress=progress, notice=notice)
        return _load_path(wanted.name, fetched.path, fetched.source, targets, options)
    assert wanted.file is not None
    return _load_path(wanted.name, wanted.file, str(wanted.file), targets, options)


# --- a catalogue entry -------------------------------------------------------------------------------------


def _load_entry(
    entry: Entry,
    local: Path | None,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: Callable[[int, int | None], None] | None,
    notice: Notice,
) -> Loaded:
    wanted = _wanted(entry.sources, targets)
    members = entry.members_for(wanted)
    if local is not None and len({member.file.name for member in entry.members}) > 1:
        raise UsageError(
            f"'{entry.name}' is made of {len(entry.members)} files, so one file can't stand for it.",
            remedy="Give its files in a --catalog file instead (docs/models.md).",
        )
    models, weights, hashes, origins = [], [], [], []
    packages = get_family(entry.family).packages
    for member in members:
        path, digest, origin = _member_file(member, local, progress, notice)
        model = _build_member(entry, member, read_checkpoint(path, foreign=packages), options)
        row = dict(zip(entry.sources, member.weights or [1.0] * len(entry.sources), strict=True))
        models.append(_narrowed(model, [name for name in wanted if row[name] > 0]))
        weights.append([row[name] for name in wanted])
        hashes.append(digest)
        origins.append(origin)
    whole = models[0] if len(models) == 1 else Ensemble(models, weights, wanted)
    return Loaded(entry.name, whole, entry.sources, tuple(hashes), ", ".join(dict.fromkeys(origins)), entry)


def _member_file(member: Member, local: Path | None, progress, notice: Notice) -> tuple[Path, str, str]:
    if local is None:
        fetched = download.fetch(member.file, progress=progress, notice=notice)
        return fetched.path, fetched.sha256, fetched.source
    return local, download.file_sha256(local), str(local)


def _build_member(
    entry: Entry, member: Member, checkpoint: Checkpoint, options: Mapping[str, str]
) -> Separator:
    family = get_family(entry.family)
    arch = _arch(family, member.arch)
    named = {"sources": entry.sources} if "sources" in {field.name for field in fields(arch.config)} else {}
    config = make_config(arch, {**named, **member.config})
    package = describe(checkpoint, family)
    if package is not None:
        exempt = family.training_only | ({"segment"} if entry.segment is not None else set())
        _refuse_disagreement(entry.name, arch, config, package, exempt)
    model = _fill(family, arch, config, checkpoint, options)
    shortest = model.min_query if isinstance(model, Queryable) else None
    if not isclose(shortest or 0, entry.min_query or 0, rel_tol=0.01):  # it may be written rounded
        raise ModelError(
            f"The catalogue gives '{entry.name}' min_query = {entry.min_query}, but for its network it is "
            f"{shortest}.",
            remedy="Correct `min_query` in the catalogue; without it a model takes no queries.",
            code="config_mismatch",
        )
    if entry.segment is not None:
        model.segment = replace(model.segment, samples=int(entry.segment * model.samplerate))
    model.half = entry.half
    return model


def _refuse_disagreement(name: str, arch: Arch, ours: Any, package: Package, exempt: frozenset[str]) -> None:
    """A checkpoint that describes itself must describe what the catalogue describes."""
    if package.arch != arch.name:
        raise ModelError(
            f"The catalogue calls '{name}' a {arch.name}, but its file is a {package.arch}.",
            remedy="Correct `arch` in the catalogue, or the file it names.",
        )
    theirs = make_config(arch, package.config)
    for field in fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        # Published files say [] where the constructor's default is None: no bands, either way.
        same = a == b or (a in (None, ()) and b in (None, ()))
        if field.name not in exempt and not same:
            raise ModelError(
                f"The catalogue gives '{name}' {field.name} = {a!r}, but its file says {b!r}.",
                remedy="Correct [config] in the catalogue, or the file it names.",
                code="config_mismatch",
            )


# --- a file that says what it is ---------------------------------------------------------------------------


def _load_path(
    name: str,
    path: Path,
    origin: str,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
) -> Loaded:
    families = [get_family(family_name) for family_name in family_names()]
    checkpoint = read_checkpoint(path, foreign=frozenset().union(*(family.packages for family in families)))
    for family in families:
        package = describe(checkpoint, family)
        if package is not None:
            break
    else:
        raise ModelError(
            f"'{path}' does not say which network it is for.",
            remedy="Give it a catalogue entry's: --model NAME=FILE, with a NAME of `sepcli models list`.",
        )
    arch = _arch(family, package.arch)
    model = _fill(family, arch, make_config(arch, package.config), checkpoint, options)
    narrowed = _narrowed(model, _wanted(model.sources, targets))
    return Loaded(name, narrowed, model.sources, (download.file_sha256(path),), origin)


def describe(checkpoint: Checkpoint, family: Family) -> Package | None:
    """What a checkpoint says of itself: in our own header, else in a way that `family` knows."""
    own = checkpoint.metadata.get(OWN_FORMAT)
    if own is None:
        return family.describe(checkpoint)
    said = json.loads(own)
    return Package(said["arch"], said["config"]) if said["family"] == family.name else None


# --- building ----------------------------------------------------------------------------------------------


def _narrowed(model: Separator, wanted: Sequence[str]) -> Separator:
    """The model for these stems; a model of queries alone has none before it is bound, and stays as it is."""
    return model.select(wanted) if wanted else model


def _wanted(sources: Sequence[str], targets: Sequence[str] | None) -> tuple[str, ...]:
    """The targets, each once, or all sources. UsageError for a stem that the model lacks."""
    wanted = tuple(dict.fromkeys(targets or sources))
    source_indices(sources, wanted)
    return wanted


def _arch(family: Family, name: str) -> Arch:
    if name not in family.archs:
        raise ModelError(
            f"The family '{family.name}' has no network '{name}'; it has {', '.join(family.archs)}.",
            remedy="Correct `arch` in the catalogue, or update sepcli.",
        )
    return family.archs[name]


def make_config(arch: Arch, given: Mapping[str, Any]) -> Any:
    """The network's Config from values as they stand in TOML, JSON or a checkpoint.

    Lists become tuples, and a string like "39/5" a Fraction, so that values from different places compare
    equal.
    """
    known = {field.name for field in fields(arch.config)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ModelError(
            f"{arch.name} has no setting {', '.join(unknown)}.",
            remedy="The file may be made for a newer version: update sepcli.",
        )
    return arch.config(**{name: _plain(value) for name, value in given.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, str) and value.count("/") == 1 and value.replace("/", "").isdecimal():
        return Fraction(value)
    return value


def _fill(
    family: Family, arch: Arch, config: Any, checkpoint: Checkpoint, options: Mapping[str, str]
) -> Separator:
    """The network of that config with the checkpoint's weights, every one of them."""
    try:
        model = arch.build(config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{arch.name} can't be built from this config: {error}.",
            remedy="Correct [config] in the catalogue.",
        ) from error
    try:
        model.load_state_dict(family.convert(checkpoint, model), strict=True)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"The weights in '{checkpoint.path.name}' do not fit {arch.name}: {_complaint(error)}",
            remedy="The file is damaged or made for another network.",
        ) from error
    if options or arch.options is not None:
        model.options = parse_options(arch, options)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _complaint(error: Exception) -> str:
    """The first thing that a strict load misses: the line after "Error(s) in loading state_dict"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__


def parse_options(arch: Arch, options: Mapping[str, str]) -> Any:
    """`-O key=value` pairs -> the network's Options; UsageError names the options there are."""
    kinds = get_type_hints(arch.options) if arch.options else {}
    known = {field.name: kinds[field.name] for field in fields(arch.options)} if arch.options else {}
    values = {}
    for key, text in options.items():
        if key not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(
                f"{arch.name} has no option '{key}': {there}.", remedy="Leave -O out, or correct it."
            )
        # One that may be None, for "follows from the others", is given as what it is otherwise.
        kind = next((kind for kind in get_args(known[key]) if kind is not NoneType), known[key])
        try:
            values[key] = kind(text)
        except ValueError:
            raise UsageError(
                f"-O {key}={text}: '{text}' is not {kind.__name__}.", remedy=f"Give {key} as {kind.__name__}."
            ) from None
    return arch.options(**values) if arch.options else None


def save_model(
    model_state: Mapping[str, torch.Tensor], path: Path, *, family: str, arch: str, config: Any
) -> None:
    """Write a checkpoint in sepcli's own self-describing format (safetensors, config in the header)."""
    from safetensors.torch import save_file

    values = {field.name: getattr(config, field.name) for field in fields(config)}
    said = {"family": family, "arch": arch, "config": values}
    header = json.dumps(said, default=str)  # a Fraction becomes "39/5"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model_state.items()}
    save_file(tensors, path, metadata={OWN_FORMAT: header})
