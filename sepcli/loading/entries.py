"""A catalogue entry as a separator: of one network, of several on average, of models in a chain or a blend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import isclose
from pathlib import Path
from typing import Any

import torch

from sepcli.engine.blend import Blend
from sepcli.engine.chain import ROOM, Chain
from sepcli.engine.counterpart import WithCounterpart
from sepcli.engine.ensemble import Ensemble
from sepcli.engine.mixer import Mixed
from sepcli.engine.ondemand import OnDemand
from sepcli.engine.separator import Queryable, Separator, source_indices
from sepcli.errors import ModelError, Notice, UsageError, parameter
from sepcli.loading.loaded import Loaded, narrowed, together, wanted_of
from sepcli.loading.networks import fill, known_family, shorten
from sepcli.loading.ownfile import describe
from sepcli.models.config import make_config
from sepcli.models.detection import entry_config, same_setting
from sepcli.models.family import Arch, Family, Package
from sepcli.system.memory import free_memory
from sepcli.weights import download
from sepcli.weights.checkpoint import Checkpoint, network_state, read_checkpoint
from sepcli.weights.entries import Entry, Member, WeightFile
from sepcli.weights.transfer import ByteProgress


def load_entry(
    entry: Entry,
    local: Path | None,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: ByteProgress | None,
    notice: Notice,
) -> Loaded:
    """The separator of an entry. local: a file that stands for its own; the rest as for `load_model`."""
    wanted = wanted_of(entry.sources, targets, entry.more)
    if entry.models:
        _refuse_for_several(entry, local, options)
        load = _load_chain if entry.chain else _load_blend
        return load(entry, wanted, progress, notice)
    # What the networks have to make: the counterpart is the mix minus their one stem, a mixer takes all.
    made = entry.own_sources if entry.counterpart in wanted or entry.mixer else wanted
    members = entry.members_for(made)
    if local is not None and len(entry.files_for(made)) > 1:
        fewer = f"Ask only for the stems that this file makes ({parameter('targets')}), or name its files "
        raise UsageError(
            f"'{entry.name}' is made of {len(entry.files)} files, so one file can't stand for it.",
            remedy=("Name its files " if entry.joined else fewer)
            + f"in a catalogue of your own ({parameter('catalog')}; docs/models.md).",
        )
    models, weights, hashes, origins = [], [], [], []
    family = known_family(entry.family, notice)
    fetched: dict[tuple[Any, ...], download.Fetched] = {}
    for group in [members] if entry.joined else [(member,) for member in members]:
        parts = []
        for member in group:
            path, digest, origin, inside = _own_file(entry, member.file, local, fetched, progress, notice)
            parts.append(read_checkpoint(path, foreign=family.packages, member=inside))
            hashes.append(digest)
            origins.append(origin)
        member, checkpoint = group[0], _joined(group, parts) if entry.joined else parts[0]
        model = _build_member(entry, member, family, checkpoint, options)
        row = dict(zip(entry.own_sources, member.weights or [1.0] * len(entry.own_sources), strict=True))
        models.append(narrowed(model, [name for name in made if row[name] > 0]))
        weights.append([row[name] for name in made])
    model = models[0] if len(models) == 1 else Ensemble(models, weights, made)
    if entry.mixer is not None:
        path, digest, origin, inside = _own_file(entry, entry.mixer.file, None, fetched, progress, notice)
        matrix = _matrix(entry, read_checkpoint(path, member=inside))
        model = narrowed(Mixed(Ensemble.of(model), matrix, entry.sources), wanted)
        hashes.append(digest)
        origins.append(origin)
    if entry.counterpart in wanted:
        model = WithCounterpart(model, entry.counterpart).select(wanted).requires_grad_(False)
    model.whole = entry.sources
    return Loaded(entry.name, model, entry.sources, tuple(hashes), ", ".join(dict.fromkeys(origins)), entry)


def _refuse_for_several(entry: Entry, local: Path | None, options: Mapping[str, str]) -> None:
    """UsageError for what an entry of several models can't take."""
    if local is not None:
        raise UsageError(
            f"'{entry.name}' is made of {len(entry.models)} models, so one file can't stand for it.",
            remedy=f"Name its files in a catalogue of your own ({parameter('catalog')}; docs/models.md).",
        )
    if options:
        raise UsageError(
            f"'{entry.name}' is made of several models, which take no options together.",
            remedy=f"Leave {parameter('options')} out, or use one of its models: "
            f"{', '.join(model.name for model in entry.models)}.",
        )


# --- of several models -------------------------------------------------------------------------------------


def _load_chain(entry: Entry, wanted: tuple[str, ...], progress: ByteProgress | None, notice: Notice) -> Loaded:
    """The steps that the wanted stems need, one after another."""
    needed = entry.steps_for(wanted)
    in_turn = len(needed) > 1 and _too_large(entry, wanted, notice)
    loaded = [_load_step(step.entry, own, in_turn, progress, notice) for step, own, _ in needed]
    if len(loaded) == 1:
        model = loaded[0].model.select(wanted)
    else:
        takes, names = [step.of for step, _, _ in needed[1:]], [names for _, _, names in needed]
        model = Chain([each.model for each in loaded], takes, wanted, names).eval().requires_grad_(False)
        if set(wanted) >= set(entry.sources):  # every step is there, with all its stems
            model.more = entry.more
    model.whole = entry.sources
    return together(entry.name, model, entry.sources, loaded, entry)


def _load_step(
    entry: Entry, wanted: tuple[str, ...], in_turn: bool, progress: ByteProgress | None, notice: Notice
) -> Loaded:
    """A model of a chain. in_turn: it is to be in memory only while it runs."""
    loaded = load_entry(entry, None, wanted, {}, progress, notice)
    if not in_turn or entry.models:
        return loaded

    def load() -> Separator:
        return load_entry(entry, None, wanted, {}, None, lambda text: None).model

    return replace(loaded, model=OnDemand(load, loaded.model))


def _too_large(entry: Entry, wanted: tuple[str, ...], notice: Notice) -> bool:
    """Whether the files that the stems need are too large for the memory of this machine together."""
    size = sum(file.about_bytes or 0 for file in entry.files_for(wanted))
    free = free_memory()
    if free is None or size < ROOM * free:
        return False
    notice(
        f"The networks of '{entry.name}' have {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free: "
        "each goes over the whole track, with temporary files between them."
    )
    return True


def _load_blend(entry: Entry, wanted: tuple[str, ...], progress: ByteProgress | None, notice: Notice) -> Loaded:
    """The models side by side that the wanted stems need."""
    needed = entry.parts_for(wanted)
    loaded = [load_entry(part.entry, None, stems, {}, progress, notice) for part, stems in needed]
    columns = source_indices(entry.sources, wanted)
    weights = [[part.weights[k] for k in columns] for part, _ in needed]
    model = Blend([each.model for each in loaded], weights, wanted, entry.blend).eval().requires_grad_(False)
    model.whole = entry.sources
    return together(entry.name, model, entry.sources, loaded, entry)


# --- its files ---------------------------------------------------------------------------------------------


def _own_file(
    entry: Entry,
    file: WeightFile,
    local: Path | None,
    fetched: dict[tuple[Any, ...], download.Fetched],
    progress: ByteProgress | None,
    notice: Notice,
) -> tuple[Path, str, str, str | None]:
    """Path, hash and origin of a file of the entry; where it is an archive, the checkpoint's place in it.

    fetched: what was fetched for earlier members, since several networks may lie in one archive.
    """
    if local is not None:
        inside = file.member if len(entry.members) > 1 else None
        return local, download.checkpoint_sha256(local), str(local), inside
    key = (file.source, file.fallback)
    if key not in fetched:
        fetched[key] = download.fetch(file, progress=progress, notice=notice)
    found = fetched[key]
    inside = next((each.member for each in file.sources if each.source == found.source), found.member)
    return found.path, found.sha256, found.source, inside


def _matrix(entry: Entry, checkpoint: Checkpoint) -> torch.Tensor:
    """The matrix of the entry's mixer as engine.mixer takes it, [S, C, S + 1, C], in the order of its stems."""
    assert entry.mixer is not None
    stems, channels = entry.mixer.stems, entry.channels
    shape = (len(stems) * channels, (len(stems) + 1) * channels)
    tensors = network_state(checkpoint, "mixer").values()
    found = [tensor for tensor in tensors if tuple(tensor.shape) == shape]
    if len(found) != 1:
        raise ModelError(
            f"'{checkpoint.path.name}' has {len(found) or 'no'} tensors of the shape {list(shape)}, but the "
            f"mixer of '{entry.name}' is one.",
            remedy="Correct `mixer` in the catalogue, or the file it names.",
            code="config_mismatch",
        )
    order = source_indices(stems, entry.sources)
    matrix = found[0].float().view(len(stems), channels, len(stems) + 1, channels)
    return matrix[order][:, :, [*order, len(stems)]]


def _joined(members: Sequence[Member], checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The parts of one network as one checkpoint: its payload is {name of a file: its payload}."""
    parts = {member.file.name: part.payload for member, part in zip(members, checkpoints, strict=True)}
    return replace(checkpoints[0], payload=parts, metadata={})


def _build_member(
    entry: Entry, member: Member, family: Family, checkpoint: Checkpoint, options: Mapping[str, str]
) -> Separator:
    arch = family.arch(member.arch)
    config = entry_config(arch, entry, member)
    package = describe(checkpoint, family)
    if package is not None:
        exempt = family.training_only | ({"segment"} if entry.segment is not None else set())
        _refuse_disagreement(entry.name, arch, config, package, exempt)
    model = fill(family, arch, config, checkpoint, options)
    shortest = model.min_query if isinstance(model, Queryable) else None
    if not isclose(shortest or 0, entry.min_query or 0, rel_tol=0.01):  # it may be written rounded
        raise ModelError(
            f"The catalogue gives '{entry.name}' min_query = {entry.min_query}, but for its network it is "
            f"{shortest}.",
            remedy="Correct `min_query` in the catalogue; without it a model takes no queries.",
            code="config_mismatch",
        )
    shorten(model, entry.segment)
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
    for each in fields(ours):
        a, b = getattr(ours, each.name), getattr(theirs, each.name)
        if each.name not in exempt and not same_setting(a, b):
            raise ModelError(
                f"The catalogue gives '{name}' {each.name} = {a!r}, but its file says {b!r}.",
                remedy="Correct [config] in the catalogue, or the file it names.",
                code="config_mismatch",
            )
