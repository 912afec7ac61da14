"""The page of all systems, and the benchmark of all families behind it."""

from __future__ import annotations

import importlib
import re

import pytest
import torch

from sepcli.models.family import all_families
from sepcli.training.config import preset_names
from sepcli.weights.catalog import load_catalog
from tests.bench import families, results
from tests.bench.families import Network


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(results.ROOT / "docs"))
    return importlib.import_module("lineage_page")


def test_what_it_names_is_there(page):
    """Models, presets and pages that the rows name exist, and their networks are measured."""
    known = {*load_catalog(()), *preset_names()}
    for system in (system for group in page.GROUPS for system in group.systems):
        for name in re.findall("`([^` ]+)`", system.here):
            names = {name} if not name.startswith("-") else {entry for entry in known if entry.endswith(name)}
            assert names & known, (system.name, name)
        for link in re.findall(r"\]\(([^)]+)\)", system.here):
            assert (results.ROOT / "docs" / link).is_file(), (system.name, link)
        assert system.network in ("", *families.NETWORKS), system.name
    assert len({system.name for group in page.GROUPS for system in group.systems}) > 40


def test_every_family_is_measured():
    """Each has a network in the benchmark, and the benchmark names only what there is."""
    entries, measured = load_catalog(()), set()
    for network in families.NETWORKS.values():
        if network.entry:
            measured.add(entries[network.entry].family)
        elif network.preset:
            measured.add(families.read_preset(network.preset)["model"]["family"])
        else:
            measured.add(network.family)
    assert measured == {family.name for family in all_families() if family.name != "gain"}


@pytest.mark.slow
def test_the_benchmark_in_miniature(tmp_path, monkeypatch):
    small = {
        "scnet": Network(family="scnet", arch="SCNet", config={"dims": (4, 4, 4), "layers": 2, "chunk": 9000}),
        "umx": Network(family="openunmix", arch="OpenUnmix", config={"hidden": 4, "layers": 1}),
    }
    monkeypatch.setattr(families, "NETWORKS", small)
    music = torch.randn(2, 20000)
    families.bench(["scnet"], tmp_path / "families.json", music).write("families", tmp_path)
    record = families.bench(["umx"], tmp_path / "families.json", music)
    assert list(record.runs) == ["scnet", "umx"] and not record.not_measured
    for row in record.runs.values():
        assert row["parameters"] > 0 and row["work"] > 0 and row["cpu"] > 0
