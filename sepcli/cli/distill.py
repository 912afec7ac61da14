"""`sepcli distill`: its options. The work is training/distill.py's and training/train.py's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepcli.cli import console
from sepcli.cli import train as shared
from sepcli.cli.separate import complete_model
from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.cli.reporting import Reporter
    from sepcli.plan import Plan


class Method(StrEnum):
    output = "output"


def distill(
    out: shared.Out = None,
    teacher: Annotated[str | None, typer.Option(
        "--teacher", metavar="MODEL", autocompletion=complete_model, rich_help_panel="Teacher",
        help="Whose stems are learnt from: anything that separate --model takes.")] = None,
    student: Annotated[str | None, typer.Option(
        "--student", "--preset", help="The network and how it learns: a preset's name, or a TOML file.",
        rich_help_panel="Run")] = None,
    method: Annotated[Method, typer.Option(
        "--method", metavar="|".join(Method), rich_help_panel="Teacher",
        help="output: the student learns the teacher's stems.")] = Method.output,
    data: Annotated[list[str] | None, typer.Option(
        "--data", help="Music to learn from, without stems: files and folders; repeatable.",
        rich_help_panel="Data")] = None,
    stems: Annotated[list[str] | None, typer.Option(
        "--stems", help="Folder of true stems to learn from besides; repeatable.",
        rich_help_panel="Data")] = None,
    cache: Annotated[Path | None, typer.Option(
        "--cache", help="Where the teacher's stems are kept, for other students too; default: RUN.teacher.",
        rich_help_panel="Data")] = None,
    match: Annotated[list[str] | None, typer.Option(
        "--match", metavar="LAYER=LAYER", rich_help_panel="Teacher",
        help="Match a layer of the teacher with one of the student besides, by their names in torch; "
             "repeatable. The teacher then runs at every step.")] = None,
    match_weight: Annotated[float, typer.Option(
        "--match-weight", help="Of that, beside the loss.", rich_help_panel="Teacher")] = 1.0,
    valid: shared.Valid = None,
    set_: shared.Sets = None,
    init: shared.Init = None,
    max_steps: shared.MaxSteps = None,
    max_minutes: shared.MaxMinutes = None,
    device: shared.Device = "auto",
    precision: shared.Precision = None,
    seed: shared.Seed = None,
    workers: shared.Workers = None,
    json: shared.Json = False,
    quiet: shared.Quiet = False,
) -> None:
    """Train a small model to do what a large one does.

    The teacher separates music that has no stems, once; what it makes is kept beside the run. The student is
    trained on that as `sepcli train` trains on true stems. The same command goes on where it stopped.
    """
    shared.report_as(json=json, quiet=quiet)
    if teacher is None or not data:
        raise UsageError("distill needs a --teacher and music.",
                         remedy="Name a model with --teacher, and files or folders of music with --data.")
    folder = shared.run_folder(out)
    config = shared.configured(student, {"valid": valid}, {
        "max_steps": max_steps, "max_minutes": max_minutes, "precision": precision, "seed": seed,
        "workers": workers}, [*(set_ or ()), "data.train=[]"])
    pairs = _pairs(match or [])

    from dataclasses import replace

    from sepcli.data.mixing import DataSource
    from sepcli.training.distill import check_student, lessons, matching, taught

    config = replace(config, data=replace(config.data, train=tuple(DataSource(path) for path in stems or ())))
    if pairs:
        config = matching(config, teacher, pairs, match_weight)
    taught_by = cache or folder.with_name(f"{folder.name}.teacher")
    student_stems = check_student(config)
    found = lessons(teacher, data, taught_by, device=device, watch=_watched)
    for result in found.failures:
        console.say(f"Skipped: {result.input}: {result.error.message if result.error else ''}")
    shared.carry_out(taught(config, student_stems, found), folder, init=init, device=device, json=json)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        theirs, equals, ours = text.partition("=")
        if not (theirs and equals and ours):
            raise UsageError(f"--match {text}: LAYER=LAYER is needed.",
                             remedy="First the teacher's, then the student's: --match blocks.5=blocks.1.")
        pairs[theirs] = ours
    return pairs


@contextmanager
def _watched(plan: Plan) -> Iterator[Reporter]:
    from sepcli.cli.reporting import Reporter

    with Reporter(plan, bars=not console.is_quiet() and not console.reports_json(), json=False,
                  verbose=0) as reporter:
        yield reporter
