"""From what the user calls a model to a separator that is ready: catalogue -> file -> checkpoint -> network.

    load_model   a name, a path, an address or several of them -> Loaded
    entries      a catalogue entry, of one network or of several models
    files        a checkpoint that is no entry's: what it says of itself, its YAML, or what its tensors tell
    networks     a Config and a checkpoint -> the network with these weights
    ownfile      the format in which sepcli writes weights: they say what they are
    loaded       what loading gives

Knows no family by name; asks each whether it knows a file. Downloads only what the wanted stems need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sepcli.engine.blend import Blend
from sepcli.engine.chain import Chain
from sepcli.engine.separator import Queryable
from sepcli.errors import Notice, UsageError, parameter
from sepcli.loading.entries import load_entry
from sepcli.loading.files import load_file
from sepcli.loading.loaded import Loaded, together, wanted_of
from sepcli.loading.ownfile import OWN_FORMAT, save_model
from sepcli.stems import all_of
from sepcli.weights.catalog import load_catalog
from sepcli.weights.composite import blend_weights
from sepcli.weights.entries import Catalog
from sepcli.weights.modelspec import ModelSpec, cannot_be, read_model
from sepcli.weights.transfer import ByteProgress

__all__ = ["OWN_FORMAT", "Loaded", "load_model", "save_model"]


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
        return load_entry(wanted.entry, wanted.file, targets, options, progress, notice)
    return load_file(wanted, config, catalog, targets, options, progress, notice)


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
    model = whole.select(wanted_of(whole.sources, targets, whole.more)).requires_grad_(False)
    return replace(together(spec.name, model, whole.sources, loaded, None), more=whole.more)
