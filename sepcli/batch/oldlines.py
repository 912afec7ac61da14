"""The older lines of a manifest, which are left in its file and found there by the values that they mention.

Knows JSON lines and bytes; what a line means is manifest.py's.

    the file    | block 0 | block 1 | ... | block n | the last lines, which manifest.py has in memory
    an index    hash of a value -> the blocks with a line that has this value in a certain field

A block is some lines. An index has 8 bytes for each value of a block, sorted: 32 bits of hash, 32 of the block's
number. What it finds is looked for in the block, and parsed, so that values of one hash cost a look and nothing
else. Indexes are never written down: they are made from the file when it is opened, by searching bytes, as
nearly all lines are written by us and by one encoder. A block in which anything is spelled otherwise (edited by
hand, or damaged) is parsed line by line instead.
"""

from __future__ import annotations

import contextlib
import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

BLOCK = 1 << 15  # bytes, and the rest of the line
BLOCKS_KEPT = 64  # that were read last: tracks come in much the same order again
_NUMBERS = ("size",)  # fields of numbers; all others are texts
_START = b'{"kind": "'  # of each line that we write
_BY = b'"by": "'  # in a claim
# JSON escapes that our encoder would have spelled otherwise. A false alarm costs time only.
_OTHER_ESCAPE = re.compile(rb'\\(?:[^"\\bfnrtu]|u(?:[0-9a-f]{0,3}[^0-9a-f]|00[2-6]|007[0-9a-e]|000[89acd]))')


class OldLines:
    """The lines of a file from its beginning to `end`."""

    def __init__(self, path: Path):
        self.path = path
        self.end = 0  # bytes
        self._starts = array("Q")  # of the blocks
        self._foreign: set[int] = set()  # blocks with anything that is not spelled as we do
        self._indexes = {"path": _Index("path")}  # by field; others when they are needed
        self._kept: dict[int, bytes] = {}

    def take(self, file: BinaryIO, wanted: Callable[[str], bool]) -> list[tuple[int, Any]]:
        """Take in all complete lines from `end` on. Returns the claims among them by the runs that are wanted.

        A claim is (place in the file, the parsed line). OSError where the file can't be read.
        """
        claims = []
        file.seek(self.end)
        complete = True
        while complete and (data := file.read(BLOCK) + file.readline()):
            complete = data.endswith(b"\n")  # else a line is torn, or being written
            if not (data := data[: data.rfind(b"\n") + 1]):
                break
            number = len(self._starts)
            if foreign := not _is_ours(data):
                self._foreign.add(number)
            claimants = [_until_quote(part).decode() for part in data.split(_BY)[1:]]
            if foreign or any(map(wanted, claimants)):
                claims += [(self.end + at, line) for at, line in _parsed(data) if _is_claim(line, wanted)]
            for index in self._indexes.values():
                index.add(data, foreign)
            self._starts.append(self.end)
            self.end += len(data)
        return claims

    def lines(self, field: str, value: str) -> Iterator[tuple[int, Any]]:
        """All lines with that value in that field, and perhaps others, in their order: (place, parsed line).

        OSError where the file can't be read.
        """
        written = _written(value)
        index = self._index(field)
        needle = b'"%b": "%b"' % (field.encode(), written)
        for number in index.blocks(written):
            data, start = self._block(number), self._starts[number]
            yield from (
                (start + at, line) for at, line in _parsed(data, None if number in index.odd else needle)
            )

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

    def _block(self, number: int) -> bytes:
        data = self._kept.get(number)
        if data is None:
            while len(self._kept) >= BLOCKS_KEPT:
                del self._kept[next(iter(self._kept))]
            data = self._kept[number] = self._read(number)
        return data

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
        self._field, self._key = field, b'"%b"' % name
        self._values = re.compile(rb'"%b": ' % name + (rb"(\d+)" if field in _NUMBERS else rb'"([^"\n]*)"'))
        self.odd: set[int] = set()  # blocks that have to be parsed as a whole
        self._hashes, self._counts = array("I"), array("I")  # of blocks that are not sorted in yet
        self._sorted: memoryview | array[int] = array("Q")  # hash and number of block
        self._count = 0  # of blocks that are sorted in

    def add(self, data: bytes, foreign: bool) -> None:
        """Add the next block."""
        values = self._values.findall(data)
        if foreign or len(values) != data.count(self._key):  # also where it is a value, or has another type
            self.odd.add(self._count + len(self._counts))
            values += map(_until_quote, _found(self._field, (line for _, line in _parsed(data))))
        hashes = set(map(crc32, values))
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
        self._sorted, self._count = memoryview(both), self._count + len(counts)
        self._hashes, self._counts = array("I"), array("I")


def _is_ours(data: bytes) -> bool:
    """Whether every line begins as we write it, and is in the characters and escapes of our encoder."""
    return (
        data.startswith(_START)
        and data.count(b"\n" + _START) == data.count(b"\n") - 1
        and data.isascii()
        and (b"\\" not in data or _OTHER_ESCAPE.search(data) is None)
    )


def _is_claim(line: Any, wanted: Callable[[str], bool]) -> bool:
    """Whether a parsed line is a claim by a run that is wanted."""
    if not isinstance(line, Mapping) or line.get("kind") != "claim":
        return False
    return isinstance(line.get("by"), str) and wanted(line["by"])


def _written(value: str) -> bytes:
    """The value as our encoder writes it, without its quotes."""
    return json.dumps(value)[1:-1].encode()


def _until_quote(written: bytes) -> bytes:
    """What a search for the next quote finds of a value: less than all of it where there is one in it."""
    return written.partition(b'"')[0]


def _parsed(data: bytes, needle: bytes | None = None) -> Iterator[tuple[int, Any]]:
    """The lines of a block with these bytes in them, or all: (place in the block, parsed). No damaged ones."""
    at = 0
    while at < len(data):
        if needle is not None:
            found = data.find(needle, at)
            if found < 0:
                return
            at = data.rfind(b"\n", at, found) + 1 or at
        end = data.find(b"\n", at) + 1 or len(data)
        with contextlib.suppress(ValueError, RecursionError):
            yield at, json.loads(data[at:end])
        at = end


def _found(field: str, values: Iterable[Any]) -> Iterator[bytes]:
    """What stands in that field anywhere in these parsed values, as our encoder writes it."""
    for value in values:
        if isinstance(value, Mapping):
            inner = value.get(field)
            if isinstance(inner, str | int):
                yield _written(str(inner))
            yield from _found(field, value.values())
        elif isinstance(value, list):
            yield from _found(field, value)
