"""Decode weights that were stored by differentiable quantisation (diffq): tensors out of bits.

Knows nothing of files or networks; the layout was read from the published states and is described here.

A parameter of more than `min_size` MiB (as float32) was cut into groups of `group_size` values, each group
with its own number of bits b (2 to 14), all sharing one range [lo, hi]:

    value = level / (2^b - 1) · (hi - lo) + lo          level an integer of b bits

    (levels, (lo, hi), bits)      one such parameter: levels[b - 1] holds the groups of b bits, in order;
                                  bits holds b - min_bits of every group

Both are packed bit plane by bit plane: 2048 values of n bits are n x 32 words of 64 bits, and value
32·j + i has its bit p in bit j of word (p, i). Smaller parameters are stored as they are ("others").
There are no names: parameters follow each other as the network registers them.

diffq 0.1, of Demucs v2, packs nothing and does not say its settings: (levels, (lo, hi), bits) with levels
[groups, group_size] of 8 or 16 bits a value, and bits [groups, 1]. How many parameters it cut into groups tells
`min_size`: it is the largest ones.

A. Défossez, Y. Adi, G. Synnaeve: Differentiable Model Compression via Pseudo Quantization Noise (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from sepcli.errors import ModelError

_BLOCK = 32 * 64  # values packed together
_MOST_BITS = 14  # what the published packing covers

# The quantiser's own defaults, for settings that a state leaves out; others don't matter for decoding.
_DEFAULTS = {"min_size": 0.01, "group_size": 1, "min_bits": 2, "float16": False, "exclude": []}


def is_quantised(state: Any) -> bool:
    """Whether a checkpoint's state is one of these."""
    return isinstance(state, Mapping) and bool(state.get("__quantized"))


def decode(state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A quantised state -> float32 tensors named and shaped as `shapes`, in whose order they are stored.

    ModelError where the state is not of the published layout or does not fit these shapes.
    """
    settings = _settings(state)
    stored = {kind: list(state[kind]) for kind in ("quantized", "float16", "others")}
    small = "float16" if settings["float16"] else "others"
    limit = settings["min_size"] * 2**20 // 4  # values
    result = {}
    for name, shape in shapes.items():
        kind = "quantized" if math.prod(shape) > limit else small
        if not stored[kind]:
            raise _misfit(f"it ends before '{name}'")
        item = stored[kind].pop(0)
        if kind == "quantized":
            values = _decode_one(name, item, math.prod(shape), settings).view(*shape)
        elif not isinstance(item, Tensor) or item.shape != torch.Size(shape):
            raise _misfit(f"'{name}' should be of shape {list(shape)}")
        else:
            values = item.float()
        result[name] = values
    left = sum(map(len, stored.values()))
    if left:
        raise _misfit(f"it has {left} tensors more")
    return result


def is_quantised_early(state: Any) -> bool:
    """Whether a checkpoint's state is one of diffq 0.1."""
    return isinstance(state, Mapping) and state.keys() == {"quantized", "float16", "others"}


def decode_early(state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """`decode` of a state of diffq 0.1."""
    parts = {kind: state[kind] for kind in ("quantized", "float16", "others")}
    if not all(isinstance(items, list | tuple) for items in parts.values()):
        raise _misfit("parts of it are missing")
    cut, small = list(parts["quantized"]), [*parts["float16"], *parts["others"]]
    if len(cut) + len(small) != len(shapes):
        raise _misfit(f"it has {len(cut) + len(small)} tensors, and the network {len(shapes)}")
    sizes = sorted((math.prod(shape) for shape in shapes.values()), reverse=True)
    limit = sizes[len(cut)] if small else 0  # of what is not cut into groups
    result = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        items = cut if size > limit else small
        if not items:
            raise _misfit(f"it ends before '{name}'")
        item = items.pop(0)
        if size > limit:
            item = _value(name, item).flatten()
            if item.numel() != size:
                raise _misfit(f"'{name}' has {item.numel()} values in place of {size}")
            item = item.view(*shape)
        elif not isinstance(item, Tensor) or item.shape != torch.Size(shape):
            raise _misfit(f"'{name}' should be of shape {list(shape)}")
        result[name] = item.float()
    return result


def _value(name: str, item: Any) -> Tensor:
    """One parameter of diffq 0.1 -> [groups, group_size] float32."""
    try:
        levels, (low, high), bits = item
        low, high = float(low), float(high)
        ranks = levels.dim(), bits.dim(), len(levels) - len(bits)
    except (TypeError, ValueError, AttributeError) as error:
        raise _misfit(f"'{name}' is not stored as expected: {error}") from error
    if ranks != (2, 2, 0) or bits.shape[1] != 1 or not 1 <= int(bits.min()) <= int(bits.max()) <= 15:
        raise _misfit(f"'{name}' does not have one number of bits, 1 to 15, for each group")
    return _of_levels(levels, bits, low, high)


def _of_levels(levels: Tensor, bits: Tensor, low: float, high: float) -> Tensor:
    """Levels [groups, group_size] and bits [groups, 1] -> values, float32.

    In the order of operations, and the float32, of the original: equal to the last bit.
    """
    return levels.float() * (1 / (2 ** bits.float() - 1)) * (high - low) + low


def _settings(state: Mapping[str, Any]) -> dict[str, Any]:
    meta = state.get("meta")
    if not isinstance(meta, Mapping) or not all(
        isinstance(state.get(kind), list | tuple) for kind in ("quantized", "float16", "others")
    ):
        raise _misfit("parts of it are missing")
    klass = getattr(meta.get("klass"), "dotted", None)
    if klass != "diffq.diffq.DiffQuantizer" or not meta.get("packed") or meta.get("torch_pack"):
        raise _misfit("only diffq.diffq.DiffQuantizer, packed, is known")
    settings = {**_DEFAULTS, **meta.get("init_kwargs", {})}
    plain = all(isinstance(settings[name], int | float) for name in ("min_size", "group_size", "min_bits"))
    if not plain or settings["group_size"] < 1 or settings["min_bits"] < 1 or settings["exclude"]:
        raise _misfit("only groups of one or more values, of one or more bits, and no exceptions, are known")
    return settings


def _decode_one(name: str, item: Any, size: int, settings: Mapping[str, Any]) -> Tensor:
    """One quantised parameter -> [size] float32."""
    try:
        levels_by_bits, (low, high), packed_bits = item
        groups, rest = divmod(size, settings["group_size"])
        bits = _unpack(packed_bits, groups) + int(settings["min_bits"])
        covered, low, high = len(levels_by_bits), float(low), float(high)
    except (TypeError, ValueError, AttributeError) as error:
        raise _misfit(f"'{name}' is not packed as expected: {error}") from error
    if rest or int(bits.max()) > min(covered, _MOST_BITS):
        raise _misfit(f"'{name}' does not divide into groups, or one has more than {_MOST_BITS} bits")
    levels = torch.zeros(groups, settings["group_size"])
    for count in bits.unique().tolist():
        chosen = bits == count
        packed = levels_by_bits[count - 1]
        if not isinstance(packed, Tensor):
            raise _misfit(f"'{name}' has groups of {count} bits, but no levels for them")
        values = _unpack(packed, int(chosen.sum()) * settings["group_size"])
        levels[chosen] = values.view(-1, settings["group_size"]).float()
    return _of_levels(levels, bits[:, None], low, high).flatten()


def _unpack(packed: Tensor, count: int) -> Tensor:
    """[lines, n, 32] int64 words -> the first `count` values, int16."""
    if packed.dtype is not torch.int64 or packed.dim() != 3 or packed.shape[2] != 32:
        raise _misfit(f"words of {packed.dtype} in shape {list(packed.shape)} are not bit planes")
    lines, planes, _ = packed.shape
    if count > lines * _BLOCK or planes > 15:
        raise _misfit(f"{count} values do not fit {lines} lines of {planes} bit planes")
    words = packed.cpu().contiguous().numpy().astype("<i8", copy=False).view(numpy.uint8)
    values = numpy.zeros((lines, 64, 32), numpy.int16)
    for plane in range(planes):
        bits = numpy.unpackbits(words[:, plane].reshape(lines, 32, 8), axis=2, bitorder="little")
        values |= bits.transpose(0, 2, 1).astype(numpy.int16) << plane
    return torch.from_numpy(values.reshape(-1)[:count])


def _misfit(fact: str) -> ModelError:
    return ModelError(
        f"The quantised state does not fit the network: {fact}.",
        remedy="The file is damaged or made for another network; an unquantised version may exist.",
        code="checkpoint_damaged",
    )
