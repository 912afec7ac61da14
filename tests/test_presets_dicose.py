"""The presets of DiCoSe, MSDM and ISDM: numbers of parameters, the chain's shapes, and that a step learns."""

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.training.beginning import begin
from sepcli.training.config import preset_names
from sepcli.training.optim import make_optimiser
from sepcli.training.setup import example_samples, make_network, make_objective
from tests.presets import preset

DETERMINISTIC, DIFFUSION = 405_231_900, 405_496_220  # parameters
PUBLISHED = {
    "dicose-det": DETERMINISTIC, "dicose-double": 2 * DETERMINISTIC,
    "dicose-diffusion": DETERMINISTIC + DIFFUSION, "dicose-cd": DETERMINISTIC + DIFFUSION,
    "msdm": 405_497_700, "isdm": 4 * 405_491_100,
}  # fmt: skip
SMALL = {"dicose-small-det", "dicose-small-double", "dicose-small-diffusion", "dicose-small-cd"}
SHRUNK = [
    "width=16",
    "patch=4",
    "multipliers=[1,2,2]",
    "factors=[4,2]",
    "blocks=[1,1]",
    "attentions=[false,true]",
    "heads=2",
    "head_features=4",
    "segment=256",
]


def network(config):
    with torch.device("meta"):
        return make_network(config.model).model


def test_no_preset_is_forgotten():
    family = {name for name in preset_names() if preset(name).model.family == "dicose"}
    assert family == {*PUBLISHED, *SMALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_and_lengths(name):
    config = preset(name)
    model = network(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert example_samples(model, config.data.segment) == 262_144 == model.segment.samples
    assert model.sources == ("bass", "drums", "guitar", "piano") and model.samplerate == 22_050


@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_ones(name):
    config = preset(name)
    model = network(config)
    assert example_samples(model, config.data.segment) == 32_768 == model.segment.samples
    assert sum(parameter.numel() for parameter in model.unet.parameters()) < 4_000_000


@pytest.mark.parametrize("one", ["dicose-", "dicose-small-"])
def test_the_chain_fits(one):
    """What is a base or a teacher has the configuration that the next one wants."""
    det, diffusion, cd = (preset(one + name).model.config for name in ("det", "diffusion", "cd"))
    shape = {key: value for key, value in diffusion.items() if key != "sigma_data"}
    assert shape == det and cd == diffusion


@pytest.mark.parametrize("name", [*PUBLISHED, *sorted(SMALL)])
def test_a_step_of_the_recipe(name):
    """The objective named in the preset trains the preset's network: all that should learn does."""
    config = preset(name, *(f"model.config.{text}" for text in SHRUNK))
    torch.manual_seed(0)
    built = make_network(config.model)
    model = built.model.train()
    objective, optimiser = make_objective(config, model), make_optimiser(model, config.optim)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = Batch(0.1 * torch.randn(4, 4, 1, 256), [], [])
    loss = objective(model, batch)
    loss.total.backward()
    optimiser.step()
    assert torch.isfinite(loss.total)
    still = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert {key.partition(".")[0] for key in still} <= {"base"}
    now = model.state_dict()
    assert all(torch.equal(now[key], before[key]) for key in still)
    assert any(not torch.equal(now[key], before[key]) for key in set(before) - still)


@pytest.mark.parametrize("name", ["dicose-double", "dicose-diffusion", "dicose-small-diffusion"])
def test_what_needs_a_base_says_so(name):
    config = preset(name, *(f"model.config.{text}" for text in SHRUNK))
    with pytest.raises(UsageError, match="builds upon a trained Deterministic"):
        begin(make_network(config.model), config.model)
