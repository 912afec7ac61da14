"""`sepcli evaluate`: its options and how it ends. evaluation/ does the work, cli/scores.py shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepcli.cli import console
from sepcli.cli.options import (
    COMPUTE,
    BatchSize,
    Device,
    ModelPrecision,
    Precision,
    Segment,
    Shifts,
    catalogs,
    complete_model,
    model_options,
    overlap_or_published,
    parse_batch_size,
    parse_options,
    parse_time,
)
from sepcli.errors import UsageError, worst_exit_code

if TYPE_CHECKING:
    from sepcli.evaluation.runs import EvaluationRequest


class Protocol(StrEnum):
    """The protocols of metrics/summary.py: importing them would load numpy."""

    musdb = "musdb"
    mdx = "mdx"
    sisdr = "sisdr"
    msdm = "msdm"
    dicose = "dicose"
    ldm = "ldm"


WHAT, HOW, WHERE = "What to evaluate", "How it is scored", "Where it goes"
LISTENING = "Listening test, instead of scores"
EXTRA = ("isr", "sir", "sar")


def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=complete_model,
            show_default=False,
            rich_help_panel=WHAT,
            help="As for `separate`; or oracle:irm1, oracle:irm2, oracle:ibm, oracle:mwf (masks that know "
            "the true stems), mixture or silence; repeatable. Names separated by commas count as runs "
            "of one model, which gets their mean and deviation.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            rich_help_panel=WHAT,
            help="A folder of tracks with their stems: DIR/TRACK/STEM.wav, with a mixture or without.",
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="auto|musdb|stems|slakh",
            rich_help_panel=WHAT,
            help="How the folder is organised.",
        ),
    ] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            "-t",
            "--target",
            metavar="STEM",
            rich_help_panel=WHAT,
            help="Score only this stem, with only the work that it needs; repeatable.",
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            rich_help_panel=WHAT,
            help="Use only this much of the beginning of each track.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None, model_options(WHAT, "An option for those models that have it, such as steps=4")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="OPTION=A,B,C",
            rich_help_panel=WHAT,
            help="A run for each value of overlap, segment, shifts, or an option of the model. Several "
            "--sweep give a run for each combination. A model without the option has one run.",
        ),
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            "--seed",
            "--seeds",
            metavar="N[,N...]",
            rich_help_panel=WHAT,
            help="With several seeds: a run for each, and their mean and deviation.",
        ),
    ] = "0",
    catalog: Annotated[list[Path] | None, catalogs(WHAT)] = None,
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(
            "--protocol",
            metavar="|".join(Protocol),
            show_default=False,
            rich_help_panel=HOW,
            help="musdb: SDR of museval v4, median over frames, then over tracks. mdx: uSDR, mean over "
            "tracks. sisdr: SI-SDR and SI-SDRi, mean over tracks. msdm, dicose: SI-SDRi, mean over "
            "windows of 4 s, chosen as in these papers. ldm: spectra, pitch and PESQ of vocals (or of "
            "-t) where they are voiced, mean over tracks. Repeatable; default: musdb and mdx.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="isr,sir,sar",
            rich_help_panel=HOW,
            help="Also compute these metrics of museval v4; slower, and each track is held in memory.",
        ),
    ] = "",
    zero_mean: Annotated[
        bool,
        typer.Option("--zero-mean", rich_help_panel=HOW, help="Remove the mean of each signal before SI-SDR."),
    ] = False,
    device: Device = "auto",
    precision: ModelPrecision = Precision.auto,
    overlap: Annotated[str, overlap_or_published("0.25")] = "published",
    segment: Segment = None,
    shifts: Shifts = 0,
    batch_size: BatchSize = "auto",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            rich_help_panel=COMPUTE,
            help="How many tracks are scored at a time, each in a process with a model of its own.",
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            rich_help_panel=WHERE,
            help="Keep the scores of each track, the summary and pictures in this folder. The same command "
            "then goes on where it stopped.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            rich_help_panel=WHERE,
            help="With -o: keep the scores that are there, if they were made with the same settings.",
        ),
    ] = True,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", rich_help_panel=WHERE, help="Write a line for each track and stem."
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=WHERE,
            help="Print one JSON object for each track on standard output, then one for the summary.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=WHERE, help="Print only results and errors.")
    ] = False,
    listening_test: Annotated[
        Path | None,
        typer.Option(
            "--listening-test",
            metavar="DIR",
            rich_help_panel=LISTENING,
            help="Make a listening test in this folder: the vocals (or the stem of -t) of excerpts, by each "
            "model and without names, as a page of blind comparisons (ABX) and for webMUSHRA; -m reference "
            "is the real stem. The same command goes on where it stopped.",
        ),
    ] = None,
    listening_tracks: Annotated[
        int | None,
        typer.Option(
            "--listening-tracks",
            metavar="N",
            min=1,
            show_default=False,
            rich_help_panel=LISTENING,
            help="How many random tracks give an excerpt. Default: 6.",
        ),
    ] = None,
    listening_results: Annotated[
        list[Path] | None,
        typer.Option(
            "--listening-results",
            metavar="FILE",
            rich_help_panel=LISTENING,
            help="Print what listeners said in the test of --listening-test: from the files that they saved "
            "on the page of blind comparisons (repeatable; or their folder), or from webMUSHRA's lms.csv.",
        ),
    ] = None,
) -> None:
    """Measure how well models separate tracks whose stems are known.

    Scores are computed at the sample rate of the track, from the stems that `separate` would give. A stem
    counts if the track has it and the model makes it. docs/evaluation.md has the formulas.
    """
    console.report_as("quiet" if quiet else "text")
    if listening_results:
        if listening_test is None or model or data is not None:
            raise UsageError(
                "--listening-results needs --listening-test, and neither --model nor --data.",
                remedy="Name the folder of the test that was heard, and the files of answers.",
            )
        from sepcli.cli.listening import show_results

        show_results(listening_test, listening_results, json=json)
        return
    for option, value in (("--model", model), ("--data", data)):
        if not value:
            raise UsageError(f"Missing option '{option}'.", remedy="See `sepcli evaluate --help`.")
    assert model and data is not None
    protocols = list(dict.fromkeys(each.value for each in protocol or (Protocol.musdb, Protocol.mdx)))
    wanted = [name for name in metrics.split(",") if name]
    if unknown := [name for name in wanted if name not in EXTRA]:
        raise UsageError(
            f"--metrics {unknown[0]}: the extra metrics are {', '.join(EXTRA)}.",
            remedy="The others belong to a --protocol and are always computed.",
        )

    from sepcli.evaluation.runs import EvaluationRequest

    request = EvaluationRequest(
        models=tuple(model),
        data=data,
        layout=layout,
        targets=tuple(dict.fromkeys(target or ())),
        protocols=tuple(protocols),
        extra=bool(wanted),
        zero_mean=zero_mean,
        duration=parse_time(duration, "--duration") if duration is not None else None,
        device=device,
        precision=precision.value,
        overlap=parse_overlap(overlap),
        segment=segment,
        shifts=shifts,
        batch_size=parse_batch_size(batch_size),
        seeds=parse_seeds(seed),
        options=parse_options(options or ()),
        sweeps=parse_sweeps(sweep or ()),
        jobs=jobs,
        out=out,
        resume=resume,
        catalogs=tuple(catalog or ()),
    )
    if listening_test is None:
        if listening_tracks is not None:
            raise UsageError("--listening-tracks needs --listening-test.", remedy="Name a folder for the test.")
        raise typer.Exit(_run(request, protocols, csv, json))
    scores = {
        "--protocol": protocol,
        "--metrics": metrics,
        "--zero-mean": zero_mean,
        "--duration": duration,
        "--jobs": jobs > 1,
        "--out": out,
        "--no-resume": not resume,
        "--csv": csv,
    }
    if meant := [option for option, value in scores.items() if value]:
        raise UsageError(f"{meant[0]} is for scores, and --listening-test makes none.", remedy="Leave it out.")
    from sepcli.cli.listening import make_test

    make_test(replace(request, protocols=()), listening_test, listening_tracks, json=json)


def _run(request: EvaluationRequest, protocols: Sequence[str], csv: Path | None, json: bool) -> int:
    """Evaluate, report every row, sum up; the exit code."""
    from sepcli.cli.scores import Reporter, print_tables, say_silent, say_voiced, say_windows
    from sepcli.evaluation import comparison, rows
    from sepcli.evaluation.evaluate import evaluate

    with Reporter(request, json=json) as reporter:
        for row in evaluate(request, reporter):
            reporter.row(row)
    found = reporter.in_order()
    groups = comparison.compare(found, protocols)
    if json:
        for each in comparison.as_json(groups, zero_mean=request.zero_mean):
            console.print_json(each)
    else:
        print_tables(groups, protocols, zero_mean=request.zero_mean)
    if csv is not None:
        rows.write_csv(csv, found, zero_mean=request.zero_mean)
    if "musdb" in protocols:
        say_silent(found)
    say_windows(found, protocols)
    say_voiced(found)
    if request.out is not None:
        written = comparison.write(
            request.out, groups, protocols, zero_mean=request.zero_mean, notice=console.notice
        )
        names = ", ".join([rows.ROWS_NAME, *(path.name for path in written)])
        console.say(f"In {request.out}: {names}.")
    return worst_exit_code(row.error.exit_code for row in found if row.error is not None)


# --- values that need more than a type ---


def parse_overlap(text: str) -> float | None:
    """ "published" -> None."""
    if text == "published":
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(
            f"--overlap {text}: published, or a number from 0 to below 1 is needed.",
            remedy="Leave it out, or give a share such as 0.25.",
        )
    return share


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "0,1" -> (0, 1). UsageError."""
    seeds = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in seeds):
        raise UsageError(f"--seed {text}: whole numbers from 0 are needed.", remedy="For example --seed 0,1,2.")
    return tuple(dict.fromkeys(int(word) for word in seeds))


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """["overlap=0,0.25"] -> {"overlap": ("0", "0.25")}."""
    sweeps: dict[str, tuple[str, ...]] = {}
    for text in texts:
        option, equals, values = text.partition("=")
        words = tuple(dict.fromkeys(word.strip() for word in values.split(",") if word.strip()))
        if not (equals and option and words):
            raise UsageError(
                f"--sweep {text}: OPTION=A,B,C is needed.", remedy="For example --sweep overlap=0,0.25,0.5."
            )
        if option in sweeps or option == "seed":
            reason = "it has an option of its own" if option == "seed" else "it is given twice"
            raise UsageError(
                f"--sweep {text}: {option} can't be swept here, {reason}.",
                remedy="Use --seed 0,1,2." if option == "seed" else "Give all values at once.",
            )
        sweeps[option] = words
    return sweeps
