"""The graph of a published `.onnx` file as a network of ours: operator by operator, never by names.

    Conv Relu Transpose | block, Conv Relu | ... | block | ConvTranspose BatchNormalization Relu Mul, block
    | ... | Transpose Conv

    block: (Conv Relu) x convs, MatMul BatchNormalization Relu, MatMul BatchNormalization Relu, Add

Exporters fold norms into convolutions and give tensors names of their own, but all write this sequence. Each
operator must take what the ones before have made, and each tensor of the file must be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sepcli.errors import ModelError
from sepcli.models.mdxnet.blocks import EPSILON
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.onnx import Node

_SWAP = (0, 1, 3, 2)  # the axes of time and frequency


@dataclass
class Parsed:
    """What a graph holds. state: by our names, without norms that were folded. frames: None if any number."""

    state: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    frames: int | None = None


def parse(checkpoint: Checkpoint) -> Parsed:
    """The network in an ONNX file. ModelError if it is another one."""
    return _Reader(checkpoint).read()


class _Reader:
    """Goes through the nodes once. `value`: the name of what the last one has made."""

    def __init__(self, checkpoint: Checkpoint):
        assert checkpoint.graph is not None
        self.path = checkpoint.path
        self.tensors: dict[str, Tensor] = dict(checkpoint.payload)
        self.nodes: list[Node] = []
        self.used: set[str] = set()
        for node in checkpoint.graph.nodes:
            name = node.inputs[0] if node.inputs else ""
            if node.kind == "Transpose" and name in self.tensors and len(node.outputs) == 1:
                tensor = self.tensors[name]
                self._must(tensor.dim() == 2, "a transposed tensor that is no matrix")
                self.tensors[node.outputs[0]] = tensor.t()  # an exporter that folds no constants
                self.used.add(name)
            else:
                self.nodes.append(node)
        self.at = 0
        self._must(len(checkpoint.graph.inputs) == 1, f"{len(checkpoint.graph.inputs)} inputs")
        ((self.value, self.shape),) = checkpoint.graph.inputs.items()
        self.parsed = Parsed()

    def read(self) -> Parsed:
        """All of it."""
        convs, bins = [], []
        self._conv("first", 1, 1)
        self._take("Transpose", perm=_SWAP)
        skips, level = [], 0
        while True:
            # A block ends with an addition; behind all but the lowest one comes a convolution with stride 2.
            place = f"encoders.{level}"
            shapes = self._block(place)
            convs.append(shapes[0])
            bins.append(shapes[1])
            if self._next() != "Conv":
                break
            skips.append(self.value)
            self._conv(f"downs.{level}", 2, 2)
            level += 1
        self._rename(f"encoders.{level}.", "middle.")
        for number in range(level):
            self._conv(f"ups.{number}", 2, 2, "ConvTranspose")
            self._take("Mul", skips.pop())
            shapes = self._block(f"decoders.{number}")
            convs.append(shapes[0])
            bins.append(shapes[1])
        self._take("Transpose", perm=_SWAP)
        self._plain_conv("last", 1, 1)
        self._must(self.at == len(self.nodes), "operators behind the last convolution")
        left = sorted(set(self.tensors) - self.used)
        self._must(not left, f"tensors without use, such as {left[:1]}")
        self._settings(level, convs, bins)
        return self.parsed

    def _settings(self, scales: int, convs: Sequence[int], bins: Sequence[tuple[int, int]]) -> None:
        growth, inputs = self.parsed.state["first.conv.weight"].shape[:2]
        levels = [*range(scales + 1), *reversed(range(scales))]
        total, inner = bins[0]
        self._must(len(set(convs)) == 1, "blocks of different depths")
        self._must(inner > 0 and total % inner == 0, "other linear layers")
        bottleneck = total // inner
        expected = [(total >> level, (total >> level) // bottleneck) for level in levels]
        self._must(list(bins) == expected, "linear layers of other sizes")
        self._must(len(self.shape) == 4 and inputs % 2 == 0, "an input of another shape")
        declared = self.shape[2]
        self._must(declared in (None, total), f"{declared} bins declared, but tensors for {total}")
        self.parsed.frames = self.shape[3]
        self.parsed.settings = {
            "channels": inputs // 2,
            "bins": total,
            "growth": growth,
            "scales": scales,
            "convs": convs[0],
            "bottleneck": bottleneck,
            "folded": True,
        }

    # --- parts ---

    def _block(self, place: str) -> tuple[int, tuple[int, int]]:
        """The number of its convolutions, and (bins, bins of the inner layer)."""
        count = 0
        while self._next() == "Conv":
            self._conv(f"{place}.convs.{count}", 3, 1)
            count += 1
        before, sizes = self.value, []
        for number in range(2):
            node = self._take("MatMul")
            (weight,) = self._tensors(node, 1)
            self._must(weight.dim() == 2, "a product with something that is no matrix")
            sizes.append(tuple(weight.shape))
            self.parsed.state[f"{place}.linears.{number}.linear.weight"] = weight.t()
            self._norm(f"{place}.linears.{number}.norm")
            self._take("Relu")
        self._take("Add", before)
        (bins, inner), back = sizes
        self._must(back == (inner, bins), "linear layers that don't fit each other")
        return count, (bins, inner)

    def _conv(self, place: str, kernel: int, stride: int, kind: str = "Conv") -> None:
        """A convolution, its norm if it has one still, and ReLU."""
        self._plain_conv(f"{place}.conv", kernel, stride, kind)
        if self._next() == "BatchNormalization":
            self._norm(f"{place}.norm")
        self._take("Relu")

    def _plain_conv(self, place: str, kernel: int, stride: int, kind: str = "Conv") -> None:
        node = self._take(kind)
        weight, bias = self._tensors(node, 2)
        self._must(tuple(weight.shape[2:]) == (kernel, kernel), f"a kernel of {tuple(weight.shape[2:])}")
        expected = {
            "strides": ((stride, stride), (1, 1)),
            "pads": ((kernel // 2,) * 4 if kernel == 3 else (0,) * 4, (0,) * 4),
            "dilations": ((1, 1), (1, 1)),
            "output_padding": ((0, 0), (0, 0)),
            "group": (1, 1),
        }
        for name, (value, default) in expected.items():
            self._must(node.attributes.get(name, default) == value, f"convolutions with other {name}")
        self.parsed.state[f"{place}.weight"], self.parsed.state[f"{place}.bias"] = weight, bias

    def _norm(self, place: str) -> None:
        node = self._take("BatchNormalization")
        epsilon = node.attributes.get("epsilon", EPSILON)
        self._must(isinstance(epsilon, float) and abs(epsilon / EPSILON - 1) < 1e-3, f"an epsilon of {epsilon}")
        names = ("weight", "bias", "mean", "variance")
        for name, tensor in zip(names, self._tensors(node, 4), strict=True):
            self.parsed.state[f"{place}.{name}"] = tensor

    # --- nodes ---

    def _next(self) -> str:
        """The kind of the next operator; "" behind the last."""
        return self.nodes[self.at].kind if self.at < len(self.nodes) else ""

    def _take(self, kind: str, other: str | None = None, **attributes: Any) -> Node:
        """The next operator, which takes `value` and perhaps another one that was made before."""
        self._must(self._next() == kind, f"{self._next() or 'nothing'} in the place of {kind}")
        node = self.nodes[self.at]
        self.at += 1
        made = sorted(name for name in node.inputs if name not in self.tensors)
        wanted = sorted([self.value] if other is None else [self.value, other])
        self._must(made == wanted and len(node.outputs) == 1, f"a {kind} of something else")
        for name, value in attributes.items():
            self._must(node.attributes.get(name) == value, f"a {kind} with another {name}")
        self.value = node.outputs[0]
        return node

    def _tensors(self, node: Node, count: int) -> list[Tensor]:
        """Its weights, as many as it must have, behind what it works on."""
        names = [name for name in node.inputs[1:] if name in self.tensors]
        self._must(len(names) == count == len(node.inputs) - 1, f"a {node.kind} of {len(names)} tensors")
        self.used.update(names)
        return [self.tensors[name] for name in names]

    def _rename(self, prefix: str, other: str) -> None:
        state = self.parsed.state
        self.parsed.state = {
            other + name.removeprefix(prefix) if name.startswith(prefix) else name: tensor
            for name, tensor in state.items()
        }

    def _must(self, holds: bool, fact: str) -> None:
        if not holds:
            raise ModelError(
                f"The ONNX file '{self.path}' is not an MDX-Net that sepcli knows: it has {fact}.",
                remedy="Check that it is the file you meant; sepcli reads networks of TFC-TDF v2 only.",
                code="unknown_network",
            )
