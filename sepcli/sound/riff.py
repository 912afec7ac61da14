"""The chunks of RIFF, RF64 and IFF files (WAV, AIFF): names and sizes, one after the other.

    name, 4 bytes | size, 32 bits | payload | a zero where the size is odd

In an RF64 the true size of the samples stands in ds64, 64 bits long (EBU Tech 3306).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

UNKNOWN = 0xFFFFFFFF  # a size of 32 bits that is "unknown", or stands in ds64
WAVES = (b"RIFF", b"RF64", b"BW64")  # how a WAV begins


class Chunk(NamedTuple):
    """A chunk's header."""

    name: bytes
    at: int  # of the payload, in bytes from the beginning of the file
    size: int  # of the payload, in bytes, as stated

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + self.size + self.size % 2


def chunks(file: BinaryIO, at: int, end: int, *, big_endian: bool = False) -> Iterator[Chunk]:
    """The chunks whose headers stand between `at` and `end`; the last one may state more than there is."""
    long_size = None  # of the samples, from ds64
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack(">4sI" if big_endian else "<4sI", file.read(8))
        if name == b"ds64" and size >= 16 and at + 24 <= end:
            long_size = struct.unpack("<8xQ", file.read(16))[0]
        elif name == b"data" and size == UNKNOWN and long_size is not None:
            size = long_size
        chunk = Chunk(name, at + 8, size)
        yield chunk
        at = chunk.end


def payload(file: BinaryIO, chunk: Chunk) -> bytes:
    """All of it that is there."""
    file.seek(chunk.at)
    return file.read(chunk.size)
