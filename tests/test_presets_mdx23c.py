"""The presets of MDX23C, and a network as the training toolkit reads it."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from sepcli.training.beginning import begin
from sepcli.training.export import export_model
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

SMALLER = ["width=4", "growth=2", "bins=64", "nfft=128", "hop=32", "scales=2", "chunk=2016"]


@pytest.mark.parametrize(
    "name, millions", [("mdx23c", 112.0), ("mdx23c-drumkit", 109.4), ("mdx23c-small", 0.4)]
)
def test_the_sizes(name, millions):
    with torch.device("meta"):
        model = make_network(network_preset(name).model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.05
    assert model.valid_length(int(network_preset(name).data.segment * 44100)) == model.segment.samples


def test_a_step_of_the_recipe():
    config = network_preset("mdx23c-drumkit", *SMALLER)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 5, 2, 2016), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1"}


@pytest.fixture
def trained(tmp_path):
    """A run's file, and its network."""
    torch.manual_seed(1)
    network = make_network(network_preset("mdx23c-small", *SMALLER).model)
    path = tmp_path / "model.safetensors"
    save_model(network.model.state_dict(), path, family="mdx23c", arch="MDX23C", config=network.config)
    return path, network


def test_the_toolkit_reads_it_and_so_do_we(trained, tmp_path):
    path, network = trained
    out = tmp_path / "there.ckpt"
    assert [file.suffix for file in export_model(str(path), out)] == [".ckpt", ".yaml"]
    notices = []
    loaded = load_model(str(out), notice=notices.append)  # the YAML beside it is found
    assert "'there.yaml'" in " ".join(notices)
    assert loaded.network.config == network.config
    state = loaded.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
    yaml = out.with_suffix(".yaml")
    yaml.write_text(yaml.read_text().replace("growth: 2", "growth: 3"))
    with pytest.raises(ModelError, match=r"gives growth as 3, but by the tensors of 'there\.ckpt' it is 2"):
        load_model(str(out))


def test_a_trained_network_as_the_beginning(trained):
    path, network = trained
    table = network_preset("mdx23c-small", *SMALLER).model
    fresh = make_network(table)
    begin(fresh, table, str(path))
    state = fresh.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
