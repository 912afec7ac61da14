"""Demucs+Gibbs: what it is told, what it estimates anew, how blocks are drawn, and how it learns."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from sepcli.cli.app import main
from sepcli.data.mixing import Batch
from sepcli.engine.noise import Noise
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import UsageError
from sepcli.models.demucs import FAMILY
from sepcli.models.demucs.gibbs import GibbsDemucs, GibbsOptions, Orderless, drawn_block, drawn_masks
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import make_train_config, merge, parse_override, read_preset
from sepcli.training.objectives import choose_objective
from sepcli.training.run import RunFolder
from sepcli.training.setup import make_network
from tests.contracts import Case
from tests.tracks import make_track, read

SOURCES = ("bass", "drums", "vocals")
SMALL = {"sources": SOURCES, "channels": 8, "depth": 2, "samplerate": 1000, "segment": 0.25, "norm_starts": 9}
VARIANTS = {
    "stereo, resampled": {},
    "mono": {"audio_channels": 1, "resample": False},
    "not standardised, LSTM": {"normalize": False, "lstm_layers": 1},
}


def build(steps=3, **changes):
    torch.manual_seed(0)
    arch = FAMILY.archs["GibbsDemucs"]
    model = arch.build(arch.config(**{**SMALL, **changes})).eval()
    model.options = GibbsOptions(steps=steps)
    return model


def run(model, mix, seed=0):
    with torch.no_grad():
        return model(mix, noise=Noise(seed, [0] * len(mix), [0] * len(mix)))


def all_masked(batch=2):
    return torch.ones(batch, len(SOURCES), dtype=torch.bool)


# --- as a separator ---


CASES = {
    f"{variant}, {steps} steps": Case(partial(build, steps, **changes), [1, 77, 250])
    for variant, changes in VARIANTS.items()
    for steps in (0, 2)
}


def test_no_steps_are_the_ordinary_separation():
    model, mix = build(0), torch.randn(2, 2, 250)
    nothing = torch.full((2, 3, 2, 250), math.nan)  # what is masked is not looked at
    with torch.no_grad():
        ordinary = model.conditional(mix, nothing, all_masked())
    assert torch.equal(run(model, mix), ordinary)
    assert not torch.allclose(run(build(1), mix), ordinary)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_pass_a_step(steps):
    model, passes = build(steps), []
    model.encoder[0].register_forward_hook(lambda *_: passes.append(1))
    run(model.select(["vocals"]), torch.randn(1, 2, 250))
    assert len(passes) == 1 + steps


def test_stems_that_are_given_stay_and_are_heard():
    """Each of them, and that it is given: silence is not the same as nothing known."""
    model, mix = build(), torch.randn(2, 2, 250)
    stems = torch.randn(2, 3, 2, 250)
    masked = torch.tensor([[True, False, False], [True, True, False]])
    with torch.no_grad():
        out = model.conditional(mix, stems, masked)
        assert torch.equal(out[~masked], stems[~masked])
        assert not torch.isclose(out[masked], stems[masked]).any(-1).all()
        for name in (1, 2):
            other = stems.clone()
            other[:, name] *= 0.5
            changed = (model.conditional(mix, other, masked) - out)[:, 0].abs().amax((1, 2)) > 1e-4
            assert changed.tolist() == (~masked[:, name]).tolist()
        silent = model.conditional(mix, 0 * stems, masked)[0, 0]
        unknown = model.conditional(mix, 0 * stems, all_masked())[0, 0]
        assert not torch.allclose(silent, unknown, atol=1e-4)


def test_a_perfect_conditional_keeps_a_perfect_estimate():
    """And every stem that was wrong is right once it has been in a block."""
    model, truth = build(12), torch.randn(1, 3, 2, 250)
    given = []

    def perfect(mix, extra):
        given.append(extra(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))[:, :6].view(1, 3, 2, 250))
        wrong = torch.randn_like(truth)
        return wrong if len(given) == 1 else truth  # the ordinary separation is no good

    model.with_extra = perfect
    stems = run(model, truth.sum(1))
    blocks = [drawn_block(model.options.alpha(step), step, SOURCES, 0) for step in range(12)]
    assert all(map(any, zip(*blocks, strict=True))) and torch.equal(stems, truth)
    assert given[0].abs().max() == 0
    assert all((stem == 0).all() or torch.equal(stem, truth[0, k]) for k, stem in enumerate(given[-1][0])), (
        "the last step was given the truth"
    )


# --- blocks ---


def test_the_share_falls_as_in_coconet():
    options = GibbsOptions(steps=40, alpha_max=0.8, alpha_min=0.2, eta=0.5)
    shares = [options.alpha(step) for step in range(40)]
    assert shares[0] == 0.8 and shares[10] == pytest.approx(0.5) and shares[20:] == pytest.approx([0.2] * 20)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "mean"), [(0.0, 1), (0.25, 1), (0.4, 1.6), (0.6, 2.4), (0.75, 3), (1.0, 3)])
def test_blocks_have_that_share_of_the_stems(alpha, mean):
    """On average, but at least one and never all; which, is drawn without favour."""
    names = ("bass", "drums", "guitar", "piano")
    blocks = torch.tensor([drawn_block(alpha, 3, names, seed) for seed in range(2000)])
    sizes = blocks.sum(1)
    assert sizes.min() >= 1 and sizes.max() <= 3 and sizes.max() - sizes.min() <= 1
    assert sizes.float().mean().item() == pytest.approx(mean, abs=0.05)
    assert blocks.float().mean(0).tolist() == pytest.approx([mean / 4] * 4, abs=0.05)


def test_blocks_follow_from_seed_and_step():
    blocks = {
        (seed, step): tuple(drawn_block(0.5, step, SOURCES, seed)) for seed in range(8) for step in range(8)
    }
    assert len(set(blocks.values())) == 6  # all that there are
    assert blocks[3, 5] == tuple(drawn_block(0.5, 5, SOURCES, 3))
    assert len({tuple(blocks[seed, step] for step in range(8)) for seed in range(8)}) == 8


def test_chunks_and_batches_make_no_difference():
    """A track of several chunks, in calls of one and of many; another seed is another result."""
    model, track = build(), torch.randn(1, 2, 900)

    def separate(**settings):
        engine = Engine(model.select(SOURCES), Settings(**settings), torch.device("cpu"), torch.float32)
        return torch.cat(list(engine.separate(iter([track]))), dim=-1)

    one = separate(batch_size=1)
    torch.testing.assert_close(separate(batch_size=7), one, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(separate(seed=5), one, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"steps": -1}, {"alpha_max": 1.5}, {"alpha_min": 0.9}, {"eta": 0.0}, {"eta": math.nan}]
)
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=f"option {next(iter(options))} is"):
        GibbsOptions(**options)


def test_one_source_is_nothing_to_tell_apart():
    with pytest.raises(ValueError, match="two sources"):
        build(sources=("vocals",))


# --- how it learns ---


def criterion():
    return Criterion([Term("l1")], [1.0, 1.0, 1.0])


def test_each_number_of_masks_and_each_stem_equally_often():
    torch.manual_seed(0)
    masks = drawn_masks(20_000, 4)
    assert masks.sum(1).bincount(minlength=5).tolist() == pytest.approx([0, 5000, 5000, 5000, 5000], abs=200)
    assert masks.float().mean(0).tolist() == pytest.approx([2.5 / 4] * 4, abs=0.02)


def test_the_loss_is_the_mean_over_what_was_masked(monkeypatch):
    model, stems = build(), torch.randn(5, 3, 2, 250)
    seen = []
    conditional = model.conditional
    monkeypatch.setattr(
        model,
        "conditional",
        lambda mix, given, masked: seen.append((mix, given, masked)) or conditional(mix, given, masked),
    )
    loss = Orderless(model, criterion())(model, Batch(stems, [], []))
    ((mix, given, masked),) = seen
    assert torch.equal(mix, stems.sum(1)) and torch.equal(given, stems)
    error = (conditional(mix, stems, masked) - stems).abs().mean((2, 3))
    expected = torch.stack([row[mask].mean() for row, mask in zip(error, masked, strict=True)]).mean()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.parts["l1"], expected.detach())
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_other_networks_are_refused():
    arch = FAMILY.archs["Demucs"]
    with pytest.raises(UsageError, match="'orderless' does not train a Demucs"):
        choose_objective("orderless", {}, FAMILY, arch.build(arch.config(**SMALL)), criterion())


# --- presets ---


def preset(name, *settings):
    tables = read_preset(name)
    for text in settings:
        tables = merge(tables, parse_override(text))
    return make_train_config(tables)


def network(config):
    with torch.device("meta"):
        return make_network(config.model).model


def test_the_published_number_of_parameters():
    """Of a plain Demucs v2 in stereo, which has no further inputs."""
    config = preset("demucs-gibbs")
    arch = FAMILY.archs["Demucs"]
    with torch.device("meta"):
        plain = arch.build(arch.config(**{**config.model.config, "audio_channels": 2}))
    assert sum(p.numel() for p in plain.parameters()) == 265_679_496
    model = network(config)
    assert isinstance(model, GibbsDemucs) and model.encoder[0][0].in_channels == 1 + 4 + 4
    assert sum(p.numel() for p in network(preset("demucs-gibbs-small")).parameters()) < 10_000_000


@pytest.mark.slow
def test_a_short_training_from_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda run: None)
    levels = {"bass": 0.2, "drums": 0.1, "guitar": 0.1, "piano": 0.1}
    for k, folder in enumerate(["songs", "valid"]):
        make_track(tmp_path / folder, "noise", levels, seconds=2, channels=1, samplerate=1000, seed=k)
    smaller = {
        "model.config.channels": 4,
        "model.config.depth": 2,
        "model.config.samplerate": 1000,
        "model.config.segment": 0.5,
        "data.segment": 0.5,
        "run.max_steps": 2,
        "run.workers": 0,
        "run.valid_seconds": 0.5,
        "run.batch_size": 4,
    }
    given = [word for key, value in smaller.items() for word in ("--set", f"{key}={value}")]
    assert (
        main(
            [
                "train",
                "--preset",
                "demucs-gibbs-small",
                "--data",
                "songs",
                "--valid",
                "valid",
                "-o",
                "run",
                "--device",
                "cpu",
                "-q",
                *given,
            ]
        )
        == 0
    )
    song = "valid/noise/mixture.wav"
    stems = {}
    for steps in (0, 2):
        folder = f"out{steps}"
        assert main(["separate", song, "--model", "run", "-O", f"steps={steps}", "-o", folder, "-q"]) == 0
        stems[steps] = {path.stem: read(path) for path in sorted((tmp_path / folder).rglob("*.wav"))}
    assert set(stems[0]) == set(stems[2]) == set(levels)
    assert any(abs(stems[0][name] - stems[2][name]).max() > 1e-4 for name in levels)
