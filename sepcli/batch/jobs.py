"""Carry a batch out: one Result for every input, whatever happens to it.

Knows the order of things and the rules of a batch; how one track is separated is track.py's, and what is
shown to the user is the Listener's.

    device - output folder - stems and paths - weights' hashes - pipes copied - skip or refuse - room on disk -
    model - for each track: claim, render, line in the manifest, final names, second line

The model is loaded once, and not at all if every track is skipped. A track that fails is reported and the next
one begins; only an output that can't be written ends the batch, as the next one could not be either. A track
on which another process works is left to it, and looked at again at the end. An interruption
(KeyboardInterrupt, or another BaseException) passes through, with nothing unfinished left behind;
`results.unfinished` then has the Results of the inputs that got none.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

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
    old_layout_notice,
    other_engine_notice,
    query_ids,
    refuse,
)
from sepcli.batch.manifest import InputId, Manifest, Output, Record
from sepcli.batch.model import Model
from sepcli.batch.names import Named, Track, guard_inputs, names
from sepcli.batch.outputs import check_space, check_writable
from sepcli.batch.request import Batch, understand
from sepcli.batch.results import DAMAGED, DONE, FAILED, SKIPPED, Listener, Result, not_done
from sepcli.batch.survey import survey
from sepcli.errors import DeviceError, InputError, OutputError, SepcliError, UsageError, from_os, parameter
from sepcli.sound.losses import DAMAGES

if TYPE_CHECKING:
    from sepcli.batch.track import Rendered
    from sepcli.batch.workspace import Workspace
    from sepcli.engine.device import Device, Precision
    from sepcli.engine.pipeline import Engine

WAIT_SECONDS = 0.5  # between two looks at a track on which another process works


def run(batch: Batch, listener: Listener | None = None, named: Named | None = None) -> Iterator[Result]:
    """Separate the batch; yields a Result for every input as soon as there is one.

    named: the stems and paths, where the caller has asked `names` for them already.

    A SepcliError out of it is the whole run's: no model, no device, no folder, or files in the way; no track
    was separated then.
    """
    from sepcli.batch.hardware import remember
    from sepcli.engine.device import choose_device, choose_precision, tune_process

    listener = listener or Listener()
    if not batch.sources:  # nothing but failures: no model and no folder is needed to report them
        yield from _failures(batch)
        return
    request, model = batch.request, Model(batch, listener)
    tune_process()
    device = remember(request.device, choose_device(request.device))
    with _output_folder(request.out) as work, work.track() as folder:
        named = named or _named(batch, model, listener)
        listener.named(named)
        weights = model.weights(named.stems)
        assert weights is not None
        precision = choose_precision(request.precision, device, model.half)
        prints = fingerprint(named, weights, precision.name)
        manifest = Manifest(request.out)
        tracks = [_readable(track, folder / str(number)) for number, track in enumerate(named.tracks)]
        decisions = decide(named, tracks, prints, manifest)
        refuse(decisions)
        for notice in (
            other_engine_notice(decisions),
            old_layout_notice(decisions, manifest, request),
        ):
            if notice is not None:
                listener.notice(notice)
        yield from _failures(batch)
        for decision in decisions:
            if decision.action == SKIP:
                yield _skipped(decision, manifest)
        pending = [decision.track for decision in decisions if decision.action != SKIP]
        if not pending:
            return
        listener.device(device, precision)
        found = survey(named, pending)
        check_space(request.out, found.bytes)
        listener.expected(found.seconds)
        for track, problem in found.failures:
            yield Result(track.source.name, FAILED, error=problem)
            pending.remove(track)
        if pending:
            loop = _Loop(named, model, prints, manifest, work, device, precision, listener)
            yield from loop.results(pending)


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
        return [Decision(Track.of(source, {}), SEPARATE) for source in batch.sources]
    named = named or _named(batch, model, listener)
    listener.named(named)
    weights = model.weights(named.stems, may_load=batch.entry is None)
    precision = choose_precision(request.precision, device, model.half)
    listener.device(device, precision)
    # Weights that are nowhere on this machine can't have made what is in the output folder, as far as we know.
    prints = fingerprint(named, ["unknown"] if weights is None else weights, precision.name)
    return decide(named, named.tracks, prints, Manifest(request.out))


def _named(batch: Batch, model: Model, listener: Listener) -> Named:
    """The stems and paths, for a model that had to be loaded to know what the words for its stems mean."""
    if batch.entry is None:
        understood = understand(batch, model.sources)
        for text in understood.notices[len(batch.notices) :]:
            listener.notice(text)
        batch = understood
    return names(batch, model.sources)


@contextmanager
def _output_folder(out: Path) -> Iterator[Workspace]:
    """The output folder, made and tried, with a work folder in it. A run that made nothing leaves nothing."""
    from sepcli.batch.workspace import Workspace

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
    if track.file is not None:
        return track
    file = folder / "stdin"  # as its stems are called: without tags the name becomes their title
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


class _Loop:
    """Track after track, with all that they share."""

    def __init__(
        self,
        named: Named,
        model: Model,
        prints: Fingerprint,
        manifest: Manifest,
        work: Workspace,
        device: Device,
        precision: Precision,
        listener: Listener,
    ):
        self.named, self.batch, self.request = named, named.batch, named.batch.request
        self.model, self.prints, self.manifest, self.work = model, prints, manifest, work
        self.device, self.precision, self.listener = device, precision, listener

    def results(self, tracks: Sequence[Track]) -> Iterator[Result]:
        """Yields a Result for each track. Tracks on which another process works come last."""
        engine = self._engine()
        left = deque(enumerate(tracks, 1))
        taken = 0  # tracks in a row on which another process works
        while left:
            number, track = left.popleft()
            result = self._attempt(track, engine, number, len(tracks))
            if result is None:
                left.append((number, track))
                taken += 1
                if taken >= len(left):  # so is everything that is left
                    time.sleep(WAIT_SECONDS)
                continue
            taken = 0
            yield result
            if isinstance(result.error, OutputError):
                for _, track in left:
                    yield not_done(track.source.name, "an output could not be written")
                return

    def _engine(self) -> Engine:
        from sepcli.engine.pipeline import Engine

        loaded = self.model.load(self.named.stems)
        self.listener.loaded(loaded)
        for text in loaded.model.notices(self.device.torch):
            self.listener.notice(text)
        return Engine(loaded.model, self.request.settings, self.device.torch, self.precision.dtype)

    def _attempt(self, track: Track, engine: Engine, number: int, count: int) -> Result | None:
        """None where another process works on it."""
        try:
            self.manifest.refresh()  # another process may have been here since
            decision = decide_track(track, self.named, self.prints, self.manifest)
            if decision.action == SKIP:
                return _skipped(decision, self.manifest)
            if decision.action == REFUSE:
                raise UsageError(
                    f"{decision.why}; it was not there when the run began.",
                    code="exists",
                    remedy="See what wrote it, then run again.",
                )
            if self._claimed_by_another(track):
                return None
            with self._released_after_failure(track):
                # The run that had it may have finished it just before the claim.
                decision = decide_track(track, self.named, self.prints, self.manifest)
                if decision.action == SKIP:
                    self.manifest.release(track.outputs.values())
                    return _skipped(decision, self.manifest)
                self.listener.started(track, number, count)
                return self._separate(track, engine)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next track may be fine)
            return self._failed(track, error)

    def _claimed_by_another(self, track: Track) -> bool:
        from sepcli.batch.workspace import is_alive

        holder = self.manifest.claim(
            track.outputs.values(), self.work.name, lambda name: is_alive(self.request.out, name)
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

    def _separate(self, track: Track, engine: Engine) -> Result:
        """Render the track, write it down, give its files their names, and write down that they have them."""
        from sepcli.batch.track import render
        from sepcli.batch.workspace import publish
        from sepcli.sound.probe import probe

        assert track.file is not None
        guard_inputs([track.source], self.batch.queries, list(track.outputs.values()))
        try:
            identity = identify(track, self.manifest)
        except OSError as error:
            raise from_os(error, track.source.name, reading=InputError) from error
        with self.work.track() as folder:
            made = render(
                track.file,
                engine,
                self.named.stems.residual,
                self.batch.spec,
                folder,
                info=probe(track.file, self.request.audio_track),
                start=self.request.start,
                duration=self.request.duration,
                subtracted=self.named.stems.subtracted,
                hidden=self.named.stems.hidden,
                progress=self.listener.progress,
                stream=self.request.stream,
            )
            if made.damaged and self.request.strict:
                raise InputError(
                    next(str(warning) for warning in made.warnings if warning.code in DAMAGES),
                    remedy=f"Get an intact copy, or leave {parameter('strict')} out to have the rest of it.",
                    code="damaged",
                )
            self.manifest.add(self._record(track, identity, made, done=False))
            publish([(file, track.outputs[stem]) for stem, file in made.files.items()])
        loaded = self.model.load(self.named.stems)
        options = dict(loaded.model.used())
        about = {
            "gain": made.gain,
            "seconds": round(made.seconds, 3),
            "device": self.device.name,
            "damaged_seconds": round(made.damaged_seconds, 3),
            "frames": made.frames,
            "samplerate": made.samplerate,
            "time": int(time.time()),
            "origin": loaded.origin,
            "options": options,
        }
        self.manifest.add(self._record(track, identity, made, done=True), about)
        return Result(
            track.source.name,
            DAMAGED if made.damaged else DONE,
            _paths(track) if self.request.stream is None else {},
            made.audio_seconds,
            made.seconds,
            self.device.name,
            self.precision.name,
            made.gain,
            made.damaged_seconds,
            list(made.warnings),
            options=options,
            levels={stem: levels.as_json() for stem, levels in made.levels.items()},
        )

    def _record(self, track: Track, identity: InputId, made: Rendered, *, done: bool) -> Record:
        outputs = tuple(
            Output(stem, self.manifest.relative(track.outputs[stem]), size, levels=made.levels[stem].as_json())
            for stem, size in made.sizes.items()
        )
        return Record(
            done, self.prints.settings, identity, outputs, self.prints.made_with, query_ids(self.named)
        )

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
                error = from_os(error, self.request.out)
            else:
                error = SepcliError(
                    f"An error inside sepcli: {type(error).__name__}: {error}.",
                    code="internal",
                    remedy="Please report it with what SEPCLI_DEBUG=1 prints in addition.",
                )
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


def _skipped(decision: Decision, manifest: Manifest) -> Result:
    if decision.input is not None:
        with suppress(OutputError):  # it is hashed again next time
            manifest.note_input(decision.input)
    track = decision.track
    return Result(track.source.name, SKIPPED, _paths(track), levels=_levels(track, manifest))


def _levels(track: Track, manifest: Manifest) -> dict[str, Mapping[str, float | None]]:
    """The levels of the stems that stand, as far as they were noted."""
    found = {}
    for stem, path in track.outputs.items():
        record = manifest.record_of(path)
        noted = None if record is None else record.output_at(manifest.relative(path))
        if noted is not None and noted.levels is not None:
            found[stem] = noted.levels
    return found


def _paths(track: Track) -> dict[str, str]:
    return {stem: os.fspath(path) for stem, path in track.outputs.items()}
