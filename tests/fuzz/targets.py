"""What is fuzzed. A target reads the bytes of a file; SepcliError is the only exception that it may raise."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A reader of files. intact: makes the files that are damaged; read: takes one."""

    intact: Callable[[], list[bytes]]
    read: Callable[[bytes], None]


_folder = tempfile.TemporaryDirectory(prefix="sepcli-fuzz-")


def as_file(data: bytes, name: str) -> Path:
    """A new file of this content, in a folder that lives as long as this process."""
    path = Path(_folder.name) / name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


# --- checkpoints ---


def _tensors(value: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def read_checkpoint_file(data: bytes) -> None:
    """Read a checkpoint and use it as its users do: look at its shapes, and copy every tensor."""
    from sepcli.weights.checkpoint import read_checkpoint

    found = read_checkpoint(as_file(data, "model.th"), foreign={"demucs", "fractions"})
    found.shapes_only()
    for tensor in _tensors(found.payload):
        tensor.clone()


def read_index_file(data: bytes) -> None:
    """Read the index of a TensorFlow checkpoint beside an intact data file."""
    from sepcli.weights.checkpoint import read_checkpoint

    files = _bundle()
    for name, content in files.items():
        if not name.endswith(".index"):
            as_file(content, name)
    read_checkpoint(as_file(data, next(name for name in files if name.endswith(".index"))))


def checkpoints() -> list[bytes]:
    """Small ones of every kind that is read: safetensors, both layouts of torch.save, TensorFlow's archives."""
    import torch
    from safetensors.torch import save

    from tests.bundles import bundle, write_tar

    state = OrderedDict(
        (f"layer.{k}.weight", torch.arange(12, dtype=kind).reshape(3, 4).t())
        for k, kind in enumerate([torch.float32, torch.float16, torch.int64, torch.bfloat16])
    )
    whole = {
        "state_dict": state,
        "hyper_parameters": {"segment": Fraction(39, 5), "names": ["drums", ("bass", None)], "set": {1, 2}},
        "epoch": 3,
        "lr": 1e-3,
        "raw": b"\x00\xff" * 20,
    }
    made = [save({name: tensor.contiguous() for name, tensor in state.items()}, {"about": json.dumps([1, 2])})]
    one = OrderedDict(list(state.items())[:1])  # of several, the legacy layout has no fixed order
    for payload, modern in [(state, True), (whole, True), (one, False), (whole | {"state_dict": one}, False)]:
        file = io.BytesIO()
        torch.save(payload, file, _use_new_zipfile_serialization=modern)
        made.append(file.getvalue() if modern else _same_keys(file.getvalue()))
    made.append(_legacy_by_hand())
    with tempfile.TemporaryDirectory() as folder:
        tensors = {"conv/kernel": torch.ones(3, 3), "conv/bias": torch.zeros(3)}
        packed = write_tar(Path(folder) / "model.tar.gz", bundle(tensors)).read_bytes()
        made.append(gzip.compress(gzip.decompress(packed), 1, mtime=0))
    return made


def _same_keys(legacy: bytes) -> bytes:
    """The file with other names for its storages: torch takes their addresses in memory."""
    names: dict[bytes, bytes] = {}

    def name(match: re.Match[bytes]) -> bytes:
        if int.from_bytes(match[1], "little") != len(match[2]):
            return match[0]
        new = names.setdefault(match[2], b"%015d" % len(names))
        return b"X" + len(new).to_bytes(4, "little") + new

    return re.sub(rb"X(.{4})(\d{6,})", name, legacy, flags=re.DOTALL)


def _legacy_by_hand() -> bytes:
    """A legacy file with foreign classes in it, as demucs writes its packages."""
    body = b"\x80\x02}q\x00(X\x05\x00\x00\x00klassq\x01cdemucs.demucs\nDemucs\nq\x02"
    body += b"X\x04\x00\x00\x00argsq\x03)q\x04"
    body += b"X\x05\x00\x00\x00modelq\x05h\x02)\x81q\x06}q\x07X\x01\x00\x00\x00aq\x08K\x01sbu."
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, body, pickle.dumps([], 2)])


def indices() -> list[bytes]:
    """The index of a TensorFlow checkpoint."""
    return [content for name, content in _bundle().items() if name.endswith(".index")]


def _bundle() -> dict[str, bytes]:
    import torch

    from tests.bundles import bundle

    return bundle({"a": torch.arange(6.0).reshape(2, 3), "deep/b": torch.ones(4, dtype=torch.float16)})


def read_onnx_file(data: bytes) -> None:
    """Read an ONNX file, ask which network it is for, and convert it as if it were the intact one."""
    from sepcli.errors import SepcliError
    from sepcli.models.mdxnet import FAMILY
    from sepcli.weights.checkpoint import read_checkpoint

    found = read_checkpoint(as_file(data, "model.onnx"))
    for tensor in _tensors(found.payload):
        tensor.clone()
    if found.graph is not None:
        with suppress(SepcliError):  # of another network
            FAMILY.detect(found.shapes_only())
            FAMILY.convert(found, _mdxnet())


def onnx_files() -> list[bytes]:
    """A tiny MDX-Net, and a graph with what else the reader knows."""
    import torch

    from tests import onnxfiles
    from tests.onnxfiles import field, node, shaped

    nodes = [
        node("Constant", [], "c", value=torch.ones(3)),
        node("Identity", ["w"], "same"),
        node("Add", ["x", "same"], "y", axis=-1, scale=0.5, sizes=[1, -1, 1 << 40]),
    ]
    tensors = {"w": torch.arange(3.0), "n": torch.arange(2), "h": torch.ones(2, 2).half()}
    other = onnxfiles.model(nodes, tensors, [shaped("x", ["n", 3])], [shaped("y", [3])])
    values = field(7, field(5, onnxfiles.tensor("w", torch.ones(4), values=4)))
    return [onnxfiles.mdxnet(_mdxnet()), other, field(1, 7) + field(2, "x") + values]


def _mdxnet() -> Any:
    import torch

    from sepcli.models.mdxnet.config import MDXNetConfig
    from sepcli.models.mdxnet.network import MDXNet

    sizes = dict(nfft=64, hop=16, bins=16, frames=8, growth=2, scales=1, convs=1, bottleneck=4, folded=True)
    torch.manual_seed(0)
    return MDXNet(MDXNetConfig(**sizes)).eval()


# --- audio ---


def read_audio_file(data: bytes) -> None:
    """Read a sound file as a separation does: its header, all its samples, what was lost, tags and cover."""
    import numpy as np

    from sepcli.sound.decode import AudioReader
    from sepcli.sound.probe import probe
    from sepcli.sound.tags import read_tags

    # The suffix is a hint for some readers: it comes from the content, so that an input stays the same.
    path = as_file(data, "sound." + ("wav", "mp3", "m4a", "mkv", "flac", "bin")[len(data) % 6])
    info = probe(path)
    read_tags(path, info)
    reader = AudioReader(path, info)
    for block in reader:
        assert block.dtype == np.float32 and block.shape[0] == info.channels and np.isfinite(block).all()
    assert all(loss.seconds >= 0 for loss in reader.losses) and all(reader.warnings)


def sounds() -> list[bytes]:
    """Short files of all formats that the soak test makes."""
    import soundfile

    from tests.bench.soak import KINDS, PACKED, RATE, packed
    from tests.sounds import music

    made = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (suffix, kind) in enumerate(KINDS):
            path = Path(folder) / f"{number}.{suffix}"
            x = music(RATE // 5, seed=number)
            if (suffix, kind) in PACKED:
                packed(path, kind, x)
            else:
                soundfile.write(path, x.T, RATE, kind, format=suffix.upper())
            made.append(path.read_bytes())
    return made


# --- one that misbehaves, for the tests of the harness ---


def misbehave(data: bytes) -> None:
    """Do what the first byte says."""
    from sepcli.errors import ModelError

    kind = data[0] % 8
    if kind == 1:
        raise ModelError("No.", remedy="No.")
    if kind == 2:
        raise ValueError("not a SepcliError")
    if kind == 3:
        bytes(8 << 30)
    if kind == 4:
        import ctypes

        ctypes.string_at(0)
    if kind == 5:
        while True:
            pass
    if kind == 6:
        try:
            bytearray(8 << 30)
        except MemoryError as error:
            raise ModelError("Damaged.", remedy="No.") from error


TARGETS = {
    "checkpoint": Target(checkpoints, read_checkpoint_file),
    "tensorflow-index": Target(indices, read_index_file),
    "onnx": Target(onnx_files, read_onnx_file),
    "audio": Target(sounds, read_audio_file),
    "misbehaving": Target(lambda: [bytes([kind]) * 8 for kind in range(8)], misbehave),
}
