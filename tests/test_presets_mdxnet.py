"""The presets of MDX-Net, and a published file as the beginning of a training."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.loading import load_model, save_model
from sepcli.models.mdxnet import FAMILY
from sepcli.training.beginning import begin
from sepcli.training.export import export_model
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

SMALLER = ["growth=4", "bins=64", "nfft=512", "hop=128", "frames=32", "scales=2", "bottleneck=4"]


@pytest.mark.parametrize("name, millions", [("mdxnet", 7.4), ("mdxnet-small", 0.5)])
def test_the_sizes(name, millions):
    with torch.device("meta"):
        model = make_network(network_preset(name).model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.05
    assert model.segment.samples <= network_preset(name).data.segment * 44100 + 64


def test_a_step_of_the_recipe():
    config = network_preset("mdxnet-small", *SMALLER)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 2, 2, 5000), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1"}


def trained(tmp_path, *settings):
    torch.manual_seed(1)
    network = make_network(network_preset("mdxnet-small", *SMALLER, *settings).model)
    path = tmp_path / "model.safetensors"
    save_model(network.model.state_dict(), path, family="mdxnet", arch="MDXNet", config=network.config)
    return path, network


def test_there_and_back(tmp_path):
    """A run's file, and what `models export` makes of it: KUIELab's names."""
    path, network = trained(tmp_path, 'sources=["bass"]')
    (exported,) = export_model(str(path), tmp_path / "bass.ckpt")
    state = torch.load(exported)
    assert state["window"].shape == (512,) and state["freq_pad"].shape == (1, 4, 193, 32)
    back = FAMILY.convert(load(exported), network.model)
    assert all(torch.equal(back[name], value) for name, value in network.model.state_dict().items())
    loaded = load_model(str(path))
    assert loaded.sources == ("bass",) and loaded.model.config == network.config


def load(path):
    from sepcli.weights.checkpoint import read_checkpoint

    return read_checkpoint(path)


def test_a_folded_network_is_trained_on(tmp_path):
    path, before = trained(tmp_path, "folded=true")
    table = network_preset("mdxnet-small", *SMALLER, "folded=true", 'sources=["guitar"]').model
    network = make_network(table)
    begin(network, table, str(path), lambda text: None)
    for name, value in network.model.state_dict().items():
        assert torch.equal(value, before.model.state_dict()[name]), name
