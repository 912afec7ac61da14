"""The presets of RoFormers, the loss that they name, and new stems on a trained trunk."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import ModelError
from sepcli.loading import save_model
from sepcli.nn.losses import MR_COMPLEX_WINDOWS, Criterion, Term, multi_resolution_complex
from sepcli.training.beginning import begin
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

SMALLER = ["dim=8", "depth=1", "heads=2", "dim_head=4", "nfft=128", "hop=40", "mask_expansion=1"]
SMALLER_OF = {
    "mel-roformer": ["bands=6"],
    "bs-roformer": ["bands=[2,3,10,50]"],
    "roformer-small": ["bands=[65]"],
}


def smaller(name, *settings):
    return network_preset(name, *SMALLER, *SMALLER_OF[name], *settings)


@pytest.mark.parametrize(
    "name, millions", [("bs-roformer", 51.0), ("mel-roformer", 228.2), ("roformer-small", 0.9)]
)
def test_the_sizes(name, millions):
    with torch.device("meta"):
        model = make_network(network_preset(name).model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.05


@pytest.mark.parametrize("name", SMALLER_OF)
def test_a_step_of_the_recipe(name):
    config = smaller(name)  # one stem, and the rest of the mix
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 2, 2, 5000), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1", "mrcomplex"}


def test_an_error_counts_in_every_window():
    reference = torch.randn(1, 2, 2, 9000)
    assert multi_resolution_complex(reference, reference).abs().max() == 0
    error = torch.zeros(1, 2, 2, 9000)
    error[:, 1, :, 4500] = 1.0  # a click has the same modulus in all bins of the frames that hear it
    distance = multi_resolution_complex(reference + error, reference)[0]
    assert distance[0] == 0
    frames = 9000 // 147 + 1
    expected = sum(size / 2 / 147 / frames for size in MR_COMPLEX_WINDOWS)  # the mean of a Hann window is 1/2
    assert abs(distance[1] / expected - 1) < 0.02
    assert multi_resolution_complex(reference[..., :500], reference[..., 500:1000]).isfinite().all()


def trained(tmp_path, *stems):
    """A file of a small network with these stems, and its weights."""
    torch.manual_seed(1)
    network = make_network(smaller("bs-roformer", f"sources={list(stems)}".replace("'", '"')).model)
    path = tmp_path / "trained.safetensors"
    save_model(network.model.state_dict(), path, family="roformer", arch="BSRoformer", config=network.config)
    return path, network.model.state_dict()


def test_new_stems_on_a_trained_trunk(tmp_path):
    path, before = trained(tmp_path, "vocals", "drums")
    table = smaller("bs-roformer", 'sources=["guitar","drums"]', "hop=32").model
    network, notices = make_network(table), []
    fresh = {key: value.clone() for key, value in network.model.state_dict().items()}
    begin(network, table, str(path), notices.append)
    for key, value in network.model.state_dict().items():
        origin = fresh if key.startswith("estimators.0.") else before
        assert torch.equal(value, origin[key]), key
    assert any("has no guitar: the weights for that begin anew" in text for text in notices)
    assert any("other settings: hop is 40 there and 32 here" in text for text in notices)


def test_stems_in_another_order(tmp_path):
    path, before = trained(tmp_path, "vocals", "drums")
    table = smaller("bs-roformer", 'sources=["drums"]').model
    network, notices = make_network(table), []
    begin(network, table, str(path), notices.append)
    after = network.model.state_dict()
    assert torch.equal(after["estimators.0.masks.last.0.weight"], before["estimators.1.masks.last.0.weight"])
    assert notices == []


def test_a_trunk_of_another_size_is_refused(tmp_path):
    path, _ = trained(tmp_path, "vocals")
    table = smaller("bs-roformer", "dim=12").model
    with pytest.raises(ModelError, match="do not fit this BSRoformer"):
        begin(make_network(table), table, str(path))


def test_the_loss_is_that_of_the_toolkit():
    from tests.parity.test_roformer import pair

    ours, theirs = pair("BSRoformer", dict(depth=1, num_stems=2, stft_hop_length=512))
    stems = torch.randn(1, 2, 2, 6000)
    with torch.no_grad():
        expected = theirs(stems.sum(1), target=stems)
        total = Criterion([Term("l1"), Term("mrcomplex")], [1.0, 1.0])(ours(stems.sum(1)), stems).total
    assert abs(total / expected - 1) < 1e-4
