"""A checkpoint that no catalogue entry names: which network it is for, and that network with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sepcli.engine.counterpart import WithCounterpart
from sepcli.errors import ModelError, Notice, parameter
from sepcli.loading.entries import load_entry
from sepcli.loading.loaded import Loaded, narrowed, wanted_of
from sepcli.loading.networks import fill, known_family, shorten
from sepcli.loading.ownfile import describe, own_header
from sepcli.models.config import make_config
from sepcli.models.detection import find_configured, find_network, takes_toolkit
from sepcli.models.family import Arch, Family, all_families
from sepcli.weights import download
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.entries import Catalog, Entry
from sepcli.weights.modelspec import HUB_SCHEME, HubFile, ModelSpec, hub_file
from sepcli.weights.toolkit import SUFFIXES, beside, read_toolkit
from sepcli.weights.transfer import ByteProgress

Network = tuple[Family, Arch, Any, Fraction | float | None]  # with its Config, and seconds of a call if others
_NAME_IT = "Give it the settings of a catalogue entry: {}, with a NAME of `sepcli models list`."


def load_file(
    wanted: ModelSpec,
    config: str | None,
    catalog: Catalog,
    targets: Sequence[str] | None,
    options: Mapping[str, str],
    progress: ByteProgress | None,
    notice: Notice,
) -> Loaded:
    """The separator in a file of the user's, or in one on the hub. config and the rest: as for `load_model`."""
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
    said = None if config is not None else _described(checkpoint, families, notice)
    if said is None:
        if config is None and (entry := _of_hash(digest, catalog)) is not None:
            notice(f"'{path.name}' is the file of '{entry.name}' in the catalogue, whose settings are used.")
            return load_entry(entry, path, targets, options, progress, notice)
        if config is not None:
            yaml = _named_yaml(config, notice)
        else:
            yaml = _yaml_beside(path, place) if takes_toolkit(checkpoint, families) else None
        if yaml is not None:
            return _configured(
                wanted.name, checkpoint, families, yaml, (origin, digest), targets, options, notice
            )
    network = said or _detected(checkpoint, families, catalog, notice)
    return _of_network(wanted.name, checkpoint, network, (origin, digest), targets, options)


def _described(checkpoint: Checkpoint, families: Sequence[Family], notice: Notice) -> Network | None:
    own = own_header(checkpoint)
    if own is not None:  # a family that is not there is an error that names it
        families = [known_family(own["family"], notice)]
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


def _of_network(
    name: str,
    checkpoint: Checkpoint,
    network: Network,
    known: tuple[str, str],
    targets: Sequence[str] | None,
    options: Mapping[str, str],
) -> Loaded:
    """A file that says what it is, or whose tensors tell. known: its origin and hash."""
    family, arch, config, segment = network
    model = fill(family, arch, config, checkpoint, options)
    shorten(model, segment)
    own = narrowed(model, wanted_of(model.sources, targets))
    return Loaded(name, own, model.sources, (known[1],), known[0])


def _of_hash(digest: str, catalog: Mapping[str, Entry]) -> Entry | None:
    """The catalogue's entry of which this is the only file."""
    for entry in catalog.values():
        if len(entry.files) == 1 and any(source.sha256 == digest for source in entry.files[0].sources):
            return entry
    return None


# --- with a YAML of the training toolkit -------------------------------------------------------------------


def _configured(
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
    model = fill(found.family, found.arch, found.config, checkpoint, options)
    if toolkit.counterpart:
        model = WithCounterpart(model, toolkit.counterpart).eval().requires_grad_(False)
    sources = model.sources
    own = narrowed(model, wanted_of(sources, targets))
    # Another YAML makes other stems of the same weights.
    return Loaded(name, own, sources, (known[1], download.file_sha256(yaml)), known[0])


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
