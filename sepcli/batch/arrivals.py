"""Which files have arrived in watched folders: new or changed, and no longer growing.

Knows names, sizes and dates; opens no file. It looks when it is told to, and needs nobody who reports changes:

    look        search the folders; what is new, or not as it was handed out, is to be watched
    settled     what has kept its size and dates for `settle` seconds is handed out, once

A file is known by its path, and forgotten when it is gone: memory holds one line for each file that is there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sepcli.batch.inputs import STDIN, Source, find_inputs
from sepcli.errors import InputError, SepcliError, UsageError, from_os, parameter

# Size in bytes, date of the content, and of the file's entry (its rights, its name), in ns.
Stamp = tuple[int, ...]


class Arrivals:
    """The files of these folders.

    settle: seconds. UsageError where a folder is none, or is the output folder; InputError where it is not
    there, or holds stems.
    """

    def __init__(self, folders: Sequence[str], out: Path, suffixes: Collection[str], *, settle: float):
        self.folders, self.out, self.suffixes, self.settle = tuple(folders), out, suffixes, settle
        for folder in self.folders:
            _check_folder(folder)
        for argument, problem in find_inputs(self.folders, out, frozenset()).failures:
            if argument in self.folders and problem.code != "no_audio":
                raise problem
        self._disks = {folder: os.stat(folder).st_dev for folder in self.folders}
        self._settling: dict[str, tuple[Source, Stamp, float]] = {}  # by path, since when it is like this
        self._known: dict[str, Stamp] = {}  # by path, as it was handed out
        self._told: set[str] = set()  # folders that can't be read, of which that was said

    @property
    def waiting(self) -> bool:
        """Whether a file may still be growing."""
        return bool(self._settling)

    def check(self) -> None:
        """InputError where a folder has vanished, or another disk stands in its place."""
        for folder, disk in self._disks.items():
            try:
                status = os.stat(folder)
                gone = not stat.S_ISDIR(status.st_mode) or status.st_dev != disk
            except OSError:
                gone = True
            if gone:
                raise InputError(
                    f"The watched folder '{folder}' is gone: removed, renamed or unmounted.",
                    remedy="Bring it back, then give the same command again: it goes on where it stopped.",
                    code="folder_gone",
                )

    def look(self, now: float, is_output: Callable[[Path], bool]) -> list[tuple[str, SepcliError]]:
        """Search the folders. Returns folders below them that can't be read, with the reason, once each.

        now: in seconds. is_output: whether a file is one of ours, and so none of theirs.
        """
        found = find_inputs(self.folders, self.out, self.suffixes)
        here = set()
        for source in found.sources:
            name, stamp = source.name, _stamp(source)
            if source.path is None or source.once or stamp is None or is_output(source.path):
                continue
            here.add(name)
            if name not in self._settling and self._known.get(name) not in (stamp, stamp[:2]):
                self._settling[name] = (source, stamp, now)
        for gone in self._known.keys() - here:
            del self._known[gone]
        unread = {name: problem for name, problem in found.failures if problem.code == "unreadable"}
        new = [(name, problem) for name, problem in unread.items() if name not in self._told]
        self._told = set(unread)
        return new

    def settled(self, now: float) -> list[Source]:
        """The files that have arrived, in the order in which they were found."""
        ready = []
        for name, (source, before, since) in list(self._settling.items()):
            if now - since < self.settle:
                continue
            stamp = _stamp(source)
            if stamp is not None and stamp != before:
                self._settling[name] = (source, stamp, now)
                continue
            del self._settling[name]
            if stamp is not None:
                ready.append(source)
                self._known[name] = stamp
        return ready

    def done(self, name: str) -> None:
        """The file was separated: only another content makes it an arrival again, other rights don't."""
        if name in self._known:
            self._known[name] = self._known[name][:2]


def _check_folder(folder: str) -> None:
    """UsageError where it is something else. What is not there is find_inputs' to report."""
    if folder != STDIN:
        try:
            if stat.S_ISDIR(os.stat(folder).st_mode):
                return
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os(error, folder, reading=InputError) from error
    what = "Standard input" if folder == STDIN else f"'{folder}'"
    raise UsageError(
        f"{what} is no folder, and {parameter('watch', True)} waits for files in folders.",
        remedy=f"Name a folder, or leave {parameter('watch', True)} out.",
    )


def _stamp(source: Source) -> Stamp | None:
    """By which a change is seen; None where the file is gone."""
    try:
        status = os.stat(source.name)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
