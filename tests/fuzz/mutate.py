"""Make a damaged file out of intact ones, by chance, the same for the same generator."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

MOST_CHANGES = 6  # of one input
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WIDE = (*_EDGES, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def mutated(intact: Sequence[bytes], draw: Random) -> bytes:
    """One of the intact files after one to MOST_CHANGES changes."""
    data = bytearray(draw.choice(intact))
    for _ in range(min(MOST_CHANGES, 1 + int(draw.expovariate(1)))):
        draw.choice(_CHANGES)(data, draw, intact)
    return bytes(data)


def _place(data: bytearray, draw: Random) -> int:
    """Where to change something: as often at either end, where headers and directories are, as anywhere."""
    kind = draw.random()
    if kind < 0.35:
        return min(int(draw.expovariate(1 / 64)), len(data))
    if kind < 0.55:
        return max(0, len(data) - int(draw.expovariate(1 / 128)) - 1)
    return draw.randint(0, len(data))


def _length(draw: Random) -> int:
    return min(int(draw.expovariate(1 / 16)) + 1, 4096)


def _flip(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    if data:
        data[_place(data, draw) % len(data)] ^= 1 << draw.randrange(8)


def _noise(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    at, size = _place(data, draw), _length(draw)
    data[at : at + size] = draw.randbytes(len(data[at : at + size]))


def _edge(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    """A number of 1, 2, 4 or 8 bytes becomes one at the edge of what it can be, or a little more or less."""
    form = draw.choice("BHIQ")
    form = draw.choice("<>") + form
    size = struct.calcsize(form)
    at = _place(data, draw)
    if at + size > len(data):
        return
    (value,) = struct.unpack_from(form, data, at)
    value = draw.choice([*_WIDE, value + 1, value - 1, value * 2, value // 2, len(data)])
    struct.pack_into(form, data, at, value % (1 << 8 * size))


def _digits(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    """A number in decimal digits becomes another one."""
    found = list(re.finditer(rb"-?\d+", data[: 1 << 16]))
    if found:
        match = draw.choice(found)
        value = draw.choice([*_WIDE, -1, 10**30, int(match[0][:20]) + 1])
        data[match.start() : match.end()] = str(value).encode()


def _insert(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(_length(draw))


def _delete(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    at = _place(data, draw)
    del data[at : at + _length(draw)]


def _truncate(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    del data[_place(data, draw) :]


def _repeat(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    at = _place(data, draw)
    data[at:at] = data[at : at + _length(draw)] * draw.choice([1, 2, 16])


def _splice(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    """A piece of another intact file, or of this one from elsewhere, over or between what is here."""
    other = draw.choice(intact)
    start, size, at = draw.randint(0, len(other)), _length(draw) * draw.choice([1, 16]), _place(data, draw)
    piece = other[start : start + size]
    data[at : at + draw.choice([0, len(piece)])] = piece


def _zero(data: bytearray, draw: Random, intact: Sequence[bytes]) -> None:
    at, size = _place(data, draw), _length(draw) * draw.choice([1, 64])
    data[at : at + size] = bytes(len(data[at : at + size]))


_CHANGES: tuple[Callable[[bytearray, Random, Sequence[bytes]], None], ...] = (
    *[_flip, _noise, _edge, _edge, _digits, _insert],
    *[_delete, _truncate, _repeat, _splice, _zero],
)
