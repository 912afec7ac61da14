"""The presets of Conv-TasNet: sizes, and that the loss falls on two songs."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from sepcli.data.mixing import Batch, Batches, DataSource
from sepcli.training.optim import make_optimiser
from sepcli.training.setup import make_network, make_objective
from tests.presets import network_preset

RATE = 8000  # Hz
SMALLER = ("N=32", "L=16", "B=24", "H=32", "X=4", "R=1", f"samplerate={RATE}", "segment_length=8000")


@pytest.mark.parametrize("name, millions", [("tasnet", 10.978), ("tasnet-small", 0.269)])
def test_the_sizes(name, millions):
    config = network_preset(name)
    with torch.device("meta"):
        model = make_network(config.model).model
    assert abs(sum(parameter.numel() for parameter in model.parameters()) / 1e6 - millions) < 0.001
    assert config.data.segment * 44100 <= (model.segment.samples or 0) and model.normalize


def test_a_step_of_the_recipe():
    config = network_preset("tasnet", *SMALLER)
    model = make_network(config.model).model.train()
    loss = make_objective(config, model)(model, Batch(0.1 * torch.randn(2, 4, 2, 4000), [], []))
    loss.total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still and set(loss.parts) == {"l1"}


def render(folder, seed):
    """A song of 4 s: beats, a bass, chords, and a voice with vibrato."""
    draw = np.random.default_rng(seed)
    time, root = np.arange(4 * RATE) / RATE, draw.uniform(50, 70)  # Hz
    beat = time % 0.5
    stems = {
        "drums": draw.normal(size=time.size) * np.exp(-30 * beat),
        "bass": np.sign(np.sin(2 * np.pi * root * time)) * np.exp(-3 * beat),
        "other": sum(np.sin(2 * np.pi * root * ratio * time) for ratio in (4, 5, 6)) / 3,
        "vocals": np.sin(2 * np.pi * 8 * root * time + 3 * np.sin(2 * np.pi * 5 * time)),
    }
    folder.mkdir()
    for name, wave in stems.items():
        soundfile.write(folder / f"{name}.wav", np.stack([wave, 0.8 * wave], axis=1) * 0.2, RATE)


@pytest.mark.slow
def test_the_loss_falls_on_two_songs(tmp_path):
    for seed in range(2):
        render(tmp_path / f"song{seed}", seed)
    config = network_preset("tasnet-small", *SMALLER)
    torch.manual_seed(0)
    model = make_network(config.model).model.train()
    objective, optimiser = make_objective(config, model), make_optimiser(model, config.optim)
    batches = Batches(
        [DataSource(str(tmp_path))], sources=model.sources, samplerate=RATE, channels=2, samples=8000,
        batch_size=4, seed=0, aligned=1.0,
    )  # fmt: skip
    losses = []
    for step in range(60):
        loss = objective(model, batches[step]).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5]), losses
