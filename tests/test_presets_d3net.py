"""The presets of D3Net and the objective that they name."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import preset_names
from sepcli.training.setup import example_samples, make_network, make_objective
from tests.models.test_d3net import tiny
from tests.presets import preset
from tests.rendered import rendered_song

NAMES = [name for name in preset_names() if name.startswith("d3net")]


@pytest.mark.slow
@pytest.mark.parametrize("name, millions, frames", [("d3net", 11.2, 256), ("d3net-small", 0.5, 64)])
def test_the_sizes(name, millions, frames):
    config = preset(name)
    with torch.device("meta"):
        model = make_network(config.model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.1
    assert example_samples(model, config.data.segment, 0) // model.config.hop + 1 == frames


def objective(kind="mse"):
    return make_objective(preset("d3net", f'loss.terms=[{{kind = "{kind}"}}]'), tiny())


def test_a_step_of_the_recipe():
    model = tiny().train()
    loss = objective()(model, Batch(0.1 * torch.randn(2, 2, 2, 16 * 16 + 3), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"mse"}


def test_estimates_that_are_right_cost_nothing():
    """Estimates of silence, for a stem that is silent; and of one that isn't, what its magnitudes cost."""
    model, stems = tiny(), torch.zeros(1, 2, 2, 16 * 15)
    for net in model.nets:
        torch.nn.init.zeros_(net.out_bias)
        torch.nn.init.zeros_(net.out_scale)
    for kind in ("l1", "mse"):
        assert objective(kind)(model, Batch(stems, [], [])).total == 0
        assert objective(kind)(model, Batch(stems + torch.randn_like(stems), [], [])).total > 1


@pytest.mark.parametrize("term", [Term("mrstft"), Term("l1", on="spectrogram")])
def test_a_loss_on_waveforms_is_refused(term):
    with pytest.raises(UsageError, match="on the networks' magnitudes"):
        make_objective_of(term)


def make_objective_of(term):
    from sepcli.models.d3net.objectives import Magnitudes

    return Magnitudes(tiny(), Criterion([term], [1, 1]))


@pytest.mark.slow
def test_the_loss_falls_on_two_songs():
    torch.manual_seed(0)
    shape = dict(nfft=512, hop=128, bins=96, split=[32], patch=[16], features=[4, 2, 4])
    shape |= {f"{band}_growth": [[3, 4, 3]] for band in ("low", "high", "full")}
    shape |= {f"{band}_layers": [[2, 1, 2]] for band in ("low", "high", "full")}
    settings = [f"model.config.{name}={value}" for name, value in shape.items()]
    model = make_network(preset("d3net-small", *settings).model).model.train()
    aim = make_objective(preset("d3net"), model)
    batch = Batch(torch.stack([rendered_song(number, 128 * 15) for number in range(2)]), [], [])
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(16):
        loss = aim(model, batch).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
