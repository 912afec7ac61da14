"""How a codec learns: level, silence, and what it is validated on."""

from __future__ import annotations

import pytest
import torch

from sepcli.data.mixing import Batch, DataSource
from sepcli.errors import UsageError
from sepcli.loading import load_model
from sepcli.models.family import get_family
from sepcli.models.ldm.reconstruction import Reconstruction
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import DataTable, TrainConfig, make_train_config, merge, parse_override, read_preset
from sepcli.training.objectives import choose_objective
from sepcli.training.setup import example_samples, make_network, split
from sepcli.training.train import train
from tests.models.test_ldm_codec import tiny
from tests.tracks import make_track

TERMS = [Term("l1"), Term("mrstft")]


def objective(model, terms=TERMS, **options):
    return Reconstruction(model, Criterion(terms, [1.0]), **options)


def batch(*waves):
    return Batch(torch.stack(waves)[:, None], ["x"] * len(waves), [])


def wave(seed=0, samples=4800):
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def test_it_is_chosen_by_name():
    chosen = choose_objective("reconstruction", {}, get_family("ldm"), tiny(), Criterion(TERMS, [1.0]))
    assert isinstance(chosen, Reconstruction) and chosen.alone


def test_the_loss_is_the_error_at_the_networks_level():
    model = tiny()
    loss = objective(model, [Term("l1")])(model, batch(0.01 * wave()))
    scale = 0.01 * wave().mean(0).square().mean().sqrt()
    error = (model((0.01 * wave())[None])[:, 0] - 0.01 * wave()).abs().mean()
    torch.testing.assert_close(loss.total, error / scale, rtol=1e-3, atol=0)


def test_a_quiet_example_pulls_as_much():
    model = tiny()
    losses = [objective(model)(model, batch(gain * wave())).total for gain in (1.0, 0.01)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)


def test_silence_pulls_not_at_all():
    model = tiny()
    both = objective(model)(model, batch(wave(), 1e-6 * wave(1)))
    one = objective(model)(model, batch(wave()))
    torch.testing.assert_close(2 * both.total, one.total)
    objective(model)(model, batch(torch.zeros(2, 4800))).total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.slow
def test_a_few_steps_learn():
    model, fixed = tiny().train(), batch(wave().cumsum(-1).mul(0.01))
    step = objective(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = step(model, fixed).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_noise_on_the_latents_is_beside_their_own_deviation():
    """Drawn at levels up to the one asked for, in proportion to each channel; the encoder learns too."""
    model, given = tiny(), torch.stack([wave(seed) for seed in range(64)])
    decoded = []
    model.decode = lambda z, scale, samples: decoded.append(z) or given.clone().requires_grad_()
    for noise in (0.0, 0.5):
        objective(model, noise=noise)(model, batch(*given))
    clean, noisy = decoded
    deviation = clean.std((0, 2), correction=0)[:, None]
    levels = ((noisy - clean) / deviation).square().mean((1, 2)).sqrt()
    assert levels.max() < 0.55 and levels.mean().item() == pytest.approx(0.25, abs=0.08)
    each = ((noisy - clean) / deviation).square().mean((0, 2)).sqrt()
    assert each.max() < 1.5 * each.min()
    assert noisy.requires_grad


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan")])
def test_noise_that_is_none_is_refused(noise):
    with pytest.raises(UsageError, match="noise"):
        objective(tiny(), noise=noise)


def test_codebooks_are_refused():
    with pytest.raises(UsageError, match="not trained"):
        objective(tiny(codebooks=2, codebook_size=8))


# --- what is read ------------------------------------------------------------------------------------------


@pytest.fixture
def songs(tmp_path):
    """Five songs with a mixture, and five of vocals alone."""
    for k in range(5):
        make_track(tmp_path / "songs", f"song{k}", {"vocals": 0.1, "drums": 0.2}, seed=k)
        make_track(tmp_path / "voices", f"voice{k}", {"vocals": 0.1}, seed=k, mixture=False)
    return tmp_path


def config(*folders, valid=()):
    return TrainConfig(
        data=DataTable(
            train=tuple(DataSource(str(folder)) for folder in folders),
            valid=tuple(DataSource(str(folder)) for folder in valid),
        )
    )


def test_alone_a_track_is_its_stem(songs):
    train_sources, tracks = split(config(songs / "songs", songs / "voices"), ["vocals"])
    assert len(tracks) == 2 and [len(source.exclude) for source in train_sources] == [1, 1]
    assert all(list(track.stems) == ["vocals"] and track.mixture is None for track in tracks)
    _, given = split(config(songs / "songs", valid=[songs / "songs"]), ["vocals"])
    assert len(given) == 5 and all(track.mixture is None for track in given)
    _, others = split(config(songs / "songs", songs / "voices"))
    assert [list(track.stems) for track in others] == [["drums", "vocals"]] and others[0].mixture


@pytest.mark.slow
def test_a_run(songs, tmp_path):
    """From a folder of songs to a model that `separate` takes: validated on vocals alone."""
    tables = read_preset("ldm-codec-small")
    for text in (
        "model.config.filters=4",
        "model.config.latent=6",
        "model.config.ratios=[4,2]",
        "model.config.samplerate=8000",
        "model.config.window=4000",
        "data.segment=0.5",
        "run.batch_size=2",
        "run.steps_per_epoch=2",
        "run.max_steps=4",
        "run.workers=0",
    ):
        tables = merge(tables, parse_override(text))
    tables = merge(tables, {"data": {"train": [{"path": str(songs / "songs")}]}})
    done = train(make_train_config(tables), tmp_path / "run", device="cpu")
    assert done.steps == 4 and done.bad_steps == 0
    model = load_model(str(tmp_path / "run")).model
    assert model.sources == ("vocals",) and model.codebooks == 0
    assert done.best is not None and done.best.score > -5  # an untrained one's -3; -8 if it heard the drums too


def test_the_preset():
    config = make_train_config(read_preset("ldm-codec-small"))
    with torch.device("meta"):
        model = make_network(config.model).model
    assert model.sources == ("vocals",) and model.channels == 1 and model.codebooks == 0
    assert model.segment.samples % model.config.hop == 0
    assert example_samples(model, config.data.segment) > 1024  # of the longest spectrogram's mirror
    assert sum(parameter.numel() for parameter in model.parameters()) < 5_000_000
