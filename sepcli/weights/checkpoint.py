"""Read any checkpoint as inert data: safetensors, what `torch.save` wrote, TensorFlow's, ONNX and NNabla's.

Knows nothing of any family: it gives tensors, containers and numbers; `models/<family>/checkpoint.py` knows
their meaning.

A pickle is a program, so it may call only what is on a short list (`unpickling.py`). torch.load is not used: it
hands TorchScript archives to an interpreter and depends on environment variables, while the layout of the files
is small and stable:

    zip     <name>/data.pkl        the object; each storage a persistent id (type, key, device, elements)
            <name>/data/<key>      the bytes of one storage, not compressed: mapped, not read
            <name>/code/           TorchScript only, never read; the tensors are taken (`torchscript.py`)
    legacy  five pickles (magic, version, system, the object, storage keys), then all storages

TensorFlow's bundles may lie in an archive (`bundle.py`, `bundlefiles.py`). Files of torch.save and of NNabla
(`hdf5.py`) may lie in a zip archive, those of torch.save also behind gzip, or as bytes in another one
({"compressed": zlib}). Of an ONNX file the graph is kept beside the tensors (`onnx.py`); nothing runs it.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sepcli.errors import ModelError, SepcliError, first_line, from_os
from sepcli.weights.archive import zip_member, zip_names
from sepcli.weights.bundle import is_index
from sepcli.weights.bundlefiles import bundle_files, read_archive, read_index
from sepcli.weights.hdf5 import SIGNATURE, read_hdf5
from sepcli.weights.memory import flat, mapped
from sepcli.weights.modelspec import INDEX
from sepcli.weights.onnx import Graph, looks_like_onnx, read_onnx
from sepcli.weights.opcodes import next_pickle
from sepcli.weights.torchscript import PACKAGE, module_tensors
from sepcli.weights.unpickling import CONVERT, Unpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file by torch.save before 1.6
_EXPANSION = 100  # how many times a file's size its content may have, compressed or repeated
_DEEPEST = 200  # values in values
_PICKLES = 1 << 24  # bytes that the pickles of a file of before torch 1.6 may have, behind gzip
_PACKED = (".ckpt", ".pt", ".pth", ".th", ".h5")  # of torch.save or NNabla, inside a zip archive
_AGAIN = "Download it again, or check that it is the file you meant."


@dataclass(frozen=True)
class Checkpoint:
    """The content of one file.

    payload: of torch.save the unpickled object, with an `Inert` (`unpickling.py`) in the place of each class
    that it names; of TorchScript and of all others {name: Tensor}.
    metadata: the strings in the header of safetensors; else empty.
    """

    path: Path
    payload: Any
    metadata: dict[str, str] = field(default_factory=dict)
    format: str = "safetensors"  # or "torch", "tensorflow", "onnx", "nnabla"
    graph: Graph | None = None  # of ONNX: what is computed with the tensors

    def shapes_only(self) -> Checkpoint:
        """The same names and shapes without values, on torch's "meta" device: converting it costs no memory."""
        return replace(self, payload=_moved(self.payload, "meta"))


def network_state(checkpoint: Checkpoint, system: str) -> Mapping[str, Tensor]:
    """The tensors of a file that holds a network's state and nothing else, by name.

    They stand at the top of the file, or in `state_dict`, where PyTorch Lightning puts them. ModelError, with
    the name of the system, if the file holds anything else or nothing.
    """
    payload = checkpoint.payload
    state = payload.get("state_dict", payload) if isinstance(payload, Mapping) else None
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise ModelError(
            f"The checkpoint '{checkpoint.path}' is not one of {system}: it holds no network state.",
            remedy=_AGAIN,
            code="checkpoint_damaged",
        )
    return state


def state_in(checkpoint: Checkpoint, containers: Sequence[str]) -> Mapping[str, Tensor] | None:
    """`network_state` of a file that may have its tensors in one of these containers; None for another file."""
    payload = checkpoint.payload
    if isinstance(payload, Mapping):
        for container in containers:
            if isinstance(payload.get(container), Mapping):
                payload = {"state_dict": payload[container]}
                break
    try:
        return network_state(Checkpoint(checkpoint.path, payload), "")
    except ModelError:
        return None


def read_checkpoint(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    foreign: Collection[str] = (),
    member: str | None = None,
) -> Checkpoint:
    """Read a checkpoint, whatever its suffix is. ModelError if it is damaged, of an unknown format, or unsafe.

    path: the file; of TensorFlow's the index; or an archive of them (.zip, of TensorFlow's also .tar.gz).
    member: where in the archive the checkpoint is; None: there is only one.
    device: where the tensors go; on "cpu" they stay mapped to the file until they are copied.
    foreign: top-level packages whose classes become `Inert`: their code is not loaded, and they need not be
    installed. Any other name that is not on the list is refused.
    """
    path = Path(path)
    kind, what, graph = "torch", "checkpoint", None
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - 8, 0))
            end = file.read()
    except OSError as error:
        raise from_os(error, path, reading=ModelError) from error
    try:
        if is_index(end):
            payload, kind = read_index(path), "tensorflow"
            size = sum(file.stat().st_size for file in bundle_files(path))  # it holds no values itself
        elif (inner := _behind_gzip(path, head)).startswith((b"\x80", b"PK\x03\x04")):
            with gzip.open(path) as stream:
                if inner.startswith(b"PK"):
                    payload = _read_zip(path, foreign, _unpacked(stream, _EXPANSION * size))
                else:
                    payload = _read_legacy(path, foreign, stream)
        elif _looks_like(head) in ("a gzip archive", "a tar archive"):
            what = _looks_like(head).removeprefix("a ")
            payload, kind = read_archive(path, member), "tensorflow"
        elif head.startswith(b"PK\x03\x04"):
            if zip_names(path, INDEX):
                payload, kind = read_archive(path, member), "tensorflow"
            elif packed := _packed(path, member):
                content = zip_member(path, packed)
                if packed.endswith(".h5"):
                    payload, kind = read_hdf5(content, _budget(_EXPANSION * size)), "nnabla"
                else:
                    payload = _read_zip(path, foreign, content)
            else:
                payload = _read_zip(path, foreign)
        elif (
            head[4:9] == b"\0\0\0\0{"
        ):  # first: the header's length, far below 4 GB, may begin as a pickle does
            return _read_safetensors(path, device)
        elif head.startswith(b"\x80") and len(head) > 1:
            payload = _read_legacy(path, foreign)
        elif head.startswith(SIGNATURE):
            payload, kind = read_hdf5(path, _budget(_EXPANSION * size)), "nnabla"
        elif looks_like_onnx(head):
            (payload, graph), kind = read_onnx(memoryview(mapped(path))), "onnx"
        else:
            raise ModelError(
                f"The file '{path}' ({size} bytes) is {_looks_like(head)}, "
                "not a checkpoint of safetensors, torch.save, TensorFlow, ONNX or NNabla.",
                remedy=_AGAIN,
                code="not_a_checkpoint",
            )
        if isinstance(payload, dict) and payload.keys() == {"compressed"}:
            payload = _read_inner(path, foreign, payload["compressed"])
        _check(payload, _budget(_EXPANSION * size), set())
    except SepcliError:
        raise
    except Exception as error:  # whatever a damaged file provokes in a parser
        kind, said = type(error).__name__, first_line(error)[:200]
        reason = kind if said == kind else f"{kind}: {said}"
        raise ModelError(
            f"The {what} '{path}' is damaged or incomplete ({reason}).",
            remedy=_AGAIN,
            code="checkpoint_damaged",
        ) from error
    return Checkpoint(path, payload if device == "cpu" else _moved(payload, device), {}, kind, graph)


def tensors_in(payload: Any, done: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor of a checkpoint's payload, once."""
    done = set() if done is None else done
    if id(payload) in done:
        return
    done.add(id(payload))
    if isinstance(payload, Tensor):
        yield payload
    elif isinstance(payload, Mapping | list | tuple):
        for item in payload.values() if isinstance(payload, Mapping) else payload:
            yield from tensors_in(item, done)


def _looks_like(head: bytes) -> str:
    """What a file is instead of a checkpoint, in words: mostly the result of a failed download."""
    start = head.lstrip().lower()
    if not head:
        return "empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if head[257:262] == b"ustar":
        return "a tar archive"
    return "of an unknown format"


def _read_safetensors(path: Path, device: str) -> Checkpoint:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt", device=device) as file:
        names = file.keys()  # safe_open is no mapping: it can't be iterated over
        return Checkpoint(path, {key: file.get_tensor(key) for key in names}, file.metadata() or {})


def _check(value: Any, take: Callable[[int], None], done: set[int], around: tuple[int, ...] = ()) -> None:
    """ValueError for data that would be endless, or take memory out of proportion, where it is used.

    take: called with the bytes of every tensor. done: the ids of what was seen. around: of what holds it.
    """
    if id(value) in around or len(around) > _DEEPEST:
        raise ValueError("data that holds itself, or is too deep")
    if id(value) in done:
        return
    if isinstance(value, Tensor):
        take(value.numel() * value.element_size())
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, take, done, (*around, id(value)))
    else:
        return
    done.add(id(value))


def _moved(value: Any, device: str, done: dict[int, Any] | None = None) -> Any:
    """`value` with all tensors in it on `device`. done: what was moved, by the id of what it was made of."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Tensor):
        moved: Any = value.to(device)
    elif isinstance(value, dict):
        moved = {key: _moved(item, device, done) for key, item in value.items()}
    elif isinstance(value, list):
        moved = [_moved(item, device, done) for item in value]
    elif isinstance(value, tuple):
        moved = tuple(_moved(item, device, done) for item in value)
    else:
        return value
    done[id(value)] = moved
    return moved


# --- the two layouts of torch.save ---


def _packed(path: Path, member: str | None) -> str | None:
    """The checkpoint in a zip archive of such files: its name there. None where it is no such archive.

    member: its name, with or without folders; None: there is only one.
    """
    names = [] if zip_names(path, "/data.pkl") else zip_names(path, *_PACKED)
    if not names:
        return None
    found = [name for name in names if member is None or f"/{name}".endswith(f"/{member}")]
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"The archive '{path}' holds {'several checkpoints' if found else f'no {member}'}: "
        f"{', '.join(sorted(found or names))}.",
        remedy="Unpack it, and name one of them.",
        code="ambiguous" if found else "not_a_checkpoint",
    )


def _read_zip(path: Path, foreign: Collection[str], content: io.BytesIO | None = None) -> Any:
    """The object in a zip file of torch.save, since torch 1.6. content: the file, if `path` is its archive."""
    memory = mapped(path) if content is None else content.getbuffer()
    take = _budget(_EXPANSION * len(memory))
    with zipfile.ZipFile(path if content is None else content) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ModelError(
                f"The zip file '{path}' is not a checkpoint of torch.save: it has no data.pkl.",
                remedy=CONVERT,
                code="not_a_checkpoint",
            )
        root = pickles[0].removesuffix("data.pkl")
        script = any(name.startswith(f"{root}code/") for name in entries)
        order = archive.read(root + "byteorder").strip() if root + "byteorder" in entries else b"little"
        if order != b"little":
            raise ModelError(
                f"The checkpoint '{path}' was written by a big-endian machine.",
                remedy=CONVERT,
                code="not_a_checkpoint",
            )

        def stored(name: str) -> tuple[Any, int, int]:
            """A buffer, and the offset and size in bytes of the entry's content in it."""
            info = entries[name]
            if info.compress_type != zipfile.ZIP_STORED:
                take(info.file_size)
                data = bytearray(archive.read(name))
                return data, 0, len(data)
            # The local header: 30 bytes, of which the last four give the lengths of name and extra field.
            at = info.header_offset
            if memory[at : at + 4] != b"PK\x03\x04":
                raise ValueError(f"no entry at byte {at}")
            name_size, extra_size = struct.unpack_from("<HH", memory, at + 26)
            return memory, at + 30 + name_size + extra_size, info.file_size

        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, elements: int, view: Any = None) -> Tensor:
            if key not in storages:
                buffer, offset, size = stored(f"{root}data/{key}")
                if elements * dtype.itemsize > size:
                    raise ValueError(f"storage {key} has {size} bytes for {elements} elements of {dtype}")
                storages[key] = flat(buffer, offset, elements, dtype)
            return storages[key]

        buffer, offset, size = stored(pickles[0])
        data = next_pickle(io.BytesIO(buffer[offset : offset + size]))
        if script:
            return module_tensors(Unpickler(io.BytesIO(data), path, {PACKAGE}, storage).load())
        return Unpickler(io.BytesIO(data), path, foreign, storage).load()


def _read_inner(path: Path, foreign: Collection[str], data: Any) -> Any:
    """The object in a file of torch.save that is kept as bytes in another one, compressed by zlib."""
    if not isinstance(data, bytes):
        raise ValueError("a compressed part that is no bytes")
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, _EXPANSION * len(data))
    if not unpacker.eof:
        raise ValueError("a compressed part that has no end, or is out of proportion")
    return _read_zip(path, foreign, io.BytesIO(content))


def _behind_gzip(path: Path, head: bytes) -> bytes:
    """The first bytes of what a gzip file holds; none where it is no such file or damaged."""
    if not head.startswith(b"\x1f\x8b"):
        return b""
    try:
        with gzip.open(path) as stream:
            return stream.read(8)
    except (OSError, EOFError, zlib.error):
        return b""


def _unpacked(stream: Any, most: int) -> io.BytesIO:
    """All bytes of a stream; ValueError for more than `most`."""
    content = io.BytesIO()
    while block := stream.read(1 << 20):
        if content.tell() + len(block) > most:
            raise ValueError("a content out of proportion")
        content.write(block)
    return content


def _read_legacy(path: Path, foreign: Collection[str], stream: Any = None) -> Any:
    """The object in a file of torch.save before 1.6. stream: its bytes; None: those of the file at `path`."""
    memory = mapped(path) if stream is None else io.BytesIO(stream.read(_PICKLES))
    take = _budget(path.stat().st_size * (1 if stream is None else _EXPANSION))
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, elements: int, view: Any = None) -> Tensor:
        """Zeros for now: in the file, the values come after the object."""
        if key not in storages:
            take(elements * dtype.itemsize)
            storages[key] = torch.zeros(elements, dtype=dtype)
        if view is not None:
            _, start, length = view
            return storages[key][start : start + length]
        return storages[key]

    def load() -> Any:
        return Unpickler(io.BytesIO(next_pickle(memory)), path, foreign, storage).load()

    if load() != _LEGACY_MAGIC:
        raise ModelError(
            f"The file '{path}' is a pickle, but not a checkpoint of torch.save.",
            remedy=_AGAIN,
            code="not_a_checkpoint",
        )
    version, system = load(), load()
    if version != 1001 or not (isinstance(system, dict) and system.get("little_endian", True)):
        raise ValueError(f"version {version!r}")
    payload, keys = load(), load()
    if stream is not None:
        stream.seek(memory.tell())
        memory = stream
    for key in keys:
        (elements,) = struct.unpack("<q", memory.read(8))
        target = storages[key]
        if elements != target.numel():
            raise ValueError(f"storage {key} has {elements} elements for {target.numel()}")
        view, at = target.view(torch.uint8).numpy(), 0
        while at < len(view):
            block = memory.read(min(len(view) - at, 1 << 20))
            if not block:
                raise ValueError(f"the file ends in storage {key}")
            view[at : at + len(block)] = numpy.frombuffer(block, numpy.uint8)
            at += len(block)
    return payload


def _budget(size: int) -> Callable[[int], None]:
    """What to call before bytes are allocated: ValueError below 0, or for more than `size` in all."""
    left = size

    def take(count: int) -> None:
        nonlocal left
        left -= count
        if count < 0 or left < 0:
            raise ValueError(f"tensors of more than {size} bytes do not fit in the file")

    return take
