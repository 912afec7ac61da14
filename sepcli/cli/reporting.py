"""What a run of `separate` shows: bars on a terminal, lines elsewhere, NDJSON for programs, and the summary.

Knows the Listener of batch/results.py and how to draw; decides nothing. All of it goes to standard error but
the objects of `--json` and the plan of `--dry-run`.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from sepcli.batch.decisions import REFUSE, SKIP, Decision
from sepcli.batch.names import Named, Stems, Track
from sepcli.batch.pages import planned_page
from sepcli.batch.request import Batch
from sepcli.batch.results import DAMAGED, DONE, FAILED, SKIPPED, Listener, Result
from sepcli.cli import console
from sepcli.cli.console import PLAIN_INTERVAL, bytes_text, clock, shown
from sepcli.cli.events import Progress, Start, Summary, TrackEnded, TrackStarted, Watching
from sepcli.cli.licences import license_text, new_license
from sepcli.errors import UsageError, Warned, worst_exit_code
from sepcli.sound.losses import DAMAGES
from sepcli.weights import download

if TYPE_CHECKING:
    from rich.progress import TaskID

    from sepcli.engine.device import Device, Precision

JSON_INTERVAL = 0.5  # seconds between two progress events
REFUSED_REMEDY = "Choose another -o or --template, or use --force."
SHOWN_FAILURES = 20  # of the summary; all of them were printed as they happened


class Reporter(Listener):
    """Shows a run as it goes on; a context manager, so that the bars end however the run does.

    bars: draw them, if standard error is a terminal. json: a Result an object on standard output. planning: it
    is a dry run, whose plan says more.
    """

    def __init__(self, batch: Batch, *, bars: bool, json: bool, verbose: int, planning: bool = False):
        self.planning = planning
        self.batch, self.json, self.verbose = batch, json, verbose
        self.stems: Stems | None = None  # once they are known
        self.results: list[Result] = []  # of a watch: of what has arrived together last
        self._before = _Counts()  # of the results of a watch before these
        self._watching = False  # whether that was said
        self._bars = _Bars() if bars and console.is_terminal(console.stream(2)) else None
        self._lines = bars and self._bars is None
        self._began = time.monotonic()
        self._tracks: dict[str, _Shown] = {}  # that have begun and not ended, by name, the first one first
        self._tracks_began = self._last_shown = 0.0

    def __enter__(self) -> Reporter:
        for text in self.batch.notices:
            self.notice(text)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    # --- the Listener ---

    def notice(self, text: str) -> None:
        console.notice(text)

    def named(self, named: Named) -> None:
        self.stems = named.stems
        for text in named.notices:
            self.notice(text)

    def device(self, device: Device, precision: Precision) -> None:
        stems = self.stems.sounds if self.stems else ()
        if console.reports_json():
            entry = self.batch.entry
            event = Start(
                event="start",
                model=self.batch.model.name,
                stems=list(stems),
                license=entry.license if entry else None,
                device=device.name,
                device_reason=device.reason,
                precision=precision.name,
                precision_reason=precision.reason,
            )
            console.event(event)
            return
        license = "" if self.planning or console.is_quiet() else new_license(self.batch)
        console.say(f"Model {self.batch.model.name}: {', '.join(stems)}. {license}".rstrip())
        console.say(f"Device {device}: {device.reason}. Precision {precision.name}: {precision.reason}.")

    @contextmanager
    def downloading(self) -> Iterator[Callable[[int, int | None], None]]:
        with console.download_progress(f"Downloading {self.batch.model.name}") as progress:
            yield progress

    def loaded(self, origin: str, hashes: Sequence[str]) -> None:
        if self.verbose:
            console.say(f"Weights from {origin}, sha256 {', '.join(hashes)}.")

    def expected(self, seconds: float) -> None:
        if self._bars is not None:
            self._bars.expected = seconds

    def arrived(self, tracks: Sequence[Track]) -> None:
        self._forget()
        self.batch = replace(self.batch, sources=tuple(track.source for track in tracks))
        if self._bars is not None:
            self._bars.stop()  # it may have been drawing those that arrived before
            self._bars = _Bars()

    def waiting(self, folders: Sequence[str]) -> None:
        self._forget()
        if self._bars is not None:
            self._bars.stop()
        if console.reports_json():
            console.event(Watching(event="watching", folders=list(folders)))
        elif not self._watching:
            console.say(f"Watching {', '.join(folders)}: what arrives is separated. Ctrl-C ends it.")
        self._watching = True

    def _forget(self) -> None:
        """Keep the numbers of the results only: there may be any number of them."""
        self._before += _Counts.of(self.results)
        self.results = []
        self.batch = replace(self.batch, sources=())

    def started(self, track: Track, number: int, count: int) -> None:
        name, now = track.source.name, time.monotonic()
        self._tracks_began = self._tracks_began or now
        self._tracks[name] = started = _Shown(name, number, count, now)
        self._last_shown = now
        if self._bars is not None:
            self._bars.start(shown(name), number, count)
        elif console.reports_json():
            console.event(TrackStarted(event="track", input=name, number=number, count=count))
        elif self._lines:
            console.say(f"{started.place}: started")

    def progress(self, track: Track, done: float, total: float | None) -> None:
        now = time.monotonic()
        at = self._tracks[track.source.name]
        speed = done / max(now - at.began, 1e-3)
        left = (total - done) / speed if total and speed else None
        if self._bars is not None:
            self._bars.move(shown(at.name), done, total, speed, left)
            return
        # Of several tracks at once programs hear each, people only now and then one.
        interval, last = JSON_INTERVAL, at.told
        if not console.reports_json():
            interval, last = PLAIN_INTERVAL, self._last_shown
        if now - last < interval:
            return
        self._last_shown = at.told = now
        if console.reports_json():
            event = Progress(
                event="progress",
                input=at.name,
                done_seconds=round(done, 3),
                total_seconds=total and round(total, 3),
                realtime=round(speed, 3),
                left_seconds=left and round(left, 1),
            )
            console.event(event)
        elif self._lines:
            of = f" of {clock(total)}" if total else ""
            console.say(
                f"{at.place}: {clock(done)}{of}, {speed:.1f}x realtime"
                + (f", {clock(left)} left" if left is not None else "")
            )

    def failed(self, error: BaseException) -> None:
        if console.wants_tracebacks(self.verbose):
            traceback.print_exception(error, file=sys.stderr)

    # --- results ---

    @property
    def came_to_tracks(self) -> bool:
        """Whether there is anything to sum up."""
        return bool(self.results) or self._before != _Counts()

    def count(self, result: Result) -> None:
        """Count a result, and print it for programs."""
        # What goes to standard output is copied from its file afterwards.
        self.results.append(result if self.batch.request.stdout is not None else _summed(result))
        self._tracks.pop(result.input, None)
        if self.json:
            console.print_json(result.as_json())
        if console.reports_json():
            console.event(TrackEnded(event="result", input=result.input, status=result.status))

    def result(self, result: Result) -> None:
        """Count a result, and show it."""
        self.count(result)
        if console.reports_json():
            return
        if self._bars is not None:
            self._bars.finish(shown(result.input), result.audio_seconds or 0.0)
        name = result.input
        for warning in result.warnings:
            console.notice(f"{name}: {warning}")
        if result.silent:
            are, were = ("is", "was") if len(result.silent) == 1 else ("are", "were")
            console.say(f"{name}: {', '.join(result.silent)} {are} silent and {were} left out.")
        if result.status in (DONE, DAMAGED) and result.seconds is not None:
            speed = f", {result.realtime:.1f}x realtime" if result.realtime else ""
            count = len(set(result.outputs).difference(result.kept))
            files = f"{count} {_plural('file', count)}" if self.batch.request.stdout is None else "written"
            console.say(f"{name}: {files} in {result.seconds:.1f} s{speed}")
        elif result.status == SKIPPED:
            console.say(f"{name}: done before, skipped (--no-resume separates it again)")
        elif result.error is not None and result.reached:
            console.failure(result.input, result.error)

    def summary(self, *, stopped: bool) -> None:
        """What was done, skipped and failed, how fast, and where it is."""
        if self._bars is not None:
            self._bars.stop()
        counts = self._before + _Counts.of(self.results)
        damaged = [result for result in self.results if result.status == DAMAGED]
        failed = [result for result in self.results if result.status == FAILED and result.reached]
        request = self.batch.request
        audio, work = counts.audio_seconds, counts.seconds
        if request.ray is not None and work:  # of several at a time
            work = time.monotonic() - self._tracks_began
        out = "-" if request.stdout is not None else request.where
        if console.reports_json():
            event = Summary(
                event="summary",
                done=counts.done,
                damaged=counts.damaged,
                skipped=counts.skipped,
                failed=counts.failed,
                not_done=counts.not_done,
                audio_seconds=round(audio, 3),
                seconds=round(work, 3),
                realtime=round(audio / work, 3) if work else None,
                out=out,
            )
            console.event(event)
            return
        parts = [f"{counts.done} done"]
        parts += [f"{counts.damaged} damaged"] if counts.damaged else []
        parts += [f"{counts.skipped} skipped"] if counts.skipped else []
        parts += [f"{counts.failed} failed"] if counts.failed else []
        parts += [f"{counts.not_done} not done"] if counts.not_done else []
        speed = ""
        if work:
            speed = f"; {clock(audio)} of audio in {clock(work)}, {audio / work:.1f}x realtime"
        console.say(("Stopped: " if stopped else "") + ", ".join(parts) + speed + ".", style="bold")
        if len(self.results) > 1:
            for result in failed[:SHOWN_FAILURES]:
                assert result.error is not None
                console.say(f"    {result.input}: {result.error.message}")
            if len(failed) > SHOWN_FAILURES:
                console.say(f"    and {len(failed) - SHOWN_FAILURES} more.")
        for result in damaged:
            warning = next(warning for warning in result.warnings if warning.code in DAMAGES)
            console.say(f"    {shown(result.input)}: {shown(warning)}", style="yellow")
        if (counts.done or counts.damaged or counts.skipped) and request.stdout is None:
            console.say(f"The stems are in {out}.")
            if request.player:
                folder = f'"{out}"' if " " in out else out
                console.say(f"To listen: sepcli open {folder}")


_NO_FILES: dict[str, str] = {}  # one for all, as are these
_NO_LEVELS: dict[str, dict[str, float | None]] = {}
_NO_WARNINGS: list[Warned] = []


def _summed(result: Result) -> Result:
    """What is needed of a result for the summary: there may be a million."""
    return Result(
        result.input,
        result.status,
        _NO_FILES,
        result.audio_seconds,
        result.seconds,
        error=result.error,
        options=_NO_FILES,
        levels=_NO_LEVELS,
        warnings=result.warnings if result.status == DAMAGED else _NO_WARNINGS,
    )


@dataclass
class _Shown:
    """A track that has begun."""

    name: str
    number: int
    count: int
    began: float  # monotonic, seconds
    told: float = 0.0  # when its progress was last told

    def __post_init__(self) -> None:
        self.told = self.began

    @property
    def place(self) -> str:
        """Which of how many."""
        return f"[{self.number}/{self.count}] {self.name}"


@dataclass(frozen=True)
class _Counts:
    """How many tracks ended in which way, and the seconds of audio and of work in those that are done."""

    done: int = 0
    damaged: int = 0
    skipped: int = 0
    failed: int = 0
    not_done: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, results: Sequence[Result]) -> _Counts:
        done = [result for result in results if result.status in (DONE, DAMAGED)]
        damaged = sum(result.status == DAMAGED for result in done)
        return cls(
            done=len(done) - damaged,
            damaged=damaged,
            skipped=sum(result.status == SKIPPED for result in results),
            failed=sum(result.status == FAILED and result.reached for result in results),
            not_done=sum(not result.reached for result in results),
            audio_seconds=sum(result.audio_seconds or 0.0 for result in done),
            seconds=sum(result.seconds or 0.0 for result in done),
        )

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class _Bars:
    """One bar over all tracks (if there are several) and one within the current track, in audio seconds.

    Of tracks that are separated at the same time it is the one that has begun first.
    """

    def __init__(self) -> None:
        from rich import progress

        self.expected = 0.0  # audio seconds in all, about
        self._done = 0.0  # audio seconds of finished tracks
        self._began = time.monotonic()
        self._bar = progress.BarColumn(bar_width=30)
        self._progress = console.bars(
            progress.TextColumn("{task.description}", markup=False),
            self._bar,
            progress.TextColumn("{task.fields[text]}", markup=False),
        )
        self._names: dict[TaskID, str] = {}
        self._longest = 0  # text so far: bars don't jump to and fro
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self._number = self._count = 0
        self._going: dict[str, float] = {}  # audio seconds of tracks that have begun, the first one first

    def start(self, name: str, number: int, count: int) -> None:
        self._progress.start()
        self._number, self._count = number, count
        if self._all is None and count > 1:
            self._all = self._progress.add_task("", total=None, text="")
            self._names[self._all] = "All tracks"
        if self._one is None:
            self._began = time.monotonic()
            self._one = self._progress.add_task("", total=None, text="")
        self._going[name] = 0.0
        if len(self._going) == 1:
            self._show(name)
        self._move_all()

    def _show(self, name: str) -> None:
        """From now on the bar of one track is this one's."""
        assert self._one is not None
        self._progress.reset(self._one, total=None, text="")
        self._names[self._one] = name
        self._update(self._one, 0.0, None, "")

    def move(self, name: str, done: float, total: float | None, speed: float, left: float | None) -> None:
        assert self._one is not None
        self._going[name] = done
        if name == self._names[self._one]:
            of = f" of {clock(total)}" if total else ""
            text = f"{clock(done)}{of}  {_speed(speed)}"
            text += f"  {clock(left)} left" if left is not None else ""
            self._update(self._one, done, total, text)
        self._move_all()

    def _update(self, bar: TaskID, done: float, total: float | None, text: str) -> None:
        """Draw one bar, and give all of them what room there is."""
        self._longest = max(self._longest, len(text))
        name, self._bar.bar_width = console.name_and_bar(self._longest)
        for each, full in self._names.items():
            short = console.shortened(full, name)
            if each == bar:
                self._progress.update(each, description=short, completed=done, total=total, text=text)
            else:
                self._progress.update(each, description=short)

    def _move_all(self) -> None:
        if self._all is None:
            return
        done = self._done + sum(self._going.values())
        total = max(self.expected, done)
        speed = done / max(time.monotonic() - self._began, 1e-3)
        text = f"{self._number}/{self._count}  {clock(done)} of {clock(total)}"
        if done:
            text += f"  {_speed(speed)}  {clock((total - done) / speed)} left"
        self._update(self._all, done, total or None, text)

    def finish(self, name: str, seconds: float) -> None:
        self._done += seconds
        if self._going.pop(name, None) is None or self._one is None:
            return
        if self._going and name == self._names[self._one]:
            self._show(next(iter(self._going)))

    def stop(self) -> None:
        self._progress.stop()


def _speed(speed: float) -> str:
    """So many seconds of audio in a second."""
    return f"{speed:.1f}x"


# --- the dry run ---


def print_plan(batch: Batch, stems: Stems | None, decisions: Sequence[Decision], json: bool) -> int:
    """What would be done, on standard output; the exit code that the run would have begun with.

    stems: None where they are known only after a download.
    """
    size = download_bytes(batch, _needed(stems, decisions))
    refused = any(decision.action == REFUSE for decision in decisions)
    if json:
        for name, problem in batch.failures:
            console.print_json(Result(name, "failed", error=problem).as_json())
        for decision in decisions:
            outputs = {stem: batch.request.shown(path) for stem, path in decision.track.outputs.items()}
            status = {SKIP: "skipped", REFUSE: "failed"}.get(decision.action, "planned")
            page = None if decision.action == REFUSE else planned_page(batch.request, decision.track)
            result = Result(decision.track.source.name, SKIPPED, outputs, player=page and str(page))
            fields = {**result.as_json(), "status": status}
            if decision.action == REFUSE:
                fields["error"] = {"code": "exists", "message": decision.why, "remedy": REFUSED_REMEDY}
            console.print_json(
                {
                    **fields,
                    "action": decision.action,
                    "model": batch.model.name,
                    "license": batch.entry.license if batch.entry else None,
                    "download_bytes": size,
                }
            )
    else:
        _print_plan(batch, stems, decisions, size)
    codes = [problem.exit_code for _, problem in batch.failures]
    return worst_exit_code([*codes, UsageError.exit_code] if refused else codes)


def _print_plan(batch: Batch, known: Stems | None, decisions: Sequence[Decision], size: int | None) -> None:
    stems = ", ".join(known.sounds) if known else "known only after its download"
    weights = "on this machine" if size == 0 else f"{bytes_text(size)} to download"
    console.sentence(f"model     {batch.model.name}: {stems}; {weights}", indent=10)
    console.sentence(f"licence   {license_text(batch)}", indent=10)
    kind = "video" if batch.spec.video else batch.spec.format
    console.line(f"output    {batch.request.where}, {kind}")
    for decision in decisions:
        console.sentence(f"{decision.action:<9} {decision.track.source.name}", indent=10)
        if decision.why:
            was = "" if decision.action == REFUSE else "was "
            console.sentence(f"          {was}{decision.why}")
        for path in decision.changed:
            console.line(f"          was changed since, and stays: {batch.request.shown(path)}")
        if decision.action not in (SKIP, REFUSE):
            for stem, path in decision.track.outputs.items():
                console.line(
                    f"          {'stays' if stem in decision.kept else '->'} {batch.request.shown(path)}"
                )
            if (page := planned_page(batch.request, decision.track)) is not None:
                console.line(f"          -> {page}")
            if decision.parts:
                console.line("          from the stems that stand, without the model")
    for name, problem in batch.failures:
        console.sentence(f"fail      {name}: {problem.message}", indent=10)
    actions = [decision.action for decision in decisions]
    counts = [f"{actions.count(action)} to {action}" for action in dict.fromkeys(actions)]
    console.line(
        f"in all    {', '.join([*counts, *([f'{len(batch.failures)} fail'] if batch.failures else [])])}"
    )
    if REFUSE in actions:
        console.sentence(f"          Nothing would be done. {REFUSED_REMEDY}")


def _needed(stems: Stems | None, decisions: Sequence[Decision]) -> Stems | None:
    """What the model has to make for all tracks together; None where the stems are not known."""
    if stems is None:
        return None
    left = [each for each in decisions if each.action not in (SKIP, REFUSE) and not each.parts]
    return stems.narrowed({stem for each in left for stem in (each.stems or stems).targets})


def download_bytes(batch: Batch, stems: Stems | None) -> int | None:
    """What would be downloaded; None where that can't be known."""
    if batch.entry is None:
        return 0 if batch.model.hub is None else None
    if batch.model.file is not None or (stems is not None and not stems.targets):
        return 0
    wanted = stems.targets if stems else None
    sizes = [file.about_bytes for file in batch.entry.files_for(wanted) if not download.is_cached(file)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
