"""ONNX files: what is written comes back, and damage is refused."""

from __future__ import annotations

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.weights.checkpoint import read_checkpoint
from sepcli.weights.onnx import MOST
from tests import onnxfiles
from tests.onnxfiles import field, node, shaped, tensor

TENSORS = {
    "a": torch.randn(3, 2),
    "b": torch.arange(4),
    "c": torch.randn(5).half(),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
}
NODES = [
    node("MatMul", ["x", "a"], "y", alpha=0.5, axes=[1, -2], group=-3),
    node("Identity", ["a"], "same"),
    node("Constant", [], "seven", value=torch.tensor([7.0])),
    node("Add", ["y", "same"], "z"),
]


def read(path, data):
    path.write_bytes(data)
    return read_checkpoint(path)


def test_what_is_written_comes_back(tmp_path):
    made = onnxfiles.model(NODES, TENSORS, [shaped("x", ["batch", 4, 3])], [shaped("z", [1])])
    checkpoint = read(tmp_path / "model.bin", made)
    expected = {**TENSORS, "seven": torch.tensor([7.0])}
    assert checkpoint.format == "onnx" and checkpoint.payload.keys() == expected.keys()
    for name, value in checkpoint.payload.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name])
    graph = checkpoint.graph
    assert graph.inputs == {"x": (None, 4, 3)}
    assert [(each.kind, each.inputs, each.outputs) for each in graph.nodes] == [
        ("MatMul", ("x", "a"), ("y",)),
        ("Add", ("y", "a"), ("z",)),  # an Identity gives a tensor a second name
    ]
    assert graph.nodes[0].attributes == {"alpha": 0.5, "axes": (1, -2), "group": -3}
    empty = checkpoint.shapes_only()
    assert empty.payload["a"].is_meta and empty.graph is graph


def test_values_in_the_other_field(tmp_path):
    graph = field(5, tensor("w", torch.ones(2, 3), values=4))
    checkpoint = read(tmp_path / "model.onnx", field(1, 7) + field(2, "x") + field(7, graph))
    assert torch.equal(checkpoint.payload["w"], torch.ones(2, 3))


def whole(graph):
    return field(1, 7) + field(2, "x") + field(7, graph)


BAD = {
    "no graph": field(1, 7) + field(2, "x"),
    "two graphs": field(1, 7) + field(2, "x") + field(7, b"") + field(7, b""),
    "too many": whole(field(1, b"") * (MOST + 2)),
    "more than the file": whole(field(5, field(1, 1 << 40) + field(2, 1) + field(8, "w"))),
    "below 0": whole(field(5, field(1, -1) + field(1, -4) + field(2, 1) + field(9, bytes(16)))),
    "another type": whole(field(5, field(2, 8) + field(8, "text"))),
    "another file": whole(field(5, field(2, 1) + field(8, "w") + field(13, b"") + field(9, bytes(4)))),
    "twice": whole(field(5, tensor("w", torch.ones(1))) * 2),
    "a number for a text": whole(field(1, field(1, 3))),
    "cut off": whole(field(5, tensor("w", torch.ones(9))))[:-5],
}


@pytest.mark.parametrize("name", BAD)
def test_damage(name, tmp_path):
    with pytest.raises(ModelError, match="damaged or incomplete") as caught:
        read(tmp_path / "model.onnx", BAD[name])
    assert caught.value.code == "checkpoint_damaged"
