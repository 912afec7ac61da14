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
from tests.bench.cost import work_of
from tests.bench.families import Network
from tests.bench.results import Figure, Record


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


SMALL = {
    "scnet": Network(family="scnet", arch="SCNet", config={"dims": (4, 4, 4), "layers": 2, "chunk": 9000}),
    "umx": Network(family="openunmix", arch="OpenUnmix", config={"hidden": 4, "layers": 1}),
}


@pytest.mark.slow
def test_the_benchmark_in_miniature(tmp_path, monkeypatch):
    """Rows come way by way; a later run keeps those that it is not asked for, and what is missing is named."""
    monkeypatch.setattr(families, "NETWORKS", SMALL)
    music = torch.randn(2, 20000)

    def one(label: str, way: str) -> families.Row:
        network = SMALL[label]
        return families.count(network, music) if way == "work" else families.measure(network, way, music)

    path = tmp_path / "families.json"  # one thread: two wait for each other where others use the machine too
    for record in families.bench(["scnet"], path, ["float32,1"], one):
        record.write("families", tmp_path)
    assert record.not_measured == {
        "scnet": "not run yet: float32,2",
        "umx": "not run yet: float32,1; float32,2",
    }
    *_, record = families.bench(["umx"], path, ["float32,1"], one)
    assert record.not_measured == {"scnet": "not run yet: float32,2", "umx": "not run yet: float32,2"}
    assert list(record.runs) == ["scnet", "umx"]
    for row in record.runs.values():
        assert row["parameters"] > 0 and row["work"] > 0 and list(row["ways"]) == ["float32,1"]
        assert all(value > 0 for value in row["ways"]["float32,1"].values())


@pytest.mark.parametrize("network", [SMALL["umx"], Network(preset="cunet"), Network(entry="mini")])
def test_networks_are_taken_under_no_device(network):
    """A device that is set costs every call, and takes recurrent layers apart."""
    for _ in families.made(network, "meta"):
        assert torch.get_default_device() == torch.device("cpu")


@pytest.mark.slow
def test_a_process_measures_one_way():
    found = families.apart("mini", "float32,1")
    assert found.keys() == {"cpu", "wall", "products", "memory"} and 300 < found["memory"] < 3000
    assert families.apart("mini", "work")["parameters"] > 4e6


def test_the_work_counts_lstms():
    """On values as without them: 2 * (I + H) * 4 H for a frame, direction and layer."""

    class Lstm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, mix, noise=None):
            return self.lstm(mix)[0]

    wanted = 3 * 5 * 2 * 4 * 16 * 2 * ((8 + 16) + (32 + 16)) / 1e9
    for device in ("cpu", "meta"):  # a few steps
        model, mix = Lstm().eval().to(device), torch.zeros(3, 5, 8, device=device)
        assert work_of(model, mix, lstms=True) == pytest.approx(wanted)


def test_the_table_has_a_row_for_a_network_and_a_precision(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(results.ROOT / "docs"))
    page = importlib.import_module("families_page")
    figures = [Figure("CPU time, sepcli in float32", 6, "s"), Figure("CPU time, demucs", 8, "s")]
    Record("speed", {}, figures).write("speed", tmp_path)
    way = {"cpu": 0.5, "wall": 0.5, "products": 80, "memory": 900.4}
    ways = {"float32,1": way, "float32,2": {**way, "wall": 0.25}, "bfloat16,2": way}
    row = {"parameters": 42e6, "work": 20.0, "ways": ways}
    text = page.table({"htdemucs": row, "mdx23c": {**row, "ways": {"float32,1": {"cpu": 1}}}}, tmp_path)
    first, second, third = (line.strip("| ").split(" | ") for line in text.splitlines()[2:])
    assert first[:4] == ["htdemucs", "42.0 M", "20", "float32"]
    assert first[4:9] == ["0.5 / 0.5", "40 / 80", "80 / 80", "50% / 100%", "900 / 900"]
    assert first[9] == "demucs: 0.75 (`speed.json`)"
    assert second[3:9] == ["bfloat16", "- / 0.5", "- / 40", "- / 80", "- / 50%", "- / 900"]
    assert third[4:] == ["1 / -", "- / -", "- / -", "- / -", "- / -", "audio-separator: not measured yet"]
