"""`sepcli train`: its options, and the display of a run. training/train.py does the work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepcli.cli import console, events
from sepcli.cli.signals import Terminated
from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.training.config import RunTable, TrainConfig
    from sepcli.training.loop import Best, Step
    from sepcli.training.run import RunFolder


Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="RUN",
        help="The folder of the run. If the run is there already, it continues.",
        rich_help_panel="Run",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        help="The network and its training: a name from --list-presets, or a TOML file.",
        rich_help_panel="Run",
    ),
]
Valid = Annotated[
    list[str] | None,
    typer.Option(
        "--valid",
        metavar="DIR",
        help="A folder of stems to validate on; repeatable. Default: a tenth of the tracks.",
        rich_help_panel="Data",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change any setting, for example optim.lr=1e-3; repeatable.",
        rich_help_panel="Run",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", metavar="MODEL", help="Begin with the weights of this model.", rich_help_panel="Run"
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        rich_help_panel="Run",
        help="The trained model that this one builds upon; its weights stay as they are. For networks that "
        "need one.",
    ),
]
MaxSteps = Annotated[
    int | None,
    typer.Option("--max-steps", metavar="N", help="Stop after this many steps in all.", rich_help_panel="Run"),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        metavar="MINUTES",
        help="Stop after this many minutes of training in all.",
        rich_help_panel="Run",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:I]|mps|xpu[:I]",
        help="auto: the GPU if there is one, else the CPU.",
        rich_help_panel="Run",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="float32|bfloat16|float16",
        help="The precision of the network's products. Default: as the preset says.",
        rich_help_panel="Run",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="For the first weights, the choice of data, and dropout.",
        rich_help_panel="Run",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Processes that read data.", rich_help_panel="Run"),
]
ListPresets = Annotated[
    bool, typer.Option("--list-presets", help="Print the presets, and stop.", rich_help_panel="Output")
]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print all settings as TOML, and stop.", rich_help_panel="Output")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print progress and the result as JSON lines.", rich_help_panel="Output")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.", rich_help_panel="Output")]


def train(
    out: Out = None,
    preset: Preset = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="DIR", help="A folder of stems to train on; repeatable.", rich_help_panel="Data"
        ),
    ] = None,
    valid: Valid = None,
    set_: Sets = None,
    init: Init = None,
    base: Base = None,
    max_steps: MaxSteps = None,
    max_minutes: MaxMinutes = None,
    device: Device = "auto",
    precision: Precision = None,
    seed: Seed = None,
    workers: Workers = None,
    list_presets: ListPresets = False,
    show_config: ShowConfig = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on folders of stems.

    The run folder is then itself a model: sepcli separate song.wav --model RUN. If a run was stopped, or even
    killed, give the same command again: it goes on where it stopped. docs/training.md has a first run, recipes,
    and how to use several machines.
    """
    report_as(json=json, quiet=quiet)
    if list_presets:
        return print_presets()
    config = configured(
        preset,
        {"train": data, "valid": valid},
        {
            "max_steps": max_steps,
            "max_minutes": max_minutes,
            "precision": precision,
            "seed": seed,
            "workers": workers,
        },
        set_ or (),
        {"base": base},
    )
    if show_config:
        return print_config(config)
    carry_out(config, run_folder(out), init=init, device=device, json=json)


# --- what `distill` does in the same way ---


def report_as(*, json: bool, quiet: bool) -> None:
    console.report_as("quiet" if quiet or not _leads() else "json" if json else "text")


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"  # torchrun's: of several processes one speaks


def configured(
    preset: str | None,
    data: Mapping[str, Sequence[str] | None],
    run: Mapping[str, Any],
    sets: Sequence[str],
    model: Mapping[str, str | None] | None = None,
) -> TrainConfig:
    """The preset with the changes of the command line. data: folders of train and valid; None: the preset's."""
    from sepcli.training.config import make_train_config, merge, parse_override, preset_names, read_preset

    if preset is None:
        raise UsageError("A --preset is needed.", remedy=f"The presets are {', '.join(preset_names())}.")
    tables = read_preset(preset)
    folders = {name: [{"path": path} for path in paths] for name, paths in data.items() if paths}
    tables = merge(tables, {"data": folders} if folders else {})
    for table, values in (("run", run), ("model", model or {})):
        tables = merge(tables, {table: {name: value for name, value in values.items() if value is not None}})
    for text in sets:
        tables = merge(tables, parse_override(text))
    return make_train_config(tables)


def print_config(config: TrainConfig) -> None:
    from sepcli.training.config import as_tables, to_toml

    sys.stdout.write(to_toml(as_tables(config)))


def run_folder(out: Path | None) -> Path:
    if out is None:
        raise UsageError("There is no folder for the run.", remedy="Name it with -o RUN.")
    return out


def carry_out(config: TrainConfig, out: Path, *, init: str | None, device: str, json: bool) -> None:
    """Train, show how it goes, and say where the model is."""
    from sepcli.engine.device import tune_process
    from sepcli.training.train import train as run_training

    tune_process()
    with _Display(config.run) as display:
        try:
            done = run_training(config, out, init=init, device=device, notice=console.say, watch=display.watch)
        except (KeyboardInterrupt, Terminated):
            if display.began:
                console.say(f"Stopped. The same command goes on in {out}.")
            raise
    result = {
        "run": str(out),
        "steps": done.steps,
        "minutes": round(done.seconds / 60, 2),
        "bad_steps": done.bad_steps,
        "best": vars(done.best) if done.best else None,
    }
    if json and _leads():
        console.print_json(result)
    if json:
        return
    best = done.best
    score = f"; best {display.shown(best.score)} at step {best.step} ({best.weights})" if best else ""
    console.say(f"{done.steps} steps in {console.clock(done.seconds)}{score}.")
    console.say(f"The model is in {out}: sepcli separate song.wav --model {out}")


def print_presets() -> None:
    from sepcli.training.config import preset_names, read_preset

    for name in preset_names():
        sys.stdout.write(f"{name:24} {read_preset(name).get('about', '')}\n")


class _Display:
    """Shows a run: a bar, lines where there is no terminal, or JSON events; scores after every epoch."""

    def __init__(self, run: RunTable):
        self.max_steps, self.max_minutes, self.batch_size = run.max_steps, run.max_minutes, run.batch_size
        from sepcli.training.config import VALID_METRICS

        self.metric = VALID_METRICS[run.valid_metric]
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

            self.bars = console.bars(
                progress.TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[text]}"),
            )
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
            event = events.Step(event="step", step=step.number, lr=step.lr, seconds=round(seconds, 1))
            console.event(event, **self.smooth)
            return
        parts = "  ".join(f"{name} {value:.4g}" for name, value in self.smooth.items())
        text = f"{parts}  {self.batch_size / pace:.1f} examples/s  {console.clock(max(left, 0))} left"
        if self.bars is None:
            console.say(f"Step {step.number}: {text}")
        else:
            self.bars.update(self.task, completed=step.number, text=text)

    def validated(self, step: int, scores: Mapping[str, Mapping[str, float]], best: Best) -> None:
        if console.reports_json():
            console.event(
                events.Validation(
                    event="validation",
                    step=step,
                    scores=scores,
                    best=events.Best(score=best.score, weights=best.weights, step=best.step),
                )
            )
            return
        name, top = max(scores.items(), key=lambda item: item[1]["score"])
        stems = "  ".join(f"{stem} {self.number(value)}" for stem, value in top.items() if stem != "score")
        older = f"; the best is {self.number(best.score)} at step {best.step}"
        mark = ", the best so far" if best.step == step else older
        console.say(f"Step {step}: {self.shown(top['score'])} ({stems}), {name} weights{mark}.")

    def number(self, score: float) -> str:
        return f"{self.metric.sign * score:.{self.metric.digits}f}"

    def shown(self, score: float) -> str:
        """A score with its name and unit."""
        return f"{self.metric.name} {self.number(score)} {self.metric.unit}".rstrip()
