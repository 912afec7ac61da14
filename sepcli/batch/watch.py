"""Separate files as they arrive in folders, with one model, until somebody stops it.

Knows when to look and how later files are named; which files have arrived is arrivals.py's, the work jobs.py's.
watchfiles only says that it is time to look. Where it can't (a network share, no inotify watches left), the
folders are searched every LOOK_SECONDS all the same: a search is the truth, an event is a hint.

Names. In an ordinary run they follow from all inputs together, which are not known here. So a track keeps the
names under which the manifest has it, and a new one gets none that the manifest has for another input. Nothing
else is remembered, and a watch that is started again names, and skips, as it did before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from sepcli.batch import jobs
from sepcli.batch.arrivals import Arrivals
from sepcli.batch.inputs import Source
from sepcli.batch.lines import Record
from sepcli.batch.manifest import Manifest
from sepcli.batch.names import Named, Owner, Track, name_sources
from sepcli.batch.request import Batch
from sepcli.batch.results import FAILED, Listener, Result
from sepcli.errors import OutputError, UsageError, first_line, parameter, require

SETTLE_SECONDS = 5.0  # for so long a file has kept its size and dates when it is separated
TICK_SECONDS = 1.0  # between two looks at what may still be growing
LOOK_SECONDS = 30.0  # between two searches of the folders where nothing reports a change
REST = 9  # so many times the time of the last search goes by before the next: it takes a tenth of the time


def watch(
    batch: Batch,
    folders: Sequence[str],
    suffixes: Collection[str],
    listener: Listener,
    named: Named | None = None,
) -> Iterator[Result]:
    """Separate what is in the folders and what arrives there; yields a Result for each file.

    batch: without inputs. suffixes: of the files that are looked for. named: as of `jobs.run`.

    It ends by an exception (KeyboardInterrupt), or after a Result whose error is an OutputError, as nothing
    more could be written. A SepcliError out of it is the whole run's: InputError where a folder vanishes,
    DeviceError where watchfiles is not installed.
    """
    require("watchfiles")
    out, template = batch.request.out, batch.request.template
    if "{tracknumber}" in template:
        raise UsageError(
            f"{parameter('template', template)} numbers all inputs, and {parameter('watch', True)} does not "
            "know them yet.",
            remedy="Leave {tracknumber} out.",
            code="template",
        )
    arrivals = Arrivals(folders, out, suffixes, settle=SETTLE_SECONDS)
    with jobs.opened(batch, listener, named) as job:
        job.prepare()
        is_output = _outputs(job.manifest, folders)
        next_look, noticed, idle = clock(), True, False
        for changed in changes(folders, out, listener):
            arrivals.check()
            noticed |= changed
            began = clock()
            if began >= next_look + (0 if noticed else LOOK_SECONDS):
                noticed = False
                for name, problem in arrivals.look(began, is_output):
                    yield Result(name, FAILED, error=problem)
                next_look = clock() + REST * (clock() - began)
            if ready := arrivals.settled(clock()):
                idle, full = False, False
                tracks = _named(job.named, ready, job.manifest, listener)
                listener.arrived(tracks)
                for result in job.carry_out(tracks, alone=True):
                    if result.status != FAILED:
                        arrivals.done(result.input)
                    full |= isinstance(result.error, OutputError)
                    yield result
                if full:
                    return
            if not idle and not arrivals.waiting:
                idle = True
                listener.waiting(folders)


def clock() -> float:
    """Seconds that only go forward."""
    return time.monotonic()


def changes(folders: Sequence[str], out: Path, listener: Listener) -> Iterator[bool]:
    """True where something may have changed in the folders, False after TICK_SECONDS; for ever.

    What changes in the output folder does not count.
    """
    from watchfiles import watch as events

    yield True
    places = [os.path.realpath(folder) for folder in folders]
    ours = os.path.join(os.path.realpath(out), "")
    first = True  # what came before the system was asked to report changes was not reported
    try:
        for found in events(
            *places,
            watch_filter=None,
            rust_timeout=int(1000 * TICK_SECONDS),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            yield first or any(not path.startswith(ours) for _, path in found)
            first = False
    except (OSError, RuntimeError) as error:
        # Too many folders, a file system without events, or the folder is gone.
        reason = first_line(error)
    else:
        reason = "watchfiles has ended"
    if all(map(os.path.isdir, places)):
        listener.notice(
            f"The system reports no changes ({reason}), so the folders are searched every {LOOK_SECONDS:g} s."
        )
    while True:
        yield False
        time.sleep(TICK_SECONDS)


def _outputs(manifest: Manifest, folders: Sequence[str]) -> Callable[[Path], bool]:
    """Tells whether a file was made by us. That is asked only of folders inside the output folder.

    A search leaves the output folder itself out, wherever it is.
    """
    place = os.path.join(os.path.realpath(manifest.folder), "")
    if not any(os.path.realpath(folder).startswith(place) for folder in folders):
        return lambda path: False

    def is_output(path: Path) -> bool:
        real = os.path.realpath(path)
        return real.startswith(place) and manifest.record_of(manifest.folder / real[len(place) :]) is not None

    return is_output


# --- names ---


def _named(named: Named, sources: Sequence[Source], manifest: Manifest, listener: Listener) -> list[Track]:
    """The tracks of files that have arrived together."""
    manifest.refresh()  # other processes may work on the same folders
    paths, notices = name_sources(named.batch, named.stems, sources, _owner(manifest))
    for text in notices:
        listener.notice(text)
    return [Track(*pair) for pair in zip(sources, paths, strict=True)]


def _owner(manifest: Manifest) -> Owner:
    """Whose the stems under some paths are, as the manifest has it."""

    def owner(source: Source, outputs: Mapping[str, Path]) -> bool | None:
        records = [record for path in outputs.values() if (record := manifest.record_of(path)) is not None]
        return all(_is_of(record, source, manifest) for record in records) if records else None

    return owner


def _is_of(record: Record, source: Source, manifest: Manifest) -> bool:
    """Whether it was made from this input: by its path, or by its content where that path is no more."""
    assert source.path is not None
    if record.input.path == os.path.realpath(source.path):
        return True
    if os.path.exists(record.input.path):
        return False
    try:
        return record.input.sha256 == manifest.identify(source.path).sha256
    except OSError:  # it can't be read, and fails with its reason when its turn comes
        return False
