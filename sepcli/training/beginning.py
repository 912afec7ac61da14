"""The weights that a run begins with: fresh ones, another model's, or parts of other models.

    --init MODEL      all weights, from a network of the same kind; of other stems too, if the network declares
                      which weights a stem has for itself (`Arch.of_stem`): those of new stems stay fresh
    --base MODEL      the weights of a part that does not learn, if the network declares one (`Arch.base`)
    --teacher MODEL   the weights that a student begins with, if it declares a teacher (`Arch.teacher`)

They are read once: afterwards they are in the run's state and in its model. Knows no family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError, Notice, UsageError, parameter
from sepcli.loading import load_model
from sepcli.models.family import Arch, Origin
from sepcli.training.config import ModelTable
from sepcli.training.setup import Network


def begin(
    network: Network,
    table: ModelTable,
    init: str | None = None,
    notice: Notice = lambda text: None,
    *,
    going_on: bool = False,
) -> None:
    """Give a fresh network the weights that it is to begin with. A run that goes on has them in its state.

    init, and the table's base and teacher: models, as `separate` takes them. UsageError where the network has
    no such part, needs one that is not given, or was given a model of another kind or shape. ModelError where a
    model can't be loaded, or does not fit.
    """
    _check_declared(network.arch, table)
    if going_on:
        return
    _check_given(network.arch, table, init)
    if init is not None:
        _copy(network, init, notice)
    for role, origin, spec in (
        ("base", network.arch.base, table.base),
        ("teacher", network.arch.teacher, table.teacher),
    ):
        if spec is not None:
            assert origin is not None
            _take(network, role, origin, spec, notice)


def _check_declared(arch: Arch, table: ModelTable) -> None:
    if table.base is not None and arch.base is None:
        raise UsageError(
            f"{arch.name} builds upon no other model.", remedy=f"Leave out {parameter('base')} (model.base)."
        )
    if table.teacher is not None and arch.teacher is None:
        raise UsageError(
            f"{arch.name} can't begin as its teacher.",
            remedy="Learn from the teacher's stems instead: sepcli distill --method output.",
        )


def _check_given(arch: Arch, table: ModelTable, init: str | None) -> None:
    if init is None and arch.base is not None and table.base is None:
        raise UsageError(
            f"{arch.name} builds upon a trained {arch.base.kind.__name__}.",
            remedy=f"Name one with {parameter('base')}, for example the run in which you trained it.",
        )
    if init is None and arch.teacher is not None and table.teacher is None:
        raise UsageError(
            f"{arch.name} learns from a trained {arch.teacher.kind.__name__}.",
            remedy=f"Use sepcli distill, and name it with {parameter('teacher')}.",
        )


def _copy(network: Network, init: str, notice: Notice) -> None:
    source = load_model(init, notice=notice).network
    weights: Mapping[str, Tensor] = source.state_dict()
    if network.arch.of_stem is not None and isinstance(source, network.arch.build):
        weights = _with_stems(network, source, network.arch.of_stem, init, notice)
    try:
        network.model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(
            f"The weights of '{init}' do not fit this {network.arch.name}: {reason}",
            remedy="Use the [model.config] that they were made with.",
        ) from None


def _with_stems(
    network: Network, source: Separator, of_stem: str, init: str, notice: Notice
) -> dict[str, Tensor]:
    """The source's weights, stem by stem in the network's order; a new stem has the network's fresh ones."""
    fresh = network.model.state_dict()
    numbers = {of_stem.format(number): name for number, name in enumerate(source.sources)}
    weights = {key: value for key, value in source.state_dict().items() if not key.startswith(tuple(numbers))}
    new = []
    for number, name in enumerate(network.model.sources):
        here, known = of_stem.format(number), name in source.sources
        there = of_stem.format(source.sources.index(name)) if known else here
        new += [] if known else [name]
        for key, value in (source.state_dict() if known else fresh).items():
            if key.startswith(there):
                weights[here + key.removeprefix(there)] = value
    if new:
        notice(f"'{init}' has no {', '.join(new)}: the weights for that begin anew.")
    changed = [text for text in _differences(source.config, network.config) if not text.startswith("sources ")]
    if changed:
        notice(f"'{init}' was trained with other settings: {'; '.join(changed)}.")
    return weights


def _take(network: Network, role: str, origin: Origin, spec: str, notice: Notice) -> None:
    source: Any = load_model(spec, notice=notice).network
    name = network.arch.name
    if not isinstance(source, origin.kind):
        raise UsageError(
            f"The {role} of {name} is a {origin.kind.__name__}, but '{spec}' is a {type(source).__name__}.",
            remedy=f"Name a {origin.kind.__name__} with {parameter(role)}.",
        )
    changed = _differences(source.config, network.config)
    if changed:
        raise UsageError(
            f"The {role} '{spec}' is of another shape than this {name}: {'; '.join(changed[:4])}.",
            remedy="Give both the same [model.config]: choose another preset, or set model.config.",
        )
    weights = source.state_dict()
    ours = {
        here + key.removeprefix(there): value
        for there, places in origin.names.items()
        for here in ((places,) if isinstance(places, str) else places)
        for key, value in weights.items()
        if key.startswith(there)
    }
    unexpected = network.model.load_state_dict(ours, strict=False).unexpected_keys
    assert not unexpected, unexpected


def _differences(theirs: Any, ours: Any) -> list[str]:
    """ "width is 32 there and 256 here", for each field of both Configs whose values differ."""
    shared = {field.name for field in fields(theirs)} & {field.name for field in fields(ours)}
    return [
        f"{name} is {_text(getattr(theirs, name))} there and {_text(getattr(ours, name))} here"
        for name in sorted(shared)
        if getattr(theirs, name) != getattr(ours, name)
    ]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
