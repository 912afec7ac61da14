"""How the commands print: results on standard output, everything else on standard error.

Knows nothing of models or audio. Names of files may hold anything: all that is printed as text goes through
`shown`, and JSON has the true name. rich draws bars and tables, and is imported for them only: it takes as long
as all the rest of a short command. NO_COLOR turns colours off. Where standard error is no terminal, progress is
printed as plain lines.

On a terminal sentences and tables are folded between words to its width; elsewhere a line is a line, so that it
can be piped. What may be copied from a terminal, such as a path or a quoted name, is never broken by us.

Three ways to report what happens (`report_as`):
    text   sentences and, on a terminal, bars
    json   one JSON object a line on standard error: {"event": "notice" | "download" | ..., ...} (events.py)
    quiet  errors only
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sepcli.cli.events import Download, Error, Notice
from sepcli.cli.signals import STREAMS
from sepcli.errors import SepcliError

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from sepcli.cli.events import Event

PLAIN_INTERVAL = 5.0  # seconds between two progress lines where there is no terminal

# The controls of bidirectional text: they can make a name look like another one.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_style = "text"
_ours: dict[int, TextIO] = {}  # descriptors that only this module writes to, by their usual numbers


def stream(number: int) -> TextIO:
    """Standard output (1) or standard error (2), as this module writes to it."""
    return _ours.get(number) or (sys.stdout if number == 1 else sys.stderr)


def take(number: int) -> None:
    """From now on nobody else writes to standard output (1) or standard error (2), until `give_back`.

    What libraries print there, from C too, would be bytes between JSON objects or samples. They write to the
    usual descriptor, which leads nowhere now; ours is a copy of it.
    """
    usual = sys.stdout if number == 1 else sys.stderr
    try:
        if number in _ours or usual.fileno() != number:  # somebody has put another stream in its place
            return
        usual.flush()
        copy = os.dup(number)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):  # it is closed, or no file
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
    _ours[number] = open(copy, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    STREAMS.append(copy)


def give_back() -> None:
    """Undo `take`."""
    while _ours:
        number, ours = _ours.popitem()
        STREAMS.remove(ours.fileno())
        with suppress(OSError):
            ours.flush()
        os.dup2(ours.fileno(), number)
        with suppress(OSError):
            ours.close()


def report_as(style: str, verbosity: int = 0) -> None:
    """Choose "text", "json" or "quiet" for the rest of this process.

    With JSON, standard error has nothing else, but for tracebacks where they are asked for.
    """
    global _style
    assert style in ("text", "json", "quiet"), style
    _style = style
    if style == "json" and not wants_tracebacks(verbosity):
        take(2)


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


# As terminals number them.
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "bold red": "1;31"}


def width(stream: Any) -> int | None:
    """The columns of the terminal to which this stream writes; None where it is none."""
    if not is_terminal(stream):
        return None
    try:
        return int(os.environ.get("COLUMNS", "")) or None
    except ValueError:
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def cells(text: str) -> int:
    """How many columns the text takes on a terminal: East Asian characters two, combining ones none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def shortened(text: str, columns: int) -> str:
    """The text in at most so many columns, with an ellipsis at its end where it is cut."""
    if cells(text) <= columns:
        return text
    while text and cells(text) > columns - 1:
        text = text[:-1]
    return text + "…"


_WORD = re.compile(r"'[^']*'\S*|\S+")  # a quoted name is one word


def folded(text: str, columns: int | None, indent: int = 0) -> list[str]:
    """The text in lines of at most so many columns, broken between words; None: one line.

    indent: columns in front of all lines but the first. A word that is longer than a line keeps its line.
    """
    if columns is None or cells(text) <= columns:
        return [text]
    lead = len(text) - len(text.lstrip())
    lines = [text[:lead]]
    for match in _WORD.finditer(text):
        space = text[: match.start()]
        gap = len(space) - len(space.rstrip()) if lines[-1].strip() else 0
        word = cells(match[0])
        if gap and cells(lines[-1]) + gap + word > columns >= lead + indent + word:
            lines.append(" " * (lead + indent) + match[0])
        else:
            lines[-1] += " " * gap + match[0]
    return lines


def _print(console: _lru_cache_wrapper[Console], stream: Any, text: str, style: str | None, end: str) -> None:
    """Write text that `shown` has made harmless.

    By rich where it is in use already, for its bars must move out of the way.
    """
    if console.cache_info().currsize or sys.platform == "win32":
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
    """Print one line on standard output: a result for people. It is not folded. end: what comes behind it."""
    _print(out, stream(1), shown(text), style, end)


def lines(text: str) -> None:
    """Print the lines of a text on standard output."""
    for each in text.splitlines():
        sentence(each)


def sentence(text: str, indent: int = 0) -> None:
    """Print a sentence on standard output, folded on a terminal. indent: of all lines but the first."""
    for each in folded(shown(text), width(stream(1)), indent):
        line(each)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and what is said of them, in two columns. Pairs of which nothing is said are left out."""
    told = [pair for pair in pairs if pair[1]]
    first = max((cells(name) for name, _ in told), default=0)
    for name, text in told:
        sentence(f"{name:<{first}}  {text}", indent=first + 2)


def say(message: str, style: str | None = None) -> None:
    """Print a sentence on standard error, folded on a terminal."""
    if _style == "json":
        event(Notice(event="notice", message=message))
    elif _style == "text":
        _say(shown(message), style)


def notice(message: str) -> None:
    """Print one line in yellow: something that the user should know, but that stops nothing."""
    say(message, style="yellow")


def error(problem: SepcliError) -> None:
    """Print an error: the fact, and under it the next step. Also when quiet."""
    if _style == "json":
        event(Error(event="error", code=problem.code, message=problem.message, remedy=problem.remedy))
        return
    first, *more = folded(f"Error: {shown(problem.message)}", width(stream(2)))
    _print(err, stream(2), "Error:", "bold red", "")
    _print(err, stream(2), first.removeprefix("Error:"), None, "\n")
    for each in more:
        _print(err, stream(2), each, None, "\n")
    if problem.remedy:
        _say(shown(problem.remedy))


def failure(name: str, problem: SepcliError) -> None:
    """Print that one of several items failed, and what to do about it. Also when quiet."""
    _say(shown(f"{name}: failed: {problem.message}"), "red")
    if problem.remedy:
        _say(f"    {shown(problem.remedy)}")


def _say(text: str, style: str | None = None) -> None:
    for each in folded(text, width(stream(2))):
        _print(err, stream(2), each, style, "\n")


def error_fields(problem: SepcliError) -> dict[str, str]:
    """An error as the JSON object that programs get."""
    return {"code": problem.code, "message": problem.message, "remedy": problem.remedy}


def event(fields: Event, **numbers: float) -> None:
    """Print one JSON object as a line on standard error. numbers: more keys, where the event may have some."""
    _write_line(stream(2), {**fields, **numbers})


def print_json(fields: Any) -> None:
    """Print JSON as one line on standard output, at once. In ASCII: any terminal shows any file's name."""
    _write_line(stream(1), fields)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output, its head first; on a terminal cells are folded within their columns."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = _fitting([[cells(cell) for cell in row] for row in rows], rows, width(stream(1)))
    for row in rows:
        lines = [folded(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        for each in zip_longest(*lines, fillvalue=""):
            padded = (cell + " " * (size - cells(cell)) for cell, size in zip(each, widths, strict=True))
            line("  ".join(padded).rstrip())


def _fitting(sizes: Sequence[Sequence[int]], rows: Sequence[Sequence[str]], columns: int | None) -> list[int]:
    """A width for each column of a table: the widest are folded, but never within a word."""
    widths = [max(column) for column in zip(*sizes, strict=True)]
    if columns is None:
        return widths
    words = [
        max((cells(match[0]) for cell in column for match in _WORD.finditer(cell)), default=0)
        for column in zip(*rows, strict=True)
    ]
    while sum(widths) + 2 * (len(widths) - 1) > columns:
        room = [column for column in range(len(widths)) if widths[column] > words[column]]
        if not room:
            break
        widths[max(room, key=lambda column: widths[column])] -= 1
    return widths


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


NAME_COLUMNS, BAR_COLUMNS = 12, 10  # at least, where the terminal has room for anything


def name_and_bar(text: int, longest: int = 40) -> tuple[int, int]:
    """The columns of a name and of a bar that stand in one line with `text` columns behind them.

    longest: of a name. Whatever a track is called, the bar can be seen.
    """
    left = max(err().width - text - 3, NAME_COLUMNS + BAR_COLUMNS)  # a space between, and none at the edge
    name = min(longest, max(NAME_COLUMNS, left - 20))
    return name, min(30, left - name)


def started_bars(*columns: str) -> Progress | None:
    """Start progress bars on standard error: a description, a bar, and columns of rich by their class names.

    None where nobody would see them: no terminal, or quiet. They disappear when they are stopped.
    """
    if not is_terminal(stream(2)) or is_quiet():
        return None
    from rich import progress

    name, bar = name_and_bar(OTHER_COLUMNS)
    started = bars(
        progress.TextColumn("{task.description}", markup=False, table_column=_one_line(name)),
        progress.BarColumn(bar_width=bar),
        *(getattr(progress, name)() for name in columns),
    )
    started.start()
    return started


OTHER_COLUMNS = 32  # that figures behind a bar take: bytes or steps, speed, time


def _one_line(columns: int) -> Any:
    """A column of a table whose text is cut, and never folded."""
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis", max_width=columns)


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
            PLAIN_INTERVAL / 5,
            lambda done, total: event(Download(event="download", what=description, done=done, total=total)),
        )
    elif not is_terminal(stream(2)):
        yield _every(
            PLAIN_INTERVAL,
            lambda done, total: say(
                f"{description}: {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else "")
            ),
        )
    else:
        from rich import progress

        name, size = name_and_bar(OTHER_COLUMNS)
        with bars(
            progress.TextColumn("{task.description}", markup=False, table_column=_one_line(name)),
            progress.BarColumn(bar_width=size),
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
