"""`sepcli evaluate --listening-test`: makes a test or shows results. evaluation/listening/ does the work."""

from __future__ import annotations

import math
from pathlib import Path

from sepcli.cli import console
from sepcli.cli.scores import Teller
from sepcli.data.layouts import StemTrack
from sepcli.errors import InputError
from sepcli.evaluation.listening.experiment import ITEMS, WEB, make
from sepcli.evaluation.listening.key import KEY_NAME, Key, read_key
from sepcli.evaluation.listening.opinions import Mean, Opinions, read_opinions
from sepcli.evaluation.listening.webmushra import QUESTIONS, SCALE
from sepcli.evaluation.runs import EvaluationRequest, Run


class _Maker(Teller):
    """Shows what happens while a test is made."""

    def __init__(self, bar: console.AudioBar):
        self._bar = bar

    def progress(self, run: Run, track: StemTrack, done: float, total: float | None) -> None:
        """Move the bar."""
        self._bar.show(f"{run}: {track.name}", done, total)


def make_test(request: EvaluationRequest, folder: Path, count: int | None, *, json: bool) -> None:
    """Make a listening test in a folder, and say how to use it, but not which stimulus is whose."""
    with console.AudioBar() as bar:
        made = make(request, folder, count=ITEMS if count is None else count, listener=_Maker(bar))
    key = made.key
    if json:
        console.print_json(
            {
                "test": key.test,
                "target": key.stem,
                "config": str(made.config),
                "items": [
                    {
                        "item": name,
                        "track": item.track,
                        "start": item.start,
                        "seconds": key.seconds,
                        "voiced": item.voiced,
                    }
                    for name, item in key.items.items()
                ],
            }
        )
    else:
        rows = [
            [name, item.track, console.clock(item.start), f"{100 * item.voiced:.0f} %"]
            for name, item in key.items.items()
        ]
        console.print_columns([["ITEM", "TRACK", "FROM", "VOICED"], *rows])
    console.say(
        f"Copy what is in {folder / WEB} into webMUSHRA's folder and open it with ?config="
        f"{made.config.name}. Keep {folder / KEY_NAME} to yourself."
    )


def show_results(folder: Path, results: Path, *, json: bool) -> None:
    """Print the means and intervals of the answers in webMUSHRA's file."""
    key = read_key(folder)
    if key is None:
        raise InputError(
            f"'{folder}' holds no listening test: there is no {KEY_NAME}.",
            code="no_key",
            remedy="Name the folder that --listening-test made.",
        )
    found = read_opinions(results, key)
    if found.foreign:
        console.notice(f"Answers left out, as they are on pages that are not the test's own: {found.foreign}.")
    if json:
        console.print_json(as_json(key, found))
        return
    low, high = SCALE
    console.line(
        f"Mean opinion scores of {key.stem}, {low} to {high}; listeners: {found.listeners}, excerpts: "
        f"{found.items}; ± 95 % interval over listeners"
    )
    head = ["MODEL", *(question.title.upper() for question in QUESTIONS)]
    rows = [
        [model, *(_text(found.mean(model, question.name)) for question in QUESTIONS)] for model in key.models
    ]
    console.print_columns([head, *rows])


def as_json(key: Key, found: Opinions) -> dict[str, object]:
    """The results for JSON; NaN is null."""
    models = {}
    for model in key.models:
        means = {question.name: found.mean(model, question.name) for question in QUESTIONS}
        models[model] = {
            name: {"value": _number(mean.value), "ci95": _number(mean.interval), "answers": mean.answers}
            for name, mean in means.items()
        }
    return {
        "test": key.test,
        "target": key.stem,
        "listeners": found.listeners,
        "items": found.items,
        "models": models,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _text(mean: Mean) -> str:
    if not mean.answers:
        return "-"
    return f"{mean.value:.2f}" + ("" if math.isnan(mean.interval) else f" ± {mean.interval:.2f}")
