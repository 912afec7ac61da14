"""`sepcli train`: its options, and what is seen of a run. The work is training/train.py's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepcli.cli import console
from sepcli.cli.signals import Terminated
from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.training.config import RunTable
    from sepcli.training.loop import Best, Step
    from sepcli.training.run import RunFolder


def train(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The run folder; one that is there goes on.",
                                             rich_help_panel="Run")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or a TOML file.",
                                               rich_help_panel="Run")] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Folder of stems to train on; repeatable.",
                                                   rich_help_panel="Data")] = None,
    valid: Annotated[list[str] | None, typer.Option(
        "--valid", help="Folder of stems to validate on; default: a tenth of the tracks.",
        rich_help_panel="Data")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: optim.lr=1e-3; repeatable.",
                                                   rich_help_panel="Run")] = None,
    init: Annotated[str | None, typer.Option("--init", help="Begin with this model's weights.",
                                             rich_help_panel="Run")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after so many steps in all.",
                                                  rich_help_panel="Run")] = None,
    max_minutes: Annotated[float | None, typer.Option(
        "--max-minutes", help="Stop after so many minutes of training in all.", rich_help_panel="Run")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0, mps.",
                                        rich_help_panel="Run")] = "auto",
    precision: Annotated[str | None, typer.Option(
        "--precision", help="float32, bfloat16 or float16 products.", rich_help_panel="Run")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, data and dropout.",
                                             rich_help_panel="Run")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that read data.",
                                                rich_help_panel="Run")] = None,
    list_presets: Annotated[bool, typer.Option("--list-presets", help="Print the presets and stop.",
                                               rich_help_panel="Output")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print all settings as TOML and stop.",
                                              rich_help_panel="Output")] = False,
    json: Annotated[bool, typer.Option("--json", help="Progress and the result as JSON lines.",
                                       rich_help_panel="Output")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.",
                                        rich_help_panel="Output")] = False,
) -> None:
    """Train a model on folders of stems.

    The run folder then is a model: sepcli separate song.wav --model RUN. The same command again goes on where
    it stopped, also after a kill. docs/training.md has a first run, the recipes and several machines.
    """
    leads = os.environ.get("RANK", "0") == "0"  # torchrun's: of several processes one speaks
    console.report_as("quiet" if quiet or not leads else "json" if json else "text")
    if list_presets:
        return _print_presets()
    from sepcli.training.config import (
        as_tables,
        make_train_config,
        merge,
        parse_override,
        preset_names,
        read_preset,
    )

    if preset is None:
        raise UsageError("train needs a --preset.", remedy=f"The presets are {', '.join(preset_names())}.")
    tables = read_preset(preset)
    if data:
        tables = merge(tables, {"data": {"train": [{"path": path} for path in data]}})
    if valid:
        tables = merge(tables, {"data": {"valid": [{"path": path} for path in valid]}})
    options = {"max_steps": max_steps, "max_minutes": max_minutes, "precision": precision, "seed": seed,
               "workers": workers}
    tables = merge(tables, {"run": {name: value for name, value in options.items() if value is not None}})
    for text in set_ or ():
        tables = merge(tables, parse_override(text))
    config = make_train_config(tables)
    if show_config:
        import tomli_w

        sys.stdout.write(tomli_w.dumps(as_tables(config)))
        return
    if out is None:
        raise UsageError("train needs a folder for the run.", remedy="Name it with -o RUN.")
    from sepcli.device import tune_process
    from sepcli.training.train import train as run_training

    tune_process()
    with _Display(config.run) as display:
        try:
            done = run_training(config, out, init=init, device=device, notice=console.say, watch=display.watch)
        except (KeyboardInterrupt, Terminated):
            if display.began:
                console.say(f"Stopped. The same command goes on in {console.shown(out)}.")
            raise
    result = {"run": str(out), "steps": done.steps, "minutes": round(done.seconds / 60, 2),
              "bad_steps": done.bad_steps, "best": vars(done.best) if done.best else None}
    if json and leads:
        console.print_json(result)
    if json:
        return
    best = done.best
    score = f"; best {display.shown(best.score)} at step {best.step} ({best.weights})" if best else ""
    console.say(f"{done.steps} steps in {console.clock(done.seconds)}{score}.")
    console.say(f"The model is in {console.shown(out)}: sepcli separate song.wav --model {console.shown(out)}")


def _print_presets() -> None:
    from sepcli.training.config import preset_names, read_preset

    for name in preset_names():
        sys.stdout.write(f"{name:24} {read_preset(name).get('about', '')}\n")


class _Display:
    """A bar on a terminal, else a line from time to time, or JSON events; scores after every epoch."""

    def __init__(self, run: RunTable):
        self.max_steps, self.max_minutes, self.batch_size = run.max_steps, run.max_minutes, run.batch_size
        self.metric = run.valid_metric
        self.bars: Any = None
        self.task: Any = None
        self.first = 0  # steps that lay behind when this session began
        self.began = self.shown_at = 0.0
        self.smooth: dict[str, float] = {}

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *problem: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def watch(self, run: RunFolder, steps: int) -> None:
        run.on_step, run.on_validated = self.stepped, self.validated
        self.first, self.began = steps, time.monotonic()
        parameters = sum(p.numel() for p in run.network.model.parameters())
        going_on = f"going on at step {steps}" if steps else "beginning"
        console.say(f"{run.network.arch.name}, {parameters / 1e6:.1f} M parameters; {going_on}.")
        if console.err().is_terminal and not console.is_quiet() and not console.reports_json():
            from rich import progress

            self.bars = progress.Progress(
                progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"), progress.BarColumn(),
                progress.TextColumn("{task.fields[text]}"), console=console.err(), transient=True)
            self.task = self.bars.add_task("", total=self.max_steps, completed=steps, text="")
            self.bars.start()

    def stepped(self, step: Step, seconds: float) -> None:
        for problem in step.problems:
            console.say(f"Skipped: {problem}")
        if step.bad:
            console.say(f"Step {step.number}: the loss is not finite; the step is skipped.")
            return
        for name, value in {"loss": step.loss, **step.parts}.items():
            self.smooth[name] = 0.95 * self.smooth.get(name, value) + 0.05 * value
        now = time.monotonic()
        if self.bars is None and now - self.shown_at < 10 * console.PLAIN_INTERVAL:
            return
        self.shown_at = now
        done = step.number - self.first
        pace = (now - self.began) / max(done, 1)  # seconds a step
        left = pace * (self.max_steps - step.number)
        if self.max_minutes:
            left = min(left, 60 * self.max_minutes - seconds)
        if console.reports_json():
            console.event("step", step=step.number, **self.smooth, lr=step.lr, seconds=round(seconds, 1))
            return
        parts = "  ".join(f"{name} {value:.4g}" for name, value in self.smooth.items())
        text = f"{parts}  {self.batch_size / pace:.1f} examples/s  {console.clock(max(left, 0))} left"
        if self.bars is None:
            console.say(f"Step {step.number}: {text}")
        else:
            self.bars.update(self.task, completed=step.number, text=text)

    def validated(self, step: int, scores: Mapping[str, Mapping[str, float]], best: Best) -> None:
        if console.reports_json():
            console.event("validation", step=step, scores=scores, best=vars(best))
            return
        name, top = max(scores.items(), key=lambda item: item[1]["score"])
        stems = "  ".join(f"{stem} {self.number(value)}" for stem, value in top.items() if stem != "score")
        older = f"; the best is {self.number(best.score)} at step {best.step}"
        mark = ", the best so far" if best.step == step else older
        console.say(f"Step {step}: {self.shown(top['score'])} ({stems}), {name} weights{mark}.")

    def number(self, score: float) -> str:
        return f"{-score:.5f}" if self.metric == "l1" else f"{score:.2f}"

    def shown(self, score: float) -> str:
        """A score with its name and unit."""
        return f"L1 {self.number(score)}" if self.metric == "l1" else f"uSDR {self.number(score)} dB"
