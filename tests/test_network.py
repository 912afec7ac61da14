"""Every model of the catalogue with its published weights: `pytest -m network`, where the hub can be reached.

All of them are more than 10 GB. The walk itself is tried here, on random weights in published layouts from a
hub on loopback.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch

from sepcli.models.config import make_config
from sepcli.models.spleeter import FAMILY as SPLEETER
from sepcli.weights.catalog import bundled_catalog, read_catalog
from tests import bundles
from tests.bench.weights import make
from tests.fakehub import FakeHub
from tests.models.test_spleeter import as_tensorflow
from tests.needs import need
from tests.walk import walk

ENTRIES = read_catalog(bundled_catalog())


@pytest.mark.network
@pytest.mark.parametrize("name", ENTRIES)
def test_published_weights(name, tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_HUB_OFFLINE", "SEPCLI_"))}
    walk(ENTRIES[name], env=env, cwd=tmp_path)


# --- the same with random weights --------------------------------------------------------------------------


def elsewhere(name: str, file: dict, folder: Path) -> Path:
    """A catalogue with the bundled entry `name`, whose file is another one."""
    table = tomllib.loads(bundled_catalog().read_text(encoding="utf-8"))[name]
    member = table["files"]["model"].get("member")
    table["files"]["model"] = {**file, **({"member": member} if member else {})}
    path = folder / "catalog.toml"
    path.write_text(tomli_w.dumps({name: table}), encoding="utf-8")
    return path


def htdemucs(hub: FakeHub, folder: Path) -> dict:
    need("demucs")
    return hub.add("someone/HTDemucs", "955717e8.safetensors", make("htdemucs", folder).file)


def spleeter(stems: int, hub: FakeHub, folder: Path) -> dict:
    entry, arch = ENTRIES[f"spleeter-{stems}stems"], SPLEETER.archs["Spleeter"]
    torch.manual_seed(0)
    model = arch.build(make_config(arch, {"sources": entry.sources, **entry.members[0].config}))
    files = bundles.bundle(as_tensorflow(model, slots=False))
    archive = bundles.write_tar(folder / f"{stems}stems.tar.gz", files, level=0)
    return hub.add_url(archive.name, archive)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, made",
    [
        ("htdemucs", htdemucs),
        *((f"spleeter-{stems}stems", lambda *where, stems=stems: spleeter(stems, *where)) for stems in (4, 5)),
    ],
)
def test_the_walk(name, made, tmp_path):
    with FakeHub() as hub:
        catalog = elsewhere(name, json.loads(json.dumps(made(hub, tmp_path))), tmp_path)
        walk(ENTRIES[name], env=hub.env(tmp_path / "home"), cwd=tmp_path, more=["--catalog", str(catalog)])
        assert hub.count("GET") == 1
