"""Take the metadata of a radio stream out of a recording that has it between its MPEG frames.

A server that was asked for it (ICY, "SHOUTcast") sends a block of text after each so many bytes of sound:
one byte that counts 16 bytes each, then so many, nearly always none. Some recorders write all of that into
the file, and a decoder takes the text for damaged frames.
"""

from __future__ import annotations

import bisect
import io
from pathlib import Path

_TITLE = b"StreamTitle='"
_SEARCHED = 1 << 18  # bytes at the beginning in which a title must stand
_EMPTY_BEFORE = 16  # blocks without text that may stand before the first title


def find_blocks(path: Path) -> list[tuple[int, int]]:
    """(offset, size) of each block of metadata, in bytes; [] where the file is no such recording."""
    with path.open("rb") as file:
        head = file.read(3)
        if head != b"ID3" and head[:1] != b"\xff":
            return []
        if (at := (head + file.read(_SEARCHED)).find(_TITLE)) < 1:
            return []
        size = file.seek(0, io.SEEK_END)
        found: list[tuple[int, int]] = []
        for empty in range(_EMPTY_BEFORE + 1):
            interval, rest = divmod(at - 1 - empty, empty + 1)
            if rest == 0 and interval >= 256:
                found = max(found, _chain(file, interval, size), key=len)
    return found


def _chain(file: io.BufferedReader, interval: int, size: int) -> list[tuple[int, int]]:
    """The blocks at this interval up to the end of the file; [] where something else stands at one of them."""
    blocks, at = [], interval
    while at < size:
        file.seek(at)
        count = file.read(1)[0]
        text = file.read(16 * count)
        if count and not text.startswith(b"Stream"):
            return []
        blocks.append((at, 1 + 16 * count))
        at += 1 + 16 * count + interval
    return blocks


class WithoutBlocks:
    """A file without these parts of it, for reading."""

    def __init__(self, file: io.BufferedReader, blocks: list[tuple[int, int]]):
        """blocks: (offset, size) in order, in bytes."""
        self._file = file
        self._starts, self._removed = [0], [0]  # where a piece begins here, and how much stood before it there
        removed = 0
        for offset, size in blocks:
            self._starts.append(offset - removed)
            removed += size
            self._removed.append(removed)
        self._end = max(self._starts[-1], file.seek(0, io.SEEK_END) - removed)
        self._at = 0

    def read(self, size: int) -> bytes:
        """As a file's `read`."""
        parts = []
        size = min(size, self._end - self._at)
        while size > 0:
            piece = bisect.bisect_right(self._starts, self._at) - 1
            end = self._starts[piece + 1] if piece + 1 < len(self._starts) else self._end
            self._file.seek(self._at + self._removed[piece])
            data = self._file.read(min(size, end - self._at))
            if not data:
                break
            parts.append(data)
            self._at += len(data)
            size -= len(data)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file's `seek`."""
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence] + offset)
        return self._at

    def tell(self) -> int:
        """As a file's `tell`."""
        return self._at
