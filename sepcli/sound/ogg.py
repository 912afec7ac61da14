"""The last page of an Ogg file (RFC 3533), which says where the sound ends."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_LARGEST = 65307  # bytes of a page


def last_page(path: Path) -> bytes:
    """From its first byte to the end of the file; b"" where there is none. OSError."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * _LARGEST))
        tail = file.read()
    at = tail.rfind(b"OggS")
    return tail[at:] if at >= 0 else b""


def granule(page: bytes) -> int:
    """The position at which a page ends, in the codec's own unit; -1: it does not say."""
    return struct.unpack_from("<q", page, 6)[0] if len(page) >= 14 else -1


def is_whole(page: bytes) -> bool:
    """Whether all of a page is there."""
    return len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
