"""`sepcli distill`: its options. training/distill.py and training/train.py do the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepcli.cli import console
from sepcli.cli import train as shared
from sepcli.cli.options import complete_model
from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.batch.request import Batch
    from sepcli.cli.reporting import Reporter


class Method(StrEnum):
    consistency = "consistency"
    output = "output"


def distill(
    out: shared.Out = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            autocompletion=complete_model,
            rich_help_panel="Teacher",
            help="The model to learn from: anything that `separate --model` takes. For consistency it is a "
            "diffusion model.",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            "--preset",
            metavar="NAME|FILE",
            help="The network that learns, and how: a name from `train --list-presets`, or a TOML file.",
            rich_help_panel="Run",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            metavar="|".join(Method),
            rich_help_panel="Teacher",
            help="consistency: the student of a diffusion model learns to do in one or a few steps what the "
            "teacher does in many. output: any student learns from the stems of any teacher.",
        ),
    ] = Method.consistency,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="What to learn from; repeatable. consistency: folders of stems; output: files and "
            "folders of music, without stems.",
            rich_help_panel="Data",
        ),
    ] = None,
    stems: Annotated[
        list[str] | None,
        typer.Option(
            "--stems",
            metavar="DIR",
            help="output: a folder of true stems, to learn from these too; repeatable.",
            rich_help_panel="Data",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="output: where the stems of the teacher are kept, for other students too. Default: "
            "RUN.teacher.",
            rich_help_panel="Data",
        ),
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match",
            metavar="LAYER=LAYER",
            rich_help_panel="Teacher",
            help="output: also make a layer of the student agree with one of the teacher; first the "
            "teacher's, then the student's, by their names in torch; repeatable. The teacher then runs "
            "at every step.",
        ),
    ] = None,
    match_weight: Annotated[
        float,
        typer.Option(
            "--match-weight",
            metavar="WEIGHT",
            help="output: how much --match counts beside the loss.",
            rich_help_panel="Teacher",
        ),
    ] = 1.0,
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
    """Train a student model to do what its teacher does, but faster.

    consistency: the student begins as a copy of the teacher, a diffusion model. It learns on true stems, as in
    `sepcli train`, to reach in one step what the teacher reaches in many. output: the teacher separates music
    without stems, once; its stems are kept beside the run, and a student of any kind is trained on them. If a
    run was stopped, give the same command again: it goes on where it stopped.
    """
    shared.report_as(json=json, quiet=quiet)
    if teacher is None:
        raise UsageError("distill needs a --teacher.", remedy="Name a model, for example the run of one.")
    folder = shared.run_folder(out)
    run = {
        "max_steps": max_steps,
        "max_minutes": max_minutes,
        "precision": precision,
        "seed": seed,
        "workers": workers,
    }
    if method is Method.consistency:
        _refuse(method, {"--stems": stems, "--cache": cache, "--match": match, "--init": init})
        from sepcli.training.distill import in_fewer_steps

        config = shared.configured(student, {"train": data, "valid": valid}, run, set_ or ())
        shared.carry_out(in_fewer_steps(config, teacher), folder, init=None, device=device, json=json)
        return
    if not data:
        raise UsageError("--method output needs music.", remedy="Name files or folders of music with --data.")
    config = shared.configured(student, {"valid": valid}, run, set_ or ())
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


def _refuse(method: Method, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(
                f"--method {method} takes no {name}.",
                remedy=f"Leave it out; or choose --method {Method.output}.",
            )


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        theirs, equals, ours = text.partition("=")
        if not (theirs and equals and ours):
            raise UsageError(
                f"--match {text}: LAYER=LAYER is needed.",
                remedy="First the teacher's, then the student's: --match blocks.5=blocks.1.",
            )
        pairs[theirs] = ours
    return pairs


@contextmanager
def _watched(batch: Batch) -> Iterator[Reporter]:
    from sepcli.cli.reporting import Reporter

    with Reporter(
        batch, bars=not console.is_quiet() and not console.reports_json(), json=False, verbose=0
    ) as reporter:
        yield reporter
