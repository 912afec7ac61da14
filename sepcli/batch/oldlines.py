"""The older lines of a manifest, which are left in its file and found there by the values that they mention.

Knows JSON lines and bytes; what a line means is manifest.py's.

    the file    | block 0 | block 1 | ... | block n | the last lines, which manifest.py has in memory
    an index    hash of a value -> the blocks with a line that has this value in a certain field

A block is some lines. An index has 8 bytes for each value of a block, sorted: 32 bits of hash, and 32 of the
number of the block. What it finds is looked for in the block, and parsed, so that values of one hash cost
nothing but a look. Indexes are never written down: they are made from the file when it is opened, by searching
bytes, as nearly all lines are written by us and by one encoder. A block in which anything is spelled otherwise
(edited by hand, or damaged) is parsed line by line instead.
"""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar
from zlib import crc32

BLOCK = 1 << 16  # bytes, and the rest of the line
BLOCKS_KEPT = 32  # that were read last: tracks come in much the same order again
_NUMBERS = ("size",)  # fields of numbers; all others are texts
_START, _CLAIM, _BY = b'{"kind": "', b'{"kind": "claim"', b'"by": "'  # as we write them
_TOLD = (_CLAIM, b'{"kind": "settings"')
_NOTHING = crc32(b"")  # of a value that was not caught; another may have the same, which costs time only
# JSON escapes that our encoder would have spelled otherwise. A false alarm costs time only.
_OTHER_ESCAPE = re.compile(rb'\\(?:[^"\\bfnrtu]|u(?:[0-9a-f]{0,3}[^0-9a-f]|00[2-6]|007[0-9a-e]|000[89acd]))')

Meaning = TypeVar("Meaning")


class OldLines(Generic[Meaning]):
    """The lines of a file from its beginning to `end`."""

    def __init__(self, path: Path, meant: Callable[[int, bytes], Meaning | None]):
        """meant: what a line at a place in the file says; None for nothing."""
        self.path, self.meant = path, meant
        self.end = 0  # bytes
        self._starts = array("Q")  # of the blocks
        self._foreign: set[int] = set()  # blocks with anything that is not spelled as we do
        self._indexes = {"path": _Index("path")}  # by field; others when they are needed
        self._kept: dict[int, tuple[bytes, dict[int, Meaning | None]]] = {}  # with what lines in them say

    def take(self, file: BinaryIO, wanted: Callable[[bytes], bool]) -> list[tuple[int, bytes]]:
        """Take in all complete lines from `end` on.

        Returns those that may be settings, or claims by wanted runs: (place in the file, line). OSError where
        the file can't be read. It should have a buffer of about a block.
        """
        told = []
        file.seek(self.end)
        complete = True
        while complete and (lines := file.readlines(BLOCK)):
            complete = lines[-1].endswith(b"\n")
            if not complete:  # torn, or being written
                del lines[-1]
            if not lines:
                break
            data = b"".join(lines)
            foreign = not _are_ours(lines, data)
            if foreign:
                self._foreign.add(len(self._starts))
            if foreign or _tells([line for line in lines if line.startswith(_TOLD)], wanted):
                places = accumulate(map(len, lines[:-1]), initial=self.end)
                told += [
                    (place, line)
                    for place, line in zip(places, lines, strict=True)
                    if foreign or line.startswith(_TOLD)
                ]
            for index in self._indexes.values():
                index.add(data, foreign)
            self._starts.append(self.end)
            self.end += len(data)
        return told

    def lines(self, field: str, value: str) -> Iterator[tuple[int, Meaning]]:
        """What all lines with that value in that field say, and perhaps others: (place in the file, meaning).

        In their order. OSError where the file can't be read.
        """
        written = _written(value)
        index = self._index(field)
        needle = b'"%b": "%b"' % (field.encode(), written)
        for number in index.blocks(written):
            (data, known), start = self._block(number), self._starts[number]
            for at, end in _found_in(data, b"" if number in index.odd else needle):
                if at not in known:
                    known[at] = self.meant(start + at, data[at:end])
                if (meaning := known[at]) is not None:
                    yield start + at, meaning

    def may_have(self, field: str, value: str | int) -> bool:
        """False if no line has that value in that field. OSError where the file can't be read."""
        return bool(self._index(field).blocks(_written(str(value))))

    def _index(self, field: str) -> _Index:
        index = self._indexes.get(field)
        if index is None:
            index = _Index(field)
            for number in range(len(self._starts)):
                index.add(self._read(number), number in self._foreign)
            self._indexes[field] = index
        return index

    def _block(self, number: int) -> tuple[bytes, dict[int, Meaning | None]]:
        found = self._kept.get(number)
        if found is None:
            while len(self._kept) >= BLOCKS_KEPT:
                del self._kept[next(iter(self._kept))]
            found = self._kept[number] = self._read(number), {}
        return found

    def _read(self, number: int) -> bytes:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self.end
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


class _Index:
    """Which blocks have a value in a field."""

    def __init__(self, field: str):
        name = field.encode()
        self._field = field
        # Nothing is caught where the field's name is a value, or what follows is of another type. Without its
        # first quote it is found sooner, and so is whatever else ends like this.
        self._values = re.compile(
            rb'%b"' % name + (rb"(?:: (\d+))?" if field in _NUMBERS else rb'(?:: "([^"]*+))?')
        )
        self.odd: set[int] = set()  # blocks that have to be parsed as a whole
        self._hashes, self._counts = array("I"), array("I")  # of blocks that are not sorted in yet
        self._sorted: Any = array("Q")  # hash and number of block
        self._count = 0  # of blocks that are sorted in

    def add(self, data: bytes, foreign: bool) -> None:
        """Add the next block."""
        hashes = set(map(crc32, self._values.findall(data)))
        if foreign or _NOTHING in hashes:
            self.odd.add(self._count + len(self._counts))
            hashes.update(map(crc32, map(_until_quote, _values_of(self._field, _parsed(data)))))
        self._hashes.extend(hashes)
        self._counts.append(len(hashes))

    def blocks(self, written: bytes) -> list[int]:
        """The numbers of the blocks that may have a value, which is written like this, in their order."""
        if self._counts:
            self._sort_in()
        key = crc32(_until_quote(written)) << 32
        at = bisect_left(self._sorted, key)
        found = []
        while at < len(self._sorted) and self._sorted[at] >> 32 == key >> 32:
            found.append(self._sorted[at] & 0xFFFFFFFF)
            at += 1
        return found

    def _sort_in(self) -> None:
        import numpy as np  # slow to import, and of no use for a small manifest

        counts = np.asarray(self._counts)
        numbers = np.repeat(np.arange(self._count, self._count + len(counts), dtype=np.uint64), counts)
        both = np.concatenate(
            [np.asarray(self._sorted), np.asarray(self._hashes).astype(np.uint64) << np.uint64(32) | numbers]
        )
        both.sort(kind="stable")  # what was sorted before is merged, not sorted again
        self._sorted, self._count = both.data, self._count + len(counts)
        self._hashes, self._counts = array("I"), array("I")


def _are_ours(lines: list[bytes], data: bytes) -> bool:
    """Whether every line begins as we write it, and is in the characters and escapes of our encoder."""
    return (
        data.isascii()
        and (b"\\" not in data or _OTHER_ESCAPE.search(data) is None)
        and all(line.startswith(_START) for line in lines)
    )


def _tells(lines: Iterable[bytes], wanted: Callable[[bytes], bool]) -> bool:
    """Whether there are settings, a claim by a wanted run, or a claim that doesn't say so like this."""
    ends = {line.rpartition(_BY)[1:] for line in lines}
    return any(not found or wanted(_until_quote(name)) for found, name in ends)


def _written(value: str) -> bytes:
    """The value as our encoder writes it, without its quotes."""
    return json.dumps(value)[1:-1].encode()


def _until_quote(written: bytes) -> bytes:
    """What a search for the next quote finds of a value: less than all of it where there is one in it."""
    return written.partition(b'"')[0]


def _found_in(data: bytes, needle: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the lines of a block that have these bytes in them."""
    end = 0
    while 0 <= (found := data.find(needle, end)) < len(data):
        at = data.rfind(b"\n", end, found) + 1 or end
        end = data.find(b"\n", found) + 1 or len(data)
        yield at, end


def _parsed(data: bytes) -> Iterator[Any]:
    """The lines of a block that are JSON."""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(line)


def _values_of(field: str, parsed: Iterable[Any]) -> Iterator[bytes]:
    """What stands in that field anywhere in these, as our encoder writes it."""
    for each in parsed:
        if isinstance(each, Mapping):
            value = each.get(field)
            if isinstance(value, str | int):
                yield _written(str(value))
            yield from _values_of(field, each.values())
        elif isinstance(each, list):
            yield from _values_of(field, each)
