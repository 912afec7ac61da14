"""The wire format of protobuf messages: numbers and parts of a message, which its reader gives a meaning.

Nothing is copied: parts of a memoryview are memoryviews. What a damaged message provokes is a ValueError or an
IndexError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number is too long")


def message_fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of a text, a message or a fixed-size number."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 2:
            length, at = varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"a field of the kind {kind}")
        if at > len(message):
            raise ValueError("a message is cut off")
        yield number, value


def message_values(message: bytes | memoryview) -> dict[int, Any]:
    """The fields by number; of one that comes several times, the last."""
    return dict(message_fields(message))
