"""Read an ONNX file as inert data: its tensors by name, and the graph, operator by operator.

Knows no network and runs nothing; what the operators mean is for a family to say. The format (onnx.proto; the
numbers are those of the fields):

    model   7 graph
    graph   1 node, 5 initializer (a tensor), 11 input
    node    1 inputs, 2 outputs, 4 operator, 5 attributes
    tensor  1 shape, 2 type, 4 float_data, 8 name, 9 raw_data: little-endian, row by row
    input   1 name, 2 type > 1 tensor type > 2 shape > 1 dimension > 1 number, or 2 its name

Identity nodes, which give a tensor a second name, and Constant nodes are resolved: they count as tensors. What
else a file has is not looked at. What a damaged file provokes is a ValueError or an IndexError.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from sepcli.weights.memory import flat
from sepcli.weights.protobuf import message_fields, message_values, varint

MOST = 20_000  # nodes, tensors, or names in one of them; a published network has some 400
_DTYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
_STARTS = frozenset((0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42))  # the tags of a model's fields 2 to 8


@dataclass(frozen=True)
class Node:
    """An operator. attributes: those that are numbers or lists of whole numbers."""

    kind: str  # "Conv"
    inputs: tuple[str, ...]  # names of tensors, of a graph's inputs, or of what other nodes make
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float | tuple[int, ...]]


@dataclass(frozen=True)
class Graph:
    """What a file computes. inputs: {name: its shape, None for an axis of any length}."""

    nodes: tuple[Node, ...]  # in an order in which they can run
    inputs: Mapping[str, tuple[int | None, ...]]


def looks_like_onnx(head: bytes) -> bool:
    """Whether a file that begins so may be one: a small version number, then another field of a model."""
    return len(head) > 2 and head[0] == 0x08 and head[1] < 0x80 and head[2] in _STARTS


def read_onnx(data: memoryview) -> tuple[dict[str, Tensor], Graph]:
    """{name: tensor} and the graph of a file. Tensors are views of its bytes where that can be."""
    graphs = [part for number, part in message_fields(data) if number == 7]
    if len(graphs) != 1:
        raise ValueError("no graph, or several")
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    inputs: dict[str, tuple[int | None, ...]] = {}
    budget = len(data)
    for number, part in message_fields(graphs[0]):
        if max(len(nodes), len(tensors), len(inputs)) > MOST:
            raise ValueError(f"more than {MOST} nodes or tensors")
        if number == 1:
            node, constant = _node(part)
            if constant is not None:
                tensors[node.outputs[0]] = constant
            else:
                nodes.append(node)
        elif number == 5:
            name, tensor = _tensor(part)
            budget -= tensor.numel() * tensor.element_size()
            if name in tensors or budget < 0:
                raise ValueError(f"the tensor '{name}' comes twice, or does not fit in the file")
            tensors[name] = tensor
        elif number == 11:
            name, shape = _input(part)
            inputs[name] = shape
    graph = Graph(tuple(_named(nodes)), {k: v for k, v in inputs.items() if k not in tensors})
    return tensors, graph


def _named(nodes: list[Node]) -> list[Node]:
    """The nodes without Identity, whose result is called as its input is."""
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = tuple(names.get(name, name) for name in node.inputs)
        if node.kind == "Identity" and len(inputs) == len(node.outputs) == 1:
            names[node.outputs[0]] = inputs[0]
        else:
            kept.append(Node(node.kind, inputs, node.outputs, node.attributes))
    return kept


def _node(message: memoryview) -> tuple[Node, Tensor | None]:
    """A node, and the tensor of a Constant."""
    inputs: list[str] = []
    outputs: list[str] = []
    kind, attributes, constant = "", {}, None
    for number, part in message_fields(message):
        if number in (1, 2):
            (inputs if number == 1 else outputs).append(_text(part))
        elif number == 4:
            kind = _text(part)
        elif number == 5:
            name, value = _attribute(part)
            if isinstance(value, Tensor):
                constant = value
            elif value is not None:
                attributes[name] = value
        if len(inputs) + len(outputs) + len(attributes) > MOST:
            raise ValueError("a node is too large")
    if kind != "Constant" or constant is None or len(outputs) != 1:
        constant = None
    return Node(kind, tuple(inputs), tuple(outputs), attributes), constant


def _attribute(message: memoryview) -> tuple[str, Any]:
    """Name and value; None for a kind of value that no weights need (texts, lists of floats)."""
    name, value, numbers = "", None, list[int]()
    for number, part in message_fields(message):
        if number == 1:
            name = _text(part)
        elif number == 2:
            (value,) = struct.unpack("<f", part)
        elif number == 3:
            value = _signed(part)
        elif number == 5:
            value = _tensor(part)[1]
        elif number == 8:
            numbers += _numbers(part)
    return name, tuple(numbers) if numbers else value


def _tensor(message: memoryview) -> tuple[str, Tensor]:
    shape, kind, name, raw = list[int](), 0, "", None
    for number, part in message_fields(message):
        if number == 1:
            shape += _numbers(part)
        elif number == 2:
            kind = part
        elif number == 8:
            name = _text(part)
        elif number in (4, 9):
            if raw is not None or not isinstance(part, memoryview):
                raise ValueError(f"the values of '{name}' are in pieces")
            raw = part
        elif number in (3, 13):
            raise ValueError(f"the values of '{name}' are in pieces, or in another file")
    if kind not in _DTYPES or len(shape) > 8 or any(size < 0 for size in shape):
        raise ValueError(f"'{name}' has the type {kind} and the shape {shape[:9]}, which no weights have")
    dtype, elements = _DTYPES[kind], prod(shape)
    if len(raw or b"") != elements * dtype.itemsize:
        raise ValueError(f"'{name}' has {len(raw or b'')} bytes for the shape {shape}")
    return name, flat(raw if raw is not None else b"", 0, elements, dtype).view(shape)


def _input(message: memoryview) -> tuple[str, tuple[int | None, ...]]:
    values = message_values(message)
    tensor = message_values(_part(values, 2)).get(1, memoryview(b""))
    shape = message_values(tensor).get(2, memoryview(b""))
    sizes = [message_values(part).get(1) for number, part in message_fields(shape) if number == 1]
    if len(sizes) > 8:
        raise ValueError("an input has too many axes")
    return _text(_part(values, 1)), tuple(size if isinstance(size, int) else None for size in sizes)


def _part(values: Mapping[int, Any], number: int) -> memoryview:
    part = values.get(number, memoryview(b""))
    if not isinstance(part, memoryview):
        raise ValueError(f"field {number} is a number")
    return part


def _numbers(part: Any) -> list[int]:
    """Whole numbers: one, or several in one field."""
    if isinstance(part, int):
        return [_signed(part)]
    found, at = [], 0
    while at < len(part):
        value, at = varint(part, at)
        found.append(_signed(value))
        if len(found) > MOST:
            raise ValueError("a list is too long")
    return found


def _signed(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError("not a whole number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(part: Any) -> str:
    if not isinstance(part, memoryview):
        raise ValueError("not a text")
    return bytes(part).decode()
