"""Writes TensorFlow checkpoints (sepcli/weights/bundle.py reads them), alone or in archives. Tests only.

The format is written down a second time here; tests/parity/test_spleeter.py reads what TensorFlow itself wrote.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

MAGIC = 0xDB4775248B80FB57
DTYPES = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int32: 3,
    torch.int64: 9,
    torch.bool: 10,
    torch.bfloat16: 14,
    torch.float16: 19,
}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field; a number that is 0 is left out."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def crc32c(data: bytes) -> int:
    """Bit by bit, masked as stored."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: Sequence[tuple[bytes, bytes]], restart: int = 16) -> bytes:
    """A block with its trailer; every `restart` entries a key is whole."""
    out, starts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart == 0:
            starts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    starts = starts or [0]
    out += struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))
    out += b"\0"
    return bytes(out) + struct.pack("<I", crc32c(bytes(out)))


def table(entries: Mapping[bytes, bytes], per_block: int = 1000) -> bytes:
    """An index file with so many entries a block."""
    out, handles = bytearray(), []
    items = sorted(entries.items())
    for at in range(0, len(items), per_block):
        part = block(items[at : at + per_block])
        handles.append(
            (items[at + len(items[at : at + per_block]) - 1][0], varint(len(out)) + varint(len(part) - 5))
        )
        out += part
    meta, ends = block([]), block(handles)
    footer = varint(len(out)) + varint(len(meta) - 5)
    out += meta
    footer += varint(len(out)) + varint(len(ends) - 5)
    out += ends
    return bytes(out) + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def bundle(tensors: Mapping[str, Tensor], shards: int = 1, **options: int) -> dict[str, bytes]:
    """{file name: content} of a checkpoint `model`; tensors are dealt to the shards in turn."""
    data = [bytearray() for _ in range(shards)]
    entries = {b"": field(1, shards)}
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        shard = data[number % shards]
        shape = b"".join(field(2, field(1, size)) for size in tensor.shape)
        entries[name.encode()] = (
            field(1, DTYPES[tensor.dtype])
            + field(2, shape)
            + field(3, number % shards)
            + field(4, len(shard))
            + field(5, len(content))
            + varint(6 << 3 | 5)
            + struct.pack("<I", 0)
        )
        shard += content
    files = {f"model.data-{number:05d}-of-{shards:05d}": bytes(content) for number, content in enumerate(data)}
    return {"model.index": table(entries, **options), **files}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files in a folder; the path of the index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "model.index"


def write_tar(path: Path, files: Mapping[str, bytes], level: int = 1) -> Path:
    """The files in a .tar.gz, beside what macOS and TensorFlow put there."""
    extra = {"checkpoint": b'model_checkpoint_path: "model"\n', "._model.index": b"Mac OS X"}
    with tarfile.open(path, "w:gz", compresslevel=level) as archive:
        for name, content in {**extra, **files}.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
