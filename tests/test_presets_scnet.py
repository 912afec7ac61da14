"""The presets of SCNet, their loss, new stems on a trained network, and one as the toolkit reads it."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from sepcli.nn.losses import Criterion, Term, rmse
from sepcli.training.beginning import begin
from sepcli.training.export import export_model
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

SMALLER = ["dims=[4,4,8]", "nfft=128", "hop=32", "layers=2", "chunk=2000", "shares=[0.2,0.4,0.4]"]


@pytest.mark.parametrize("name, millions", [("scnet", 10.6), ("scnet-large", 42.2), ("scnet-tiny", 0.5)])
def test_the_sizes(name, millions):
    config = network_preset(name)
    with torch.device("meta"):
        model = make_network(config.model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.05
    assert config.data.segment * 44100 == model.segment.samples and model.normalize


def test_a_step_of_the_recipe():
    config = network_preset("scnet", *SMALLER)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 4, 2, 2000), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"rmse_spectrogram"}


def test_the_loss_is_of_each_stem_by_itself():
    """A quiet stem pulls as much as a loud one; a perfect one not at all, without a division by 0."""
    reference = torch.randn(2, 3, 2, 500)
    error = torch.tensor([1.0, 0.01, 0.0])[:, None, None] * torch.randn(2, 3, 2, 500)
    distance = rmse(reference + error, reference)
    assert torch.allclose(distance, error.square().flatten(2).mean(-1).sqrt(), atol=1e-6)
    estimate = reference.clone().requires_grad_()
    Criterion([Term("rmse", "spectrogram")], [1, 1, 1])(estimate, reference).total.backward()
    assert estimate.grad is not None and not estimate.grad.any()


@pytest.fixture
def trained(tmp_path):
    """A run's file, and its network."""
    torch.manual_seed(1)
    network = make_network(network_preset("scnet-tiny", *SMALLER).model)
    path = tmp_path / "model.safetensors"
    save_model(network.model.state_dict(), path, family="scnet", arch="SCNet", config=network.config)
    return path, network


def test_new_stems_on_a_trained_network(trained):
    path, before = trained
    table = network_preset("scnet-tiny", *SMALLER, 'sources=["piano","bass"]').model
    network, notices = make_network(table), []
    fresh = {key: value.clone() for key, value in network.model.state_dict().items()}
    begin(network, table, str(path), notices.append)
    old = before.model.state_dict()
    for key, value in network.model.state_dict().items():
        origin = fresh if key.startswith("heads.0.") else old
        assert torch.equal(value, origin[key]), key
    assert any("has no piano" in text for text in notices)


@pytest.mark.parametrize("switches", [{}, {"hann": True, "positions": True, "mask_hidden": 64}])
def test_the_toolkit_reads_it_and_so_do_we(switches, tmp_path):
    """With what no tensor tells: whether the track is standardised, hop, shares, stems."""
    pytest.importorskip("yaml")
    settings = [f"{key}={str(value).lower()}" for key, value in switches.items()]
    network = make_network(network_preset("scnet-tiny", *SMALLER, *settings, 'sources=["piano","rest"]').model)
    own, out = tmp_path / "model.safetensors", tmp_path / "there.ckpt"
    save_model(network.model.state_dict(), own, family="scnet", arch="SCNet", config=network.config)
    assert [file.suffix for file in export_model(str(own), out)] == [".ckpt", ".yaml"]
    loaded = load_model(str(out))  # the YAML beside it is found
    assert loaded.network.config == network.config and loaded.model.normalize
    state = loaded.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
    yaml = out.with_suffix(".yaml")
    text = yaml.read_text()
    for old, new, words in (
        ("num_dplayer: 2", "num_dplayer: 4", "gives layers as 4, but by the tensors"),
        ("normalize: true", "normalize: 7", "`normalize` is 7, but must be true or false"),
    ):
        assert old in text
        yaml.write_text(text.replace(old, new))
        with pytest.raises(ModelError, match=words):
            load_model(str(out))
