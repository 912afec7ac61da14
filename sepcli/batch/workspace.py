"""One hidden folder a run, in the output folder, for everything unfinished; and the step out of it.

Knows files and folders, no audio. Stems are written, and spooled, inside the work folder: on the file system
of their final names, so that `publish` only renames.

    OUT/.sepcli-work-k3j9x2/lock           held by the living process, by nobody after its death
    OUT/.sepcli-work-k3j9x2/1/vocals.wav   a track being written
    OUT/song/vocals.wav                    complete, always

Leftovers. However a process ends, the kernel lets go of its lock. `Workspace` therefore removes, when it
opens, every work folder in the same place that is not locked: no process number is compared, so containers,
other hosts on one network folder and reused numbers can't mislead it. Where a file system has no locks,
leftovers stay rather than risk a living run's files.

Flushing. Each file is flushed to the disk once, complete, before any file of the track gets its final name;
then the folders that hold the names. So a final name never stands for data that a power cut can take away,
and errors that a network disk reports late are reported in time. Nothing is flushed while audio streams, and
spools never are: they mean nothing after a crash.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sepcli.errors import from_os
from sepcli.system.files import NO_LOCKS

PREFIX = ".sepcli-work-"
_LOCK = "lock"
_BIRTH_SECONDS = 60.0  # a work folder younger than this may be without its lock file yet


class Workspace:
    """The hidden folder of one run; a context manager. `track()` gives each track a folder inside it.

    folder: the output folder; made where it is missing. Leftovers of dead processes in it are removed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._numbers = itertools.count(1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            self.path, self._lock = _make_locked(folder)
        except OSError as error:
            raise from_os(error, folder) from error

    @contextlib.contextmanager
    def track(self) -> Iterator[Path]:
        """Yields a folder for the unfinished files of one track. It is removed afterwards, whatever happens."""
        path = self.path / str(next(self._numbers))
        try:
            path.mkdir()
        except OSError as error:
            raise from_os(error, path) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def name(self) -> str:
        """The name of the work folder, by which other processes know this run (`is_alive`)."""
        return self.path.name

    def close(self) -> None:
        """Remove the work folder with all that is in it. Nobody takes it for a leftover meanwhile."""
        if os.name == "nt":  # removes no open file
            self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_alive(folder: Path, name: str) -> bool:
    """Whether the work folder `name` in the output folder belongs to a process that runs.

    False also where the file system has no locks, by which that could be told.
    """
    path = folder / name / _LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except NO_LOCKS:
        return False
    lock.release()
    return False


def _make_locked(folder: Path) -> tuple[Path, FileLock]:
    """A new work folder and its lock, which this process holds; not held where the file system has no locks."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        lock = FileLock(path / _LOCK, thread_local=False)
        try:
            lock.acquire()
        except NO_LOCKS:  # then leftovers stay
            if path.is_dir():
                return path, lock
        # Between the two steps above another process may have taken this folder for a leftover.
        if (path / _LOCK).exists():
            return path, lock
        lock.release()
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path) -> int:
    """Remove the work folders of dead processes in `folder`. Returns how many there were."""
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(Timeout, *NO_LOCKS):  # alive; another user's; no locks to tell by
            removed += _remove_if_dead(path)
    return removed


def _remove_if_dead(path: Path) -> bool:
    """Timeout where a living process holds the folder."""
    lock = FileLock(path / _LOCK)
    if not (path / _LOCK).exists():
        if time.time() - path.stat().st_mtime < _BIRTH_SECONDS:
            return False
        shutil.rmtree(path)
        return True
    lock.acquire(timeout=0)
    try:
        if os.name == "nt":  # removes no open file
            lock.release()
        shutil.rmtree(path)
    finally:
        lock.release()
    return True


def flush(path: Path) -> int:
    """Make sure that a finished file is on the disk; its size in bytes. OutputError where it is not.

    Errors that a network disk reports late come up here, before the file has its final name.
    """
    try:
        _flush(path)
        return path.stat().st_size
    except OSError as error:
        raise from_os(error, path) from error


def publish(files: Sequence[tuple[Path, Path]]) -> None:
    """Give a track's finished files their final names, all or, on an error, none.

    files: (unfinished path, final path) pairs, flushed to the disk. An existing final file is replaced: whether
    that is allowed was decided before the work. OutputError where a name can't be given.
    """
    placed: list[Path] = []
    if not files:
        return
    final = files[0][1]  # what an error is about
    try:
        for unfinished, final in files:
            final.parent.mkdir(parents=True, exist_ok=True)
            is_new = not final.exists()
            _place(unfinished, final)
            if is_new:  # one that was replaced is gone anyway: better the new one than none
                placed.append(final)
        for folder in {final.parent for _, final in files}:
            _flush_folder(folder)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os(error, final) from error
        raise


def remove(final: Path) -> None:
    """Remove a file of an earlier run, if it is there; OutputError where that can't be."""
    try:
        final.unlink(missing_ok=True)
    except OSError as error:
        raise from_os(error, final) from error


def _place(unfinished: Path, final: Path) -> None:
    try:
        os.replace(unfinished, final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder inside the output folder is on another disk: copy beside the final name, then rename.
        descriptor, beside = tempfile.mkstemp(prefix=PREFIX, dir=final.parent)
        os.close(descriptor)
        try:
            shutil.copyfile(unfinished, beside)
            shutil.copystat(unfinished, beside)  # with its date, by which it is known again
            _flush(Path(beside))
            os.replace(beside, final)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


def _flush(path: Path) -> None:
    with open(path, "r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that can't flush
                raise


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # names are journalled; a folder can't be opened
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
