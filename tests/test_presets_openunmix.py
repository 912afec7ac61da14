"""The presets of Open-Unmix and X-UMX and the objectives that they name."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from sepcli.data.mixing import Batch, Batches, DataSource
from sepcli.errors import UsageError
from sepcli.models.openunmix import XUMX
from sepcli.models.openunmix.objectives import Bridged, Magnitudes, weighted_sdr
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import preset_names
from sepcli.training.optim import make_optimiser
from sepcli.training.setup import make_network, make_objective
from tests.contracts import peak_error
from tests.models.test_openunmix import tiny
from tests.presets import preset
from tests.stems import write

PRESETS = [name for name in preset_names() if name.startswith(("umx", "xumx"))]
SQUARED = Criterion([Term("mse")], [1.0] * 3)


@pytest.mark.parametrize("name", ["umx", "xumx"])
def test_the_published_networks(name):
    with torch.device("meta"):
        model = make_network(preset(name).model).model
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_573_392
    assert make_objective(preset(name), model).__class__ is (Bridged if name == "xumx" else Magnitudes)


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_of_the_recipe(name):
    smaller = ("nfft=128", "hop=32", "max_bin=40", "hidden=8", "layers=2")
    config = preset(name, *(f"model.config.{text}" for text in smaller))
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 4, 2, 1280), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and torch.isfinite(loss.total)


def estimated(model, stems):
    """A mix's spectrogram, and estimates of its stems' magnitudes [B, S, C, N, F] that are not quite right."""
    true = model.spectrogram(stems).abs()
    return model.spectrogram(stems.sum(dim=1)), true, true * (0.5 + torch.rand_like(true))


@pytest.mark.parametrize("combined", [True, False])
def test_the_loss_over_combinations_is_the_mean_over_them(combined):
    """Against sums of each set of stems, one after another."""
    torch.manual_seed(0)
    model, stems = tiny(XUMX), torch.randn(2, 3, 2, 640)
    mix, true, guess = estimated(model, stems)
    loss = Bridged(model, SQUARED, time=4.0, combined=combined)._loss(model, guess, true, mix, stems)
    squares, directions = [], []
    for group in (each for size in ((1, 2) if combined else (1,)) for each in combinations(range(3), size)):
        error = sum(guess[:, i] - true[:, i] for i in group)
        squares.append(error.square().mean())
        phases = torch.exp(1j * mix.angle())
        wave = sum(model.wave(guess[:, i] * phases, 640) for i in group)
        directions.append(weighted_sdr(wave, sum(stems[:, i] for i in group), stems.sum(dim=1)).mean())
    square, time = torch.stack(squares).mean(), 1 - torch.stack(directions).mean()
    torch.testing.assert_close(loss.parts["magnitudes"], square)
    torch.testing.assert_close(loss.parts["time"], time)
    torch.testing.assert_close(loss.total, square + 4 * time)


def test_estimates_that_are_right_cost_nothing():
    """One stem is all there is, so that the mix's phase is its own."""
    model, stems = tiny(XUMX), torch.zeros(1, 3, 2, 640)
    stems[:, 0] = torch.randn(1, 2, 640)
    mix = model.spectrogram(stems.sum(dim=1))
    true = model.spectrogram(stems).abs()
    for objective in (Magnitudes(model, SQUARED), Bridged(model, SQUARED)):
        assert objective._loss(model, true, true, mix, stems).total < 1e-4
        assert objective._loss(model, true[:, [1, 0, 2]], true, mix, stems).total > 1


def test_the_weighted_sdr():
    speech, noise = torch.sin(torch.arange(1000) / 5), torch.randn(1000)
    mix = speech + noise
    assert weighted_sdr(speech, speech, mix) > 0.999
    assert weighted_sdr(3 * speech, speech, mix) < 0.999  # what is left is wrong
    assert (
        weighted_sdr(-speech, speech, mix) < weighted_sdr(mix, speech, mix) < weighted_sdr(speech, speech, mix)
    )
    silence = torch.zeros(1000)
    assert weighted_sdr(silence, silence, mix) > 0.999


def test_what_fresh_networks_hear_is_standardised_once():
    model = tiny(XUMX).train()
    for target in model.targets:
        target.input_mean.data.zero_()
        target.input_scale.data.fill_(1)
    batch = Batch(torch.randn(2, 3, 2, 3200) * torch.tensor([1.0, 5.0, 0.1])[:, None, None], [], [])
    objective = Magnitudes(model, SQUARED)
    objective(model, batch)
    heard = model.spectrogram(batch.stems.sum(dim=1)).abs()[..., :40]
    for target in model.targets:
        values = (heard + target.input_mean) * target.input_scale
        assert values.mean(dim=(0, 1, 2)).abs().max() < 1e-4
        assert (values.std(dim=(0, 1, 2)) - 1).abs().max() < 1e-2
    before = model.targets[0].input_mean.clone()
    for again in (objective, Magnitudes(model, SQUARED)):  # also of a network that has learnt
        again(model, Batch(9 * batch.stems, [], []))
        assert peak_error(model.targets[0].input_mean.detach(), before.detach()) == 0


@pytest.mark.parametrize("term", [Term("mrstft"), Term("mse", on="spectrogram")])
def test_losses_of_waveforms_are_refused(term):
    with pytest.raises(UsageError, match="made for waveforms"):
        Magnitudes(tiny(), Criterion([term], [1.0] * 3))


def test_what_the_bridged_loss_can_not_be():
    with pytest.raises(UsageError, match="its own loss"):
        Bridged(tiny(XUMX), Criterion([Term("l1")], [1.0] * 3))
    with pytest.raises(UsageError, match="its own loss"):
        Bridged(tiny(XUMX), Criterion([Term("mse")], [1.0, 2.0, 1.0]))
    with pytest.raises(UsageError, match="time is -1"):
        Bridged(tiny(XUMX), SQUARED, time=-1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["umx-small", "xumx-small"])
def test_the_loss_falls_on_two_songs(name, tmp_path):
    """Beats, low notes and chords, through the data set's mixing."""
    for seed in range(2):
        song(tmp_path / f"song{seed}", seed)
    smaller = (
        "samplerate=8000",
        "nfft=512",
        "hop=128",
        "max_bin=200",
        "hidden=32",
        'sources=["drums","bass","other"]',
    )
    config = preset(name, *(f"model.config.{text}" for text in smaller))
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    objective, optimiser = make_objective(config, model), make_optimiser(model, config.optim)
    batches = Batches(
        [DataSource(str(tmp_path))], sources=model.sources, samplerate=8000, channels=2, samples=8000,
        batch_size=4, seed=0, aligned=1.0,
    )  # fmt: skip
    losses = []
    for _, batch in zip(range(60), batches, strict=False):
        loss = objective(model, batch).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10]), losses


def song(folder, seed):
    """Four seconds of drums, bass and other, at 8 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(32000) / 8000
    beat = np.exp(-30 * (time % 0.5)) * rng.standard_normal(len(time))
    bass = np.sin(2 * np.pi * rng.uniform(60, 110) * time)
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in rng.uniform(400, 1600, 3)) / 3
    for name, wave in (("drums", beat), ("bass", bass), ("other", chord)):
        write(folder / f"{name}.wav", 0.2 * np.stack([wave, rng.uniform(0.5, 1) * wave]))
