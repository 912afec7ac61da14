"""The HT Demucs presets: each builds what its name and its paper say, with the paper's number of parameters."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepcli.data.mixing import Batches, DataSource
from sepcli.models.config import make_config
from sepcli.models.demucs.sparse import SparseWeighing
from sepcli.models.demucs.transformer import TransformerLayer
from sepcli.models.family import get_family
from sepcli.training.config import TrainConfig, preset_names
from sepcli.training.optim import make_optimiser
from sepcli.training.setup import Network, augmentation, example_samples, make_network, make_objective
from sepcli.weights.catalog import load_catalog
from tests.presets import preset

SOURCES = ("drums", "bass", "other", "vocals")
# Preset: seconds, layers, dimension, parameters, and millions of them as published. The table of the paper cuts
# off what it does not show (41.47 is its 41.4) or rounds it (26.8995 is its 26.9).
GRID = {
    "htdemucs-3.4s-5-384": ("3.4", 5, 384, 26_899_536, 26.9),
    "htdemucs-3.4s-7-384": ("3.4", 7, 384, 34_005_072, 34.0),
    "htdemucs-3.4s-5-512": ("3.4", 5, 512, 41_473_616, 41.4),
    "htdemucs-7.8s-5-384": ("7.8", 5, 384, 26_899_536, 26.9),
    "htdemucs-7.8s-7-384": ("7.8", 7, 384, 34_005_072, 34.0),
    "htdemucs-7.8s-5-512": ("7.8", 5, 512, 41_473_616, 41.4),
    "htdemucs-12.2s-5-384": ("12.2", 5, 384, 26_899_536, 26.9),
    "sparse-htdemucs": ("12.2", 7, 512, 54_093_392, None),
}
FINE_TUNING = {f"htdemucs-ft-{name}": name for name in SOURCES}


def network(config: TrainConfig) -> Network:
    """Without memory for its weights: shapes only."""
    with torch.device("meta"):
        return make_network(config.model)


def parameters(built: Network) -> int:
    return sum(p.numel() for p in built.model.parameters())


def test_these_are_all_there_are() -> None:
    known = {*GRID, *FINE_TUNING, "htdemucs"}
    assert {name for name in preset_names() if "htdemucs" in name} == known


@pytest.mark.parametrize("name", [*GRID, *FINE_TUNING, "htdemucs"])
def test_everything_in_it_can_be_made(name: str) -> None:
    """And its examples are as long as the network's segment, as they are shown."""
    config = preset(name)
    built = network(config)
    model = built.model
    assert model.sources == SOURCES and (model.samplerate, model.channels) == (44100, 2)
    assert example_samples(model, config.data.segment) == model.segment.samples
    assert round(config.data.segment * 44100) == model.segment.samples, "what is shown is what is used"
    assert config.about.endswith(".")
    make_objective(config, model)
    make_optimiser(model, config.optim)
    assert [augmentation(table) for table in config.augment]


@pytest.mark.parametrize("name", GRID)
def test_grid(name: str) -> None:
    """The paper's table: duration, depth, dimension -> parameters (dconv_mode 1)."""
    seconds, layers, dimension, exact, published = GRID[name]
    config = preset(name)
    built = network(config)
    assert Fraction(built.config.segment) == Fraction(seconds)
    assert built.model.segment.samples == int(Fraction(seconds) * 44100)
    transformer = built.model.crosstransformer
    assert (len(transformer.layers), transformer.channels) == (layers, dimension)
    assert built.config.dconv_mode == 1
    assert parameters(built) == exact
    if published is not None:
        assert abs(exact / 1e6 - published) < 0.1
        assert f"{published} M" in config.about


def test_htdemucs_is_the_published_network() -> None:
    config = preset("htdemucs")
    built = network(config)
    entry = load_catalog()["htdemucs"]
    arch = get_family("demucs").archs["HTDemucs"]
    (member,) = entry.members
    published = make_config(arch, {"sources": entry.sources, **member.config})
    differing = {
        name for name, value in vars(built.config).items()
        if value != getattr(published, name) and {value, getattr(published, name)} != {None, ()}
    }  # fmt: skip
    assert differing <= {"t_sparse_attn_window"}, "which is read by sparse attention only"
    assert parameters(built) == 41_984_456


def test_what_is_read_for_an_example_is_the_papers_ten_seconds(tmp_path: Path) -> None:
    """7.8 s are left of 10 s by repitching (88 %) and shifting (1 s)."""
    config = preset("htdemucs")
    (tmp_path / "song").mkdir()
    for source in SOURCES:
        soundfile.write(tmp_path / "song" / f"{source}.wav", np.zeros((441, 2)), 44100)
    batches = Batches(
        [DataSource(str(tmp_path))], sources=SOURCES, samplerate=44100, channels=2, samples=343_980,
        batch_size=4, seed=0, aligned=1.0, augment=[augmentation(table) for table in config.augment],
    )  # fmt: skip
    assert batches.read_samples == 441_000


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning(name: str) -> None:
    config = preset(name)
    built = network(config)
    source = FINE_TUNING[name]
    assert {s: w for s, w in config.loss.source_weights.items() if w} == {source: 1}
    assert set(config.loss.source_weights) == set(SOURCES)
    groups = make_optimiser(built.model, config.optim).param_groups
    decays = {group["weight_decay"]: group["params"] for group in groups}
    still, decaying = sorted(decays)
    inside = {id(p) for p in built.model.crosstransformer.parameters()}
    assert still == 0 and {id(p) for p in decays[decaying]} == inside, "only the transformer's weights decay"
    base = network(preset("htdemucs"))
    assert {k: v.shape for k, v in built.model.state_dict().items()} == {
        k: v.shape for k, v in base.model.state_dict().items()
    }, "it begins with the weights of htdemucs"


def test_sparse() -> None:
    """Self-attention is hashed and keeps a tenth; attention across the branches is dense."""
    transformer = network(preset("sparse-htdemucs")).model.crosstransformer
    for layer in (*transformer.layers, *transformer.layers_t):
        assert isinstance(layer, TransformerLayer)
        hashed = [module.sparsity for module in layer.modules() if isinstance(module, SparseWeighing)]
        assert len(hashed) == (0 if layer.cross else 1)
        assert all(sparsity.hashed and sparsity.dropped == 0.9 for sparsity in hashed)
