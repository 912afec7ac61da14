"""Every published configuration of LaSAFT by names, shapes and numbers of parameters, through our conversion.

Tensors without memory ("meta") stand for the weights. Key lists and their provenance: tests/keys/lasaft.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sepcli.models.config import make_config
from sepcli.models.lasaft import FAMILY
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint

KEYS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "keys" / "lasaft").glob("*.json"))}

# Of the papers and the originals' constructors.
COUNTS = {
    "v1_small": 8_424_028,
    "v1_large": 31_541_908,
    "v1_1_lightsaft": 4_159_844,
    "v1_2_light": 2_040_372,
    "v2_small_qk": 2_468_554,
    "v2_small_q": 2_411_354,
    "v2_small_k": 2_404_884,
    "v2_small_none": 2_347_684,
    "v2_large_qk": 7_900_700,
    "v2_light_mdx": 1_910_270,
    "aq_light_as_written": 2_870_140,
    "aq_light_flags_passed": 2_927_340,
    "aq_qk_listen_as_written": 2_870_140,
    "aq_qk_listen_flags_passed": 2_991_010,
}
NORM = ("weight", "bias", "running_mean", "running_var")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """{"a": {"0": {"weight": "2,3"}, "1": "norm 2"}} -> {"a.0.weight": (2, 3), "a.1.weight": (2,), ...}."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif value.startswith("norm "):
            found |= {f"{prefix}{name}.{part}": (int(value.removeprefix("norm ")),) for part in NORM}
            found[f"{prefix}{name}.num_batches_tracked"] = ()
        else:
            found[prefix + name] = tuple(map(int, value.split(","))) if value else ()
    return found


def test_no_file_is_forgotten():
    assert KEYS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", KEYS)
def test_converts_and_loads(name):
    published = json.loads(KEYS[name].read_text(encoding="utf-8"))
    arch = FAMILY.archs[published["arch"]]
    with torch.device("meta"):
        model = arch.build(make_config(arch, published["config"]))
        state = {
            f"spec2spec.{key}": torch.empty(shape, dtype=torch.float32 if shape else torch.int64)
            for key, shape in flat(published["state"]).items()
        }
        state["stft.stft.window"] = torch.empty(published["n_fft"])
    file = Checkpoint(Path("published"), {"state_dict": state, "epoch": 1}, {}, "torch")
    tensors = FAMILY.convert(file, model)
    assert len(tensors) == published["tensors"]
    if published["arch"] == "LaSAFTQuery":  # ours alone
        tensors["mean_latents"] = model.mean_latents
    model.load_state_dict(tensors, strict=True)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name] == published["parameters"]


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"num_tdfs": 4}, 1.44),
        ({"num_tdfs": 8}, 1.78),
        ({"num_tdfs": 32}, 3.85),
        ({"num_tdfs": 64}, 6.60),
        ({"n_fft": 512, "hop_length": 256}, 0.88),
        ({"n_fft": 1024, "hop_length": 512}, 1.20),
        ({"n_fft": 4096, "hop_length": 2048}, 7.49),
    ],
)
def test_ablations_of_the_paper(changes, millions):
    arch = FAMILY.archs["LaSAFTv2"]
    with torch.device("meta"):
        model = arch.build(make_config(arch, changes))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_defaults_never_change():
    """They are the original constructors', and catalogue entries are differences from them."""
    common = dict(
        sources=("vocals", "drums", "bass", "other"),
        samplerate=44100,
        channels=2,
        n_fft=2048,
        hop_length=1024,
        num_frame=128,
        margin=5120,
        n_blocks=7,
        internal_channels=24,
        n_internal_layers=5,
        bn_factor=16,
        min_bn_units=16,
        embedding_dim=32,
        dk=32,
        activation="relu",
    )
    v2 = {**common, "num_tdfs": 16, "listening": "query_key", "output": "spectrogram"}
    query = {"query_n_fft": 2048, "query_channels": (24, 16, 16, 32, 32, 64, 64), "query_hidden": 128}
    for name, expected in (
        ("LaSAFTv1", {**common, "num_tdfs": 6, "analyser": "heavy"}),
        ("LaSAFTv2", v2),
        ("LaSAFTQuery", v2 | query),
    ):
        assert vars(FAMILY.archs[name].config()) == expected


def catalogued() -> dict[str, Any]:
    return {
        entry.name: entry
        for entry in load_catalog().values()
        if entry.family == FAMILY.name and not entry.members[0].file.package
    }


def test_the_catalogue_says_the_same():
    pairs = {
        "lasaft-v1-large": "v1_large",
        "lightsaft-v1.1": "v1_1_lightsaft",
        "lasaft-v2-large": "v2_large_qk",
        "lasaft-v2-light": "v2_light_mdx",
    }
    assert catalogued().keys() == pairs.keys()
    for name, key in pairs.items():
        entry, published = catalogued()[name], json.loads(KEYS[key].read_text(encoding="utf-8"))
        (member,) = entry.members
        arch = FAMILY.archs[member.arch]
        assert member.arch == published["arch"]
        theirs = make_config(arch, published["config"])
        assert make_config(arch, {"sources": entry.sources, **member.config}) == theirs
        assert entry.published_overlap == (0 if name == "lightsaft-v1.1" else 0.5)
        assert member.file.check == ("prefix" if name == "lightsaft-v1.1" else "full")
