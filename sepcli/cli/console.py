"""How the commands print: results on standard output, everything else on standard error.

Knows nothing of models or audio. Names of files may hold anything: all that is printed as text goes through
`shown`, and JSON has the true name. rich draws bars and tables, and is imported for them only: it takes as long
as all the rest of a short command. NO_COLOR turns colours off. Where standard error is no terminal, progress is
printed as plain lines.

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
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.errors import SepcliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

PLAIN_INTERVAL = 5.0  # seconds between two progress lines where there is no terminal

# The controls of bidirectional text: they can make a name look like another one.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

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


def is_terminal(stream: Any) -> bool:
    """Whether people look at what is written to this stream. FORCE_COLOR says that they do."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


_COLOURS = {"red": "31", "yellow": "33", "bold": "1", "bold red": "1;31"}  # as terminals number them


def _print(console: Callable[[], Console], stream: Any, text: str, style: str | None, end: str) -> None:
    """Write text that `shown` has made harmless, not wrapped.

    By rich where it is in use already, for its bars must move out of the way.
    """
    if console.cache_info().currsize or sys.platform == "win32":  # type: ignore[attr-defined]
        console().print(text, style=style, soft_wrap=True, end=end)
        return
    if style is not None and is_terminal(stream) and not os.environ.get("NO_COLOR"):
        text = f"\x1b[{_COLOURS[style]}m{text}\x1b[0m"
    stream.write(text + end)
    stream.flush()


def shown(text: str | Path) -> str:
    """`text` in one line that can be printed anywhere.

    Bytes of a name that are not UTF-8 become U+FFFD. What moves the cursor, changes the terminal or turns the
    direction of writing is escaped: a new line is \\n, ESC is \\x1b.
    """
    printable = os.fsencode(str(text)).decode("utf-8", "replace")
    return "".join(_escaped(sign) if _acts(sign) else sign for sign in printable)


def _acts(sign: str) -> bool:
    """Whether a terminal does something else than to draw this character."""
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in _DIRECTIONS


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def line(text: str, style: str | None = None, end: str = "\n") -> None:
    """Print one line on standard output: a result for people. It is not wrapped. end: what comes behind it."""
    _print(out, sys.stdout, shown(text), style, end)


def lines(text: str) -> None:
    """Print the lines of a text on standard output."""
    for each in text.splitlines():
        line(each)


def say(message: str, style: str | None = None) -> None:
    """Print one line on standard error. It is not wrapped, so that a path in it can be copied whole."""
    if _style == "json":
        event("notice", message=message)
    elif _style == "text":
        _print(err, sys.stderr, shown(message), style, "\n")


def notice(message: str) -> None:
    """Print one line in yellow: something that the user should know, but that stops nothing."""
    say(message, style="yellow")


def error(problem: SepcliError) -> None:
    """Print an error: the fact, and under it the next step. Also when quiet."""
    if _style == "json":
        event("error", **error_fields(problem))
        return
    _print(err, sys.stderr, "Error: ", "bold red", "")
    _print(err, sys.stderr, shown(problem.message), None, "\n")
    if problem.remedy:
        _print(err, sys.stderr, shown(problem.remedy), None, "\n")


def failure(name: str, problem: SepcliError) -> None:
    """Print that one of several items failed, and what to do about it. Also when quiet."""
    _print(err, sys.stderr, shown(f"{name}: failed: {problem.message}"), "red", "\n")
    if problem.remedy:
        _print(err, sys.stderr, f"    {shown(problem.remedy)}", None, "\n")


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
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        line("  ".join(cells).rstrip())


def draw_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, dim: str) -> None:
    """Draw a table on a terminal, numbers to the right. dim: the first cell of a row that is less important."""
    from rich.table import Table

    table = Table(title=shown(title), title_justify="left", title_style="bold")
    for k, name in enumerate(head):
        table.add_column(shown(name), justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row), style="dim" if row[0] == dim else None)
    out().print(table)


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


def bars(*columns: ProgressColumn | str) -> Progress:
    """Progress bars on standard error, which disappear at the end. columns: as rich takes them.

    Standard output is left alone where it is redirected: rich would print on the terminal what belongs there.
    """
    from rich.progress import Progress

    return Progress(*columns, console=err(), transient=True, redirect_stdout=sys.stdout.isatty())


def started_bars(*columns: str) -> Progress | None:
    """Start progress bars on standard error: a description, a bar, and columns of rich by their class names.

    None where nobody would see them: no terminal, or quiet. They disappear when they are stopped.
    """
    if not is_terminal(sys.stderr) or is_quiet():
        return None
    from rich import progress

    started = bars(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=30),
        *(getattr(progress, name)() for name in columns),
    )
    started.start()
    return started


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
                self._bar = self._bars.add_task("", total=total)
            self._bars.update(self._bar, description=shown(text), completed=done, total=total)
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
    elif not is_terminal(sys.stderr):
        yield _every(
            PLAIN_INTERVAL,
            lambda done, total: say(
                f"{description}: {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else "")
            ),
        )
    else:
        from rich import progress

        with bars(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        ) as shown_bars:
            bar: list[progress.TaskID] = []

            def draw(done: int, total: int | None) -> None:
                if not bar:
                    bar.append(shown_bars.add_task(shown(description), total=total))
                shown_bars.update(bar[0], completed=done, total=total)

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
