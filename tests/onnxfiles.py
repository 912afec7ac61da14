"""Write ONNX files: protobuf messages by hand, and a network of ours as published files have it."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor

from sepcli.models.mdxnet.network import MDXNet

TYPES = {torch.float32: 1, torch.int64: 7, torch.float16: 10, torch.float64: 11}


def varint(value: int) -> bytes:
    value %= 1 << 64
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field: a whole number, a float of four bytes, or what has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, value: Tensor, *, values: int = 9) -> bytes:
    """values: 9 is raw_data, 4 float_data."""
    raw = value.contiguous().numpy().tobytes()
    shape = b"".join(field(1, size) for size in value.shape)
    return shape + field(2, TYPES[value.dtype]) + field(8, name) + field(values, raw)


def node(kind: str, inputs: list[str], output: str, **attributes) -> bytes:
    """attributes: floats, whole numbers, lists of them, or tensors."""
    made = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            made += field(5, field(1, name) + field(5, tensor("", value)) + field(20, 4))
        elif isinstance(value, float):
            made += field(5, field(1, name) + field(2, value) + field(20, 1))
        elif isinstance(value, int):
            made += field(5, field(1, name) + field(3, value) + field(20, 2))
        else:
            made += field(5, field(1, name) + b"".join(field(8, each) for each in value) + field(20, 7))
    return made


def shaped(name: str, shape: list[int | str]) -> bytes:
    """An input or output; a text is an axis of any length."""
    sizes = b"".join(field(1, field(2 if isinstance(size, str) else 1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))


def model(nodes: list[bytes], tensors: dict[str, Tensor], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    graph = b"".join(field(1, each) for each in nodes) + field(2, "main")
    graph += b"".join(field(5, tensor(name, value)) for name, value in tensors.items())
    graph += b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)
    return field(1, 6) + field(2, "tests") + field(7, graph) + field(8, field(1, "") + field(2, 13))


def mdxnet(network: MDXNet, *, turned: bool = True) -> bytes:
    """A folded network as published: Conv with bias, MatMul with the matrix turned, BatchNormalization kept.

    One that is not folded has all its norms. turned: else a Transpose in the graph turns each matrix.
    """
    config, state = network.config, network.state_dict()
    nodes: list[bytes] = []
    tensors: dict[str, Tensor] = {}
    value = "input"

    def add(kind: str, *inputs: str, **attributes) -> str:
        nonlocal value
        output = f"v{len(nodes)}"
        nodes.append(node(kind, [value, *inputs], output, **attributes))
        value = output
        return output

    def held(weight: Tensor) -> str:
        name = str(len(tensors))
        tensors[name] = weight
        return name

    def conv(place: str, kernel: int, stride: int, kind: str = "Conv") -> None:
        pads = [kernel // 2 if kernel == 3 else 0] * 4
        weights = [held(state[f"{place}.weight"]), held(state[f"{place}.bias"])]
        sizes = dict(dilations=[1, 1], group=1, kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2)
        add(kind, *weights, **sizes)
        norm(place.removesuffix(".conv"))

    def norm(place: str) -> None:
        names = [f"{place}.norm.{part}" for part in ("weight", "bias", "mean", "variance")]
        if names[0] in state:
            add("BatchNormalization", *(held(state[name]) for name in names), epsilon=1e-5, momentum=0.9)

    def matrix(weight: Tensor) -> str:
        if turned:
            return held(weight.t())
        nodes.append(node("Transpose", [held(weight)], f"v{len(nodes)}", perm=[1, 0]))
        return f"v{len(nodes) - 1}"

    def block(place: str) -> None:
        for number in range(config.convs):
            conv(f"{place}.convs.{number}.conv", 3, 1)
            add("Relu")
        before = value
        for number in range(2):
            linear = f"{place}.linears.{number}"
            add("MatMul", matrix(state[f"{linear}.linear.weight"]))
            norm(linear)
            add("Relu")
        add("Add", before)

    conv("first.conv", 1, 1)
    add("Relu")
    add("Transpose", perm=[0, 1, 3, 2])
    skips = []
    for level in range(config.scales):
        block(f"encoders.{level}")
        skips.append(value)
        conv(f"downs.{level}.conv", 2, 2)
        add("Relu")
    block("middle")
    for level in range(config.scales):
        conv(f"ups.{level}.conv", 2, 2, "ConvTranspose")
        add("Relu")
        add("Mul", skips.pop())
        block(f"decoders.{level}")
    add("Transpose", perm=[0, 1, 3, 2])
    conv("last", 1, 1)
    shape = ["batch", 2 * config.channels, config.bins, config.frames]
    return model(nodes, tensors, [shaped("input", shape)], [shaped(value, shape)])


def write(path: Path, network: MDXNet) -> Path:
    path.write_bytes(mdxnet(network))
    return path
