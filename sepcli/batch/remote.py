"""A run's output folder at an address, and the manifest in it.

Knows what a job asks of an output folder, and what its manifest is like there; how files get there whole is
system/remote.py's. Stems are written in a work folder of this machine, and put under their final names when all
of the track is complete. Workers on other machines put theirs aside, and who has the manifest names them.

    s3://bucket/stems/htdemucs/song/vocals.wav    complete, always
    s3://bucket/stems/.sepcli/6f1c....json        how these files were made: one line of a manifest
    s3://bucket/stems/.sepcli/begin-6f1c....json  the same while they get their names
    s3://bucket/stems/.sepcli/aside/RUN/5d20...   complete, without a name yet: what a worker has made

Nothing can be appended to an object, so each line of the manifest (manifest.py) is an object of its own. It is
named by the outputs that it is about: what is made again replaces its line, and the folder does not grow. All
are read when a run begins. "claim" lines are not written, since objects have no locks: two runs over one folder
do not divide the work. Before a track its own files and lines are looked at once more, so what another run has
finished is skipped.

Paths. Names are decided on paths (names.py), so the folder has one too, `RemoteOut.path`. Nothing is ever
there: only `shown` and `Storage` know what it stands for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from sepcli.batch.lines import Output
from sepcli.batch.manifest import MANIFEST_NAME, Manifest
from sepcli.errors import OutputError
from sepcli.system.remote import RemoteFile, Storage

FOLDER = ".sepcli"  # of the manifest's lines, in the output folder
_TRIED = f"{FOLDER}/writable"  # there for a moment when a run begins, to see whether it can write
_ASIDE = f"{FOLDER}/aside"
_OLD_SECONDS = 24 * 3600.0  # for so long nothing waits for its name: what is older, a killed run has left


class RemoteOut:
    """The output folder at the address `url`. UsageError, DeviceError as of Storage."""

    def __init__(self, url: str):
        self.storage = Storage(url, writing=True)
        self.url = self.storage.url
        self.path = Path(self.url)
        self.files: dict[str, RemoteFile] = {}  # below it, by their path from there, as they were last seen
        self._aside = f"{_ASIDE}/{os.urandom(8).hex()}"  # of this run

    def __getstate__(self) -> dict[str, Any]:
        """For workers elsewhere, who put files aside and look at none."""
        return {**self.__dict__, "files": {}}

    @property
    def work(self) -> Path:
        """The folder of this machine in which unfinished files are."""
        return Path(tempfile.gettempdir())

    def shown(self, path: Path) -> str:
        """The address that a path in the folder stands for."""
        return self.storage.shown(self._relative(path))

    def key(self, path: Path) -> tuple[str, str]:
        """Equal to that of the RemoteFile that is at the path."""
        return self.storage.key(self.storage.at(self._relative(path)))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def check_writable(self) -> None:
        """Write a small file, then remove it. OutputError where it can't be written."""
        self.storage.write(_TRIED, b"")
        with contextlib.suppress(OutputError):  # who may write may perhaps not remove
            self.storage.remove(_TRIED)

    def look(self) -> None:
        """See what is there."""
        self.files = self.storage.find()

    def look_again(self, relatives: Collection[str]) -> None:
        """See what these files are now."""
        found = self.storage.look(relatives)
        for name in relatives:
            self.files.pop(name, None)
        self.files |= found

    def publish(self, files: Sequence[tuple[Path, Path]]) -> None:
        """Put a track's finished files under their final names, all or, on an error, none: as locally.

        files: (unfinished file, final path) pairs, also of what was put aside. Where new ones can't be removed
        after an error, the manifest has them as begun, and the next run replaces them.
        """
        new = {final for _, final in files if self._relative(final) not in self.files}
        placed = []

        def place(unfinished: Path, final: Path) -> None:
            relative = self._relative(final)
            if self._is_aside(unfinished):
                self.files[relative] = self.storage.rename(unfinished.as_posix(), relative)
            else:
                self.files[relative] = self.storage.put(unfinished, relative)
            placed.append(final)

        try:
            if all(self._is_aside(unfinished) for unfinished, _ in files):  # small requests
                self.storage.each(lambda pair: place(*pair), files)
            else:
                for unfinished, final in files:
                    place(unfinished, final)
        except BaseException:
            with contextlib.suppress(OutputError):
                for final in new.intersection(placed):
                    self.remove(final)
            raise

    def _is_aside(self, unfinished: Path) -> bool:
        return unfinished.as_posix().startswith(f"{self._aside}/")

    def put_aside(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Put a worker's finished files (by stem) there without names, for `publish` by another process.

        OutputError, and nothing is there, where one can't be put there whole.
        """
        placed: dict[str, Path] = {}
        try:
            for stem, file in files.items():
                placed[stem] = Path(self._aside, os.urandom(16).hex())
                self.storage.put(file, placed[stem].as_posix())
        except BaseException:
            with contextlib.suppress(OutputError):
                for name in placed.values():
                    self.storage.remove(name.as_posix())
            raise
        return placed

    def clear_aside(self) -> None:
        """Remove what is still aside, of this run and of such as were killed long ago."""
        for name, file in self.storage.find(_ASIDE).items():
            old = file.date is not None and file.date < time.time() - _OLD_SECONDS
            if old or name.startswith(f"{self._aside}/"):
                self.storage.remove(name)

    def remove(self, final: Path) -> None:
        """Remove a file of an earlier run, if it is there."""
        relative = self._relative(final)
        if relative in self.files:
            self.storage.remove(relative)
            del self.files[relative]


class RemoteManifest(Manifest):
    """The manifest of a folder at an address. What stands there is known by size and stamp."""

    def __init__(self, out: RemoteOut):
        self.out = out
        self._known: dict[str, int] = {}  # stamps of the lines that were read, by name
        super().__init__(out.path)

    def refresh(self) -> None:
        """Read all lines, the first time. Later `claim` looks at those of one track."""
        if not self._opened:
            self.out.look()
            self._read(name for name in self.out.files if _is_line(name))

    def _read(self, names: Iterator[str]) -> None:
        """Take in these lines, as far as they are new, in the order in which they were written."""
        new = [name for name in names if self._known.get(name) != self.out.files[name].stamp]
        self._known |= {name: self.out.files[name].stamp for name in new}
        lines = []
        for content in self.out.storage.read(new).values():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                line = json.loads(content)
                lines.append((line["at"], line))
        for _, line in sorted(lines, key=lambda each: each[0]):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(line)

    def there(self, output: Path) -> bool:
        return self.relative(output) in self.out.files

    def date(self, file: Path) -> int | None:
        if not file.is_relative_to(self.folder):
            return None  # not there yet
        found = self.out.files.get(self.relative(file))
        return None if found is None else found.stamp

    def _compared(self, path: Path, noted: Output) -> tuple[bool, bool]:
        found = self.out.files.get(self.relative(path))
        if noted.left_out:
            return found is None, found is None
        if found is None:
            return False, False
        return found.size == noted.bytes, noted.mtime_ns in (None, found.stamp)

    def claim(self, outputs: Collection[Path], by: str, alive: Callable[[str], bool]) -> str | None:
        """See what these outputs are now; nobody is kept from them."""
        relatives = [self.relative(path) for path in outputs]
        lines = [f"{FOLDER}/{name}" for name in _names(relatives)]
        self.out.look_again([*relatives, *lines])
        self._read(name for name in lines if name in self.out.files)
        return None

    def release(self, outputs: Collection[Path]) -> None:
        pass

    def _append(self, line: Mapping[str, Any]) -> None:
        """Write a line as an object of its own, and take it in."""
        line = {**line, "at": time.time_ns()}
        if line["kind"] == "input":
            name = f"input-{_digest([line['input']['path']])}.json"
        else:
            done, begun = _names([output["path"] for output in line["outputs"]])
            name = done if line["kind"] == "done" else begun
        self.out.storage.write(f"{FOLDER}/{name}", json.dumps(line, default=str).encode())
        self._take(json.loads(json.dumps(line, default=str)))
        if line["kind"] == "done":
            with contextlib.suppress(OutputError):  # it is older than what is done, and counts for nothing
                self.out.storage.remove(f"{FOLDER}/{begun}")


def _names(outputs: Collection[str]) -> tuple[str, str]:
    """Of the lines about these outputs: when they are done, and while they get their names."""
    digest = _digest(outputs)
    return f"{digest}.json", f"begin-{digest}.json"


def _digest(texts: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(texts)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _is_line(name: str) -> bool:
    return name.startswith(f"{FOLDER}/") and name.endswith(".json")


def holds_stems(names: Collection[str]) -> set[str]:
    """The folders among files (by their path from somewhere) that hold a manifest; "" for somewhere itself."""
    found = {
        name.removesuffix(MANIFEST_NAME).rstrip("/") for name in names if PurePath(name).name == MANIFEST_NAME
    }
    for name in names:
        folder, mark, line = f"/{name}".rpartition(f"/{FOLDER}/")
        if mark and _is_line(f"{FOLDER}/{line}"):
            found.add(folder.lstrip("/"))
    return found
