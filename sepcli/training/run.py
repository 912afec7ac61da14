"""The folder of a training run: what it leaves behind, and what it goes on from.

    RUN/config.toml         every setting, also those that were not given
    RUN/metrics.jsonl       a line every log_steps steps, and a line for each validation
    RUN/curves.png          the losses and scores of metrics.jsonl, drawn
    RUN/model.safetensors   the best weights so far; the file says what it is, so `--model RUN` works everywhere
    RUN/state.pt            the state to go on from; may be removed when the run is done

Knows files; nothing of how training works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from sepcli.errors import UsageError, from_os, missing, parameter
from sepcli.loading import save_model
from sepcli.system.files import NO_LOCKS, atomic_write
from sepcli.training.config import VALID_METRICS, TrainConfig, as_tables, to_toml
from sepcli.training.loop import Best, Step
from sepcli.training.setup import Network
from sepcli.training.state import cant_write, load_state, save_state
from sepcli.weights.modelspec import RUN_FILE

# Settings that may change when a run goes on: they say how long and how fast, not what is learnt.
_FREE = {
    ("run", key) for key in ("max_steps", "max_minutes", "workers", "save_minutes", "valid_seconds", "store")
}
_FREE.add(("", "about"))


class RunFolder:
    """The files of a run: what the loop tells its Recorder is written down.

    on_step, on_validated: called as `stepped` and `validated` are, to show the progress.
    """

    def __init__(self, path: Path, config: TrainConfig, network: Network):
        self.path, self.config, self.network = path, config, network
        self.on_step: Callable[[Step, float], None] = lambda step, seconds: None
        self.on_validated: Callable[[int, Mapping[str, Mapping[str, float]], Best], None] = lambda *_: None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = 0.0  # training seconds at the last line
        self._lock = FileLock(path / ".lock", timeout=0, thread_local=False)

    # --- opening ---

    def open(self) -> dict[str, Any] | None:
        """Make the folder, or read the state that is in it to go on from; None for a new run.

        UsageError where another process trains here, or where the folder holds anything else than this run.
        OutputError where it can't be written; ModelError for a state that can't be read.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            state = load_state(self.path / "state.pt") if (self.path / "state.pt").exists() else None
            if state is None:
                self._refuse_foreign()
            else:
                self._refuse_other_settings(state["config"])
                self._cut_metrics(state["steps"])
                self._since = state["seconds"]
            self._write_text("config.toml", to_toml(as_tables(self.config)))
        except OSError as error:
            raise from_os(error, self.path) from error
        return state

    def _take_lock(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise UsageError(
                f"Another process trains in '{self.path}'.",
                remedy=f"Wait for it, or choose another folder ({parameter('out')}).",
                code="locked",
            ) from None
        except NO_LOCKS:
            pass

    def close(self) -> None:
        """Let other processes train in this folder."""
        if self._lock.is_locked:
            self._lock.release()
            (self.path / ".lock").unlink(missing_ok=True)

    def _refuse_foreign(self) -> None:
        """Refuse a folder with files in it and no state: it is not a run to go on with."""
        others = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        unfinished = {"config.toml", "metrics.jsonl", "curves.png"}  # killed before the first state
        if set(others) - unfinished:
            raise UsageError(
                f"The folder '{self.path}' has no state of a run, but {', '.join(others[:4])}.",
                remedy=f"Choose another folder ({parameter('out')}); nothing is ever overwritten.",
                code="exists",
            )
        for name in unfinished:
            (self.path / name).unlink(missing_ok=True)

    def _refuse_other_settings(self, theirs: Mapping[str, Any]) -> None:
        ours = as_tables(self.config)
        changed = _differences(json.loads(json.dumps(theirs)), json.loads(json.dumps(ours)))
        if changed:
            raise UsageError(
                f"The run in '{self.path}' has other settings: {'; '.join(changed[:4])}.",
                remedy=f"Choose another folder ({parameter('out')}), and this run's weights to begin with "
                f"({parameter('init')}); or give the settings that it was begun with.",
                code="other_settings",
            )

    def _cut_metrics(self, steps: int) -> None:
        """Drop the lines that were written after the state from which the run goes on."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= steps:
                    lines.append(line)
            except (ValueError, KeyError):
                continue  # cut off by the kill
        self._write_text("metrics.jsonl", "".join(line + "\n" for line in lines))

    # --- Recorder ---

    def stepped(self, step: Step, seconds: float) -> None:
        """Add a step to the means of the next line. seconds: training time so far, over all sessions."""
        self.on_step(step, seconds)
        if not step.bad:
            self._count += 1
            for name, value in {"loss": step.loss, **step.parts}.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        for problem in step.problems:
            self._append({"step": step.number, "problem": problem})
        if step.bad:
            self._append({"step": step.number, "bad": True})
        if step.number % self.config.run.log_steps == 0 and self._count:
            means = {name: total / self._count for name, total in self._sums.items()}
            rate = self._count * self.config.run.batch_size / max(seconds - self._since, 1e-9)
            self._append(
                {
                    "step": step.number,
                    **means,
                    "lr": step.lr,
                    "examples_per_s": round(rate, 3),
                    "seconds": round(seconds, 1),
                }
            )
            self._sums, self._count, self._since = {}, 0, seconds

    def validated(self, step: int, scores: Mapping[str, Mapping[str, float]], best: Best) -> None:
        """Write the scores down, and draw the curves anew."""
        self._append({"step": step, "valid": scores, "best": vars(best)})
        self.on_validated(step, scores, best)
        self.draw()

    def keep(self, model: nn.Module, best: Best | None) -> None:
        """Write the weights that the model has now as the run's model."""
        dtype = getattr(torch, self.config.run.store)
        weights = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in model.state_dict().items()
        }
        table = self.config.model
        try:
            with atomic_write(self.path / RUN_FILE) as beside:
                save_model(weights, beside, family=table.family, arch=table.arch, config=self.network.config)
        except Exception as error:
            raise cant_write(self.path / RUN_FILE, error) from error

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, with the sums of the next line: after a resumption the same lines are written."""
        kept = {
            "config": as_tables(self.config),
            "sums": self._sums,
            "count": self._count,
            "since": self._since,
        }
        save_state(self.path / "state.pt", {**state, **kept})

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Take up the sums of a state that `save` wrote."""
        self._sums, self._count, self._since = dict(state["sums"]), state["count"], state["since"]

    # --- files ---

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cant_write(self.path / "metrics.jsonl", error) from error

    def _write_text(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as beside:
            beside.write_text(text, encoding="utf-8")

    def draw(self) -> None:
        """Draw metrics.jsonl as curves.png: the loss and its parts, and the scores, over steps.

        Without matplotlib nothing is drawn.
        """
        if missing("matplotlib"):
            return
        from matplotlib.figure import Figure

        lines = read_metrics(self.path)
        losses = [line for line in lines if "loss" in line]
        scores = [line for line in lines if "valid" in line]
        figure = Figure(figsize=(10, 7), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        parts = {key for line in losses for key in line} - {"step", "lr", "examples_per_s", "seconds"}
        for name in sorted(parts, key=lambda name: (name != "loss", name)):
            upper.plot(
                [line["step"] for line in losses if name in line],
                [line[name] for line in losses if name in line],
                label=name,
                linewidth=2 if name == "loss" else 1,
            )
        upper.set_ylabel("training loss")
        upper.set_yscale("log" if losses and all(line["loss"] > 0 for line in losses) else "linear")
        best = {line["step"]: max(line["valid"].values(), key=lambda score: score["score"]) for line in scores}
        for name in sorted({key for score in best.values() for key in score}):
            lower.plot(
                list(best),
                [score.get(name) for score in best.values()],
                marker=".",
                label="mean" if name == "score" else name,
                linewidth=2 if name == "score" else 1,
            )
        metric = VALID_METRICS[self.config.run.valid_metric]
        sign, unit = "minus " if metric.sign < 0 else "", f" ({metric.unit})" if metric.unit else ""
        lower.set_ylabel(f"validation {sign}{metric.name}{unit}, best weights")
        lower.set_xlabel("step")
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(loc="best", fontsize="small")
        try:
            with atomic_write(self.path / "curves.png") as beside:
                figure.savefig(beside, dpi=100)
        except OSError as error:
            raise cant_write(self.path / "curves.png", error) from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, [] without that file. A line that a kill cut off is left out."""
    path = run / "metrics.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _differences(theirs: Any, ours: Any, where: tuple[str, ...] = ()) -> list[str]:
    """ "optim.lr is 0.001 there and 0.0003 here", for every setting that must not change."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key in sorted({*theirs, *ours}):
            if (where[0] if where else "", key) not in _FREE:
                found += _differences(theirs.get(key), ours.get(key), (*where, key))
        return found
    return [] if theirs == ours else [f"{'.'.join(where)} is {theirs!r} there and {ours!r} here"]
