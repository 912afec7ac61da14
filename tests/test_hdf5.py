"""The files of NNabla: what is written comes back, and what lies elsewhere is refused."""

from __future__ import annotations

import sys
import zipfile

import h5py
import numpy
import pytest
import torch

from sepcli.errors import DeviceError, ModelError
from sepcli.weights.checkpoint import read_checkpoint

TENSORS = {
    "fc1/affine/W": torch.randn(3, 2),
    "fc1/bn/mean": torch.randn(1, 1, 3).half(),
    "mean": torch.randn(4, dtype=torch.float64),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 4),
}


def write(path, tensors=TENSORS, **how):
    with h5py.File(path, "w") as file:
        for index, (name, tensor) in enumerate(tensors.items()):
            packed = how if tensor.numel() > 1 else {}
            file.create_dataset(name, data=tensor.numpy(), **packed).attrs["index"] = index
    return path


def refused(path):
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    return caught.value.message


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


@pytest.mark.parametrize("how", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}])
def test_what_is_written_comes_back(tmp_path, how):
    checkpoint = read_checkpoint(write(tmp_path / "model.h5", **how))
    assert checkpoint.format == "nnabla"
    same(checkpoint.payload, TENSORS)


def test_in_an_archive(tmp_path):
    for name in ("vocals", "drums"):
        write(tmp_path / f"{name}.h5", {name: torch.ones(2)})
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("vocals", "drums"):
            archive.write(tmp_path / f"{name}.h5", f"folder/{name}.h5")
    same(read_checkpoint(tmp_path / "all.zip", member="drums.h5").payload, {"drums": torch.ones(2)})
    assert "several checkpoints" in refused(tmp_path / "all.zip")


def test_big_endian_numbers(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["x"] = numpy.arange(3, dtype=">f4")
    same(read_checkpoint(tmp_path / "model.h5").payload, {"x": torch.arange(3.0)})


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual", "text", "circle"])
def test_what_is_not_numbers_in_this_file_is_refused(tmp_path, kind):
    write(tmp_path / "other.h5")
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["x"] = numpy.ones(2)
        if kind == "external link":
            file["y"] = h5py.ExternalLink("other.h5", "/mean")
        elif kind == "soft link":
            file["y"] = h5py.SoftLink("/x")
        elif kind == "external data":
            file.create_dataset("y", (16,), "f4", external=[(str(tmp_path / "raw"), 0, 64)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "mean", (4,))
            file.create_virtual_dataset("y", layout)
        elif kind == "text":
            file["y"] = "words"
        else:
            file["y/z"] = file["/"]
    assert "damaged" in refused(tmp_path / "model.h5")


def test_a_file_that_would_expand_without_end(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.create_dataset(
            "x", (1 << 40,), "f4", chunks=(1 << 16,)
        )  # never written: all of it is the fill value
    assert "do not fit" in refused(tmp_path / "model.h5")


def test_truncated(tmp_path):
    data = write(tmp_path / "model.h5").read_bytes()
    for size in (8, 9, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "short.h5").write_bytes(data[:size])
        refused(tmp_path / "short.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "model.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DeviceError, match="h5py") as caught:
        read_checkpoint(path)
    assert "sepcli[nnabla]" in caught.value.remedy
