"""The presets of Spleeter and the objective that they name."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import preset_names
from sepcli.training.setup import example_samples, make_network, make_objective
from tests.models.test_spleeter import tiny
from tests.presets import preset


def test_the_published_network():
    with torch.device("meta"):
        model = make_network(preset("spleeter").model).model
    assert sum(parameter.numel() for parameter in model.parameters()) == 4 * (9_823_749 - 2 * 512)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("spleeter")])
def test_an_example_is_one_block(name):
    config = preset(name)
    with torch.device("meta"):
        model = make_network(config.model).model
    samples = example_samples(model, config.data.segment, 0)
    hop = model.config.frame_length // 4
    assert model.config.frames - 1 <= -(-(samples + 4 * hop) // hop) <= model.config.frames


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("spleeter")])
def test_a_step_of_the_recipe(name):
    smaller = ("frame_length=512", "frames=64", "bins=128", "filters=[2,3,4,5,6,8]")
    config = preset(name, *(f"model.config.{text}" for text in smaller))
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 4, 2, 7680), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and torch.isfinite(loss.total)


def magnitudes(model, kind="l1"):
    """The family's objective with one term."""
    config = preset("spleeter", f'loss.terms=[{{kind = "{kind}"}}]')
    return make_objective(config, model)


def test_estimates_that_are_right_cost_nothing():
    """One stem is all there is, and its network lets all pass."""
    model = tiny(sources=("vocals", "drums", "bass", "other"), filters=(2, 3, 4, 5, 6, 8))
    stems = torch.zeros(2, 4, 2, 9000)
    stems[:, 0] = torch.randn(2, 2, 9000)
    for unet, open_ in zip(model.unets, (1, -1, -1, -1), strict=True):
        torch.nn.init.zeros_(unet.last.weight)
        unet.last.bias.data.fill_(open_ * 100.0)
    right, wrong = Batch(stems, [], []), Batch(stems[:, [1, 0, 2, 3]], [], [])
    for kind in ("l1", "mse"):
        assert magnitudes(model, kind)(model, right).total < 1e-6
        assert magnitudes(model, kind)(model, wrong).total > 1


def test_a_network_alone_hears_the_rest_of_the_music():
    """It lets all pass, which is right only where there is nothing else."""
    model = tiny(sources=("vocals",), filters=(2, 3, 4, 5, 6, 8))
    torch.nn.init.zeros_(model.unets[0].last.weight)
    model.unets[0].last.bias.data.fill_(100.0)
    aim, stems = magnitudes(model), torch.randn(2, 2, 2, 9000)
    assert aim.rest and aim(model, Batch(stems, [], [])).total > 1
    stems[:, 1] = 0
    assert aim(model, Batch(stems, [], [])).total < 1e-6


@pytest.mark.parametrize("term", [Term("mrstft"), Term("l1", on="spectrogram")])
def test_losses_of_waveforms_are_refused(term):
    from sepcli.models.spleeter.objectives import Magnitudes

    with pytest.raises(UsageError, match="made for waveforms"):
        Magnitudes(tiny(), Criterion([term], [1.0] * 3))
