"""THE training loop: it runs every kind of training in sepcli, each an objective(model, batch) -> Loss.

Knows optimisers, averages, processes and when to save; nothing of separation, files or what is learnt.

    each step     batch(step) -> objective -> backward -> all agree that it is finite -> optimiser -> averages
    each epoch    validate the raw weights and every average; the best become the model
    between two steps only: save the state, stop on a signal

A step depends on the state and on its number only. So a run that is killed and goes on from its last state ends
with the same weights, to the bit, as one that was never killed.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sepcli.data.mixing import Batch
from sepcli.engine.device import dtype_of
from sepcli.errors import ModelError
from sepcli.models.objective import Objective
from sepcli.nn.losses import Loss
from sepcli.nn.norm import keep_statistics
from sepcli.system import HANGUP
from sepcli.training.config import TrainConfig
from sepcli.training.distributed import Team
from sepcli.training.ema import Averages
from sepcli.training.optim import Schedule, make_optimiser
from sepcli.training.state import random_state, restore_random_state


@dataclass(frozen=True)
class Step:
    """What became of a step. loss, parts: means over all processes; not finite in a bad step."""

    number: int  # counted from 1
    loss: float
    parts: Mapping[str, float]
    lr: float
    bad: bool  # not finite: the step was skipped, the weights are as before
    problems: Sequence[str]  # files that could not be read


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    score: float
    weights: str  # "raw" or the name of an average
    step: int


class Recorder(Protocol):
    """Is told how the training goes; on the leading process only."""

    def stepped(self, step: Step, seconds: float) -> None:
        """After every step. seconds: training time so far, over all sessions."""

    def validated(self, step: int, scores: Mapping[str, Mapping[str, float]], best: Best) -> None:
        """After every epoch. scores: {"raw" or an average: {"score": higher is better, ...}}."""

    def keep(self, model: nn.Module, best: Best | None) -> None:
        """Write the model's weights: they are the best so far. best: None where nothing is validated."""

    def save(self, state: dict[str, Any]) -> None:
        """Write the state from which the run can go on."""


class Learner(nn.Module):
    """A network and its objective as one module, batch -> Loss.

    With several processes this module is wrapped, not the network, so that an objective may call any method of
    the network.
    """

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> Loss:
        """The loss of a batch."""
        return self.objective(self.model, batch)


class Trainer:
    """A network in training: its weights, the optimiser, averages, and the number of steps done.

    model: on its device. Every process has a Trainer; `team` keeps the weights equal.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, config: TrainConfig, device: torch.device, team: Team
    ):
        self.model, self.config, self.device, self.team = model, config, device, team
        self.objective = objective
        self.learner: Any = team.wrap(Learner(model, objective), device)
        self.optimiser = make_optimiser(model, config.optim)
        self.schedule = Schedule(config.optim)
        self.averages = Averages(model, config.ema.steps, config.ema.epochs)
        self.dtype = dtype_of(config.run.precision)
        self.scaler = GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.steps = 0
        self.seconds = 0.0  # of training, over all sessions
        self.bad_steps = 0  # in the whole run
        self.bad_items: list[list[str]] = []  # the examples of each bad step, of bad steps in a row
        self.best: Best | None = None
        self.ready()

    def ready(self) -> None:
        """Have the network in training mode."""
        self.model.train()
        if self.config.optim.keep_statistics:
            keep_statistics(self.model)

    # --- one step ---

    def step(self, batch: Batch) -> Step:
        """One update of the weights, unless a loss is not finite."""
        done = self.steps / self.config.run.max_steps
        if self.config.run.max_minutes:
            done = max(done, self.seconds / 60 / self.config.run.max_minutes)
        lr = self.schedule.apply(self.optimiser, self.steps, done)
        self.optimiser.zero_grad(set_to_none=True)
        names, values = self._backward(batch)
        values = self.team.mean(values)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip or float("inf"))
        # With a scaler infinite gradients are part of its search for a scale, and it skips those steps itself.
        bad = not values.isfinite().all() or not (self.scaler.is_enabled() or norm.isfinite())
        if not bad:
            self.scaler.step(self.optimiser)
            self.averages.after_step(self.model)
            self.objective.after_step(self.model)
        self.scaler.update()
        self.steps += 1
        self._count(bad, batch)
        loss, *parts = values.tolist()
        return Step(self.steps, loss, dict(zip(names, parts, strict=True)), lr, bad, batch.problems)

    def _backward(self, batch: Batch) -> tuple[list[str], Tensor]:
        """Compute a batch's gradients in `accumulate` pieces -> names of the loss's parts, [total, *parts]."""
        pieces = self.config.optim.accumulate
        rows = len(batch.stems)
        names: list[str] = []
        sums = torch.zeros(0)
        for index in range(pieces):
            piece = _rows(batch, index * rows // pieces, (index + 1) * rows // pieces, self.device)
            share = len(piece.stems) / rows
            last = index == pieces - 1
            # Processes average their gradients once, in the last piece.
            hold = nullcontext() if last or self.team.world == 1 else self.learner.no_sync()
            with hold:
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    loss = self.learner(piece)
                self.scaler.scale(loss.total * share).backward()
            names = list(loss.parts)
            values = torch.stack([loss.total.detach(), *loss.parts.values()]).float() * share
            sums = values if index == 0 else sums + values
        return names, sums

    def _count(self, bad: bool, batch: Batch) -> None:
        """Count bad steps. Many in a row end the run: weights or data are broken, and time would be lost."""
        if not bad:
            self.bad_items.clear()
            return
        self.bad_steps += 1
        self.bad_items.append([item for items in self.team.gather(batch.items) for item in items])
        if len(self.bad_items) >= self.config.run.max_bad_steps:
            named = list(dict.fromkeys(item for items in self.bad_items for item in items))[:8]
            raise ModelError(
                f"The loss was not finite in {len(self.bad_items)} steps in a row, up to step {self.steps}; "
                f"among their items: {'; '.join(named)}.",
                remedy="Check those files with `sepcli dataset check`, or lower optim.lr or set optim.clip; "
                "the last saved state is from before.",
                code="diverged",
            )

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on. Every process must call it at the same time."""
        generators = self.team.gather(random_state())
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averages": self.averages.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "bad_steps": self.bad_steps,
            "generators": generators,
            "best": None if self.best is None else vars(self.best),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.averages.load_state_dict(state["averages"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.seconds, self.bad_steps = state["steps"], state["seconds"], state["bad_steps"]
        self.best = Best(**state["best"]) if state["best"] else None
        self.objective.load_state_dict(state.get("objective") or {})  # None in states of older versions
        if self.team.rank < len(state["generators"]):
            restore_random_state(state["generators"][self.team.rank])


def _rows(batch: Batch, start: int, stop: int, device: torch.device) -> Batch:
    stems = batch.stems[start:stop].to(device, non_blocking=True)
    return Batch(stems, batch.items[start:stop], batch.problems)


def fit(
    trainer: Trainer,
    batches: Callable[[int, int], Iterator[Batch]],
    validate: Callable[[nn.Module], Mapping[str, float]] | None,
    recorder: Recorder,
) -> None:
    """Train until max_steps or max_minutes, and save on the way; at the end the best weights are kept.

    batches: (first step, last step + 1) -> the batches of these steps. validate: a model -> its scores, one of
    them "score"; None: nothing to validate on, so the newest average, or else the raw weights, are kept.
    Ctrl-C, SIGTERM and SIGHUP wait until the step has ended and the state is saved, and are raised then; a
    second signal acts at once.
    """
    run, team = trainer.config.run, trainer.team
    clock = _Clock(trainer)
    saved = clock.now
    with _Deferred() as stop:
        for batch in batches(trainer.steps, run.max_steps):
            step = trainer.step(batch)
            clock.tick()
            if team.leads:
                recorder.stepped(step, trainer.seconds)
            epoch_ends = trainer.steps % run.steps_per_epoch == 0
            if epoch_ends:
                _end_epoch(trainer, validate, recorder)
                clock.skip()
            # What ends or saves a run depends on this process's clock or signals: the leader decides for all.
            over = bool(run.max_minutes) and trainer.seconds >= 60 * run.max_minutes
            due = clock.now - saved >= 60 * run.save_minutes
            over, due, number = team.from_leader((over, due or epoch_ends, stop.number))
            if due or over or number:
                _save(trainer, recorder)
                saved = clock.now
            if number:
                stop.deliver(number)
            if over:
                break
        if trainer.steps % run.steps_per_epoch or trainer.best is None:
            _end_epoch(trainer, validate, recorder)
        _save(trainer, recorder)


def _end_epoch(
    trainer: Trainer, validate: Callable[[nn.Module], Mapping[str, float]] | None, recorder: Recorder
) -> None:
    """Score the raw weights and every average; keep the best that was ever seen."""
    trainer.averages.after_epoch(trainer.model)
    if validate is None:
        if trainer.team.leads:
            newest = [average for _, average in trainer.averages.items()]
            with newest[0].worn_by(trainer.model) if newest else nullcontext():
                recorder.keep(trainer.model, None)
        return
    best = trainer.best
    if trainer.team.leads:
        scores, generators = {}, random_state()
        for name, average in [("raw", None), *trainer.averages.items()]:
            with average.worn_by(trainer.model) if average else nullcontext():
                scores[name] = dict(validate(trainer.model))
                if best is None or scores[name]["score"] > best.score:
                    best = Best(scores[name]["score"], name, trainer.steps)
                    recorder.keep(trainer.model, best)
        trainer.ready()
        restore_random_state(generators)  # what a validation draws must not change the training
        assert best is not None
        recorder.validated(trainer.steps, scores, best)
        top = max(score["score"] for score in scores.values())
    trainer.best, top = trainer.team.from_leader((best, top if trainer.team.leads else None))
    trainer.schedule.validated(top)


def _save(trainer: Trainer, recorder: Recorder) -> None:
    state = trainer.state_dict()
    if trainer.team.leads:
        recorder.save(state)


class _Clock:
    """Counts the training time: steps and waiting for data, not validation."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.now = trainer, time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.trainer.seconds += now - self.now
        self.now = now

    def skip(self) -> None:
        self.now = time.monotonic()


@dataclass
class _Deferred:
    """Lets signals wait until the step has ended. Does nothing outside the main thread."""

    number: int = 0  # of the signal that arrived; 0 = none
    _former: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> _Deferred:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: object) -> None:
        self._restore()  # the next one acts at once
        if HANGUP in self._former:
            signal.signal(HANGUP, signal.SIG_IGN)  # but a closed terminal sends two
        self.number = number

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def deliver(self, number: int) -> None:
        """Do what would have happened when the signal arrived."""
        handler = self._former.get(number, signal.default_int_handler)
        self._restore()
        self._former.clear()  # from here on, signals are the handler's
        if callable(handler):
            handler(number, None)
        raise KeyboardInterrupt

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._restore()
        if self.number and isinstance(error, Exception):
            # Sent to all processes, it has ended those that make batches, before the step ended here.
            self.deliver(self.number)
