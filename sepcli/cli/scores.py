"""What `sepcli evaluate` shows: lines or a bar while it works, then a table for each metric.

Knows the listener of evaluator.py and the groups of comparison.py; decides nothing. Tables have models below
each other and stems side by side; rich draws them on a terminal, aligned columns go into a pipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sepcli.cli import console
from sepcli.data.layouts import StemTrack
from sepcli.evaluation.comparison import Group
from sepcli.evaluation.evaluator import EvaluationListener, Prepared
from sepcli.evaluation.rows import Row
from sepcli.evaluation.runs import EvaluationRequest, Run
from sepcli.metrics.summary import METRICS, PROTOCOLS, Line, Value, metric

UNDEFINED = "-"
MEAN_OF_STEMS, SCORED = "MEAN OF STEMS", "tracks scored"


class Teller(EvaluationListener):
    """Prints notices and shows downloads."""

    def notice(self, text: str) -> None:
        """Print it on standard error."""
        console.notice(text)

    @contextmanager
    def downloading(self, name: str) -> Iterator[Callable[[int, int | None], None]]:
        """Show the download of a model, if there is one."""
        with console.download_progress(f"Downloading {name}") as progress:
            yield progress


class Reporter(Teller):
    """Shows an evaluation: a context manager, whose bar disappears at the end.

    json: print each row on standard output as it gets done.
    """

    def __init__(self, request: EvaluationRequest, *, json: bool):
        self.request, self.json = request, json
        self.rows: list[Row] = []
        self._planned: list[tuple[Any, str]] = []  # (run, track), in order
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def in_order(self) -> list[Row]:
        """The rows in the order in which they were planned, whichever got done first."""
        place = {name: k for k, name in enumerate(self._planned)}
        return sorted(self.rows, key=lambda row: place[_run(row), row.track])

    # --- the listener ---

    def planned(self, runs: Sequence[Prepared], tracks: Sequence[StemTrack]) -> None:
        """Say what will be done, and begin the bar."""
        for each in runs:
            run = each.run
            scored = [track for track in tracks if each.scored(track)]
            self._planned += [((run.spec, run.seed, run.swept), track.name) for track in scored]
            made = "" if each.sources is None else f": {', '.join(each.sources)}; {_settings(each)}"
            console.say(f"{run}{made}")
        seconds = sum(min(track.seconds, self.request.duration or math.inf) for track in tracks)
        console.say(f"{len(tracks)} tracks, {console.clock(seconds)} of audio.")
        self._bar = console.started_bars("TaskProgressColumn", "TimeRemainingColumn")
        if self._bar is not None:
            self._task = self._bar.add_task("Evaluating", total=len(self._planned))

    def progress(self, run: Run, track: StemTrack, done: float, total: float | None) -> None:
        """Move the bar within a track."""
        if self._bar is not None:
            share = min(done / total, 1.0) if total else 0.0
            self._bar.update(self._task, completed=len(self.rows) + share, description=f"{run}: {track.name}")

    # --- results ---

    def row(self, row: Row) -> None:
        """Take in a row and show it."""
        self.rows.append(row)
        if self.json:
            console.print_json(row.as_json())
        if self._bar is not None:
            self._bar.update(self._task, completed=len(self.rows))
        options = "".join(f" {option}={value}" for option, value in row.swept.items())
        name = f"[{len(self.rows)}/{len(self._planned)}] {row.run}{options}: {row.track}"
        if row.error is not None:
            console.failure(name, row.error)
        elif row.status == "kept":
            console.say(f"{name}: computed before")
        else:
            speed = f", {row.audio_seconds / row.seconds:.1f}x realtime" if row.seconds else ""
            console.say(f"{name}: {row.seconds:.1f} s{speed}")


def _run(row: Row) -> tuple[str, int, tuple[tuple[str, str], ...]]:
    """The run of a row, as something to compare."""
    return row.run, row.seed, tuple(row.swept.items())


def _settings(prepared: Prepared) -> str:
    """The settings of a run that are not in its name."""
    identity, swept = prepared.identity, dict(prepared.run.swept)
    segment = f", segment {identity['segment']:g} s" if identity["segment"] else ""
    shifts = f", shifts {identity['shifts']}" if identity["shifts"] else ""
    options = "".join(
        f", {name} {value}"
        for name, value in identity["options"].items()
        if value is not None and name not in swept
    )
    return (
        f"overlap {identity['overlap']:g}{segment}{shifts}, {identity['device']}, {identity['precision']}"
        f"{options}"
    )


def say_silent(rows: Sequence[Row]) -> None:
    """Say how many frames museval's metrics leave out."""
    frames, silent = sum(row.frames for row in rows), sum(row.silent_frames for row in rows)
    if silent:
        console.say(
            f"museval v4: {silent} of {frames} frames are left out, as some stem or estimate is silent in them."
        )


def say_windows(rows: Sequence[Row], protocols: Sequence[str]) -> None:
    """Say how many windows the protocols score. The windows are the same for all models."""
    for protocol in protocols:
        rule = PROTOCOLS[protocol].windows
        if rule is not None:
            counts = {row.track: int(scores[rule.count]) for row in rows for scores in row.stems.values()}
            none = sum(count == 0 for count in counts.values())
            left_out = f"; {none} without any" if none else ""
            console.say(f"{protocol}: {sum(counts.values())} windows in {len(counts)} tracks{left_out}.")


def say_voiced(rows: Sequence[Row]) -> None:
    """Say how much of the voices is voiced, and how many never are. This is the same for all models."""
    seconds = {
        (row.track, stem): scores["voiced"]
        for row in rows
        for stem, scores in row.stems.items()
        if "voiced" in scores
    }
    if seconds:
        silent = sum(each == 0 for each in seconds.values())
        left_out = f"; {silent} of {len(seconds)} stems have no voiced frame and are left out" if silent else ""
        console.say(f"Voiced: {console.clock(sum(seconds.values()))} of audio{left_out}.")


# --- tables ---


def print_tables(groups: Sequence[Group], protocols: Sequence[str], *, zero_mean: bool = False) -> None:
    """Print the tables on standard output, each with the full name of its metric and how tracks are averaged.

    A voice has a single table, with all its metrics side by side.
    """
    for protocol in protocols:
        for statistic in PROTOCOLS[protocol].statistics:
            found = {
                key: {group.label: line for group in groups if (line := group.line(key, statistic))}
                for key in PROTOCOLS[protocol].metrics
            }
            found = {key: lines for key, lines in found.items() if lines}
            if PROTOCOLS[protocol].voice:
                for stem in _stems(line for lines in found.values() for line in lines.values()):
                    _print_voice(f"{protocol}: voiced frames of {stem}, {statistic}", stem, found)
                continue
            for key, lines in found.items():
                shown = metric(key, zero_mean=zero_mean)
                title = ", ".join(word for word in (shown.name, statistic, shown.unit) if word)
                cells = {
                    label: {stem: (value, shown.digits) for stem, value in line.stems.items()}
                    | {MEAN_OF_STEMS: (line.mean, shown.digits)}
                    for label, line in lines.items()
                }
                _print_scores(title, [*_stems(lines.values()), MEAN_OF_STEMS], cells)


def _print_voice(title: str, stem: str, found: Mapping[str, Mapping[str, Line]]) -> None:
    """Print the table of a voice. found: {metric: {label: line}}."""
    cells: dict[str, dict[str, tuple[Value, int]]] = {}
    for key, lines in found.items():
        for label, line in lines.items():
            if stem in line.stems:
                cells.setdefault(label, {})[METRICS[key].head] = line.stems[stem], METRICS[key].digits
    _print_scores(title, [METRICS[key].head for key in found], cells)


def _stems(lines: Iterable[Line]) -> list[str]:
    return sorted({stem for line in lines for stem in line.stems})


def _print_scores(
    title: str, columns: Sequence[str], cells: Mapping[str, Mapping[str, tuple[Value, int]]]
) -> None:
    """Print a table. cells: {label: {column: (value, digits)}}.

    The number after ± is the standard deviation over runs where a model has several, else the interval over
    tracks.
    """
    values = [value for row in cells.values() for value, _ in row.values()]
    several = any(value.std is not None for value in values)
    if several:
        title += ", mean ± deviation over runs"
    elif any(value.interval is not None for value in values):
        title += ", ± 95 % interval"
    rows = [
        [label, *(_text(*row[column], several) if column in row else "" for column in columns)]
        for label, row in cells.items()
    ]
    counted = [column for column in columns if column != MEAN_OF_STEMS]
    counts = [[row[column][0].tracks if column in row else 0 for column in counted] for row in cells.values()]
    if counts.count(counts[0]) == len(counts):
        rows.append([SCORED, *map(str, counts[0]), *[""] * (len(columns) - len(counted))])
    else:  # they differ from model to model
        for row, each in zip(rows, counts, strict=True):
            for k, count in enumerate(each, 1):
                row[k] += f" ({count})" if row[k] else ""
        title += f" ({SCORED})"
    head = ["MODEL", *columns]
    if console.out().is_terminal:
        console.draw_table(title, head, rows, dim=SCORED)
    else:
        _write(title, head, rows)


def _text(value: Value, digits: int, several: bool) -> str:
    if math.isnan(value.value):
        return UNDEFINED
    text = f"{value.value:.{digits}f}"
    spread = value.std if several else value.interval
    return text if spread is None or math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def _write(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [[console.shown(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    console.line(title)
    for row in table:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:<{widths[0]}}"
        console.line("  ".join(cells).rstrip())
    console.line("")
