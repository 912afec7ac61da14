"""How LDM-dmx learns: what is drawn, what has a gradient, what is measured, and what is kept on disk."""

from __future__ import annotations

import math

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import OutputError, UsageError
from sepcli.models.family import get_family
from sepcli.models.ldm.objectives import Latent
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import EmaTable, OptimGroup, OptimTable, RunTable, TrainConfig
from sepcli.training.distributed import Team
from sepcli.training.loop import Trainer, fit
from sepcli.training.objectives import choose_objective
from sepcli.training.optim import make_optimiser
from tests.models.test_ldm import tiny
from tests.test_training_loop import Memory


def fresh():
    """One that has not measured anything."""
    model = tiny().train()
    model.mean.zero_()
    model.variance.fill_(1.0)
    model.windows.zero_()
    return model


def criterion(kind="mse"):
    return Criterion([Term(kind)], [1.0])


def batch(step=0, rows=4):
    generator = torch.Generator().manual_seed(step)
    return Batch(0.1 * torch.randn(rows, 2, 2, 320, generator=generator), ["x"] * rows, [])


def learner(model, **options):
    return Latent(model, criterion(), **options)


def test_the_true_v_has_no_loss_and_a_guess_of_nothing_loses_all():
    """Of normalised latents v has a mean square of 1, whatever t is."""
    model = fresh()
    clean = {}
    normalised = model.normalised
    model.normalised = lambda latents: clean.setdefault(len(clean), normalised(latents))

    def true(z, c, t):
        cos, sin = ((t * math.pi / 2)[:, None, None].cos(), (t * math.pi / 2)[:, None, None].sin())
        return (cos * z - clean[0]) / sin

    model.generator.forward = true
    assert learner(model)(model, batch()).total < 1e-6
    model = fresh()
    model.generator.forward = lambda z, c, t: torch.zeros_like(z)
    losses = [learner(model)(model, batch(step, rows=16)).total.item() for step in range(8)]
    assert sum(losses) / 8 == pytest.approx(1, abs=0.05)


def test_levels_and_the_mix_are_what_the_generator_is_told():
    model = fresh()
    told = []
    model.generator.register_forward_pre_hook(lambda _, given: told.append(given))
    some = batch(rows=64)
    learner(model)(model, some)
    _z, c, t = told[0]
    assert t.min() >= 0 and t.max() <= 1 and t.std().item() == pytest.approx(12**-0.5, abs=0.05)
    torch.testing.assert_close(c, model.normalised(model.heard(some.stems.sum(1))))


@pytest.mark.parametrize(("skew", "share"), [(1.0, 0.1), (2.0, 0.1**0.5), (0.5, 0.01)])
def test_skewed_levels(skew, share):
    """P(t > 0.9) of t = 1 - u^skew."""
    model = fresh()
    told = []
    model.generator.forward = lambda z, c, t: told.append(t) or torch.zeros_like(z)
    objective = learner(model, skew=skew)
    for step in range(4):
        objective(model, batch(step, rows=256))
    t = torch.cat(told)
    assert t.min() >= 0 and t.max() <= 1
    assert (t > 0.9).float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / 1024) ** 0.5)


@pytest.mark.parametrize("skew", [0.0, -1.0, math.inf, math.nan])
def test_a_skew_that_is_none_is_refused(skew):
    with pytest.raises(UsageError, match="skew"):
        learner(fresh(), skew=skew)


@pytest.mark.parametrize("conditioner", ["frozen", "trained"])
def test_what_learns(conditioner):
    """In the first stage the generator, in the second what hears the mix too; the codec never."""
    model = fresh()
    objective = learner(model, conditioner=conditioner)
    objective(model, batch()).total.backward()
    learnt = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"generator"} | ({"conditioner"} if conditioner == "trained" else set())
    assert all(p.grad is not None for name, p in model.named_parameters() if name.partition(".")[0] in learnt)


def test_the_second_stage_has_a_learning_rate_of_its_own():
    model = fresh()
    groups = (OptimGroup(match="conditioner.", lr=1e-6),)
    with pytest.raises(UsageError, match="matches no parameter"):  # the first stage has nothing to learn there
        learner(model) and make_optimiser(model, OptimTable(lr=1e-4, groups=groups))
    learner(model, conditioner="trained")
    optimiser = make_optimiser(model, OptimTable(lr=1e-4, groups=groups))
    sizes = [sum(p.numel() for p in group["params"]) for group in optimiser.param_groups]
    assert sizes == [sum(p.numel() for p in part.parameters()) for part in (model.generator, model.conditioner)]
    assert [group["lr"] for group in optimiser.param_groups] == [1e-4, 1e-6]


def test_statistics_of_the_first_windows_that_are_not_silent():
    model = fresh()
    objective = learner(model, measured=5)
    some = [batch(step) for step in range(3)]
    some[0].stems[1, 0] *= 1e-3
    heard = torch.cat([model.target(b.stems[:, 0]) for b in some])
    for step in range(3):
        objective(model, some[step])
    assert model.windows == 7  # 3 + 4; the third batch was not wanted any more
    wanted = heard[[0, 2, 3, 4, 5, 6, 7]]
    torch.testing.assert_close(model.mean, wanted.mean((0, 2)))
    torch.testing.assert_close(model.variance, wanted.var((0, 2), correction=0))


def test_a_batch_of_silence_teaches_and_is_not_measured():
    model = fresh()
    some = batch()
    some.stems[:, 0] = 0
    loss = learner(model)(model, some).total
    loss.backward()
    assert loss.isfinite() and model.windows == 0


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_weights():
    """Halfway through the measuring, too."""
    config = TrainConfig(
        optim=OptimTable(lr=1e-3),
        ema=EmaTable(),
        run=RunTable(max_steps=4, steps_per_epoch=2, save_minutes=1000.0),
    )

    def trainer(seed):
        model = fresh()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.generator.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        torch.manual_seed(7)
        return Trainer(
            model, learner(model, conditioner="trained", measured=10), config, torch.device("cpu"), Team()
        )

    def batches(start, stop):
        return (batch(step) for step in range(start, stop))

    whole, memory = trainer(1), Memory()
    fit(whole, batches, None, memory)
    halfway = next(state for state in memory.states if state["steps"] == 2)
    other = trainer(2)
    other.load_state_dict(halfway)
    fit(other, batches, None, Memory())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert whole.model.windows == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioner": "x"}, "conditioner is 'x', but can be frozen or trained"),
        ({"other": 1}, "no option other"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        choose_objective("latent", options, get_family("ldm"), tiny(), criterion())


def test_only_this_network_and_only_this_loss():
    with pytest.raises(UsageError, match="mean squared error"):
        Latent(tiny(), criterion("l1"))
    with pytest.raises(UsageError, match="does not train a Linear"):
        Latent(torch.nn.Linear(1, 1), criterion())


# --- kept on disk ----------------------------------------------------------------------------------------


def encodings(model):
    """How many windows each encoder is given."""
    counts = {"encoder": 0, "conditioner": 0}
    for name in counts:

        def count(_, given, name=name):
            counts[name] += len(given[0])

        getattr(model, name).register_forward_pre_hook(count)
    return counts


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_windows_that_come_again_are_not_encoded_again(tmp_path):
    model = fresh()
    counts, objective = encodings(model), learner(model, cache=str(tmp_path))
    losses = []
    for step in (0, 1, 0):
        torch.manual_seed(3)
        losses.append(objective(model, batch(step)).total)
        model.windows.zero_()
    assert counts == {"encoder": 8, "conditioner": 8} and len(files(tmp_path)) == 16
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))
    torch.manual_seed(3)
    torch.testing.assert_close(learner(model)(model, batch(0)).total, losses[2], rtol=1e-4, atol=0)
    # Another run finds them, to the bit; other weights have files of their own.
    again = fresh()
    counts = encodings(again)
    torch.manual_seed(3)
    assert torch.equal(learner(again, cache=str(tmp_path))(again, batch(0)).total, losses[0])
    assert counts == {"encoder": 0, "conditioner": 0}
    with torch.no_grad():
        again.conditioner.layers[0].conv.weight.add_(1)
    learner(again, cache=str(tmp_path))(again, batch(0))
    assert counts == {"encoder": 0, "conditioner": 4}


def test_what_learns_is_not_kept(tmp_path):
    model = fresh()
    counts, objective = encodings(model), learner(model, cache=str(tmp_path), conditioner="trained")
    for _ in range(2):
        objective(model, batch()).total.backward()
    assert counts == {"encoder": 4, "conditioner": 8}
    assert model.conditioner.layers[0].conv.weight.grad is not None


def test_a_broken_file_is_made_again(tmp_path):
    model = fresh()
    objective = learner(model, cache=str(tmp_path))
    objective(model, batch())
    before = {path: path.read_bytes() for path in files(tmp_path)}
    for path, content in zip(before, (b"", b"x", *[b"\x08" * 9] * 6), strict=True):
        path.write_bytes(content)
    objective(model, batch())
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    model = fresh()
    with pytest.raises(OutputError, match="file' can't be written"):
        learner(model, cache=str(tmp_path / "file"))(model, batch())
