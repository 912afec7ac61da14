"""From what the user calls a model to a separator that is ready: catalogue -> file -> checkpoint -> network.

Knows no family by name; asks each whether it knows a file. Downloads only what the wanted stems need.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
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
from sepcli.models.config import make_config, parse_options, plain_config
from sepcli.models.detection import entry_config, find_configured, find_network, same_setting, takes_toolkit
from sepcli.models.family import Arch, Family, Package, all_families, get_family, hidden_family
from sepcli.nn.undrawn import Undrawn
from sepcli.stems import all_of
from sepcli.system.memory import free_memory
from sepcli.weights import download
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, network_state, read_checkpoint, tensors_in
from sepcli.weights.compact import compact, expand
from sepcli.weights.composite import blend_weights
from sepcli.weights.entries import Catalog, Entry, Member, WeightFile
from sepcli.weights.modelspec import HUB_SCHEME, HubFile, ModelSpec, cannot_be, hub_file, read_model
from sepcli.weights.toolkit import SUFFIXES, beside, read_toolkit
from sepcli.weights.transfer import ByteProgress

Network = tuple[Family, Arch, Any, Fraction | float | None]  # with its Config, and seconds of a call if others
OWN_FORMAT = "sepcli"  # the safetensors header key of checkpoints that sepcli wrote itself


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


def load_model(
    spec: str,
    *,
    config: str | None = None,
    catalog: Catalog | None = None,
    targets: Sequence[str] | None = None,
    options: Mapping[str, str] | None = None,
    blend: str = "",
    then: Sequence[str] = (),
    progress: ByteProgress | None = None,
    notice: Notice = lambda text: None,
) -> Loaded:
    """The separator that `spec` names, on the CPU, in float32, in eval mode.

    config: the YAML of the training toolkit for a checkpoint, a path or hf://owner/repo/file; None: one beside
    the checkpoint with its name, if there is one.
    targets: the wanted stems, None for all; what only other stems need is not downloaded. options: the model's
    own, {name: value as text}. blend: how several models become one, one of stems.BLENDS; "": their mean, or as
    the catalogue says. then: models after it, "STEM: MODEL" each. progress: bytes done and in all, during a
    download. notice: called with each sentence the user should see.
    ModelError where the model can't be had, UsageError for a stem or option it does not have.
    """
    catalog = load_catalog() if catalog is None else catalog
    wanted = read_model(spec, catalog, blend=blend, then=then)
    return _load_spec(wanted, config, catalog, targets, options or {}, progress, notice)


def _load_spec(
    wanted: ModelSpec,
    config: str | None,
    catalog: Catalog,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: ByteProgress | None,
    notice: Notice,
) -> Loaded:
    if wanted.entry is None and (wanted.parts or wanted.steps):
        return _load_several(wanted, config, catalog, targets, options, progress, notice)
    if wanted.entry is not None:
        if config is not None:
            raise UsageError(
                f"'{wanted.entry.name}' is a model of the catalogue, which has its settings.",
                remedy=f"Leave {parameter('config')} out, or name a checkpoint file.",
                code="no_config",
            )
        return _load_entry(wanted.entry, wanted.file, targets, options, progress, notice)
    if wanted.hub is not None:
        hub = wanted.hub
        fetched = download.fetch_hf(hub.repo, hub.revision, hub.path, progress=progress, notice=notice)
        place = replace(hub, revision=fetched.source.partition("@")[2].partition("/")[0])
        path, origin = fetched.path, fetched.source
    else:
        assert wanted.file is not None
        place, path, origin = None, wanted.file, str(wanted.file)
    families = list(all_families(notice))
    checkpoint = read_checkpoint(path, foreign=frozenset().union(*(family.packages for family in families)))
    digest = download.checkpoint_sha256(path)
    described = None if config is not None else _described(checkpoint, families, notice)
    if described is None:
        if config is None and (entry := _of_hash(digest, catalog)) is not None:
            notice(f"'{path.name}' is the file of '{entry.name}' in the catalogue, whose settings are used.")
            return _load_entry(entry, path, targets, options, progress, notice)
        if config is not None:
            yaml = _named_yaml(config, notice)
        else:
            yaml = _yaml_beside(path, place) if takes_toolkit(checkpoint, families) else None
        if yaml is not None:
            return _load_configured(
                wanted.name, checkpoint, families, yaml, (origin, digest), targets, options, notice
            )
    network = described or _detected(checkpoint, families, catalog, notice)
    return _load_file(wanted.name, checkpoint, network, (origin, digest), targets, options)


# --- a catalogue entry -------------------------------------------------------------------------------------


def _load_entry(
    entry: Entry,
    local: Path | None,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: ByteProgress | None,
    notice: Notice,
) -> Loaded:
    wanted = _wanted(entry.sources, targets, entry.more)
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
    family = _family(entry.family, notice)
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
        models.append(_narrowed(model, [name for name in made if row[name] > 0]))
        weights.append([row[name] for name in made])
    model = models[0] if len(models) == 1 else Ensemble(models, weights, made)
    if entry.mixer is not None:
        path, digest, origin, inside = _own_file(entry, entry.mixer.file, None, fetched, progress, notice)
        matrix = _matrix(entry, read_checkpoint(path, member=inside))
        model = _narrowed(Mixed(Ensemble.of(model), matrix, entry.sources), wanted)
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
    return _together(entry.name, model, entry.sources, loaded, entry)


def _load_step(
    entry: Entry, wanted: tuple[str, ...], in_turn: bool, progress: ByteProgress | None, notice: Notice
) -> Loaded:
    """A model of a chain. in_turn: it is to be in memory only while it runs."""
    loaded = _load_entry(entry, None, wanted, {}, progress, notice)
    if not in_turn or entry.models:
        return loaded

    def load() -> Separator:
        return _load_entry(entry, None, wanted, {}, None, lambda text: None).model

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
    loaded = [_load_entry(part.entry, None, stems, {}, progress, notice) for part, stems in needed]
    columns = source_indices(entry.sources, wanted)
    weights = [[part.weights[k] for k in columns] for part, _ in needed]
    model = Blend([each.model for each in loaded], weights, wanted, entry.blend).eval().requires_grad_(False)
    model.whole = entry.sources
    return _together(entry.name, model, entry.sources, loaded, entry)


def _load_several(
    spec: ModelSpec,
    config: str | None,
    catalog: Catalog,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: ByteProgress | None,
    notice: Notice,
) -> Loaded:
    """Several models of which some are files of the user's: each is loaded to know its stems."""
    for given, name in ((config, "config"), (options, "options")):
        if given:
            raise UsageError(
                f"'{spec.text}' names several models, which take no {parameter(name)} together.",
                remedy=f"Leave {parameter(name)} out.",
            )
    members = [*(part for part, _ in spec.parts), *(step for _, step in spec.steps)]
    loaded = [_load_spec(each, None, catalog, None, {}, progress, notice) for each in members]
    for each in loaded:
        if isinstance(each.model, Queryable):
            raise UsageError(
                f"'{each.name}' takes queries, and can't be one of several models.", remedy="Use it alone."
            )
    models, stems = [each.model for each in loaded], [each.sources for each in loaded]
    try:
        if spec.steps:
            whole = Chain(models, [of for of, _ in spec.steps[1:]])
        else:
            sources = all_of(stems)
            weights = blend_weights(sources, stems, [{"": weight} for _, weight in spec.parts], spec.blend)
            whole = Blend(models, weights, sources, spec.blend)
    except ValueError as error:
        raise cannot_be(spec, error) from error
    model = whole.select(_wanted(whole.sources, targets, whole.more)).requires_grad_(False)
    return replace(_together(spec.name, model, whole.sources, loaded, None), more=whole.more)


def _together(
    name: str, model: Separator, sources: tuple[str, ...], loaded: Sequence[Loaded], entry: Entry | None
) -> Loaded:
    """A model that is made of those."""
    hashes = tuple(digest for each in loaded for digest in each.hashes)
    return Loaded(name, model, sources, hashes, ", ".join(dict.fromkeys(each.origin for each in loaded)), entry)


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
    model = _fill(family, arch, config, checkpoint, options)
    shortest = model.min_query if isinstance(model, Queryable) else None
    if not isclose(shortest or 0, entry.min_query or 0, rel_tol=0.01):  # it may be written rounded
        raise ModelError(
            f"The catalogue gives '{entry.name}' min_query = {entry.min_query}, but for its network it is "
            f"{shortest}.",
            remedy="Correct `min_query` in the catalogue; without it a model takes no queries.",
            code="config_mismatch",
        )
    _shorten(model, entry.segment)
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


# --- a file of its own -------------------------------------------------------------------------------------


def _load_file(
    name: str,
    checkpoint: Checkpoint,
    network: Network,
    known: tuple[str, str],
    targets: Sequence[str] | None,
    options: Mapping[str, str],
) -> Loaded:
    """A file that says what it is, or whose tensors tell. known: its origin and hash."""
    family, arch, config, segment = network
    model = _fill(family, arch, config, checkpoint, options)
    _shorten(model, segment)
    narrowed = _narrowed(model, _wanted(model.sources, targets))
    return Loaded(name, narrowed, model.sources, (known[1],), known[0])


def _of_hash(digest: str, catalog: Mapping[str, Entry]) -> Entry | None:
    """The catalogue's entry of which this is the only file."""
    for entry in catalog.values():
        if len(entry.files) == 1 and any(source.sha256 == digest for source in entry.files[0].sources):
            return entry
    return None


# --- a file with a YAML of the training toolkit ---


def _load_configured(
    name: str,
    checkpoint: Checkpoint,
    families: Sequence[Family],
    yaml: Path,
    known: tuple[str, str],
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    notice: Notice,
) -> Loaded:
    toolkit = read_toolkit(yaml)
    found = find_configured(checkpoint, families, toolkit)
    notice(found.notice)
    model = _fill(found.family, found.arch, found.config, checkpoint, options)
    if toolkit.counterpart:
        model = WithCounterpart(model, toolkit.counterpart).eval().requires_grad_(False)
    sources = model.sources
    narrowed = _narrowed(model, _wanted(sources, targets))
    # Another YAML makes other stems of the same weights.
    return Loaded(name, narrowed, sources, (known[1], download.file_sha256(yaml)), known[0])


def _named_yaml(config: str, notice: Notice) -> Path:
    """The YAML that the user names; ModelError if it is not there."""
    if config.startswith(HUB_SCHEME):
        hub = hub_file(config)
        return download.fetch_hf(hub.repo, hub.revision, hub.path, notice=notice).path
    path = Path(config).expanduser()
    if not path.is_file():
        raise ModelError(f"There is no file '{config}'.", remedy=f"Correct {parameter('config')}.")
    return path


def _yaml_beside(path: Path, hub: HubFile | None) -> Path | None:
    """The YAML in a checkpoint's folder, on this machine or on the hub, that is called like it."""
    if hub is None:
        own = (path.with_suffix(suffix) for suffix in SUFFIXES)
        return next((file for file in own if file.is_file()), None)
    folder = hub.path.rpartition("/")[0]
    for name in beside(path.name):
        try:
            return download.fetch_hf(hub.repo, hub.revision, f"{folder}/{name}".lstrip("/")).path
        except ModelError as error:
            if error.code != "not_found":
                return None  # offline, or the hub is gone: what the tensors tell must do
    return None


_NAME_IT = "Give it the settings of a catalogue entry: {}, with a NAME of `sepcli models list`."


def _described(checkpoint: Checkpoint, families: Sequence[Family], notice: Notice) -> Network | None:
    own = _own_header(checkpoint)
    if own is not None:  # a family that is not there is an error that names it
        families = [_family(own["family"], notice)]
    claims = [(family, said) for family in families if (said := describe(checkpoint, family)) is not None]
    if len(claims) > 1:
        raise ModelError(
            f"'{checkpoint.path}' is claimed by two model families, "
            f"{' and '.join(family.name for family, _ in claims)}.",
            remedy=_NAME_IT.format(parameter("model", "NAME=FILE")),
            code="ambiguous",
        )
    for family, said in claims:
        arch = family.arch(said.arch)
        return family, arch, make_config(arch, said.config), None
    return None


def _detected(
    checkpoint: Checkpoint, families: Sequence[Family], catalog: Mapping[str, Entry], notice: Notice
) -> Network:
    found = find_network(checkpoint, families, catalog.values())
    if found is None:
        raise ModelError(
            f"'{checkpoint.path}' does not say which network it is for.",
            remedy=_NAME_IT.format(parameter("model", "NAME=FILE")),
        )
    notice(found.notice)
    return found.family, found.arch, found.config, found.segment


def describe(checkpoint: Checkpoint, family: Family) -> Package | None:
    """What a checkpoint says of itself: in our own header, else in a way that `family` knows."""
    own = _own_header(checkpoint)
    if own is None:
        return None if family.describe is None else family.describe(checkpoint)
    return Package(own["arch"], own["config"]) if own["family"] == family.name else None


def _own_header(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """{"family": ..., "arch": ..., "config": {...}} in a file that sepcli wrote; None in others."""
    text = checkpoint.metadata.get(OWN_FORMAT)
    if text is None:
        return None
    try:
        said = json.loads(text)
        kinds = {"family": str, "arch": str, "config": dict}
        if not all(isinstance(said[key], kind) for key, kind in kinds.items()):
            raise ValueError(text)
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"What '{checkpoint.path}' says of itself can't be read.",
            remedy="Get the file again, or write it anew.",
            code="checkpoint_damaged",
        ) from error
    return said


def _family(name: str, notice: Notice) -> Family:
    hidden = hidden_family(name)
    if hidden is not None:
        notice(f"The model family '{name}' is sepcli's own; the one in the package {hidden} is not used.")
    return get_family(name)


# --- building ----------------------------------------------------------------------------------------------


def _narrowed(model: Separator, wanted: Sequence[str]) -> Separator:
    """The model for these stems; a model of queries alone has none before it is bound, and stays as it is."""
    if not wanted or tuple(wanted) == tuple(model.sources):
        return model
    return model.select(wanted).eval().requires_grad_(False)


def _wanted(
    sources: Sequence[str], targets: Sequence[str] | None, more: Collection[str] = ()
) -> tuple[str, ...]:
    """The targets, each once, or all sources. more: stems on request. UsageError for a stem that it lacks."""
    wanted = tuple(dict.fromkeys(targets or sources))
    source_indices((*sources, *more), wanted)
    return wanted


def _shorten(model: Separator, segment: Fraction | float | None) -> None:
    """Give the model calls of so many seconds; None: it keeps its own."""
    if segment is not None:
        model.segment = replace(model.segment, samples=int(segment * model.samplerate))


def _fill(
    family: Family, arch: Arch, config: Any, checkpoint: Checkpoint, options: Mapping[str, str]
) -> Separator:
    """The network of that config with the checkpoint's weights, every one of them."""
    try:
        with Undrawn():
            model = arch.build(config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{arch.name} can't be built from this config: {error}.",
            remedy="Correct [config] in the catalogue.",
        ) from error
    try:
        _take(model, expand(family.convert(checkpoint, model)), checkpoint)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"The weights in '{checkpoint.path.name}' do not fit {arch.name}: {_complaint(error)}",
            remedy="The file is damaged or made for another network.",
        ) from error
    if options or arch.options is not None:
        model.options = parse_options(arch, options)
    model.eval()
    return model.requires_grad_(False)


def _take(model: Separator, state: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Load the state strictly. What was made of the checkpoint becomes the parameters, and is not copied again;
    what is still mapped to its file is copied.
    """
    mapped = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(checkpoint.payload)}
    own = model.state_dict()
    for name, tensor in state.items():
        mine = own.get(name)
        if mine is None or mine.shape != tensor.shape:
            continue  # which is said below
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        alike = tensor.dtype == mine.dtype and tensor.stride() == mine.stride()  # channels may be last
        if not whole or not alike or tensor.untyped_storage().data_ptr() in mapped:
            state[name] = mine.copy_(tensor)
    model.load_state_dict(state, strict=True, assign=True)


def _complaint(error: Exception) -> str:
    """The first thing that a strict load misses: the line after "Error(s) in loading state_dict"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__


def save_model(
    model_state: Mapping[str, torch.Tensor],
    path: Path,
    *,
    family: str,
    arch: str,
    config: Any,
    small: bool = False,
) -> None:
    """Write a checkpoint in sepcli's own self-describing format (safetensors, config in the header).

    small: large tensors as int8 (`weights.compact`), in a quarter of the bytes.
    """
    from safetensors.torch import save_file

    header = json.dumps({"family": family, "arch": arch, "config": plain_config(config)})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model_state.items()}
    if small:
        tensors = {name: tensor.contiguous() for name, tensor in compact(tensors).items()}
    save_file(tensors, path, metadata={OWN_FORMAT: header})
