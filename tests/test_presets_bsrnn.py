"""The presets of BS-RNN, and new stems on a trained trunk."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.loading import save_model
from sepcli.training.beginning import begin
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

SMALLER = ["dim=8", "depth=1", "nfft=128", "hop=40", "mask_expansion=1", "bands=[2,2,3,10,48]"]


@pytest.mark.parametrize(
    "name, millions", [("bsrnn", 36.42), ("bsrnn-simo-opt", 108.73), ("bsrnn-small", 0.354)]
)
def test_the_sizes(name, millions):
    with torch.device("meta"):
        model = make_network(network_preset(name).model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.01


@pytest.mark.parametrize("name", ["bsrnn", "bsrnn-simo-opt", "bsrnn-small"])
def test_a_step_of_the_recipe(name):
    config = network_preset(name, *SMALLER)
    model = make_network(config.model).model.train()
    aim = make_objective(config, model)
    stems = 0.1 * torch.randn(2, len(model.sources) + bool(aim.rest), 2, 3000)
    loss = aim(model, Batch(stems, [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1", "l1_spectrogram"}


def test_new_stems_on_a_trained_trunk(tmp_path):
    torch.manual_seed(1)
    trained = make_network(network_preset("bsrnn", *SMALLER, 'sources=["vocals","drums"]').model)
    before = trained.model.state_dict()
    save_model(before, tmp_path / "m.safetensors", family="bsrnn", arch="BSRNN", config=trained.config)
    table = network_preset("bsrnn", *SMALLER, 'sources=["drums","guitar"]').model
    network, notices = make_network(table), []
    fresh = {key: value.clone() for key, value in network.model.state_dict().items()}
    begin(network, table, str(tmp_path / "m.safetensors"), notices.append)
    for key, value in network.model.state_dict().items():
        expected = (
            fresh[key] if key.startswith("maskers.1.") else before[key.replace("maskers.0.", "maskers.1.")]
        )
        assert torch.equal(value, expected), key
    assert ["has no guitar" in text for text in notices] == [True]
