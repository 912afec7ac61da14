"""What stands in an output folder and how it was made: `.sepcli.jsonl`, and the hashes that identify it.

Knows nothing of audio or models. The manifest is a log of JSON lines that is only ever appended to, one
write under a lock for each line, so that several processes may share a folder and a kill leaves at most one
torn last line, which is ignored. What the lines say is lines.py's; of two the later one wins.

"begin" is why a run that was killed between two final names can be repeated without --force: what then
stands there is known to be ours, be it the old file or the new one. "claim" is why two runs over one folder
divide the work: a track that a living run has claimed is left to it.

Each output has its size, its date, and in `made` what its samples depend on. So each file by itself is known
as ours, as untouched, and as what another run would make, whatever else its run has written.

Only the last lines, up to IN_MEMORY bytes, are here as records. Those before are looked up in the file when
they are asked for (oldlines.py), so that a million tracks take hardly more memory than a thousand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sepcli.batch.lines import (
    BROKEN,
    Claim,
    InputId,
    Output,
    Record,
    Settings,
    claim_line,
    input_line,
    meant,
    record_line,
    settings_line,
)
from sepcli.batch.oldlines import BLOCK, OldLines
from sepcli.errors import OutputError, from_os
from sepcli.system.files import NO_LOCKS, content_sha256

if TYPE_CHECKING:
    from filelock import FileLock

MANIFEST_NAME = ".sepcli.jsonl"
_DATE_GRAINS = (100, 1000, 1_000_000, 1_000_000_000, 2_000_000_000)  # ns, of dates on some file systems
LOCK_NAME = ".sepcli.jsonl.lock"
IN_MEMORY = 1 << 23  # bytes of lines that are kept as records: of some 2,000 tracks
_LOOKED_UP = 4096  # answers from older lines that are remembered


@dataclass(frozen=True)
class Standing:
    """A file in the output folder that sepcli has made."""

    record: Record  # of the run that made it
    output: Output
    untouched: bool  # its size and date are as recorded
    same_size: bool


def settings_hash(settings: Mapping[str, Any]) -> str:
    """16 hex digits that differ if any of the settings differs. The order of the keys does not matter."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Known:
    """What some lines say of a path. records: the last that is done, then those only begun since."""

    records: tuple[Record, ...] = ()
    input: InputId | None = None  # as an input

    def and_then(self, path: str, line: Record | InputId) -> _Known:
        """With one more line, which may be about other paths only."""
        records, identity = self.records, line if isinstance(line, InputId) else line.input
        if isinstance(line, Record) and any(output.path == path for output in line.outputs):
            records = (line,) if line.done else (*records, line)
        is_noted = identity.path == path and (isinstance(line, InputId) or line.done)
        return _Known(records, identity if is_noted else self.input)


class Manifest:
    """The manifest of one output folder. Reading needs no lock: lines are whole or the last one is torn."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / MANIFEST_NAME
        self._read_to = 0  # bytes
        self._opened_at: int | None = None  # `_read_to` when it was opened
        self._old = OldLines(self.path, self._said_before)
        self._looked_up: dict[str, _Known] = {}  # in older lines, by path
        self._made_with: dict[str, Mapping[str, Any]] = {}  # by settings hash: one for all tracks alike
        self._explained: set[str] = set()  # settings hashes that have a line of their own
        self._claims: dict[str, str] = {}  # output -> the run that works on it
        self._hashed: dict[str, InputId] = {}  # by path, of this process, and not in the file
        self._forget()
        self.refresh()
        self._opened_at = self._read_to

    def _forget(self) -> None:
        """Have no lines in memory."""
        self._by_output: dict[str, list[Record]] = {}  # the last that is done, then those only begun since
        self._by_content: dict[str, dict[str, str]] = {}  # made -> hash of the input -> the last such output
        self._sizes: set[int] = set()  # of all inputs that files were made from, bytes
        self._recorded: dict[str, InputId] = {}  # by path

    @property
    def _opened(self) -> bool:
        return self._opened_at is not None

    def refresh(self) -> None:
        """Take in what other processes have written since."""
        try:
            with open(self.path, "rb", buffering=BLOCK) as file:
                if os.fstat(file.fileno()).st_size - self._old.end > IN_MEMORY:
                    self._pass_on(file)
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn by a kill, or another process is at it: the next one begins on a new line
                    self._read_to += len(line)
                    with contextlib.suppress(*BROKEN):
                        self._take(json.loads(line))
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os(error, self.path, reading=OutputError) from error

    def _pass_on(self, file: BinaryIO) -> None:
        """Leave all lines in the file, those in memory and those not read yet.

        Of the latter settings count, and claims by runs that have a work folder: any other run has ended.
        """
        read = self._read_to
        counts = cache(lambda run: not run or (self.folder / os.fsdecode(run)).is_dir())
        told = self._old.take(file, counts)
        self._read_to = self._old.end
        self._forget()
        self._looked_up.clear()
        held = dict.fromkeys(self._claims, read)
        for place, line in told:
            with contextlib.suppress(*BROKEN):
                found = meant(json.loads(line), self._made_with, True)
                if isinstance(found, Settings):
                    self._explain(found)
                elif place >= read and isinstance(found, Claim) and counts(os.fsencode(found.by)):
                    self._hold(found)
                    held |= dict.fromkeys(found.outputs, place)
        if self._read_to > read:
            for path, since in held.items():
                lines = self._older("path", path)
                if any(place >= since and _is_done(line, path) for place, line in lines):
                    self._claims.pop(path, None)

    def _take(self, line: Mapping[str, Any]) -> None:
        """Take in a line that comes behind all others."""
        found = meant(line, self._made_with, self._opened)
        if isinstance(found, Settings):
            self._explain(found)
        elif isinstance(found, Claim):
            self._hold(found)
        elif isinstance(found, InputId):
            self._know(found)
        else:
            self._sizes.add(found.input.size)
            for output in found.outputs:
                before = [] if found.done else self._by_output.get(output.path, [])
                self._by_output[output.path] = [*before, found]
                self._by_content.setdefault(output.made, {})[found.input.sha256] = output.path
                if found.done:
                    self._claims.pop(output.path, None)
            if found.done:
                self._know(found.input)

    def _explain(self, line: Settings) -> None:
        self._made_with[line.settings] = line.made_with
        self._explained.add(line.settings)

    def _hold(self, claim: Claim) -> None:
        for path in claim.outputs:
            if claim.by:
                self._claims[path] = claim.by
            else:
                self._claims.pop(path, None)

    def _know(self, identity: InputId) -> None:
        """An input is in the file."""
        self._recorded[identity.path] = identity
        self._hashed.pop(identity.path, None)

    def _older(self, field: str, value: str) -> Iterator[tuple[int, Record | InputId]]:
        """What older lines say that have this value in that field, and perhaps some others, in their order.

        With their places in the file.
        """
        try:
            yield from self._old.lines(field, value)
        except FileNotFoundError:  # somebody has removed it meanwhile
            return
        except OSError as error:
            raise from_os(error, self.path, reading=OutputError) from error

    def _said_before(self, place: int, line: bytes) -> Record | InputId | None:
        """What an older line says of files."""
        with contextlib.suppress(*BROKEN):
            recent = self._opened_at is not None and place >= self._opened_at
            found = meant(json.loads(line), self._made_with, recent)
            return None if isinstance(found, Settings | Claim) else found
        return None

    def _look_up(self, path: str) -> _Known:
        """What older lines say of a path."""
        known = self._looked_up.get(path)
        if known is None:
            known = _Known()
            for _, found in self._older("path", path):
                known = known.and_then(path, found)
            while len(self._looked_up) >= _LOOKED_UP:
                del self._looked_up[next(iter(self._looked_up))]
            self._looked_up[path] = known
        return known

    def _records(self, path: str) -> tuple[Record, ...]:
        """The last record of an output that is done, then those only begun since."""
        newer = self._by_output.get(path, [])
        return tuple(newer) if newer and newer[0].done else (*self._look_up(path).records, *newer)

    def _input(self, path: str) -> InputId | None:
        """An input as the file has it."""
        return self._recorded.get(path) or self._look_up(path).input

    def record_of(self, output: Path) -> Record | None:
        """The last record of a file in the folder; None if sepcli did not make it."""
        records = self._records(self.relative(output))
        return records[-1] if records else None

    def standing(self, output: Path) -> Standing | None:
        """What is known of a file that is there; None if sepcli did not make it.

        A run that was killed may have left the file of the run before, so that all records since the last that
        is done are compared with it.
        """
        path = self.relative(output)
        records = self._records(path)
        found = None
        # What is known by its date first: by its size alone another file may seem to be the same.
        noted_by = [(record, next(e for e in record.outputs if e.path == path)) for record in reversed(records)]
        for record, noted in sorted(noted_by, key=lambda each: each[1].mtime_ns is None):
            same_size, same_date = self._compared(output, noted)
            standing = Standing(record, noted, same_size and same_date, same_size)
            if standing.untouched:
                return standing
            # A name that was not given, or only going to be, says nothing of the file that has it.
            if record.done and not noted.left_out:
                found = standing
        return found

    def is_left_out(self, output: Path) -> bool:
        """Whether there is no such file because its stem is silent."""
        standing = self.standing(output)
        return standing is not None and standing.output.left_out and standing.untouched

    def may_have(self, made: str, size: int | None) -> bool:
        """Whether a file may have been made in this way from an input of that size: told without reading it."""
        return (made in self._by_content or self._old_may_have("made", made)) and (
            size in self._sizes or (size is not None and self._old_may_have("size", size))
        )

    def _old_may_have(self, field: str, value: str | int) -> bool:
        try:
            return self._old.may_have(field, value)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise from_os(error, self.path, reading=OutputError) from error

    def there(self, output: Path) -> bool:
        """Whether a file is there, whoever made it."""
        return os.path.lexists(output)

    def date(self, file: Path) -> int | None:
        """The date of a finished file, by which it is known again; None where that is not known yet."""
        return file.stat().st_mtime_ns

    def _compared(self, path: Path, noted: Output) -> tuple[bool, bool]:
        """Whether size and date are as recorded. A copy may have a rounded date, to 2 s on FAT.

        Of a stem that was left out, whether there is no file.
        """
        if noted.left_out:
            absent = not os.path.lexists(path)
            return absent, absent
        try:
            status = path.stat()
        except OSError:
            return False, False
        same_size, date = status.st_size == noted.bytes, status.st_mtime_ns
        if noted.mtime_ns is None:
            return same_size, True
        apart = abs(date - noted.mtime_ns)
        same_date = apart == 0 or any(apart < grain and date % grain == 0 for grain in _DATE_GRAINS)
        return same_size, same_date

    def made(self, made: str, sha256: str) -> Path | None:
        """An untouched file of the input with that hash that was made in this way at its full level, if any."""
        path = self._by_content.get(made, {}).get(sha256) or self._made_before(made, sha256)
        standing = self.standing(self.folder / path) if made and path else None
        if standing is None or not standing.untouched or standing.record.gain != 1 or standing.output.left_out:
            return None
        same = (standing.output.made, standing.record.input.sha256) == (made, sha256)
        return self.folder / standing.output.path if same else None

    def _made_before(self, made: str, sha256: str) -> str | None:
        """The last file of the input with that hash that was made in this way, by older lines."""
        path = None
        for _, record in self._older("sha256", sha256):
            if isinstance(record, Record) and record.input.sha256 == sha256:
                path = next((each.path for each in reversed(record.outputs) if each.made == made), path)
        return path

    def relative(self, output: Path) -> str:
        """The path below the output folder, with forward slashes on every system."""
        return output.relative_to(self.folder).as_posix()

    def identify(self, path: Path) -> InputId:
        """The input's identity: its content is hashed once, then known by path, size and date.

        OSError if it can't be read.
        """
        status = os.stat(path)
        return self.identify_as(
            os.path.realpath(path), status.st_size, status.st_mtime_ns, lambda: content_sha256(path)
        )

    def identify_as(self, path: str, size: int, mtime_ns: int, hashed: Callable[[], str]) -> InputId:
        """The same for an input of that size and date. hashed: gives the SHA-256 of its content."""
        for known in (self._hashed.get(path), self._input(path)):
            if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
                return known
        identity = InputId(path, size, mtime_ns, hashed())
        self._hashed[path] = identity
        return identity

    def note_input(self, identity: InputId) -> None:
        """Write down a date that changed while the content did not, so that no later run hashes it again."""
        if identity != self._input(identity.path):
            self._append(input_line(identity))

    def add(self, record: Record, about: Mapping[str, Any] | None = None) -> None:
        """Append a record. about: more facts for a human reader, such as gain and seconds."""
        self._append(record_line(record, about or {}))

    def claim(self, outputs: Collection[Path], by: str, alive: Callable[[str], bool]) -> str | None:
        """Take these outputs for the run `by`, or name the living run that works on one of them already.

        alive: whether the run of that name still lives. OutputError where the claim can't be written.
        """
        paths = [self.relative(path) for path in outputs]
        with self._locked():
            self.refresh()
            for path in paths:
                holder = self._claims.get(path)
                if holder and holder != by and alive(holder):
                    return holder
            self._write(claim_line(paths, by))
        return None

    def release(self, outputs: Collection[Path]) -> None:
        """Give up a claim: this run has failed with these outputs, and another may try."""
        self._append(claim_line([self.relative(path) for path in outputs], ""))

    def _append(self, line: Mapping[str, Any]) -> None:
        """Write a line, and before it one for its settings, if they have none."""
        made_with = line.get("made_with")
        with self._locked():
            if made_with is not None:
                line = {key: value for key, value in line.items() if key != "made_with"}
                if line["settings"] not in self._explained:
                    self._write(settings_line(line["settings"], made_with))
            self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append a line, and take it in. The lock is held."""
        data = json.dumps(line, default=str).encode() + b"\n"
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                if _ends_torn(file):
                    data = b"\n" + data  # what a kill cut off stays a line of its own, ignored by readers
                view = memoryview(data)
                while view:  # one write, but for a disk that fills up in the middle
                    view = view[os.write(file, view) :]
                if os.lseek(file, 0, os.SEEK_CUR) - len(data) == self._read_to:
                    self._read_to += len(data)  # it comes right behind what is known, and is not read again
            finally:
                os.close(file)
        except OSError as error:
            raise from_os(error, self.path) from error
        self._take(json.loads(data))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone: other processes wait their turn. Where there are no locks, a single append has to do."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(*NO_LOCKS):
                stack.enter_context(self._lock)
            yield

    @cached_property
    def _lock(self) -> FileLock:
        from filelock import FileLock

        return FileLock(self.folder / LOCK_NAME)


def _is_done(line: Record | InputId, path: str) -> bool:
    """Whether an output stands according to this line."""
    return isinstance(line, Record) and line.done and any(output.path == path for output in line.outputs)


def _ends_torn(file: int) -> bool:
    size = os.lseek(file, 0, os.SEEK_END)
    if size == 0:
        return False
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) != b"\n"
