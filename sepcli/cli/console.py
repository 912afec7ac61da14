"""How the commands print: results on standard output, everything else on standard error.

Knows nothing of models or audio. rich is imported on first use, so that completion and `--version` don't wait
for it. NO_COLOR turns colours off. Where standard error is no terminal, progress is printed as plain lines.

Three ways to report what happens (`report_as`):
    text   sentences and, on a terminal, bars
    json   one JSON object a line on standard error: {"event": "notice" | "download" | ..., ...}
    quiet  errors only
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.errors import SepcliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PLAIN_INTERVAL = 5.0  # seconds between two progress lines where there is no terminal

_style = "text"


def report_as(style: str) -> None:
    """Choose "text", "json" or "quiet" for the rest of this process."""
    global _style
    assert style in ("text", "json", "quiet"), style
    _style = style


def reports_json() -> bool:
    """Whether messages and progress are JSON lines."""
    return _style == "json"


def is_quiet() -> bool:
    """Whether only errors are printed."""
    return _style == "quiet"


def wants_tracebacks(verbosity: int = 0) -> bool:
    """Whether errors are printed with tracebacks: -v was given twice, or SEPCLI_DEBUG is 1."""
    return verbosity >= 2 or os.environ.get("SEPCLI_DEBUG", "0") not in ("", "0")


@cache
def out() -> Console:
    """The console of standard output: the results that the user asked for, and nothing else."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """The console of standard error: progress, notices, errors, summaries."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def shown(text: str | Path) -> str:
    """`text` in a form that can be printed anywhere: bytes of a name that are not UTF-8 become U+FFFD."""
    return os.fsencode(str(text)).decode("utf-8", "replace")


def say(message: str, style: str | None = None) -> None:
    """Print one line on standard error. It is not wrapped, so that a path in it can be copied whole."""
    if _style == "json":
        event("notice", message=message)
    elif _style == "text":
        err().print(shown(message), style=style, soft_wrap=True)


def notice(message: str) -> None:
    """Print one line in yellow: something that the user should know, but that stops nothing."""
    say(message, style="yellow")


def error(problem: SepcliError) -> None:
    """Print an error: the fact, and under it the next step. Also when quiet."""
    if _style == "json":
        event("error", **error_fields(problem))
        return
    err().print("Error: ", style="bold red", end="")
    err().print(shown(problem.message), soft_wrap=True)
    if problem.remedy:
        err().print(shown(problem.remedy), soft_wrap=True)


def error_fields(problem: SepcliError) -> dict[str, str]:
    """An error as the JSON object that programs get."""
    return {"code": problem.code, "message": problem.message, "remedy": problem.remedy}


def event(name: str, **fields: Any) -> None:
    """Print one JSON object as a line on standard error."""
    _write_line(sys.stderr, {"event": name, **fields})


def print_json(fields: Any) -> None:
    """Print JSON as one line on standard output, at once. In ASCII: any terminal shows any file's name."""
    _write_line(sys.stdout, fields)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output, its head first. Lines are never wrapped, so that it can be piped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        out().print("  ".join(cells).rstrip(), soft_wrap=True)


def _write_line(stream: Any, fields: Any) -> None:
    stream.write(json.dumps(fields, allow_nan=False) + "\n")
    stream.flush()


def failure_object(problem: SepcliError) -> dict[str, Any]:
    """What `--json` prints if a command fails as a whole, before any input: `input` is null."""
    return {"input": None, "status": "failed", "error": error_fields(problem)}


def bytes_text(count: int | None) -> str:
    """84141911 -> "84.1 MB"; decimal units, as shops and download pages use them."""
    if count is None:
        return "unknown size"
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def clock(seconds: float) -> str:
    """3725.4 -> "1:02:05", 65 -> "1:05"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def started_bars(*columns: str) -> Progress | None:
    """Start progress bars on standard error: a description, a bar, and columns of rich by their class names.

    None where nobody would see them: no terminal, or quiet. They disappear when they are stopped. They don't
    touch standard output, which may be piped.
    """
    if not err().is_terminal or is_quiet():
        return None
    from rich import progress

    bars = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=30),
        *(getattr(progress, name)() for name in columns),
        console=err(),
        transient=True,
        redirect_stdout=False,
    )
    bars.start()
    return bars


class AudioBar:
    """Progress in seconds of audio, as a context manager: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> AudioBar:
        self._bars = started_bars("TimeElapsedColumn")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, text: str, done: float, total: float | None) -> None:
        """Show how far the work is. text: what is worked on. done, total: seconds of audio."""
        if self._bars is not None:
            if self._bar is None:
                self._bar = self._bars.add_task(text, total=total)
            self._bars.update(self._bar, description=text, completed=done, total=total)
        elif time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._last = time.monotonic()
            say(f"{text}, {clock(done)}" + (f" of {clock(total)}" if total else ""))


@contextmanager
def download_progress(description: str = "Downloading") -> Iterator[Callable[[int, int | None], None]]:
    """Yields `callback(done, total)`, in bytes, which shows the progress of a download.

    Shows nothing until it is called, so nothing for a cached file. It may serve one file after another: a
    smaller `done` than before begins the next one.
    """
    if _style == "quiet":
        yield lambda done, total: None
    elif _style == "json":
        yield _every(
            PLAIN_INTERVAL / 5, lambda done, total: event("download", what=description, done=done, total=total)
        )
    elif not err().is_terminal:
        yield _every(
            PLAIN_INTERVAL,
            lambda done, total: say(
                f"{description}: {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else "")
            ),
        )
    else:
        from rich import progress

        with progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=err(),
            transient=True,
        ) as bars:
            bar: list[progress.TaskID] = []

            def draw(done: int, total: int | None) -> None:
                if not bar:
                    bar.append(bars.add_task(description, total=total))
                bars.update(bar[0], completed=done, total=total)

            yield draw


def _every(interval: float, show: Callable[[int, int | None], None]) -> Callable[[int, int | None], None]:
    """`show`, but called at most once in `interval` seconds, and always for the last byte."""
    last = time.monotonic()

    def callback(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= interval or (total is not None and done >= total):
            last = now
            show(done, total)

    return callback
