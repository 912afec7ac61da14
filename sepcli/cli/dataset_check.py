"""`sepcli dataset check`: its options, a line a track, and what is wrong with it.

data/check.py does the work. Progress goes to standard error; the table, or a JSON object a track, to standard
output.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepcli.cli import console
from sepcli.errors import SepcliError

if TYPE_CHECKING:
    from sepcli.data.check import TrackReport


def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="A folder of tracks with their stems.")
    ],
    layout: Annotated[
        str,
        typer.Option("--layout", metavar="auto|stems|musdb|slakh|pools", help="How the folder is organised."),
    ] = "auto",
    silent: Annotated[
        float,
        typer.Option("--silent", metavar="DBFS", help="A stem is silent if its peak is below this level."),
    ] = -60.0,
    min_snr: Annotated[
        float,
        typer.Option(
            "--min-snr",
            metavar="DB",
            help="Stems don't add up to the mixture if the SNR of their sum is below this.",
        ),
    ] = 20.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each track.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no progress.")] = False,
) -> None:
    """Read every file of a folder of stems and report what is wrong with it.

    It prints durations, rates and channels, and finds files that are broken or hold NaN, stems that are silent,
    and tracks whose files differ in length. Where there is a mixture, it says whether the stems add up to it,
    and if not, which of them are early, late or inverted. The exit code is 1 if there is any problem.
    """
    console.report_as("quiet" if quiet else "text")

    from sepcli.data.check import Limits, check_dataset

    reports: list[TrackReport] = []
    with _Display() as display:
        for report in check_dataset(folder, layout, Limits(silent, min_snr), begun=display.begun):
            reports.append(report)
            display.done(report.name)
            if json:
                console.print_json(report.as_json())
    if not json:
        _print(reports)
    wrong = sum(bool(report.problems) for report in reports)
    count = f"{len(reports)} {'track' if len(reports) == 1 else 'tracks'}"
    console.say(f"{count}, {wrong} with problems." if wrong else f"{count}, no problems.")
    if wrong:
        raise typer.Exit(SepcliError.exit_code)


class _Display:
    """Shows progress: a bar over the tracks on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.count = self.number = 0
        self._bars: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begun(self, count: int) -> None:
        """So many tracks will be checked."""
        self.count = count
        self._bars = console.started_bars("MofNCompleteColumn", "TimeRemainingColumn")
        if self._bars is not None:
            self._bar = self._bars.add_task("Checking", total=count)

    def done(self, name: str) -> None:
        """The track of that name is done."""
        self.number += 1
        if self._bars is not None:
            self._bars.update(self._bar, completed=self.number, description=f"Checked {console.shown(name)}")
        elif time.monotonic() - self._last >= console.PLAIN_INTERVAL:
            self._last = time.monotonic()
            console.say(f"[{self.number}/{self.count}] {name}")


def _print(reports: Sequence[TrackReport]) -> None:
    """Print a line for each track, then a line for each thing that is wrong."""
    rows = [("TRACK", "LENGTH", "RATE", "CH", "STEMS (PEAK DBFS)", "SUM DB", "PROBLEMS")]
    for report in reports:
        files = [*report.stems.values(), *([report.mixture] if report.mixture else [])]
        stems = " ".join(f"{name} {file.peak_dbfs:.0f}" for name, file in report.stems.items())
        rows.append(
            (
                report.name,
                console.clock(report.seconds),
                _all(file.samplerate for file in files),
                _all(file.channels for file in files),
                stems,
                f"{report.sum.snr_db:.1f}" if report.sum else "-",
                " ".join(dict.fromkeys(problem.kind for problem in report.problems)) or "-",
            )
        )
    console.print_columns(rows)
    for report in reports:
        for problem in report.problems:
            console.line(f"{report.name}: {problem.message}")


def _all(values: Iterable[int]) -> str:
    """The value that all files have, or all different values."""
    return "/".join(str(value) for value in sorted(set(values))) or "-"
