"""Read a TensorFlow checkpoint (version 2, a "tensor bundle") as inert data: bytes in, tensors by name out.

Knows no family and opens no file. The format, from the files themselves:

    name.index                  a sorted table: {tensor's name: dtype, shape, shard, offset, size}
    name.data-00000-of-00001    the tensors' bytes one after another, little-endian, row by row; several shards

    index    block | block | ... | footer         footer  two handles (offset, size), padding to 40 bytes, magic
    block    entries | restarts | their number    followed by its type (0: not compressed) and a CRC32C
    entry    shared, new, length of the value | new bytes of the key | value

A key begins with the first `shared` bytes of the one before. The footer's second handle leads to a block whose
values are the handles of all others. Values are protobuf messages; a field that is 0 is left out. The empty key
is the header. (LevelDB's table format; TensorFlow's tensor_bundle.proto.) Nothing in the files is executed, and
no path in them is followed. What a damaged file provokes is a ValueError, IndexError or struct.error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from sepcli.weights.memory import flat
from sepcli.weights.protobuf import message_fields, message_values, varint

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48  # bytes
_LARGEST_INDEX = 64 << 20  # bytes; that of a network of 10,000 tensors has 1 MB
_STRING = 7
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is."""

    dtype: int  # of TensorFlow's list
    shape: tuple[int, ...]
    shard: int
    offset: int  # bytes from the shard's beginning
    size: int  # bytes


def is_index(end: bytes) -> bool:
    """Whether a file that ends so is the index of a bundle."""
    return end.endswith(_MAGIC)


def shard_name(stem: str, shard: int, shards: int) -> str:
    """The name of a data file; stem: that of the index without ".index"."""
    return f"{stem}.data-{shard:05d}-of-{shards:05d}"


def shard_count(index: bytes) -> int:
    """How many data files belong to an index."""
    return _read_index(index)[0]


def read_bundle(index: bytes, shards: Mapping[int, Any]) -> dict[str, Tensor]:
    """{name: tensor} of the bundle; strings are left out. Tensors are views of the shards where that can be.

    shards: the bytes of every data file by number.
    """
    count, entries = _read_index(index)
    if sorted(shards) != list(range(count)):
        raise ValueError(f"there are {len(shards)} of {count} data files")
    tensors = {}
    for name, stored in entries.items():
        if stored.dtype == _STRING:
            continue
        if stored.dtype not in _DTYPES:
            raise ValueError(f"'{name}' has the type {stored.dtype}, which no weights have")
        dtype, elements = _DTYPES[stored.dtype], prod(stored.shape)
        if stored.size != elements * dtype.itemsize or not 0 <= stored.shard < count:
            raise ValueError(f"'{name}' has {stored.size} bytes for the shape {list(stored.shape)}")
        tensors[name] = flat(shards[stored.shard], stored.offset, elements, dtype).view(stored.shape)
    return tensors


# --- the index ---


def _read_index(index: bytes) -> tuple[int, dict[str, _Stored]]:
    """The number of shards, and every entry by name."""
    if len(index) > _LARGEST_INDEX or not is_index(index):
        raise ValueError("no index of a TensorFlow checkpoint")
    at = len(index) - _FOOTER
    _, at = varint(index, at)  # the handle of a block that is empty
    _, at = varint(index, at)
    header: dict[int, Any] | None = None
    entries = {}
    for _, handle in _entries(_block(index, index, at)):
        for key, value in _entries(_block(index, handle)):
            fields = message_values(value)
            if not key:
                header = fields
            else:
                entries[key.decode()] = _stored(key.decode(), fields)
    if header is None or header.get(2):
        raise ValueError("no header, or values of a big-endian machine")
    return header.get(1, 1), entries


def _block(index: bytes, handle: bytes, at: int = 0) -> bytes:
    """The content of the block to which the handle at a place leads; its checksum must be right."""
    offset, at = varint(handle, at)
    size, at = varint(handle, at)
    block = index[offset : offset + size + 5]
    if len(block) != size + 5 or block[size]:
        raise ValueError("a block of the index is cut off or compressed")
    (wanted,) = struct.unpack_from("<I", block, size + 1)
    if _masked_crc(block[: size + 1]) != wanted:
        raise ValueError("a block of the index has a wrong checksum")
    return block[:size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block."""
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = varint(block, at)
        new, at = varint(block, at)
        length, at = varint(block, at)
        key = key[:shared] + block[at : at + new]
        at += new
        yield key, block[at : at + length]
        at += length
    if at != end:
        raise ValueError("a block of the index does not end where it should")


def _stored(name: str, fields: Mapping[int, Any]) -> _Stored:
    if 7 in fields:
        raise ValueError(f"'{name}' is stored in slices")
    dimensions = [
        message_values(part).get(1, 0) for number, part in message_fields(fields.get(2, b"")) if number == 2
    ]
    return _Stored(*(fields.get(1, 0), tuple(dimensions), fields.get(3, 0), fields.get(4, 0), fields.get(5, 0)))


# --- CRC32C ---


@lru_cache(maxsize=1)
def _crc_table() -> tuple[int, ...]:
    """The remainders of all bytes by Castagnoli's polynomial, bits reversed."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _masked_crc(data: bytes) -> int:
    """CRC32C as it is stored: turned right by 15 bits, plus a constant."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
