"""CU-Net: tiny networks for the contract, equality with the original, its objective and presets."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.data.mixing import Batch
from sepcli.errors import ModelError, UsageError
from sepcli.models.cunet import FAMILY, CUNet, CUNetConfig, Magnitudes
from sepcli.nn.losses import Criterion, Term
from sepcli.nn.norm import Norm
from sepcli.training.setup import example_samples, make_network, make_objective
from sepcli.weights.checkpoint import Checkpoint
from tests.contracts import Case, peak_error, run
from tests.presets import network_preset
from tests.rendered import rendered_song

GOLDEN = Path(__file__).parents[1] / "golden" / "cunet"
TINY = dict(nfft=32, hop=8, frames=8, filters=(2, 3, 4), widths=(3, 4, 5))


def tiny(**other):
    """With every norm off its trivial value."""
    torch.manual_seed(0)
    model = CUNet(CUNetConfig(**{**TINY, **other})).eval()
    for module in model.modules():
        if isinstance(module, Norm):
            module.mean.uniform_(-0.3, 0.3)
            module.variance.uniform_(0.5, 2)
    return model


LENGTHS = [1, 100]
NETWORKS = {
    "CUNet": {
        "simple, dense": Case(tiny, LENGTHS),
        "complex, cnn": Case(partial(tiny, sources=("a", "b", "c"), film="complex", control="cnn"), LENGTHS),
    }
}


@pytest.mark.parametrize("name", ["simple_dense", "complex_cnn"])
def test_against_keras(name):
    case = json.loads((GOLDEN / name / "case.json").read_text())
    said = case["config"]
    bins, frames, _ = said["INPUT_SHAPE"]
    model = CUNet(
        CUNetConfig(
            nfft=2 * bins,
            hop=bins // 2,
            frames=frames,
            filters=[said["FILTERS_LAYER_1"] * 2**i for i in range(said["N_LAYERS"])],
            film=said["FILM_TYPE"],
            control=said["CONTROL_TYPE"],
            widths=said.get("N_NEURONS") or said["N_FILTERS"],
        )
    ).eval()
    weights = Checkpoint(GOLDEN, load_file(GOLDEN / name / "weights.safetensors"), format="tensorflow")
    model.load_state_dict(FAMILY.convert(weights, model), strict=True)
    io = load_file(GOLDEN / name / "io.safetensors")
    mix, hot = io["input"][..., 0], io["condition"].reshape(2, 4)
    with torch.inference_mode():
        shares = model.unet(mix[:, None], *model.control(hot))[:, 0]
        assert peak_error(shares * mix, io["output"][..., 0]) < 2e-5
        index = hot.argmax(1).tolist()  # the same by the names of stems
        masks = model.masks(mix, [model.sources[i] for i in index])
        assert peak_error(masks[[0, 1], [0, 1]] * mix, io["output"][..., 0]) < 2e-5


def test_the_highest_bin_is_silent_and_masks_are_shares():
    model, mix = tiny(), torch.randn(1, 1, 1000)
    window = model.window
    assert run(model, torch.cos(torch.pi * torch.arange(1000.0))[None, None])[..., 100:900].abs().max() < 0.3
    stft = partial(torch.stft, n_fft=32, hop_length=8, window=window, return_complex=True)
    with torch.inference_mode():
        masks = model.masks(stft(mix[0])[:, :-1, :8].abs(), model.sources)
    assert masks.shape == (1, 4, 16, 8) and masks.min() >= 0 and masks.max() <= 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"film": "none"}, "film is 'none', but must be one of simple, complex"),
        ({"control": "lstm"}, "control is 'lstm', but must be one of dense, cnn"),
        ({"frames": 12}, "must be multiples of 8"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny(**config)


def test_a_tensor_of_another_network():
    with pytest.raises(ModelError, match="lstm/kernel"):
        FAMILY.convert(Checkpoint(Path("a"), {"lstm/kernel": torch.ones(1)}, format="tensorflow"), tiny())


def test_defaults_never_change():
    assert vars(CUNetConfig()) == dict(
        sources=("bass", "drums", "rest", "vocals"),
        samplerate=8192,
        nfft=1024,
        hop=256,
        frames=128,
        filters=(16, 32, 64, 128, 256, 512),
        film="simple",
        control="dense",
        widths=(16, 64, 256),
    )


# --- training -----------------------------------------------------------------------------------------------


def preset(name, **settings):
    return network_preset(name, *(f"{key}={json.dumps(value)}" for key, value in settings.items()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "millions"),
    [
        ("cunet", {}, 9.85),
        ("cunet", {"film": "complex", "widths": [16, 256, 1024]}, 12.17),
        ("cunet", {"control": "cnn", "widths": [16, 32, 64]}, 9.84),
        ("cunet", {"control": "cnn", "film": "complex", "widths": [32, 64, 256]}, 10.42),
        ("cunet-small", {}, 0.64),
    ],
)
def test_the_sizes(name, settings, millions):
    """Statistics of norms included, as the published program counts."""
    config = preset(name, **settings)
    with torch.device("meta"):
        model = make_network(config.model).model
    count = sum(t.numel() for key, t in model.state_dict().items())
    assert count / 1e6 == pytest.approx(millions, abs=0.012)
    assert example_samples(model, config.data.segment, 0) // 256 + 1 == model.config.frames


def test_estimates_that_are_right_cost_nothing():
    """Of silence; and a part that is not learnt has no gradient that is zero or missing."""
    model = tiny().train()
    aim = make_objective(preset("cunet"), model)
    assert aim(model, Batch(torch.zeros(2, 4, 1, 200), [], [])).total == 0
    loss = aim(model, Batch(torch.randn(2, 4, 1, 200), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1"}


def test_a_loss_on_waveforms_is_refused():
    with pytest.raises(UsageError, match="on the networks' magnitudes"):
        Magnitudes(tiny(), Criterion([Term("mrstft")], [1] * 4))


@pytest.mark.slow
def test_the_loss_falls_on_two_songs():
    torch.manual_seed(0)
    model = make_network(
        preset("cunet-small", filters=[4, 6, 8], nfft=256, hop=64, frames=16).model
    ).model.train()
    aim = make_objective(preset("cunet"), model)
    songs = torch.stack([rendered_song(number, 64 * 31, 8192) for number in range(2)])
    batch = Batch(songs.mean(dim=2, keepdim=True), [], [])
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(30):
        loss = aim(model, batch).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
