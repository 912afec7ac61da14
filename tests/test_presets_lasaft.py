"""The LaSAFT presets: each builds the published number of parameters, also with one setting changed."""

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.training.config import preset_names
from sepcli.training.setup import make_network, make_objective
from tests.presets import preset

PUBLISHED = {  # parameters
    "lasaft-v1-small": 8_424_028, "lasaft-v1-large": 31_541_908, "lasaft-v1.1": 4_159_844,
    "lasaft-v1.2": 2_040_372, "lasaft-v2-small": 2_468_554, "lasaft-v2-large": 7_900_700,
    "lasaft-v2-light": 1_910_270, "lasaft-query": 2_991_010,
}  # fmt: skip


def parameters(config):
    with torch.device("meta"):  # no memory for weights
        return sum(parameter.numel() for parameter in make_network(config.model).model.parameters())


def test_no_preset_is_forgotten():
    known = {*PUBLISHED, "lasaft-small", "lasaft-query-small"}
    assert {name for name in preset_names() if "lasaft" in name} == known


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name):
    assert parameters(preset(name)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("listening", "count"), [("query", 2_411_354), ("key", 2_404_884), ("none", 2_347_684)]
)
def test_ablation_of_listening(listening, count):
    assert parameters(preset("lasaft-v2-small", f"model.config.listening={listening}")) == count


@pytest.mark.parametrize(("latents", "millions"), [(4, 1.44), (8, 1.78), (32, 3.85), (64, 6.60)])
def test_ablation_of_latent_sources(latents, millions):
    count = parameters(preset("lasaft-v2-small", f"model.config.num_tdfs={latents}"))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("n_fft", "millions"), [(512, 0.88), (1024, 1.20), (4096, 7.49)])
def test_ablation_of_the_window(n_fft, millions):
    config = preset("lasaft-v2-small", f"model.config.n_fft={n_fft}", f"model.config.hop_length={n_fft // 2}")
    assert parameters(config) / 1e6 == pytest.approx(millions, abs=0.005)
    assert make_network(config.model).model.segment.samples == n_fft // 2 * 127


@pytest.mark.parametrize("name", ["lasaft-small", "lasaft-query-small", "lasaft-v1.2", "lasaft-query"])
def test_a_step_of_the_recipe(name):
    """The objective named in the preset takes the preset's network and loss, and every parameter learns."""
    smaller = ["num_frame=32", "margin=512", "n_fft=512", "hop_length=256", "internal_channels=4"]
    if "query" in name:
        smaller.append("query_n_fft=512")
    config = preset(name, *(f"model.config.{text}" for text in smaller))
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    objective = make_objective(config, model)
    samples = model.segment.samples + 2 * objective.margin
    loss = objective(model, Batch(0.1 * torch.randn(8, 4, 2, samples), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert not still and torch.isfinite(loss.total)
