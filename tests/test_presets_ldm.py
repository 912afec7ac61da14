"""The presets of LDM-dmx: numbers of parameters, the chain's shapes, settings, and a step of each."""

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.training.beginning import begin
from sepcli.training.config import preset_names
from sepcli.training.optim import make_optimiser
from sepcli.training.setup import augmentation, example_samples, make_network, make_objective
from tests.presets import preset

PUBLISHED, SMALL = ["ldm-stage1", "ldm-stage2"], ["ldm-small-stage1", "ldm-small-stage2"]
SHRUNK = [
    "samplerate=8000",
    "channels=2",
    "filters=2",
    "latent=4",
    "ratios=[2,2]",
    "lstm_layers=1",
    "widths=[8,16]",
    "factors=[1,2]",
    "blocks=[1,1]",
    "attentions=[false,true]",
    "injections=[false,true]",
    "heads=2",
    "head_features=4",
    "groups=2",
    "features=8",
    "segment=640",
]


def network(config):
    with torch.device("meta"):
        return make_network(config.model).model


def test_no_preset_is_forgotten():
    family = {
        name
        for name in preset_names()
        if (preset(name).model.family, preset(name).model.arch) == ("ldm", "LatentDiffusion")
    }
    assert family == {*PUBLISHED, *SMALL}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_and_lengths(name):
    config = preset(name)
    model = network(config)
    parts = {key: sum(p.numel() for p in part.parameters()) for key, part in model.named_children()}
    assert parts["generator"] + parts["conditioner"] == 115_119_088  # the paper: 115.9 M
    assert example_samples(model, config.data.segment) == 573_440 == model.segment.samples
    assert (model.samplerate, model.sources) == (48_000, ("vocals",))


@pytest.mark.parametrize("name", SMALL)
def test_small_ones(name):
    """They fit the small codec, begin their chunks on latents, and have a few million parameters."""
    config = preset(name)
    model = network(config)
    codec = network(preset("ldm-codec-small"))
    ours, theirs = model.config, codec.config
    assert all(getattr(ours, key) == getattr(theirs, key) for key in ("samplerate", "channels", "ratios"))
    assert {key: tensor.shape for key, tensor in codec.encoder.state_dict().items()} == {
        key: tensor.shape for key, tensor in model.conditioner.state_dict().items()
    }
    assert example_samples(model, config.data.segment) == model.segment.samples
    assert int(0.75 * model.segment.samples) % ours.hop == 0
    assert sum(parameter.numel() for parameter in model.generator.parameters()) < 10_000_000


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_the_examples_fill_whole_batches(name):
    config = preset(name)
    assert config.data.examples % config.run.batch_size == 0
    assert [augmentation(table) for table in config.augment]


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_a_step_of_the_recipe(name):
    config = preset(name, *(f"model.config.{text}" for text in SHRUNK))
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    objective, optimiser = make_objective(config, model), make_optimiser(model, config.optim)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss = objective(model, Batch(0.1 * torch.randn(4, 2, 2, 640), [], []))
    loss.total.backward()
    optimiser.step()
    assert torch.isfinite(loss.total)
    changed = {
        key.partition(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    learnt = {"generator"} | ({"conditioner"} if "stage2" in name else set())
    assert changed == learnt | {"mean", "variance", "windows"}


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_what_needs_a_base_says_so(name):
    config = preset(name, *(f"model.config.{text}" for text in SHRUNK))
    with pytest.raises(UsageError, match="builds upon a trained Codec"):
        begin(make_network(config.model), config.model)
