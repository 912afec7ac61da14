"""`sepcli dataset filter`: its options, what it shows while it runs, and the table at its end.

data/filter.py does the work. Progress goes to standard error; the table, or a JSON object a song, to standard
output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    catalogs,
    complete_model,
    model_options,
    parse_batch_size,
    parse_options,
)
from sepcli.errors import SepcliError, worst_exit_code

if TYPE_CHECKING:
    from sepcli.data.quality import Rule, Verdict

RULE, REPORT = "What is kept", "What is reported"


def filter_(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="A folder of tracks with their stems.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=complete_model,
            show_default=False,
            help="The model that decides, as for `separate`. It should have the same stems as the data.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="DIR", help="The folder for report.json, kept.txt and matrix.png."),
    ] = Path("quality"),
    layout: Annotated[
        str,
        typer.Option("--layout", metavar="auto|stems|musdb|slakh|pools", help="How the folder is organised."),
    ] = "auto",
    force: Annotated[
        bool,
        typer.Option("--force", help="Begin anew, even if the report in the folder was made in another way."),
    ] = False,
    keep_above: Annotated[
        float,
        typer.Option(
            "--keep-above",
            metavar="PERCENT",
            rich_help_panel=RULE,
            help="Keep a song if each stem is found in more than this share of its own segments ...",
        ),
    ] = 70.0,
    off_below: Annotated[
        float,
        typer.Option(
            "--off-below",
            metavar="PERCENT",
            rich_help_panel=RULE,
            help="... and every other output in less than this share of them.",
        ),
    ] = 30.0,
    segment: Annotated[
        float,
        typer.Option(
            "--segment", metavar="SECONDS", rich_help_panel=RULE, help="The length of these segments."
        ),
    ] = 1.0,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="DB",
            rich_help_panel=RULE,
            help="An output is found in a segment if it is louder than this, relative to the stem.",
        ),
    ] = -10.0,
    floor: Annotated[
        float,
        typer.Option(
            "--floor",
            metavar="DBFS",
            rich_help_panel=RULE,
            help="Segments in which the stem itself is below this level do not count.",
        ),
    ] = -60.0,
    device: Device = "auto",
    precision: ModelPrecision = Precision.auto,
    batch_size: BatchSize = "auto",
    catalog: Annotated[list[Path] | None, catalogs(COMPUTE)] = None,
    options: Annotated[list[str] | None, model_options(COMPUTE)] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", rich_help_panel=REPORT, help="Print one JSON object for each song on standard output."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", rich_help_panel=REPORT, help="Print only errors.")
    ] = False,
) -> None:
    """Find the songs whose stems hold what their names say.

    A model separates every stem by itself. A song is kept if nearly all of each stem comes back as itself, and
    little as anything else: this is the quality matrix of HT Demucs, with its limits. Nothing in DIR is
    changed. If a run was stopped, give the same command again: it goes on where it stopped. Other limits need
    no new separation.
    """
    console.report_as("quiet" if quiet else "text")
    size, given = parse_batch_size(batch_size), parse_options(options or ())

    from sepcli.data.filter import filter_dataset
    from sepcli.data.quality import Rule
    from sepcli.engine.device import tune_process
    from sepcli.engine.settings import Settings
    from sepcli.loading import load_model
    from sepcli.weights.catalog import load_catalog

    rule = Rule(keep_above, off_below, segment, threshold, floor)
    tune_process()
    with console.download_progress(f"Downloading {model}") as progress:
        loaded = load_model(
            model, catalog=load_catalog(catalog or ()), options=given, progress=progress, notice=console.notice
        )
    with _Display(json) as display:
        verdicts = filter_dataset(
            folder,
            loaded,
            out,
            rule,
            layout=layout,
            settings=Settings(batch_size=size),
            device=device,
            precision=precision.value,
            options=given,
            force=force,
            begun=display.begun,
            progress=display.progress,
            done=display.done,
            notice=console.notice,
        )
    if not json:
        _print_verdicts(verdicts, rule)
    each = [verdict.status for verdict in verdicts]
    counts = [f"{each.count(status)} {status}" for status in ("kept", "rejected", "failed") if status in each]
    console.say(f"{', '.join(counts)}. The report is in {out}.")
    code = worst_exit_code(SepcliError.exit_code for verdict in verdicts if verdict.error)
    if code:
        raise typer.Exit(code)


class _Display:
    """Shows the progress of the current stem, and the verdict on each song."""

    def __init__(self, json: bool):
        self.json = json
        self.count = self.number = 0
        self._bar = console.AudioBar()

    def __enter__(self) -> _Display:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)

    def begun(self, count: int, known: int) -> None:
        """There are so many songs, and the report knows some of them."""
        self.count = count
        done = f", {known} of them done before" if known else ""
        console.say(f"{count} {'song' if count == 1 else 'songs'}{done}.")

    def progress(self, song: str, stem: str, done: float, total: float | None) -> None:
        """So many audio seconds of a stem are done."""
        self._bar.show(f"[{self.number + 1}/{self.count}] {song}: {stem}", done, total)

    def done(self, verdict: Verdict, before: bool) -> None:
        """There is a verdict on a song. before: an earlier run measured it."""
        self.number += 1
        if self.json:
            from sepcli.data.quality_report import as_json

            console.print_json(as_json(verdict))
        if verdict.error is not None:
            console.error(verdict.error)
        elif not before:
            console.say(f"[{self.number}/{self.count}] {verdict.name}: {verdict.status}")


def _print_verdicts(verdicts: Sequence[Verdict], rule: Rule) -> None:
    """Print a line for each song, with its weakest own and its strongest other part; then the mean matrix."""
    from sepcli.data.quality_report import mean_matrix

    rows = [("SONG", "VERDICT", "OWN %", "OTHERS %", "WHY")]
    for verdict in verdicts:
        own = [shares[stem] for stem, shares in verdict.matrix.items()]
        others = [
            share for stem, shares in verdict.matrix.items() for part, share in shares.items() if part != stem
        ]
        why = str(verdict.error) if verdict.error else "; ".join((*verdict.reasons, *verdict.notes))
        rows.append(
            (
                verdict.name,
                verdict.status,
                f"{min(own):.1f}" if own else "-",
                f"{max(others):.1f}" if others else "-",
                why,
            )
        )
    console.print_columns(rows)
    mean = mean_matrix(verdicts)
    if mean:
        parts = list(next(iter(mean.values())))
        console.lines(f"\nMEAN % OF {rule.segment:g} S SEGMENTS")
        console.print_columns(
            [("STEM", *parts), *((stem, *_percent(shares, parts)) for stem, shares in mean.items())]
        )


def _percent(shares: Mapping[str, float], parts: Sequence[str]) -> list[str]:
    return [f"{shares[part]:.1f}" for part in parts]
