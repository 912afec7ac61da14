"""The loop, on toy networks: resumption to the bit, accumulation, bad steps, validation, signals."""

import os
import signal

import pytest
import torch
from torch import nn

from sepcli.data.mixing import Batch
from sepcli.errors import ModelError
from sepcli.models.objective import Objective
from sepcli.nn.losses import Loss
from sepcli.nn.norm import Norm
from sepcli.system import HANGUP
from sepcli.training.config import EmaTable, OptimTable, RunTable, TrainConfig
from sepcli.training.distributed import Team
from sepcli.training.loop import Trainer, fit

CPU = torch.device("cpu")


class Noisy(nn.Module):
    """Draws random numbers in training, so that generators are part of the state."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(torch.tanh(self.body(x)))


class Flipped(Objective):
    def __call__(self, model, batch):
        x = batch.stems[..., 0]
        total = (model(x) - x.flip(-1)).square().mean()
        return Loss(total, {"square": total.detach()})


objective = Flipped()


def batch_of(step, rows=4):
    generator = torch.Generator().manual_seed(step)
    items = [f"item {step}.{row}" for row in range(rows)]
    return Batch(torch.randn(rows, 4, 1, generator=generator), items, [])


def batches(start, stop):
    return (batch_of(step) for step in range(start, stop))


class Memory:
    """A recorder that keeps everything in memory."""

    def __init__(self):
        self.steps, self.validations, self.kept, self.states = [], [], [], []

    def stepped(self, step, seconds):
        self.steps.append(step)

    def validated(self, step, scores, best):
        self.validations.append((step, scores, best))

    def keep(self, model, best):
        self.kept.append((best, {name: tensor.clone() for name, tensor in model.state_dict().items()}))

    def save(self, state):
        import copy

        self.states.append(copy.deepcopy(state))


def config(**run):
    optim = run.pop("optim", OptimTable(lr=0.01, schedule="cosine", warmup_steps=3))
    ema = run.pop("ema", EmaTable(steps=(0.9,), epochs=(0.5,)))
    return TrainConfig(
        optim=optim,
        ema=ema,
        run=RunTable(**{"max_steps": 20, "steps_per_epoch": 5, "save_minutes": 1000.0, **run}),
    )


def make(settings, seed=0):
    torch.manual_seed(seed)
    return Trainer(Noisy().train(), objective, settings, CPU, Team())


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_loss_goes_down_and_everything_is_reported():
    trainer, memory = make(config(max_steps=60)), Memory()
    fit(trainer, batches, None, memory)
    assert [step.number for step in memory.steps] == list(range(1, 61))
    assert sum(s.loss for s in memory.steps[-10:]) < 0.9 * sum(s.loss for s in memory.steps[:10])
    assert memory.steps[0].parts == {"square": pytest.approx(memory.steps[0].loss)}
    assert memory.steps[-1].lr < memory.steps[10].lr


@pytest.mark.parametrize("cut", [1, 5, 7, 19])
def test_a_resumed_run_equals_one_that_was_not_interrupted(cut):
    """To the bit: weights, averages, optimiser, generators."""
    whole, memory = make(config()), Memory()
    fit(whole, batches, None, memory)

    first = make(config())
    for batch in batches(0, cut):
        first.step(batch)
        if first.steps % 5 == 0:
            first.averages.after_epoch(first.model)
    state = first.state_dict()
    torch.manual_seed(99)  # whatever the new process begins with
    second, rest = make(config(), seed=7), Memory()
    second.load_state_dict(state)
    fit(second, batches, None, rest)
    assert torch.equal(weights(whole), weights(second))
    for (name, a), (_, b) in zip(whole.averages.items(), second.averages.items(), strict=True):
        assert all(torch.equal(a.values[key], b.values[key]) for key in a.values), name
    assert [s.loss for s in memory.steps[cut:]] == [s.loss for s in rest.steps]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, Norm])
def test_batch_norms_keep_their_statistics_where_they_should(norm):
    def statistics(keep):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), norm(4), nn.Dropout(0.5))
        before = {name: tensor.clone() for name, tensor in model.named_buffers()}
        settings = config(max_steps=3, steps_per_epoch=2, optim=OptimTable(keep_statistics=keep))
        fit(Trainer(model, objective, settings, CPU, Team()), batches, lambda model: {"score": 0.0}, Memory())
        assert model.training and model[2].training
        return [torch.equal(tensor, before[name]) for name, tensor in model.named_buffers()]

    assert all(statistics(True)) and not any(statistics(False))


def test_accumulated_parts_give_the_gradient_of_the_whole():
    def gradient(parts):
        torch.manual_seed(0)
        settings = config(optim=OptimTable(accumulate=parts))
        trainer = Trainer(nn.Linear(4, 4), objective, settings, CPU, Team())
        trainer.step(batch_of(0, rows=6))
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    torch.testing.assert_close(gradient(3), gradient(1))
    torch.testing.assert_close(gradient(4), gradient(1))  # uneven parts


def test_clipping_bounds_the_gradient():
    settings = config(optim=OptimTable(clip=1e-3))
    trainer = make(settings)
    trainer.step(batch_of(0))
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def broken(steps, value=float("nan")):
    def made(start, stop):
        for step in range(start, stop):
            batch = batch_of(step)
            if step in steps:
                batch.stems[1] = value
            yield batch

    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_bad_step_is_skipped_and_counted(value):
    trainer, memory = make(config(max_steps=6)), Memory()
    fit(trainer, broken({2}, value), None, memory)
    assert [step.bad for step in memory.steps] == [False, False, True, False, False, False]
    assert trainer.bad_steps == 1 and weights(trainer).isfinite().all()


def test_too_many_bad_steps_in_a_row_stop_the_run_and_name_the_items():
    trainer = make(config(max_bad_steps=3))
    before = weights(trainer)
    with pytest.raises(ModelError, match=r"3 steps in a row.*item 0\.0") as problem:
        fit(trainer, broken(range(20)), None, Memory())
    assert problem.value.code == "diverged"
    assert torch.equal(weights(trainer), before)


def test_bad_steps_that_are_not_in_a_row_do_not_stop_it():
    trainer = make(config(max_bad_steps=2, max_steps=10))
    fit(trainer, broken({1, 3, 5, 7}), None, Memory())
    assert trainer.bad_steps == 4


def test_the_best_of_raw_weights_and_averages_is_kept():
    """A score that prefers small weights is met by another candidate than one that prefers large ones."""
    for sign in (1, -1):
        trainer, memory = make(config()), Memory()

        def score(model, sign=sign):
            return {"score": sign * model.body.weight.norm().item()}

        fit(trainer, batches, score, memory)
        best, kept = memory.kept[-1]
        assert best == trainer.best
        assert sign * kept["body.weight"].norm().item() == pytest.approx(best.score)
        seen = [score["score"] for _, scores, _ in memory.validations for score in scores.values()]
        assert best.score == max(seen) and len(memory.validations) == 4
        assert set(memory.validations[0][1]) == {"raw", "ema_0.9", "ema_epoch_0.5"}


def test_validating_changes_nothing():
    def validate(model):
        model.eval()
        return {"score": torch.rand(1).item()}

    one = make(config())
    fit(one, batches, validate, Memory())
    two = make(config())
    fit(two, batches, None, Memory())
    assert torch.equal(weights(one), weights(two)) and one.model.training


def test_it_ends_after_the_minutes_of_training():
    trainer, memory = make(config(max_steps=10**6, max_minutes=0.005)), Memory()
    fit(trainer, batches, None, memory)
    assert 0 < trainer.steps < 10**6 and trainer.seconds >= 0.3
    assert memory.states[-1]["steps"] == trainer.steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *filter(None, [HANGUP])])
def test_a_signal_waits_for_the_step_and_saves(number):
    trainer, memory = make(config(max_steps=1000)), Memory()

    def interrupted(start, stop):
        for step in range(start, stop):
            if step == 7:
                os.kill(os.getpid(), number)
            yield batch_of(step)

    class Stop(BaseException):
        pass

    def handler(*_):
        raise Stop

    former = signal.signal(number, handler)
    try:
        with pytest.raises(Stop):
            fit(trainer, interrupted, None, memory)
    finally:
        signal.signal(number, former)
    assert trainer.steps == 8 and memory.states[-1]["steps"] == 8


@pytest.mark.parametrize("sent", [True, False])
def test_a_signal_that_ends_who_makes_the_batches_first_is_still_what_ends_the_run(sent):
    class Stop(BaseException):
        pass

    def handler(*_):
        raise Stop

    def dying(start, stop):
        yield batch_of(start)
        if sent:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker exited unexpectedly")

    former = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Stop if sent else RuntimeError):
            fit(make(config(max_steps=1000)), dying, None, Memory())
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)


def test_autocast_trains_in_bfloat16():
    trainer = make(config(precision="bfloat16", max_steps=40))
    memory = Memory()
    fit(trainer, batches, None, memory)
    assert next(trainer.model.parameters()).dtype == torch.float32
    assert sum(s.loss for s in memory.steps[-10:]) < sum(s.loss for s in memory.steps[:10])
