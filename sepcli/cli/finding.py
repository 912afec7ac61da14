"""`sepcli models list`, `info` and `recommend`: which models there are, and which of them for what.

Only `recommend` loads torch, and only for its first measurement of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sepcli.cli import console
from sepcli.cli.options import complete_model
from sepcli.errors import UsageError, did_you_mean, parameter
from sepcli.weights.catalog import load_catalog
from sepcli.weights.entries import TASKS, Catalog, Entry, Part, Step, WeightFile, weighted
from sepcli.weights.finding import (
    Yardstick,
    about_size,
    grouped,
    has_license,
    is_commercial,
    matches,
    ranked,
    yardsticks,
)

SONG = 240  # seconds of music for which the time is given
RECOMMENDED = 3


class Sort(StrEnum):
    score = "score"
    size = "size"
    cost = "cost"


Catalogs = Annotated[
    list[Path] | None,
    typer.Option("--catalog", metavar="FILE", help="Add the models of this TOML file; repeatable."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model, help="The model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_catalog(files: Sequence[Path] | None) -> Catalog:
    """The catalogue with these files besides."""
    return load_catalog(files or ())


# --- list ---


def list_(
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help=f"Only models for this: {', '.join(TASKS)}.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", metavar="STEM", help="Only models that have this stem.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Only weights under this licence: mit, cc-by, ..."),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only models in whose entry all these words stand."),
    ] = None,
    sort: Annotated[
        Sort | None,
        typer.Option(
            "--sort", metavar="|".join(Sort), help="The order in each group: best, smallest, quickest."
        ),
    ] = None,
    json: AsJson = False,
    catalog: Catalogs = None,
) -> None:
    """List the models.

    They are grouped by task and stems, with the size and licence of each, how its files are checked, and
    whether they are downloaded. SCORE is a figure that the whole group shares, named above it, so that its
    figures may be compared; `sepcli models info NAME` shows all scores of a model.
    """
    known = open_catalog(catalog)
    entries = list(known.values()) if target is None else _having(known, target)
    if task is not None:
        _check_task(task)
        entries = [entry for entry in entries if entry.task == task or (task == "chain" and entry.chain)]
    if license is not None:
        entries = [entry for entry in entries if has_license(entry, license)]
    if search is not None:
        entries = [entry for entry in entries if matches(entry, search)]
    groups = grouped(entries, sort, _stem(target, entries))
    if json:
        console.print_json([described(entry) for group in groups for entry in group.entries])
        return
    if not groups:
        console.say("No model is like that; `sepcli models list` without options shows all of them.")
        return
    rows = [[_row(entry, group.yardstick) for entry in group.entries] for group in groups]
    head = ("MODEL", "SIZE", "SCORE", "LICENCE", "CHECK", "HERE")
    widths = [
        max(map(len, column)) for column in zip(head, *(row for each in rows for row in each), strict=True)
    ]
    _print_row(head, widths)
    for group, each in zip(groups, rows, strict=True):
        console.lines(f"\n{group.title}")
        if group.yardstick is not None:
            console.sentence(f"(SCORE: {group.yardstick.text})", indent=1)
        for row in each:
            _print_row(row, widths)


def _row(entry: Entry, measure: Yardstick | None) -> tuple[str, ...]:
    figure = _figure(measure, entry)
    return f"  {entry.name}", size_text(entry), figure, entry.license, entry.check, presence(entry)


def _print_row(row: Sequence[str], widths: Sequence[int]) -> None:
    console.line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _stem(target: str | None, entries: Sequence[Entry]) -> str | None:
    """The stem that the user's word means in the first model that has it."""
    from sepcli.batch.words import stem_of

    if target is None:
        return None
    return next((stem for entry in entries if (stem := stem_of(target, entry.sources))), None)


def _figure(measure: Yardstick | None, entry: Entry) -> str:
    figure = None if measure is None else measure.figure(entry)
    return "-" if figure is None else f"{figure:.2f}"


def _check_task(task: str) -> None:
    if task not in TASKS:
        raise UsageError(
            f"There is no task '{task}'; there are {', '.join(TASKS)}.",
            remedy=did_you_mean(task, TASKS) or "Choose among these.",
            code="unknown_task",
        )


def _having(catalog: Catalog, stem: str) -> list[Entry]:
    """The models with this stem; UsageError names the stems there are."""
    from sepcli.batch.words import rest_of, stem_of

    found = [
        entry for entry in catalog.values() if stem_of(stem, entry.sources) or rest_of(stem, entry.sources)
    ]
    if not found:
        stems = dict.fromkeys(stem for entry in catalog.values() for stem in entry.sources)
        raise UsageError(
            f"No model has the stem '{stem}'; there are {', '.join(stems)}.",
            remedy="Choose among these.",
            code="unknown_stem",
        )
    return found


# --- info ---


def info(name: Name, json: AsJson = False, catalog: Catalogs = None) -> None:
    """Show everything that is known about a model.

    What it is for, licence, origin, training data, limits, scores, networks, and each file with its sources and
    check; and whether we have run it ourselves.
    """
    entry = open_catalog(catalog).find(name)
    if json:
        console.print_json(described(entry))
        return
    lines = [
        ("name", entry.name),
        ("also called", ", ".join(entry.aliases)),
        ("for", entry.purpose),
        ("task", f"{entry.task}: {TASKS[entry.task]}"),
        ("family", entry.family),
        *(("chain" if not step.of else "", _step(step)) for step in entry.chain),
        *(("blend" if not index else "", _part(entry, part)) for index, part in enumerate(entry.parts)),
        ("blended by", entry.blend),
        ("stems", entry.stems_text),
        ("with --target", f"also {', '.join(entry.more)}" if entry.more else ""),
        (
            "",
            f"{entry.counterpart} is the mix minus {entry.own_sources[0]}, in every sample"
            if entry.counterpart
            else "",
        ),
        (
            "queries",
            f"takes examples of {entry.min_query:g} s or more: separate --query [NAME=]FILE"
            if entry.min_query is not None
            else "",
        ),
        (
            "audio",
            f"{entry.samplerate} Hz, {('mono', 'stereo')[entry.channels - 1]}"
            if entry.channels <= 2
            else f"{entry.samplerate} Hz, {entry.channels} channels",
        ),
        ("segment", f"{float(entry.segment):g} s" if entry.segment is not None else ""),
        ("work", f"{entry.cost:.0f} GFLOP for a second of audio" if entry.cost is not None else ""),
        (
            "half precision",
            ("used where it is faster" if entry.half else "not used")
            + (f"; {entry.half_note}" if entry.half_note else ""),
        ),
        (
            "run by us",
            "yes, on the published weights"
            if entry.run
            else "not run by us on the real weights; on random weights in the layout of its file only",
        ),
        ("listed by", f"{entry.listed} of 6 other catalogues" if entry.listed is not None else ""),
        ("licence", f"{entry.license}. {entry.license_note or _unstated(entry)}".rstrip(". ")),
        ("paper", entry.paper),
        ("origin", entry.origin),
        ("training data", entry.training_data),
        ("limits", entry.limits),
        ("size", size_text(entry)),
        ("check", _CHECKS[entry.check]),
        ("downloaded", presence(entry)),
        ("defined in", str(entry.catalog_path)),
    ]
    for score in entry.scores:
        stems = ", ".join(f"{stem} {value:.2f}" for stem, value in score.stems.items())
        figures = " ".join(
            filter(None, [f"{score.value:.2f}" if score.value is not None else "", stems and f"({stems})"])
        )
        lines.append(
            (
                f"{score.by} score",
                f"{score.metric} on {score.set}: {figures}" + (f". {score.note}" if score.note else ""),
            )
        )
    for member in () if entry.models else entry.members:
        weights = zip(entry.own_sources, member.weights or (), strict=False)
        used = ", ".join(f"{stem} x {weight:g}" for stem, weight in weights if weight)
        lines.append(("network", f"{member.arch} from {member.file.name}" + (f", for {used}" if used else "")))
        lines.append(("", ", ".join(f"{key} {_plain(value)}" for key, value in member.config.items())))
    if entry.mixer is not None:
        lines.append(("mixer", f"from {entry.mixer.file.name}, of all stems and the mix"))
    for file in entry.files:
        lines.append(("file", f"{file.name}: {_place(file)}"))
        lines += [("or", _place(source)) for source in file.sources[1:]]
    console.print_pairs(lines)


def _step(step: Step) -> str:
    return f"{step.entry.name} takes {step.of or 'the mix'} apart: {', '.join(step.named)}"


def _part(entry: Entry, part: Part) -> str:
    return f"{part.entry.name}, for {weighted(entry.sources, part.weights)}"


_CHECKS = {
    "full": "full: the hash of every file is known",
    "sha1": "sha1: of some file only the SHA-1 is known",
    "md5": "md5: of some file only the MD5 is known",
    "prefix": "prefix: of some file only the first digits of the hash are known",
    "size": "size: of some file only the size is known",
    "none": "none: of some file nothing is known; its first download is recorded and enforced",
}


def _unstated(entry: Entry) -> str:
    known = entry.license != "unspecified"
    return "" if known else "The author states none: ask before any use beyond research."


def _plain(value: Any) -> str:
    return " ".join(map(_plain, value)) if isinstance(value, tuple) else str(value)


def _place(file: WeightFile) -> str:
    return f"{file.source} ({console.bytes_text(file.bytes)}, {file.check})"


# --- recommend ---


def recommend(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help=f"A stem, such as vocals or guitar, or a task: {', '.join(TASKS)}."
        ),
    ],
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Only models that are expected to take no longer than the audio lasts."),
    ] = False,
    commercial: Annotated[
        bool,
        typer.Option("--commercial", help="Only weights whose stated licence allows commercial use."),
    ] = False,
    json: AsJson = False,
    catalog: Catalogs = None,
) -> None:
    """Recommend up to three models for a stem or a task.

    The best by published scores come first, then those that most other catalogues list. The time is an
    estimate: the work of the model over the speed of this machine, which is measured once. No model is run.
    """
    from sepcli.engine.speed import matrix_speed, seconds_for
    from sepcli.weights.cache import own_file

    known = open_catalog(catalog)
    entries, stem = _candidates(known, what)
    measures = yardsticks(entries, stem)  # of all: among few, a rare figure of weak models would decide
    if commercial:
        entries = [entry for entry in entries if is_commercial(entry)]
        if not entries:
            raise UsageError(
                f"No model for '{what}' has weights whose stated licence allows commercial use.",
                remedy="Leave out --commercial, and ask the authors.",
                code="no_model",
            )
    speed, device = matrix_speed(own_file("speed.json"))
    best = ranked(entries, measures)
    times = {entry.name: entry.cost and seconds_for(entry.cost, SONG, speed) for entry in best}
    if fast:
        quick = sorted((entry for entry in best if times[entry.name]), key=lambda entry: times[entry.name] or 0)
        best = [entry for entry in best if entry in quick and (times[entry.name] or 0) <= SONG] or quick
    best = best[:RECOMMENDED]
    shown = (measure for measure in measures if any(measure.figure(entry) is not None for entry in best))
    measure = next(shown, None)
    if json:
        console.print_json(
            [
                {
                    **described(entry),
                    "score": None if measure is None else measure.figure(entry),
                    "scored": None if measure is None else measure.text,
                    "expected_seconds": times[entry.name],
                    "audio_seconds": SONG,
                }
                for entry in best
            ]
        )
        return
    rows = [
        (
            entry.name,
            _figure(measure, entry),
            size_text(entry),
            _duration(times[entry.name]),
            entry.license,
            entry.purpose,
        )
        for entry in best
    ]
    console.print_columns([("MODEL", "SCORE", "SIZE", "TIME", "LICENCE", "FOR"), *rows])
    score = (
        f"SCORE: {measure.text}, as published. " if measure is not None else "There are no scores to compare. "
    )
    console.say(
        f"{score}TIME: about, for {SONG // 60} minutes of music on this machine ({device}, {speed:.0f} GFLOP/s "
        f"in matrix products)."
    )
    target = f" -t {what}" if what not in TASKS else ""
    console.say(f"Use it: sepcli separate FILE -m {best[0].name}{target}")


def best_for(catalog: Catalog, what: str) -> Entry:
    """The model that `recommend` names first for a stem or a task; UsageError where there is none."""
    entries, stem = _candidates(catalog, what)
    return ranked(entries, yardsticks(entries, stem))[0]


def _candidates(catalog: Catalog, what: str) -> tuple[list[Entry], str | None]:
    """The models for a task or a stem, and the stem by whose figures they are compared."""
    from sepcli.batch.words import stem_of

    if what in TASKS and (entries := [entry for entry in catalog.values() if entry.task == what]):
        same = {next(iter(entry.sources), None) for entry in entries if len(entry.sources) <= 2}
        return entries, same.pop() if len(same) == 1 else None
    entries = [entry for entry in catalog.values() if stem_of(what, entry.sources) is not None]
    if not entries:
        _having(catalog, what)  # raises, or it is the rest of some stem
        raise UsageError(
            f"No model makes '{what}' itself.",
            remedy=f"Ask for a stem; `sepcli models list {parameter('target')} {what}` shows what comes near.",
            code="unknown_stem",
        )
    entries = [entry for entry in entries if entry.task == "separation"] or entries
    names = Counter(stem_of(what, entry.sources) for entry in entries)
    return entries, names.most_common(1)[0][0]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- what is said of a model ---


def size_text(entry: Entry) -> str:
    """The size of its files as a text; "?" where it is not known."""
    size = about_size(entry)
    text = "?" if size is None else console.bytes_text(size)
    return text if size is None or entry.size is not None else f"~{text}"


def presence(entry: Entry) -> str:
    """Whether its files are on this machine: "yes", "no" or "2 of 4"."""
    from sepcli.weights import download as hub

    present = sum(hub.is_cached(file) for file in entry.files)
    return "yes" if present == len(entry.files) else f"{present} of {len(entry.files)}" if present else "no"


def described(entry: Entry) -> dict[str, Any]:
    """The entry as a JSON object; sizes in bytes, null where unknown."""
    from sepcli.weights import download as hub

    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "task": entry.task,
        "for": entry.purpose,
        "family": entry.family,
        "chain": [{"model": step.entry.name, "of": step.of or None} for step in entry.chain],
        "blend": entry.blend or None,
        "models": [
            {"model": part.entry.name, "weights": dict(zip(entry.sources, part.weights, strict=True))}
            for part in entry.parts
        ],
        "stems": list(entry.sources),
        "stems_on_request": list(entry.more),
        "counterpart": entry.counterpart or None,
        "min_query": entry.min_query,
        "samplerate": entry.samplerate,
        "channels": entry.channels,
        "size": entry.size,
        "cost": entry.cost,
        "run_by_us": entry.run,
        "listed": entry.listed,
        "license": entry.license,
        "license_note": entry.license_note,
        "check": entry.check,
        "cached": all(hub.is_cached(file) for file in entry.files),
        "paper": entry.paper,
        "origin": entry.origin,
        "training_data": entry.training_data,
        "limits": entry.limits,
        "scores": [
            {
                "metric": score.metric,
                "set": score.set,
                "value": score.value,
                "by": score.by,
                "stems": dict(score.stems),
                "note": score.note,
            }
            for score in entry.scores
        ],
        "files": [
            {
                "name": file.name,
                "source": file.source,
                "size": file.bytes,
                "check": file.check,
                "mirrors": [mirror.source for mirror in file.mirrors],
                "fallback": file.fallback.source if file.fallback else None,
                "path": str(hub.cached(file) or "") or None,
            }
            for file in entry.files
        ],
        "catalog": str(entry.catalog_path),
    }
