"""The contract of models, for every network of every family: families are found by their folders.

A family's test module gives tiny networks (`Case` in tests/contracts.py). Each keeps the laws of separators
that stand there, and every family what `sepcli/models/family.py` says of it.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from sepcli import models
from sepcli.engine.separator import Queryable, Separator
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model, save_model
from sepcli.models.config import make_config, parse_options, plain_config
from sepcli.models.family import Family, get_family
from tests.contracts import Case, check_bind, check_separator, check_shape, run

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(models.__path__) if module.ispkg)
ARCHS = [(family, arch) for family in FAMILIES for arch in get_family(family).archs]


def networks(family: str) -> Mapping[str, Mapping[str, Case]]:
    """{network: {variant: case}} that the family's test module gives."""
    name = f"tests.models.test_{family}"
    return getattr(import_module(name), "NETWORKS", {}) if find_spec(name) else {}


def missing(family: Family, given: Mapping[str, Mapping[str, Case]]) -> list[str]:
    """What a family's test module must be given."""
    return [
        f"No tiny {arch} is tried: add NETWORKS = {{'{arch}': {{'plain': Case(make, lengths)}}}} to "
        f"tests/models/test_{family.name}.py (tests/contracts.py, Case)."
        for arch in family.archs
        if not given.get(arch)
    ] + [
        f"tests/models/test_{family.name}.py has a network '{arch}' that the family does not have: remove it."
        for arch in given
        if arch not in family.archs
    ]


CASES = [
    pytest.param(family, arch, case, id=f"{family} {arch} {variant}")
    for family in FAMILIES
    for arch, variants in networks(family).items()
    for variant, case in variants.items()
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_has_a_case(family):
    assert not missing(get_family(family), networks(family))


def test_a_network_without_a_case_is_named():
    family = get_family(FAMILIES[0])
    (first, *_) = family.archs
    (sentence,) = missing(family, {arch: {"plain": None} for arch in family.archs if arch != first})
    assert f"'{first}'" in sentence and f"tests/models/test_{family.name}.py" in sentence
    (sentence,) = missing(family, {arch: {"plain": None} for arch in [*family.archs, "Nothing"]})
    assert "'Nothing'" in sentence


# --- separators --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "arch", "case"), CASES)
def test_a_separator_keeps_the_laws(family, arch, case, monkeypatch):
    case.before(monkeypatch)
    model = case.make()
    known = get_family(family).archs[arch]
    assert type(model) is known.build and type(model.config) is known.config
    assert (model.options is None) == (known.options is None)
    check_separator(model, case.lengths, tolerance=case.tolerance)
    check_shape(model, torch.randn(3, model.channels, case.shortest))
    assert isinstance(model, Queryable) == known.can(Queryable)
    if isinstance(model, Queryable):
        check_bind(model, tolerance=case.tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arch", "case"), CASES)
def test_a_file_of_ours_gives_the_same_network_back(family, arch, case, tmp_path, monkeypatch):
    case.before(monkeypatch)
    # Without gradients, as what is loaded: torch.matmul chooses its way by them.
    model, path = case.make().requires_grad_(False), tmp_path / "tiny.safetensors"
    save_model(model.state_dict(), path, family=family, arch=arch, config=model.config)
    notices = []
    loaded = load_model(str(path), notice=notices.append)
    assert (loaded.name, loaded.sources, loaded.entry, notices) == ("tiny", tuple(model.sources), None, [])
    again = loaded.model
    assert type(again) is type(model) and again.config == model.config
    assert make_config(get_family(family).archs[arch], plain_config(model.config)) == model.config
    weights = model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    again.options = model.options
    mix = 0.1 * torch.randn(1, model.channels, case.lengths[-1])
    assert torch.equal(run(again, mix), run(model, mix))
    one = load_model(str(path), targets=model.sources[:1]).model
    assert one.sources == tuple(model.sources[:1])
    with pytest.raises(UsageError):
        load_model(str(path), targets=["no such stem"])


# --- families ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_named_as_its_folder(family):
    found = get_family(family)
    assert isinstance(found, Family) and found.name == family
    assert all(name == arch.name for name, arch in found.archs.items())
    settings = {field.name for arch in found.archs.values() for field in dataclasses.fields(arch.config)}
    assert found.training_only <= settings


@pytest.mark.parametrize(("family", "name"), ARCHS)
def test_settings_are_frozen_and_known(family, name):
    arch = get_family(family).archs[name]
    assert issubclass(arch.build, Separator)
    for kind in filter(None, (arch.config, arch.options)):
        assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    with pytest.raises(ModelError, match="has no setting colour"):
        make_config(arch, {"colour": "red"})


@pytest.mark.parametrize(("family", "name"), ARCHS)
def test_options_are_read_from_text(family, name):
    arch = get_family(family).archs[name]
    with pytest.raises(UsageError, match="has no option 'colour'"):
        parse_options(arch, {"colour": "red"})
    if arch.options is None:
        assert parse_options(arch, {}) is None
        return
    plain = parse_options(arch, {})
    assert plain == arch.options()
    for field in dataclasses.fields(arch.options):
        value = getattr(plain, field.name)
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            assert parse_options(arch, {field.name: text}) == plain
            if not isinstance(value, str):
                with pytest.raises(UsageError, match=f"{field.name} is 'much', which is not"):
                    parse_options(arch, {field.name: "much"})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_network_begins_with_is_a_network_of_the_family(family):
    found = get_family(family)
    kinds = [arch.build for arch in found.archs.values()]
    for arch in found.archs.values():
        assert all(origin.kind in kinds for origin in (arch.base, arch.teacher) if origin is not None)
