"""The boxes of an MP4 file (ISO/IEC 14496-12, section 4.2): found and made. Knows nothing of what they hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO

MOST = 1 << 20  # bytes of one box that are read
_LOOKED_AT = 10_000  # boxes in one place
_VERSION = 4  # bytes of version and flags, that `meta` has before the boxes in it


def box(kind: bytes, payload: bytes) -> bytes:
    """A box: its size in bytes, its kind, what it holds."""
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """(kind, where it begins, where its payload begins, where it ends) of the boxes between two places."""
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        begin = at + 8
        if size == 1:
            if at + 16 > end:
                return
            size, begin = struct.unpack(">Q", file.read(8))[0], at + 16
        elif size == 0:  # to the end
            size = end - at
        if size < begin - at or at + size > end:
            return
        yield kind, at, begin, at + size
        at += size


def find_box(file: BinaryIO, path: Sequence[bytes]) -> bytes | None:
    """The payload of the first box at `path`, such as (b"moov", b"udta", b"stem"); None where there is none."""
    begin, end = 0, file.seek(0, 2)
    for kind in path:
        found = next((each for each in islice(boxes(file, begin, end), _LOOKED_AT) if each[0] == kind), None)
        if found is None:
            return None
        _, _, begin, end = found
        begin += _VERSION if kind == b"meta" else 0
    file.seek(begin)
    return file.read(min(end - begin, MOST))
