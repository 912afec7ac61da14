"""Which files an INPUT argument means: a file, every audio file in a folder, or standard input.

A file or folder may be at an address (system/remote.py); a folder there is searched by the same rules.

Knows names and folders only; what a file holds is for `sound` to say. A scan of a folder

- takes every suffix of audio and video, in any case (a file that can't be read is an input too: it fails with
  its reason instead of being left out in silence);
- goes through links to folders once, so a link that leads back up is no trap;
- never enters the output folder, a hidden folder, or a folder that holds a manifest: those are stems;
- comes back in one order everywhere, by name, folder by folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from sepcli.batch.manifest import MANIFEST_NAME
from sepcli.errors import InputError, SepcliError, UsageError, from_os, near, parameter
from sepcli.system.remote import RemoteFile, Storage, is_remote, scheme

STDIN = "-"
STDIN_TRACK = "stdin"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to separate.

    file: where to read it; None = standard input, or a file at an address. below: its path below its INPUT
    folder, so "A/song.wav" for albums/A/song.wav given as albums/; only the name for a file given itself.
    Texts, not paths: there may be a million, and a Path takes three times the memory.
    """

    file: str | None
    given: str  # the argument that led here
    below: str  # with forward slashes
    pipe: bool = False  # can be read only once: a named pipe, <(...) of a shell
    remote: RemoteFile | None = None  # at an address: it has to be fetched

    @property
    def path(self) -> Path | None:
        """Where to read it."""
        return None if self.file is None else Path(self.file)

    @property
    def relative(self) -> PurePosixPath:
        """Its path below its INPUT folder."""
        return PurePosixPath(self.below)

    @property
    def name(self) -> str:
        """Its name in messages and results."""
        if self.remote is not None:
            return self.remote.url
        return STDIN if self.file is None else self.file

    @property
    def absolute(self) -> str:
        """The same for whatever name it was given by, through links: its real path, or its address."""
        return self.name if self.file is None else os.path.realpath(self.file)

    @property
    def once(self) -> bool:
        """Whether it can be read only once, so that it has to be copied to a file first."""
        return self.remote is None and (self.file is None or self.pipe)

    @property
    def track(self) -> str:
        """The name for its folder of stems: the file's name without suffix, or "stdin"."""
        return STDIN_TRACK if self.file is None and self.remote is None else self.relative.stem

    @property
    def suffix(self) -> str:
        """Without the dot: "flac"; "" for standard input."""
        return "" if self.file is None and self.remote is None else self.relative.suffix.lstrip(".")

    @property
    def parent(self) -> str:
        """The name of the folder that holds it; "" where it has none."""
        if self.remote is not None:
            return PurePosixPath(self.remote.path).parent.name
        return "" if self.file is None else os.path.basename(os.path.dirname(os.path.abspath(self.file)))


@dataclass
class Found:
    """The files that were found, and the arguments that failed: each of these has a result."""

    sources: list[Source] = field(default_factory=list)
    failures: list[tuple[str, SepcliError]] = field(default_factory=list)  # (argument, why)
    notices: list[str] = field(default_factory=list)


def find_inputs(
    arguments: Sequence[str], out: Path | None, suffixes: Collection[str], *, remote: Storage | None = None
) -> Found:
    """The files that `arguments` mean, each once, in the order given.

    out: the output folder, None where nothing is written to one. suffixes: lower case, with the dot.
    remote: the output folder, where that is at an address.
    """
    found = Found()
    seen: dict[int, str] = {}  # hash of the real path -> how it was named first
    for argument in arguments:
        try:
            sources = list(_expand(argument, out, suffixes, found.failures, remote))
        except SepcliError as problem:
            if problem.exit_code != InputError.exit_code:
                raise
            found.failures.append((argument, problem))
            continue
        for source in sources:
            key = hash(source.name if source.file is None else _identity(source.file))
            if key in seen:
                again = "" if seen[key] == source.name else f" (first as {seen[key]})"
                found.notices.append(f"{source.name} is given more than once{again}; it is separated once.")
                continue
            seen[key] = source.name
            found.sources.append(source)
    return found


def _expand(
    argument: str,
    out: Path | None,
    suffixes: Collection[str],
    failures: list[tuple[str, SepcliError]],
    remote: Storage | None,
) -> Iterator[Source]:
    if argument == STDIN:
        yield Source(None, STDIN, STDIN_TRACK)
        return
    path = Path(argument)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if is_remote(argument):
            yield from _expand_remote(argument, suffixes, remote)
            return
        if not isinstance(error, FileNotFoundError):
            raise from_os(error, argument, reading=InputError) from None
        if scheme(argument):
            raise _address(argument) from None
        raise InputError(f"'{argument}' does not exist.", code="missing", remedy=_likely(path)) from None
    if not stat.S_ISDIR(mode):
        pipe = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
        yield Source(str(path), argument, path.name, pipe)
        return
    unread = len(failures)
    sources = list(_scan_root(path, out, suffixes, failures))
    if not sources and len(failures) == unread:
        raise _no_audio(argument)
    yield from sources


def _no_audio(argument: str) -> InputError:
    return InputError(
        f"The folder '{argument}' holds no audio file.",
        code="no_audio",
        remedy="Hidden folders, the output folder and folders of stems are not searched; a file with "
        "another suffix can be given itself.",
    )


def _expand_remote(argument: str, suffixes: Collection[str], out: Storage | None) -> Iterator[Source]:
    """The same for an address, whose files are listed at once."""
    from sepcli.batch.remote import FOLDER, holds_stems

    storage = Storage(argument)
    if not argument.endswith("/") and storage.is_file():
        file = storage.file(storage.root, storage.url)
        yield Source(None, argument, PurePosixPath(file.path).name, remote=file)
        return
    files = storage.find()
    closed = holds_stems(files)
    if out is not None and out.protocol == storage.protocol:
        if out.root == storage.root:
            raise _input_is_output(argument)
        if out.root.startswith(f"{storage.root}/"):
            closed.add(out.root[len(storage.root) + 1 :])
    if "" in closed:
        raise _holds_stems(argument, FOLDER)
    found = []
    for name, file in files.items():
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") for part in path.parts)
        if not hidden and path.suffix.lower() in suffixes and closed.isdisjoint(map(str, path.parents)):
            found.append(Source(None, argument, str(path), remote=file))
    if not found:
        raise _no_audio(argument)
    yield from sorted(found, key=_in_order)


def _in_order(source: Source) -> tuple[tuple[bool, str], ...]:
    """As a local folder is walked: the files of a folder by name, then the folders in it."""
    *folders, name = source.relative.parts
    return (*((True, folder) for folder in folders), (False, name))


def _address(argument: str) -> InputError:
    """The error of an address of the network, or of a file as a desktop writes it, in the place of a path."""
    if argument.lower().startswith("file://"):
        from urllib.request import url2pathname  # slow to import

        path = url2pathname(urlsplit(argument).path)
        return InputError(
            f"'{argument}' is an address, not a path.", code="address", remedy=f"Give its path: '{path}'."
        )
    return InputError(
        f"'{argument}' is an address, not a file.",
        code="address",
        remedy="Download it first, for example with `yt-dlp -x ADDRESS` or `curl -LO ADDRESS`, and then "
        "separate the file.",
    )


def _likely(path: Path) -> str:
    """A remedy for a path that does not exist: nor does its folder, or a name in the folder is similar."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder '{folder}' does not exist either." if str(folder) != "." else ""
    found = []
    with contextlib.suppress(OSError):
        found = near(path.name, os.listdir(folder))
    return f"Did you mean '{folder / found[0]}'?" if found else "Check the path."


def _scan_root(
    root: Path, out: Path | None, suffixes: Collection[str], failures: list[tuple[str, SepcliError]]
) -> Iterator[Source]:
    if out is not None and _identity(root) == _identity(out):
        raise _input_is_output(root)
    if (root / MANIFEST_NAME).exists():
        raise _holds_stems(root, MANIFEST_NAME)
    closed = {_identity(out)} if out is not None else set()
    given = str(root)
    for path in _walk(root, closed, suffixes, failures):
        yield Source(str(path), given, path.relative_to(root).as_posix())


def _input_is_output(folder: Path | str) -> UsageError:
    return UsageError(
        f"The input folder '{folder}' is the output folder too; its stems would be inputs of the next run.",
        remedy=f"Choose another folder with {parameter('out')}.",
        code="input_is_output",
    )


def _holds_stems(folder: Path | str, manifest: str) -> InputError:
    return InputError(
        f"The folder '{folder}' holds stems that sepcli made ({manifest} in it); a scan leaves those out.",
        remedy="Name the files in it to separate them again.",
        code="stems_folder",
    )


def _walk(
    folder: Path, closed: set[str], suffixes: Collection[str], failures: list[tuple[str, SepcliError]]
) -> Iterator[Path]:
    """Audio files below `folder`. closed: real paths not to enter; grows by every folder entered.

    A folder that can't be read is one failure; the scan goes on beside it.
    """
    closed.add(_identity(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        failures.append(
            (
                str(folder),
                InputError(
                    f"The folder '{folder}' can't be read: {error.strerror or error}.",
                    code="unreadable",
                    remedy="Check its permissions.",
                ),
            )
        )
        return
    folders, links = [], []
    for entry in entries:
        if entry.name.startswith("."):  # hidden; ._song.wav is macOS's shadow of a file, not audio
            continue
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(folder / entry.name)
            elif entry.is_file() and Path(entry.name).suffix.lower() in suffixes:
                yield folder / entry.name
        except OSError:  # a link in a circle with itself: neither file nor folder
            continue
    for inner in [*folders, *links]:  # links last: a folder is found by its own name where it has one here
        if _identity(inner) not in closed and not (inner / MANIFEST_NAME).exists():
            yield from _walk(inner, closed, suffixes, failures)


def _identity(path: Path | str) -> str:
    """Equal for two names of one file or folder, through links and, where the system folds it, case."""
    return os.path.normcase(os.path.realpath(path))


class Originals:
    """The inputs of a run. It tells whether writing a file would destroy one of them."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        self._paths: set[int] = set()  # hashes, since there may be a million
        self._inodes: set[int] = set()
        for source in sources:
            if source.file is None:
                continue
            self._paths.add(hash(_identity(source.file)))
            with contextlib.suppress(OSError):
                status = os.stat(source.file)
                self._inodes.add(hash((status.st_dev, status.st_ino)))

    def at(self, output: Path) -> Source | None:
        """The input that is this file: by name, through links, or by a hard link."""
        try:
            status = os.stat(output)
        except OSError:  # nothing is there
            return None
        path = _identity(output)
        if hash((status.st_dev, status.st_ino)) not in self._inodes and hash(path) not in self._paths:
            return None
        for source in self._sources:
            if source.file is not None and (_identity(source.file) == path or _are_one(source.file, output)):
                return source
        return None


def _are_one(file: str, other: Path) -> bool:
    try:
        return os.path.samefile(file, other)
    except OSError:
        return False


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a batch, numbered from 1."""

    index: int
    count: int

    def has(self, relative: str) -> bool:
        """Whether an input of this relative path is in this part: the same on every machine, and for any
        set of other inputs, so that each process may scan for itself."""
        digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """ "2/8" -> Shard(2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"'{text}' is not a shard: I/N is needed, with I from 1 to N.",
            remedy="Give 1/4, 2/4, 3/4 and 4/4 to four processes, for example.",
        )
    return Shard(int(match[1]), int(match[2]))
