"""Carry a batch out: one Result for every input, whatever happens to it.

Knows the order of things and the rules of a batch; how one track is separated is track.py's, and what is
shown to the user is the Listener's.

    device - output folder - stems and paths - weights' hashes - pipes copied - skip or refuse - room on disk -
    model - for each track: claim, render, line in the manifest, final names, second line

What is at an address is fetched when its turn comes (transit.py), here or by the workers; an output folder
there is remote.py's.

`opened` is all of it that comes before the tracks, so that watch.py can go on with one model as files arrive.

The model is loaded once, and not at all if every track is skipped. A track that fails is reported and the next
one begins; only an output that can't be written ends the batch, as the next one could not be either. A track
on which another process works is left to it, and looked at again at the end. An interruption
(KeyboardInterrupt, or another BaseException) passes through, with nothing unfinished left behind;
`results.unfinished` then has the Results of the inputs that got none.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.batch.decisions import (
    REFUSE,
    SEPARATE,
    SKIP,
    Decision,
    Fingerprint,
    decide,
    decide_track,
    fingerprint,
    identify,
    in_the_way,
    notices,
    parts_stand,
    query_ids,
    refuse,
)
from sepcli.batch.lines import InputId, Output, Record
from sepcli.batch.manifest import Manifest
from sepcli.batch.model import Model
from sepcli.batch.names import Named, Track, guard_inputs, names
from sepcli.batch.outputs import check_space, check_writable
from sepcli.batch.pages import Pages
from sepcli.batch.request import Batch, Request, understand
from sepcli.batch.results import DAMAGED, DONE, FAILED, SKIPPED, Listener, Result, not_done
from sepcli.batch.survey import survey
from sepcli.batch.transit import at_hand
from sepcli.batch.worker import Alone, Made, Work, Workers
from sepcli.errors import DeviceError, InputError, OutputError, SepcliError, UsageError, from_os, parameter
from sepcli.sound.losses import DAMAGES

if TYPE_CHECKING:
    from sepcli.batch.track import Rendered
    from sepcli.batch.workspace import Workspace
    from sepcli.engine.device import Precision

WAIT_SECONDS = 0.5  # between two looks at a track on which another process works

# The steps of one track: they yield each Work, and are sent what was made; a Result at the end.
Steps = Generator[Work, Made, Result | None]


@dataclass(frozen=True)
class _Ended:
    """That the steps of a track are over. result: None where another process works on it."""

    result: Result | None


def run(batch: Batch, listener: Listener | None = None, named: Named | None = None) -> Iterator[Result]:
    """Separate the batch; yields a Result for every input as soon as there is one.

    named: the stems and paths, where the caller has asked `names` for them already.

    A SepcliError out of it is the whole run's: no model, no device, no folder, or files in the way; no track
    was separated then.
    """
    listener = listener or Listener()
    if not batch.sources:  # nothing but failures: no model and no folder is needed to report them
        yield from _failures(batch)
        return
    with opened(batch, listener, named) as job:
        yield from job.carry_out(job.named.tracks)


@contextmanager
def opened(batch: Batch, listener: Listener, named: Named | None = None) -> Iterator[Job]:
    """All that is the same for every track of the batch, for as long as the context lasts.

    named: as of `run`. SepcliError where there can't be a run.
    """
    request, model = batch.request, Model(batch, listener)
    with closing(_workers(model, listener)) as workers, _output_folder(request) as work:
        named = named or _named(batch, model, listener)
        listener.named(named)
        weights = model.weights(named.stems)
        assert weights is not None
        precision = workers.begin(model.half, work.path)
        prints = fingerprint(named, weights, precision.name)
        manifest = _manifest(request)
        pages = Pages(named, prints, manifest, work, listener)
        yield Job(named, prints, manifest, pages, work, workers, precision, listener)


def _workers(model: Model, listener: Listener) -> Workers:
    """Where the tracks are separated: here, or on a cluster."""
    if model.batch.request.ray is None:
        return Alone(model, listener)
    from sepcli.batch.cluster import Cluster

    return Cluster(model, listener)


def preview(batch: Batch, listener: Listener | None = None, named: Named | None = None) -> list[Decision]:
    """What `run` would do with each track, without a download, a model of the catalogue, or anything written.

    The tracks have no outputs where the model is on the hub: its stems are in a file that is not here.
    """
    from sepcli.batch.hardware import found_device
    from sepcli.engine.device import choose_precision

    listener = listener or Listener()
    request, model = batch.request, Model(batch, listener)
    device = found_device(request.device)
    if named is None and model.is_remote:
        return [Decision(Track(source), SEPARATE) for source in batch.sources]
    named = named or _named(batch, model, listener)
    listener.named(named)
    weights = model.weights(named.stems, may_load=batch.entry is None)
    precision = choose_precision(request.precision, device, model.half)
    listener.device(device, precision)
    # Weights that are nowhere on this machine can't have made what is in the output folder, as far as we know.
    prints = fingerprint(named, ["unknown"] if weights is None else weights, precision.name)
    return decide(named, named.tracks, prints, _manifest(request))


def _named(batch: Batch, model: Model, listener: Listener) -> Named:
    """The stems and paths, for a model that had to be loaded to know what the words for its stems mean."""
    if batch.entry is None:
        understood = understand(batch, model.sources, model.more)
        for text in understood.notices[len(batch.notices) :]:
            listener.notice(text)
        batch = understood
    return names(batch, model.sources, model.more)


def _manifest(request: Request) -> Manifest:
    """Of the output folder."""
    from sepcli.batch.remote import RemoteManifest

    return Manifest(request.out) if request.remote is None else RemoteManifest(request.remote)


@contextmanager
def _output_folder(request: Request) -> Iterator[Workspace]:
    """The output folder, made and tried, with a work folder in it. A run that made nothing leaves nothing.

    For a folder at an address the work folder is on this machine.
    """
    from sepcli.batch.workspace import Workspace

    if request.remote is not None:
        request.remote.check_writable()
        with Workspace(request.work) as work:
            yield work
        return
    out = request.out
    new_folders = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        check_writable(out)
        with Workspace(out) as work:
            yield work
    finally:
        with suppress(OSError):  # this fails where the run made something
            for folder in new_folders:
                folder.rmdir()


def _readable(track: Track, folder: Path) -> Track:
    """The track with a file that can be read twice: a pipe is read to its end, into `folder`."""
    if track.file is not None or track.source.remote is not None:
        return track
    suffix = f".{track.source.suffix}" if track.source.suffix else ""
    file = folder / f"stdin{suffix}"  # as its stems are called: without tags the name becomes their title
    path = track.source.path
    try:
        file.parent.mkdir()
        with (
            open(0 if path is None else path, "rb", closefd=path is not None) as source,
            open(file, "wb") as copy,
        ):
            shutil.copyfileobj(source, copy, 1 << 20)
    except OSError as error:
        raise from_os(error, file) from error
    return track.read_from(file)


class Job:
    """Track after track, with all that they share: `carry_out`, as often as there are tracks (`opened`)."""

    def __init__(
        self,
        named: Named,
        prints: Fingerprint,
        manifest: Manifest,
        pages: Pages,
        work: Workspace,
        workers: Workers,
        precision: Precision,
        listener: Listener,
    ):
        self.named, self.batch, self.request = named, named.batch, named.batch.request
        self.prints, self.manifest, self.work = prints, manifest, work
        self.pages = pages
        self.workers, self.device, self.precision = workers, workers.device, precision
        self.listener = listener
        self._whys: dict[str, str] = {}  # why files are replaced, as it was said before the first track
        self._begun = False  # whether the listener knows the device

    def carry_out(self, tracks: Sequence[Track], *, alone: bool = False) -> Iterator[Result]:
        """Separate these tracks: a Result for each, and for each failure of the batch.

        alone: a track whose files are in the way fails by itself; else UsageError before any work.
        """
        with self.work.track() as folder:
            tracks = [_readable(track, folder / str(number)) for number, track in enumerate(tracks)]
            decisions = decide(self.named, tracks, self.prints, self.manifest)
            if not alone:
                refuse(decisions)
            for notice in notices(decisions, self.manifest, self.request):
                self.listener.notice(notice)
            yield from _failures(self.batch)
            for decision in decisions:
                if decision.action == SKIP:
                    yield _skipped(decision, self.request, self.manifest, self.pages)
                elif decision.action == REFUSE:
                    yield Result(decision.track.source.name, FAILED, error=in_the_way(decision.why))
            decisions = [decision for decision in decisions if decision.action not in (SKIP, REFUSE)]
            if decisions:
                yield from self._carry_out(decisions)
            self.pages.close()

    def _carry_out(self, left: list[Decision]) -> Iterator[Result]:
        """left: is emptied, since there may be a million."""
        self._begin()
        found = survey(self.named, (decision.track for decision in left))
        if self.request.remote is None:  # else a track is here only while it is separated
            check_space(self.request.out, found.bytes)
        self.listener.expected(found.seconds)
        failed = {id(track) for track, _ in found.failures}
        for track, problem in found.failures:
            yield Result(track.source.name, FAILED, error=problem)
        if failed:
            left[:] = [decision for decision in left if id(decision.track) not in failed]
        if left:
            self.load(left)
            pending = [decision.track for decision in left]
            left.clear()
            yield from self.results(pending)

    def prepare(self) -> None:
        """Load the model for all stems before there is a track, so that what can fail fails now."""
        self._begin()
        self.workers.load(self.named.stems.narrowed(self.named.stems.targets), 1)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self.listener.device(self.device, self.precision)

    def load(self, decisions: Sequence[Decision]) -> None:
        """Load what these need of the model, all at once, and make it ready. An error ends the whole run."""
        self._whys = {decision.track.source.name: decision.why for decision in decisions if decision.why}
        wanted = (decision.stems or self.named.stems for decision in decisions if not decision.parts)
        needed = {stem for stems in wanted for stem in stems.targets}
        self.workers.load(self.named.stems.narrowed(needed), len(decisions))

    def results(self, tracks: Sequence[Track]) -> Iterator[Result]:
        """Yields a Result for each track. Tracks on which another process works come last."""
        left = deque(range(1, len(tracks) + 1))  # their numbers
        running: dict[int, Steps] = {}  # by the track's number
        taken = 0  # tracks in a row on which another process works
        full = False  # whether an output could not be written
        try:
            while (left and not full) or running:
                if left and not full and self.workers.has_room and not (running and taken >= len(left)):
                    number = left.popleft()
                    steps = self._steps(tracks[number - 1], number, len(tracks))
                    ended = self._advance(number, steps, None)
                else:
                    number, outcome = self.workers.take()
                    steps = running.pop(number)
                    ended = self._advance(number, steps, outcome)
                if ended is None:
                    running[number], taken = steps, 0
                elif ended.result is not None:
                    taken, full = 0, full or isinstance(ended.result.error, OutputError)
                    yield ended.result
                else:
                    left.append(number)
                    taken += 1
                    if taken >= len(left) and not running:  # so is everything that is left
                        time.sleep(WAIT_SECONDS)
            for number in left:
                yield not_done(tracks[number - 1].source.name, "an output could not be written")
        finally:
            self.workers.abandon()
            for steps in running.values():
                steps.close()

    def _advance(self, number: int, steps: Steps, outcome: Made | Exception | None) -> _Ended | None:
        """Tell the steps what became of their Work, and give the workers the next; None while there is one.

        outcome: None for steps that have not begun.
        """
        try:
            if outcome is None:
                work = next(steps)
            else:
                work = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)
        except StopIteration as stop:
            return _Ended(stop.value)
        self.workers.give(number, work)
        return None

    def _steps(self, track: Track, number: int, count: int) -> Steps:
        """All that is done with a track but the Works that it yields; None where another process is at it."""
        try:
            self.manifest.refresh()  # another process may have been here since
            # Its paths are asked for often from here on, and made from one text each time (names.Outputs).
            track = replace(_as_it_is_now(track), outputs=dict(track.outputs))
            decision = self._decide(track)
            if decision.action == SKIP:
                return _skipped(decision, self.request, self.manifest, self.pages)
            if self._claimed_by_another(track):
                return None
            with self._released_after_failure(track):
                # The run that had it may have finished it just before the claim.
                decision = self._decide(track)
                if decision.action == SKIP:
                    self.manifest.release(track.outputs.values())
                    return _skipped(decision, self.request, self.manifest, self.pages)
                if decision.why != self._whys.get(track.source.name, ""):
                    for text in notices([decision], self.manifest, self.request):
                        self.listener.notice(text)
                self.listener.started(track, number, count)
                return (yield from self._separate(decision))
        except Exception as error:  # noqa: BLE001  (whatever it is, the next track may be fine)
            return self._failed(track, error)

    def _decide(self, track: Track) -> Decision:
        """As the output folder is now. UsageError where a file has come that must not be replaced."""
        decision = decide_track(track, self.named, self.prints, self.manifest)
        if decision.action == REFUSE:
            raise UsageError(
                f"{decision.why}; it was not so when the run began.",
                code="exists",
                remedy="See what wrote it, then run again.",
            )
        return decision

    def _claimed_by_another(self, track: Track) -> bool:
        from sepcli.batch.workspace import is_alive

        holder = self.manifest.claim(
            track.outputs.values(), self.work.name, lambda name: is_alive(self.request.work, name)
        )
        return holder is not None

    @contextmanager
    def _released_after_failure(self, track: Track) -> Iterator[None]:
        """Another run may try a track with which this one has failed."""
        try:
            yield
        except Exception:
            with suppress(OutputError):
                self.manifest.release(track.outputs.values())
            raise

    def _separate(self, decision: Decision) -> Generator[Work, Made, Result]:
        """Render the track, write it down, give its files their names, and write down that they have them."""
        outputs = list(decision.track.outputs.values())
        guard_inputs([decision.track.source], self.batch.queries, outputs, self.request.remote)
        with self.work.track() as folder:
            track = decision.track
            if not self.workers.fetch:
                track = at_hand(track, self.named, folder, self.request.work)
            decision = replace(decision, track=track)
            elsewhere = track.file is None and not decision.parts  # then who fetches it hashes it
            identity = None if elsewhere else self._identity(track)
            work = yield from self._render(decision, identity, folder)
            if identity is None:
                identity = self._identity(track, work.sha256)
            made = work.files
            assert made is not None
            if made.damaged and self.request.strict:
                raise InputError(
                    next(str(warning) for warning in made.warnings if warning.code in DAMAGES),
                    remedy=f"Get an intact copy, or leave {parameter('strict')} out to have the rest of it.",
                    code="damaged",
                )
            self.manifest.add(self._record(track, identity, made, made.files, done=False))
            self._publish(made, track)
        about = {
            "start": work.start,
            "seconds": round(made.seconds, 3),
            "device": self.device.name,
            "damaged_seconds": round(made.damaged_seconds, 3),
            "frames": made.frames,
            "samplerate": made.samplerate,
            "time": int(time.time()),
            "origin": work.origin,
            "options": work.options,
        }
        self.manifest.add(self._record(track, identity, made, track.outputs, done=True), about)
        page, problems = self.pages.keep(track)
        silent = _left_out(track, self.manifest)
        return Result(
            track.source.name,
            DAMAGED if made.damaged else DONE,
            _paths(track, self.request, silent) if self.request.stream is None else {},
            made.audio_seconds,
            made.seconds,
            self.device.name,
            self.precision.name,
            made.gain,
            made.damaged_seconds,
            [*made.warnings, *problems],
            options=work.options,
            kept=decision.kept if set(decision.kept).isdisjoint(made.files) else (),
            levels={
                **_levels(track, self.manifest),
                **{stem: levels.as_json() for stem, levels in made.levels.items()},
            },
            silent=silent,
            player=page,
        )

    def _identity(self, track: Track, sha256: str | None = None) -> InputId:
        """What the manifest knows the input by. sha256: of its content, where somebody has read it."""
        try:
            return identify(track, self.manifest, sha256)
        except OSError as error:
            raise from_os(error, track.source.name, reading=InputError) from error

    def _publish(self, made: Rendered, track: Track) -> None:
        """Give the track's files their final names. What is silent loses that of an earlier run."""
        from sepcli.batch.workspace import publish, remove

        place = self.request.remote
        files = [(file, track.outputs[stem]) for stem, file in made.files.items()]
        (publish if place is None else place.publish)(files)
        for stem in made.silent:
            (remove if place is None else place.remove)(track.outputs[stem])

    def _render(
        self, decision: Decision, identity: InputId | None, folder: Path
    ) -> Generator[Work, Made, Made]:
        """The unfinished files of what is left to make; of all, if these can't stand beside what is kept."""
        track, stems = decision.track, decision.stems
        start = None if self.request.preview else self.request.start
        if decision.parts:
            assert stems is not None and identity is not None
            made = yield Work(track, stems, _below(folder, "submixes"), start, decision.parts)
            if made.files is not None and parts_stand(decision, identity, self.prints, self.manifest):
                return made
            start = made.start
        if stems is None:
            return (yield Work(track, self.named.stems, folder, start))
        made = yield Work(track, stems, _below(folder, "left"), start)
        assert made.files is not None
        if made.files.gain == 1 or not decision.kept:
            return made
        again = decide_track(track, self.named, self.prints, self.manifest, keep=False)
        kept, new = ", ".join(decision.kept), ", ".join(made.files.files)
        if again.action == REFUSE:
            raise UsageError(
                f"With {new} all stems have to be lowered, but {again.why}.",
                remedy=f"Replace it with {parameter('force', True)}, or leave the levels as they are: "
                f"{parameter('bit_depth', '32f')}.",
                code="exists",
            )
        self.listener.notice(
            f"{track.source.name}: {new} would clip, and all stems are lowered alike. So {kept} can't stay "
            "and will be made again."
        )
        shutil.rmtree(folder / "left", ignore_errors=True)
        return (yield Work(track, self.named.stems, _below(folder, "all"), made.start))

    def _record(
        self, track: Track, identity: InputId, made: Rendered, files: Mapping[str, Path], *, done: bool
    ) -> Record:
        """files: where the stems are now, by stem. A file keeps its date when it gets its final name."""
        outputs = tuple(
            Output(
                stem,
                self.manifest.relative(track.outputs[stem]),
                size,
                self.manifest.date(files[stem]),
                self.prints.files[stem],
                self._noted(made, stem),
            )
            for stem, size in made.sizes.items()
        )
        outputs += tuple(
            Output(
                stem,
                self.manifest.relative(track.outputs[stem]),
                made=self.prints.files[stem],
                levels=made.levels[stem].as_json(),
                left_out=True,
            )
            for stem in made.silent
        )
        return Record(
            done,
            self.prints.settings,
            identity,
            outputs,
            self.prints.made_with,
            query_ids(self.named),
            made.gain,
        )

    def _noted(self, made: Rendered, stem: str) -> Mapping[str, Any]:
        """The levels of the stem; those of all tracks, in a file that has several."""
        if self.named.stems.pack is None:
            return made.levels[stem].as_json()
        return {name: levels.as_json() for name, levels in made.levels.items()}

    def _failed(self, track: Track, error: Exception) -> Result:
        from sepcli.engine.device import is_out_of_memory

        if not isinstance(error, SepcliError):
            self.listener.failed(error)
            if is_out_of_memory(error):
                error = DeviceError(
                    "Memory ran out.",
                    code="out_of_memory",
                    remedy=f"Use a smaller {parameter('batch_size')} or {parameter('segment')}, or "
                    f"{parameter('device', 'cpu')}.",
                )
            elif isinstance(error, OSError) and error.errno is not None:
                error = from_os(error, self.request.work)
            else:
                error = SepcliError(
                    f"An error inside sepcli: {type(error).__name__}: {error}.",
                    code="internal",
                    remedy="Please report it with what SEPCLI_DEBUG=1 prints in addition.",
                )
        # Its frames would keep in memory what the track had, for as long as there is this Result.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return Result(
            track.source.name,
            FAILED,
            device=self.device.name,
            precision=self.precision.name,
            error=error,
        )


def _failures(batch: Batch) -> Iterator[Result]:
    for argument, problem in batch.failures:
        yield Result(argument, FAILED, error=problem)


def _as_it_is_now(track: Track) -> Track:
    """The track with what its input at an address is now; InputError where that is gone."""
    if track.source.remote is None:
        return track
    return replace(track, source=replace(track.source, remote=track.source.remote.again()))


def _skipped(decision: Decision, request: Request, manifest: Manifest, pages: Pages) -> Result:
    if decision.input is not None:
        with suppress(OutputError):  # it is hashed again next time
            manifest.note_input(decision.input)
    track = decision.track
    page, problems = pages.keep(track)
    silent = _left_out(track, manifest)
    return Result(
        track.source.name,
        SKIPPED,
        _paths(track, request, silent),
        warnings=problems,
        levels=_levels(track, manifest),
        silent=silent,
        player=page,
    )


def _left_out(track: Track, manifest: Manifest) -> tuple[str, ...]:
    """The stems that have no file because they are silent."""
    return tuple(stem for stem, path in track.outputs.items() if manifest.is_left_out(path))


def _levels(track: Track, manifest: Manifest) -> dict[str, Mapping[str, float | None]]:
    """The levels of the stems that stand, as far as they were noted."""
    found: dict[str, Any] = {}
    for stem, path in track.outputs.items():
        standing = manifest.standing(path)
        if standing is not None and standing.untouched and standing.output.levels is not None:
            noted = standing.output.levels
            found |= noted if any(isinstance(each, Mapping) for each in noted.values()) else {stem: noted}
    return found


def _below(folder: Path, name: str) -> Path:
    """A new folder in it."""
    (folder / name).mkdir()
    return folder / name


def _paths(track: Track, request: Request, silent: Collection[str]) -> dict[str, str]:
    return {stem: request.shown(path) for stem, path in track.outputs.items() if stem not in silent}
