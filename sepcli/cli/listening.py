"""`sepcli evaluate --listening-test`: makes a test or shows results. evaluation/listening/ does the work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sepcli.cli import console
from sepcli.cli.scores import Teller
from sepcli.data.layouts import StemTrack
from sepcli.errors import InputError, UsageError
from sepcli.evaluation.listening.abx import Comparisons, is_answers, model_pairs, read_comparisons
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
                "page": None if made.page is None else str(made.page),
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
    if made.page is not None:
        console.say(f"Blind comparisons (ABX): open {made.page}, or send its folder to listeners.")
    console.say(
        f"For webMUSHRA copy what is in {folder / WEB} into its folder and open it with "
        f"?config={made.config.name}. Keep {folder / KEY_NAME} to yourself."
    )


def show_results(folder: Path, results: Sequence[Path], *, json: bool) -> None:
    """Print what the answers of listeners come to: those of webMUSHRA, or of blind comparisons."""
    key = read_key(folder)
    if key is None:
        raise InputError(
            f"'{folder}' holds no listening test: there is no {KEY_NAME}.",
            code="no_key",
            remedy="Name the folder that --listening-test made.",
        )
    if any(is_answers(path) for path in results):
        _show_comparisons(key, read_comparisons(results, key), json=json)
    elif len(results) > 1:
        raise UsageError(
            "--listening-results takes one file of webMUSHRA's, but several are given.",
            remedy="webMUSHRA writes the answers of all listeners into one file.",
        )
    else:
        _show_opinions(key, results[0], json=json)


def _show_comparisons(key: Key, found: Comparisons, *, json: bool) -> None:
    """Print for each pair of models how often X was told right."""
    if found.repeated:
        console.notice(f"Files that repeat a session of another file: {found.repeated}. They count once.")
    notes = [note for note in _notes(key, found) if note["note"]]
    told = [found.told(pair) for pair in model_pairs(list(key.models))]
    if json:
        console.print_json(
            {
                "test": key.test,
                "target": key.stem,
                "sessions": len(found.sessions),
                "pairs": [
                    {
                        "models": list(each.models),
                        "right": each.right,
                        "trials": each.trials,
                        "sessions": each.sessions,
                        "p": each.p if each.trials else None,
                    }
                    for each in told
                ],
                "notes": notes,
            }
        )
        return
    console.line(
        f"Blind comparisons of {key.stem}; sessions: {len(found.sessions)}, trials: "
        f"{sum(each.trials for each in told)}; P: probability of so many right answers by guessing"
    )
    rows = [
        [" - ".join(each.models), f"{each.right} of {each.trials}", f"{each.p:.2g}" if each.trials else "-"]
        for each in told
    ]
    console.print_columns([["MODELS", "RIGHT", "P"], *rows])
    if notes:
        console.say(f"Notes of listeners: {len(notes)}; --json has them.")


def _notes(key: Key, found: Comparisons) -> Iterator[dict[str, object]]:
    """What listeners wrote, with what it is about."""
    order = list(key.models)
    for session in found.sessions:
        for trial in session.trials:
            yield {
                "listener": session.listener,
                "item": trial.item,
                "models": sorted(trial.models, key=order.index),
                "right": trial.right,
                "note": trial.note,
            }


def _show_opinions(key: Key, results: Path, *, json: bool) -> None:
    """Print the means and intervals of the answers in webMUSHRA's file."""
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
