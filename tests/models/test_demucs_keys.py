"""Every published Demucs checkpoint, by names, shapes and dtypes, through our conversion into our networks.

Tensors without memory ("meta") stand for the weights, so this runs offline in seconds at full size.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sepcli.models.config import make_config
from sepcli.models.demucs import FAMILY
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint

KEYS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "keys").glob("*.json"))}
SOURCES = ["drums", "bass", "other", "vocals"]

# Tensors and values, from the sizes of the published files and the original code.
COUNTS = {
    "htdemucs": (533, 41_984_456),
    "htdemucs_6s": (525, 27_414_996),
    "hdemucs": (395, 83_637_832),
    "hdemucs_magnitudes": (395, 83_633_984),
    "mdx_hybrid_magnitudes": (377, 83_607_872),
    "mdx_hybrid_bands": (481, 83_884_248),
    "mdx_time": (252, 88_984_040),
    "repro_mdx_a_time": (284, 133_753_064),
}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """{"a": {"weight": "2,3"}} -> {"a.weight": (2, 3)}."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = tuple(map(int, value.split(",")))
    return found


def test_no_file_is_forgotten():
    assert KEYS.keys() == COUNTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_converts_and_loads(name):
    published = json.loads(KEYS[name].read_text(encoding="utf-8"))
    shapes = flat(published["state"])
    arch = FAMILY.archs[published["arch"]]
    dtype = getattr(torch, published["dtype"])
    assert (published["tensors"], published["values"]) == COUNTS[name]
    for changes in published["checkpoints"].values():
        with torch.device("meta"):
            model = arch.build(make_config(arch, {"sources": SOURCES, **changes}))
            payload = {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}
        tensors = FAMILY.convert(Checkpoint(Path("published"), payload), model)
        assert all(tensor.dtype is torch.float32 for tensor in tensors.values())
        model.load_state_dict(tensors, strict=True)
        # Quantised states have no names: the order is what tells their tensors apart.
        assert [key for key, _ in model.named_parameters()] == list(shapes)
        assert (len(tensors), sum(p.numel() for p in model.parameters())) == COUNTS[name]


def catalogued() -> dict[str, tuple]:
    """Signature in the file's name -> (entry, member), for all of the family in the catalogue."""
    found = {}
    for entry in load_catalog().values():
        if entry.family == FAMILY.name:
            for member in entry.members:
                if member.arch in ("EarlyDemucs", "ConvTasNet"):  # test_demucs_early.py
                    continue
                address = member.file.path or member.file.url
                found[Path(address).stem.partition("-")[0]] = entry, member
    return found


@pytest.mark.parametrize("name", KEYS)
def test_the_catalogue_says_the_same(name):
    published = json.loads(KEYS[name].read_text(encoding="utf-8"))
    arch = FAMILY.archs[published["arch"]]
    known = catalogued()
    for signature, changes in published["checkpoints"].items():
        entry, member = known[signature]
        assert member.arch == arch.name
        theirs = make_config(arch, {"sources": SOURCES, **changes})
        ours = make_config(arch, {"sources": entry.sources, **member.config})
        exempt = FAMILY.training_only | ({"segment"} if entry.segment else set())
        for field in dataclasses.fields(ours):
            if field.name not in exempt:
                a, b = getattr(ours, field.name), getattr(theirs, field.name)
                assert a == b or {a, b} == {None, ()}, (signature, field.name)


def test_every_catalogued_checkpoint_is_here():
    """But for the quantised ones, whose tensors have no names."""
    here = {
        sig for path in KEYS.values() for sig in json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    }
    assert {sig for sig, (entry, _) in catalogued().items() if not entry.name.endswith("_q")} == here


def test_training_only_fields_exist():
    fields = {f.name for arch in FAMILY.archs.values() for f in dataclasses.fields(arch.config)}
    assert FAMILY.training_only <= fields
