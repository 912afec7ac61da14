"""Weights in a quarter of their bytes: int8, with a scale for each output channel beside them.

A way to store, not to compute: what is loaded is float32 again. With weights w and a scale s of their channel,
w is stored as round(w / s), s = max |w| / 127: symmetric, so that 0 stays 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # the scales of `name` are called `name.scale`
LEVELS = 127
SMALLEST = 1024  # values; smaller tensors, and all of one axis (norms, biases), stay as they are


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, the large ones as int8 with their scales.

    The channels are those of the first or the second axis, whichever is nearer to the weights: linear layers
    and convolutions have their outputs in the first, transposed convolutions in the second.
    """
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or tensor.numel() < SMALLEST or not tensor.is_floating_point():
            stored[name] = tensor
            continue
        tries = [_quantised(tensor.detach().float(), axis) for axis in (0, 1)]
        stored[name], stored[name + SCALE] = min(tries, key=lambda pair: _error(tensor, *pair))
    return stored


def expand(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `compact` stored, in float32; tensors of other files as they are."""
    small = {name for name, tensor in stored.items() if tensor.dtype == torch.int8 and name + SCALE in stored}
    scales = {name + SCALE for name in small}
    return {
        name: tensor.float() * stored[name + SCALE] if name in small else tensor
        for name, tensor in stored.items()
        if name not in scales
    }


def _quantised(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """int8 of the tensor's shape, and the scales in a shape that multiplies it."""
    others = [k for k in range(tensor.dim()) if k != axis]
    scale = (tensor.abs().amax(dim=others, keepdim=True) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor / scale).round().to(torch.int8), scale


def _error(tensor: Tensor, values: Tensor, scale: Tensor) -> float:
    return float((values * scale - tensor).square().sum())
