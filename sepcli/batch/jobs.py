"""Carry a plan out: one Result for every input, whatever happens to it.

Knows the order of things and the rules of a batch; how one track is separated is track.py's, and what is
shown to the user is the Listener's.

    device - folder writable - pipes copied - skip or refuse - room on the disk - model - track, track, ...

The model is loaded once, and not at all if every track is skipped. A track that fails is reported and the
next one begins; only an output that can't be written ends the batch, as the next one could not be either.
An interruption (KeyboardInterrupt, or another BaseException) passes through, with nothing unfinished left
behind; `unfinished` then has the Results of the inputs that got none.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.batch.manifest import Manifest, Output, Record
from sepcli.batch.outputs import check_space, check_writable
from sepcli.batch.plan import Plan, Track
from sepcli.errors import DeviceError, InputError, OutputError, SepcliError, UsageError, from_os

if TYPE_CHECKING:
    from sepcli.batch.workspace import Workspace
    from sepcli.engine.device import Device, Precision
    from sepcli.engine.pipeline import Engine
    from sepcli.loading import Loaded

SURVEY_SECONDS = 5.0  # of opening files to learn their lengths; the rest is estimated from their sizes
NOT_DONE = "not_done"  # the error code of inputs that the run did not come to


@dataclass(frozen=True)
class Result:
    """What became of one input. exit_code: what it asks of the process."""

    input: str
    status: str  # "done", "skipped" or "failed"
    outputs: dict[str, str] = field(default_factory=dict)  # stem -> path
    audio_seconds: float | None = None  # of the input, or its part
    seconds: float | None = None  # that the work took
    device: str | None = None
    precision: str | None = None
    gain: float | None = None  # common to all its stems
    warnings: list[str] = field(default_factory=list)
    error: SepcliError | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # the model's own, as they were used

    @property
    def realtime(self) -> float | None:
        """Seconds of audio in one second of work."""
        return self.audio_seconds / self.seconds if self.audio_seconds and self.seconds else None

    @property
    def reached(self) -> bool:
        """Whether the run came to this input at all."""
        return self.error is None or self.error.code != NOT_DONE

    @property
    def exit_code(self) -> int:
        """0 also for what an interruption or a full disk left over: the cause has its own code."""
        return self.error.exit_code if self.error is not None and self.reached else 0

    def as_json(self) -> dict[str, Any]:
        """The object of `--json`: always the same keys."""
        error = self.error and {
            "code": self.error.code,
            "message": self.error.message,
            "remedy": self.error.remedy,
        }
        return {
            "input": self.input,
            "status": self.status,
            "outputs": self.outputs,
            "audio_seconds": _rounded(self.audio_seconds),
            "seconds": _rounded(self.seconds),
            "realtime": _rounded(self.realtime),
            "device": self.device,
            "precision": self.precision,
            "gain": self.gain,
            "options": dict(self.options),
            "warnings": self.warnings,
            "error": error,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class Listener:
    """Hears what happens, in order; this one does nothing. Calls come from the thread that runs the batch."""

    def notice(self, text: str) -> None:
        """A sentence the user should see."""

    def device(self, device: Device, precision: Precision) -> None:
        """Where and how it will be computed."""

    def downloading(self) -> AbstractContextManager[Callable[[int, int | None], None] | None]:
        """Around the loading of the model; gives the callback(bytes done, in all or None)."""
        return nullcontext()

    def loaded(self, loaded: Loaded) -> None:
        """The model is ready."""

    def expected(self, seconds: float) -> None:
        """About how much audio there is to separate in all."""

    def started(self, track: Track, number: int, count: int) -> None:
        """The track `number` of `count` begins."""

    def progress(self, done: float, total: float | None) -> None:
        """Audio seconds of the current track."""

    def failed(self, error: BaseException) -> None:
        """An exception that no one foresaw, for whoever wants its traceback."""


def run(plan: Plan, listener: Listener | None = None) -> Iterator[Result]:
    """Do what the plan says. A SepcliError out of it is the whole run's: no model, no device, no folder, or
    files in the way; no track was separated then."""
    from sepcli.batch.workspace import Workspace
    from sepcli.engine.device import choose_device, tune_process

    listener = listener or Listener()
    if not plan.tracks:  # nothing but failures: no model and no folder is needed to report them
        yield from _failures(plan)
        return
    tune_process()
    device = choose_device(plan.request.device)
    out = plan.request.out
    new_folders = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        check_writable(out)
        with Workspace(out) as work, work.track() as pipes:
            yield from _Run(plan, listener, device, work, pipes).results()
    finally:
        with suppress(OSError):  # a run that made nothing leaves nothing; this fails where it did
            for folder in new_folders:
                folder.rmdir()


def preview(plan: Plan, listener: Listener | None = None) -> None:
    """Fill the plan in as `run` would, without a download, a model, or anything written."""
    from sepcli.engine.device import choose_device

    listener = listener or Listener()
    device = choose_device(plan.request.device)
    if plan.entry is None and not os.path.exists(os.path.expanduser(plan.request.model)):
        return  # on the hub: its stems are in a file that would have to be downloaded
    run = _Run(plan, listener, device, None, None)
    weights, precision = run.identify(may_download=False)
    listener.device(device, precision)
    # Weights that are nowhere on this machine can't have made what is in the output folder, as far as we know.
    plan.decide(weights if weights is not None else ["unknown"], precision.name)


class _Run:
    def __init__(
        self, plan: Plan, listener: Listener, device: Device, work: Workspace | None, pipes: Path | None
    ):
        self.plan, self.listener, self.device = plan, listener, device
        self.work, self.pipes = work, pipes
        self.request = plan.request
        self._loaded: Loaded | None = None

    def results(self) -> Iterator[Result]:
        plan = self.plan
        weights, precision = self.identify()
        assert weights is not None
        self.precision = precision
        self._copy_pipes()
        plan.decide(weights, precision.name)
        plan.refuse()
        pending = [track for track in plan.tracks if not track.skip]
        yield from _failures(plan)
        for track in plan.tracks:
            if track.skip:
                yield self._skipped(track)
        if not pending:
            return
        self.listener.device(self.device, precision)
        unreadable = self._survey(pending)
        for track, problem in unreadable:
            yield Result(track.source.name, "failed", error=problem)
            pending.remove(track)
        if not pending:
            return
        engine = self._engine()
        self.manifest = Manifest(self.request.out)
        for number, track in enumerate(pending, 1):
            self.listener.started(track, number, len(pending))
            try:
                result = self._separate(track, engine)
            except Exception as error:  # noqa: BLE001
                result = self._failed(track, error)
            yield result
            if isinstance(result.error, OutputError):
                for left in pending[number:]:
                    yield _not_done(left, "an output could not be written")
                return

    # --- before the first track ---

    def identify(self, *, may_download: bool = True) -> tuple[list[str] | None, Precision]:
        """The weights' hashes and the precision. Loads the model only where they can't be known without."""
        from sepcli.engine.device import choose_precision

        plan = self.plan
        weights = plan.weights_needed() if plan.stems else None
        if plan.entry is not None and (weights is not None or not may_download):
            return weights, choose_precision(self.request.precision, self.device.torch, plan.entry.half)
        loaded = self._load()
        if not plan.stems:
            plan.name_outputs(loaded.sources)
            if self.request.targets:  # it was loaded whole, to learn its stems
                self._loaded = None
                loaded = self._load()
        precision = choose_precision(self.request.precision, self.device.torch, loaded.model.half)
        return plan.weights_used(loaded.hashes), precision

    def _load(self) -> Loaded:
        from sepcli.batch.queries import load_asked

        if self._loaded is None:
            with self.listener.downloading() as progress:
                self._loaded = load_asked(
                    self.request.model,
                    self.plan.named or None,
                    self.plan.queries,
                    catalog=self.plan.catalog,
                    options=self.request.options,
                    progress=progress,
                    notice=self.listener.notice,
                )
        return self._loaded

    def _engine(self) -> Engine:
        from sepcli.engine.pipeline import Engine
        from sepcli.engine.settings import Settings

        loaded = self._load()
        self.listener.loaded(loaded)
        for text in loaded.model.notices(self.device.torch):
            self.listener.notice(text)
        request = self.request
        settings = Settings(request.overlap, request.segment, request.shifts, request.seed, request.batch_size)
        return Engine(loaded.model, settings, self.device.torch, self.precision.dtype)

    def _copy_pipes(self) -> None:
        """Standard input is read to its end into the work folder: it may have to be read twice."""
        for number, track in enumerate(self.plan.tracks):
            if track.file is not None:
                continue
            assert self.pipes is not None
            # Named "stdin", as its stems are: without tags the name becomes their title.
            file = self.pipes / str(number) / "stdin"
            try:
                file.parent.mkdir()
                with (
                    open(
                        0 if track.source.path is None else track.source.path,
                        "rb",
                        closefd=track.source.path is not None,
                    ) as source,
                    open(file, "wb") as copy,
                ):
                    shutil.copyfileobj(source, copy, 1 << 20)
            except OSError as error:
                raise from_os(error, file) from error
            track.file = file

    def _survey(self, pending: Sequence[Track]) -> list[tuple[Track, SepcliError]]:
        """Is there room for all of it, and how long is it? Returns the tracks that are no audio.

        OutputError if there is no room.
        """
        survey = Survey(self.plan)
        for track in pending:
            survey.add(track)
        check_space(self.request.out, survey.bytes)
        self.listener.expected(survey.seconds)
        return survey.failures

    # --- one track ---

    def _separate(self, track: Track, engine: Engine) -> Result:
        from sepcli.batch.track import separate_file

        assert track.file is not None and self.work is not None
        self.manifest.refresh()  # another process may have been here since
        self.plan.decide_track(track, self.manifest)
        if track.skip:
            return self._skipped(track)
        if track.refused:
            raise UsageError(
                f"{track.refused}; it was not there when the run began.",
                code="exists",
                remedy="See what wrote it, then run again.",
            )
        try:
            identity = track.identify(self.manifest)
        except OSError as error:
            code = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise InputError(
                f"'{track.source.name}' can't be read: {error.strerror}.",
                code=code,
                remedy="Check the path and its permissions.",
            ) from error

        def record(sizes: dict[str, int], done: bool) -> Record:
            outputs = tuple(
                Output(stem, self.manifest.relative(track.outputs[stem]), size) for stem, size in sizes.items()
            )
            return Record(done, self.plan.settings, identity, outputs, self.plan.made_with, self.plan.query_ids)

        made = separate_file(
            track.file,
            engine,
            track.outputs,
            self.request.spec,
            self.work,
            start=self.request.start,
            duration=self.request.duration,
            progress=self.listener.progress,
            before_publish=lambda sizes: self.manifest.add(record(sizes, done=False)),
        )
        options = dict(self._load().model.used())
        self.manifest.add(
            record(made.sizes, done=True),
            {
                "gain": made.gain,
                "seconds": round(made.wall_seconds, 3),
                "device": str(self.device.torch),
                "frames": made.frames,
                "samplerate": made.samplerate,
                "time": int(time.time()),
                "origin": self._load().origin,
                "options": options,
            },
        )
        return Result(
            track.source.name,
            "done",
            _paths(track),
            made.audio_seconds,
            made.wall_seconds,
            str(self.device.torch),
            self.precision.name,
            made.gain,
            list(made.warnings),
            options=options,
        )

    def _skipped(self, track: Track) -> Result:
        return Result(track.source.name, "skipped", _paths(track))

    def _failed(self, track: Track, error: Exception) -> Result:
        from sepcli.engine.device import is_out_of_memory

        if not isinstance(error, SepcliError):
            self.listener.failed(error)
            if is_out_of_memory(error):
                error = DeviceError(
                    "Memory ran out.",
                    code="out_of_memory",
                    remedy="Use a smaller --batch-size or --segment, or --device cpu.",
                )
            elif isinstance(error, OSError) and error.errno is not None:
                error = from_os(error, self.request.out)
            else:
                error = SepcliError(
                    f"An error inside sepcli: {type(error).__name__}: {error}.",
                    code="internal",
                    remedy="Please report it with what SEPCLI_DEBUG=1 prints in addition.",
                )
        return Result(
            track.source.name,
            "failed",
            device=str(self.device.torch),
            precision=self.precision.name,
            error=error,
        )


def _failures(plan: Plan) -> Iterator[Result]:
    for argument, problem in plan.failures:
        yield Result(argument, "failed", error=problem)


def _paths(track: Track) -> dict[str, str]:
    return {stem: os.fspath(path) for stem, path in track.outputs.items()}


def unfinished(plan: Plan, results: Collection[Result], why: str | SepcliError) -> list[Result]:
    """A Result for every track that has none among `results`: the run was stopped, or could not begin."""
    named = {result.input for result in results}
    left = [track for track in plan.tracks if track.source.name not in named]
    if isinstance(why, SepcliError):
        return [Result(track.source.name, "failed", error=why) for track in left]
    return [_not_done(track, why) for track in left]


def _not_done(track: Track, why: str) -> Result:
    return Result(
        track.source.name,
        "failed",
        error=SepcliError(f"Not done: {why}.", code=NOT_DONE, remedy="The same command goes on from here."),
    )


class Survey:
    """Adds up the audio and the room that tracks need, looking into files only for so long."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.seconds = 0.0  # of audio
        self.bytes = 0  # of results, and of the largest spool
        self.failures: list[tuple[Track, SepcliError]] = []
        self._results = self._spool = 0
        self._read_bytes = 0  # of the inputs that were looked into
        self._until = time.monotonic() + SURVEY_SECONDS

    def add(self, track: Track) -> None:
        assert track.file is not None
        try:
            size = track.file.stat().st_size
            if time.monotonic() > self._until and self._read_bytes:
                share = size / self._read_bytes  # as those before, byte for byte
                self.seconds += self.seconds * share
                self._results += int(self._results * share)
                self._read_bytes += size
            elif (looked := self._look(track.file)) is not None:
                seconds, results, spool = looked
                self.seconds += seconds
                self._results += results
                self._spool = max(self._spool, spool)
                self._read_bytes += size
        except InputError as problem:
            self.failures.append((track, problem))
        except (OSError, SepcliError):
            return  # it fails with its reason when its turn comes
        self.bytes = self._results + self._spool

    def _look(self, file: Path) -> tuple[float, int, int] | None:
        """Audio seconds, bytes of the results, bytes of the spool; None if only decoding would tell."""
        from sepcli.sound.decode import probe

        request = self.plan.request
        info = probe(file)
        seconds = info.duration if info.frames is None else info.frames / info.samplerate
        if seconds is None:
            return None
        seconds = max(0.0, seconds - request.start)
        if request.duration is not None:
            seconds = min(seconds, request.duration)
        model_rate = self.plan.entry.samplerate if self.plan.entry is not None else info.samplerate
        resolved = request.spec.resolve(info, model_rate)
        room = resolved.room(
            int(seconds * info.samplerate), info.samplerate, info.channels, len(self.plan.targets)
        )
        return seconds, room.results, room.spool
