"""How the DiCoSe family learns: what is drawn, what has a gradient, what is kept from step to step."""

from __future__ import annotations

import copy

import pytest
import torch

from sepcli.data.mixing import Batch
from sepcli.errors import UsageError
from sepcli.models.dicose import objectives
from sepcli.models.dicose.objectives import Denoising, Distillation, Labelled, hop_weights
from sepcli.models.family import get_family
from sepcli.nn.losses import Criterion, Term
from sepcli.training.config import EmaTable, OptimTable, RunTable, TrainConfig
from sepcli.training.distributed import Team
from sepcli.training.loop import Trainer, fit
from sepcli.training.objectives import choose_objective
from tests.models.test_dicose_sampling import build
from tests.test_training_loop import Memory

CPU = torch.device("cpu")


def criterion(*weights, kind="mse"):
    return Criterion([Term(kind)], weights or (1.0, 1.0, 1.0))


def batch(step=0, rows=4):
    generator = torch.Generator().manual_seed(step)
    return Batch(0.1 * torch.randn(rows, 3, 1, 64, generator=generator), ["x"] * rows, [])


@pytest.mark.parametrize("arch", ["Deterministic", "DoubleDeterministic"])
@pytest.mark.parametrize("source", range(3))
def test_label_is_the_mean_square_of_the_one_source_that_may_be_the_target(arch, source):
    model, stems = build(arch), batch().stems
    weights = [float(k == source) for k in range(3)]
    loss = Labelled(model, criterion(*weights))(model, batch()).total
    label = torch.eye(3)[[source] * 4]
    error = model.estimate(stems.sum(1), label) - stems[:, source]
    torch.testing.assert_close(loss, error.square().mean())


def test_denoising_of_a_target_is_at_best_without_error():
    """A network whose D is the clean target has no loss; the clean target is that of the label."""
    model = build("Diffusion")
    seen = []
    objective = Denoising(model, criterion(0, 1, 0), level_mean=-2.0, level_deviation=0.0)
    model.denoiser = lambda network: lambda x, sigma: seen.append((x, sigma)) or batch().stems[:, 1]
    assert objective(model, batch()).total == 0
    x, sigma = seen[0]
    assert torch.allclose(sigma, torch.full((4,), -2.0).exp())
    deviation = (x - batch().stems[:, 1]).std().item()
    assert deviation == pytest.approx(sigma[0].item(), rel=0.2)


@pytest.mark.parametrize("arch", ["Diffusion", "MSDM", "ISDM"])
def test_denoising_trains_what_samples_and_nothing_else(arch):
    model = build(arch).train()
    for parameter in model.parameters():
        parameter.grad = None
    loss = Denoising(model, criterion())(model, batch())
    loss.total.backward()
    assert loss.total.item() > 0 and set(loss.parts) == {"denoising"}
    learnt = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"Diffusion": {"unet"}, "MSDM": {"unet"}, "ISDM": {"unets"}}[arch]


def test_a_consistent_student_has_nothing_to_learn_at_the_lowest_levels():
    """g leaves x as it is there: between the last two levels the loss is what one step changes."""
    model = build("Consistency")
    low = Distillation(model, criterion(), levels=2, longest=1, sigma_max=1.01e-4, dsm=0.0)(model, batch())
    high = Distillation(model, criterion(), levels=2, longest=1, sigma_max=1.0, dsm=0.0)(model, batch())
    assert low.total < 1e-9 < 1e-4 < high.total


def test_distillation_teaches_the_student_alone():
    model = build("Consistency").train()
    objective = Distillation(model, criterion())
    loss = objective(model, batch())
    loss.total.backward()
    assert set(loss.parts) == {"cd", "dsm"}
    torch.testing.assert_close(loss.total.detach(), loss.parts["cd"] + loss.parts["dsm"])
    assert all(parameter.grad is not None for parameter in model.unet.parameters())
    for frozen in (model.base, objective.teacher, objective.target):
        assert all(parameter.grad is None for parameter in frozen.parameters())


def test_the_target_follows_the_student_and_the_teacher_stays():
    model = build("Consistency")
    objective = Distillation(model, criterion(), decay=0.9)
    before = copy.deepcopy(model.unet.state_dict())
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(1.0)
    objective.after_step(model)
    for name, value in before.items():
        torch.testing.assert_close(objective.target.state_dict()[name], value + 0.1)
        assert torch.equal(objective.teacher.state_dict()[name], value)


def test_levels_of_the_denoising_term():
    objective = Distillation(build("Consistency"), criterion())
    torch.manual_seed(0)
    levels = objective.dsm_levels(20_001)
    normal, curve = levels[:10_000], levels[10_000:]
    assert normal.log().mean().item() == pytest.approx(-3, abs=0.05)
    assert normal.log().std().item() == pytest.approx(1, rel=0.05)
    assert curve.max() <= 10 and 0.017 < curve.min() < 0.019
    assert len(objective.dsm_levels(1)) == 1


def test_hops():
    assert hop_weights(4, "uniform").tolist() == [0.25] * 4
    assert hop_weights(4, "weighted").tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.slow
def test_all_processes_walk_equally_far(monkeypatch):
    """They begin with one seed, make their objectives, and part; none has to wait for a longer way."""
    walked = []
    monkeypatch.setattr(objectives, "heun_hops", lambda teacher, x, grid, start, hops: walked.append(hops) or x)
    for rank in range(2):
        torch.manual_seed(0)
        model = build("Consistency")
        objective = Distillation(model, criterion())
        torch.manual_seed(rank)
        for step in range(8):
            objective(model, batch(step))
    assert walked[:8] == walked[8:] and len(set(walked)) > 2


@pytest.mark.parametrize(
    ("name", "arch", "options", "message"),
    [
        ("label", "Diffusion", {}, "'label' does not train a Diffusion"),
        ("denoising", "Consistency", {}, "does not train a Consistency"),
        ("consistency", "Diffusion", {}, "does not train a Diffusion"),
        ("consistency", "Consistency", {"hops": "few"}, "hops is 'few', but can be weighted or uniform"),
        ("consistency", "Consistency", {"dsm_scaling": "x"}, "dsm_scaling"),
        ("consistency", "Consistency", {"frozen_precision": "int8"}, "frozen_precision is 'int8'"),
        ("consistency", "Consistency", {"levels": 5}, "longest is 17"),
        ("consistency", "Consistency", {"teachers": 2}, "no option teachers"),
    ],
)
def test_what_does_not_fit_is_refused(name, arch, options, message):
    with pytest.raises(UsageError, match=message):
        choose_objective(name, options, get_family("dicose"), build(arch), criterion())


@pytest.mark.parametrize("arch", ["Diffusion", "Consistency"])
def test_denoisers_take_no_other_loss(arch):
    kind = Denoising if arch == "Diffusion" else Distillation
    with pytest.raises(UsageError, match="mean squared error"):
        kind(build(arch), criterion(kind="l1"))


@pytest.mark.slow
@pytest.mark.parametrize("run", [torch.float32, torch.bfloat16])
def test_frozen_networks_in_reduced_precision(run):
    """The student learns nearly the same, and the teacher takes half the memory; others' weights stay."""
    model = build("Consistency").train()
    gradients, losses = {}, {}
    for precision in ("run", "bfloat16"):
        torch.manual_seed(0)
        objective = Distillation(model, criterion(), frozen_precision=precision)
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", run, enabled=run != torch.float32):
            loss = objective(model, batch(rows=8))
        loss.total.backward()
        gradients[precision] = torch.cat([p.grad.flatten() for p in model.unet.parameters()])
        losses[precision] = loss.total.item()
    held = {
        name: {p.dtype for p in unet.parameters() if p.dim() > 1}
        for name, unet in vars(objective).items()
        if name in ("teacher", "target")
    }
    assert held == {"teacher": {torch.bfloat16}, "target": {torch.float32}}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    change = (gradients["bfloat16"] - gradients["run"]).norm() / gradients["run"].norm()
    assert 1e-5 < change < 0.05
    assert losses["bfloat16"] == pytest.approx(losses["run"], rel=0.02) and losses["bfloat16"] != losses["run"]


@pytest.mark.parametrize("native", [True, False])
def test_unless_said_otherwise_the_device_decides(monkeypatch, native):
    monkeypatch.setattr(objectives, "has_bfloat16", lambda device: native)
    model = build("Consistency")
    objective = Distillation(model, criterion())
    objective(model, batch())
    assert objective.teacher.dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["run", "bfloat16"])
def test_a_distillation_that_goes_on_ends_with_the_same_weights(precision):
    """Its teacher and its target are in the state; a new run's network is another at first."""
    config = TrainConfig(
        optim=OptimTable(lr=1e-3),
        ema=EmaTable(),
        run=RunTable(max_steps=4, steps_per_epoch=2, save_minutes=1000.0),
    )

    def trainer(seed):
        model = build("Consistency")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        torch.manual_seed(7)
        objective = Distillation(model, criterion(), decay=0.5, frozen_precision=precision)
        return Trainer(model.train(), objective, config, CPU, Team())

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
    for name, value in whole.objective.state_dict()["target"].items():
        assert torch.equal(value, other.objective.state_dict()["target"][name]), name
