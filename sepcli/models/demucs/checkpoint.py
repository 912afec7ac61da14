"""Published Demucs checkpoints: the network that a file names, and its tensors under our networks' names.

Knows the layouts of the files; not how bytes become objects (weights/checkpoint.py), nor what the networks do.

    .safetensors   header strings klass, args, kwargs (JSON; a fraction is {"_type": "fraction", ...});
                   a quantised file has `structure` too: a tree whose leaves name the tensors of the file
    .th            {"klass": <class>, "args": (...), "kwargs": {...}, "state": {...}, ...}
                   of v2    the state, and nothing that says what it is for; quantised in a layout of its own
                   of v1    (<class>, args, kwargs, state); sources are a number

Our networks have the published names; Conv-TasNet has clearer ones. So converting means: decode quantised
values, make float16 float32, move two indices in old time-domain networks (from before the norms existed),
rename Conv-TasNet's tensors, and join the projections of sparse attention.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.demucs.demucs import Demucs, DemucsConfig
from sepcli.models.demucs.diffq import decode, decode_early, is_quantised, is_quantised_early
from sepcli.models.demucs.early import EarlyDemucsConfig
from sepcli.models.demucs.hdemucs import HDemucsConfig
from sepcli.models.demucs.htdemucs import HTDemucs, HTDemucsConfig
from sepcli.models.demucs.tasnet import ConvTasNet, ConvTasNetConfig
from sepcli.models.family import Package
from sepcli.models.shapes import PUBLISHED_STEMS, numbered
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.unpickling import Inert

# The classes that a checkpoint may name. They are looked up here, never imported.
CLASSES: dict[str, tuple[str, type]] = {
    "demucs.htdemucs.HTDemucs": ("HTDemucs", HTDemucsConfig),
    "demucs.hdemucs.HDemucs": ("HDemucs", HDemucsConfig),
    "demucs.wdemucs.WDemucs": ("HDemucs", HDemucsConfig),  # the name of HDemucs before it was published
    "demucs.demucs.Demucs": ("Demucs", DemucsConfig),
    "demucs.model.Demucs": ("EarlyDemucs", EarlyDemucsConfig),
    "demucs.tasnet.ConvTasNet": ("ConvTasNet", ConvTasNetConfig),
}
# What a class of v1 is in the settings of v2, whose constructors and calls are others: of 10 s, hard cut.
_V1: dict[str, dict[str, Any]] = {
    "EarlyDemucs": {"resample": False, "epsilon": 0.0, "segment_length": 441000},
    "ConvTasNet": {"segment_length": 441000},
}


def describe(checkpoint: Checkpoint) -> Package | None:
    """The network that the file names, with its constructor arguments; None if it is none of this family."""
    described = _described(checkpoint)
    if described is None:
        return None
    klass, args, kwargs = described
    if not klass.startswith("demucs."):
        return None
    if klass not in CLASSES:
        raise ModelError(
            f"The checkpoint '{checkpoint.path}' is for {klass}; the known ones are {', '.join(CLASSES)}.",
            remedy="Use a model of `sepcli models list`.",
            code="unknown_arch",
        )
    arch, config = CLASSES[klass]
    names = [field.name for field in fields(config)]
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping) or len(args) > len(names):
        raise _damaged(checkpoint.path, "its constructor arguments can't be read")
    if arch in _V1:
        args, kwargs = _of_v1(checkpoint.path, arch, args, kwargs)
    given = dict(zip(names, args, strict=False))
    twice = sorted(given.keys() & kwargs.keys())
    # The original warns about unknown settings and drops them, which may change what the network computes.
    unknown = sorted(str(name) for name in kwargs if name not in names)
    if unknown or twice:
        raise ModelError(
            f"The checkpoint '{checkpoint.path}' gives {arch} "
            + (f"unknown settings: {', '.join(unknown)}." if unknown else f"{', '.join(twice)} twice."),
            remedy="It may be made for another version of demucs; update sepcli or use a published file.",
            code="unknown_setting",
        )
    given |= kwargs
    for name, value in given.items():
        if not _plain(value):
            raise _damaged(checkpoint.path, f"the value of '{name}' is not a number, text or list")
    return Package(arch, given)


def _of_v1(path: Path, arch: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a constructor of v1 as those of v2's."""
    given = dict(kwargs)
    number = given.pop("sources", given.pop("C", 4))
    if args or type(number) is not int or number < 1:
        raise _damaged(path, "its constructor arguments are not those of Demucs v1")
    if given.get("causal") is False:
        del given["causal"]
    return (), {"sources": PUBLISHED_STEMS.get(number, numbered(number)), **_V1[arch], **given}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of `model`, in float32. Nothing is left out or filled in."""
    state = _state(checkpoint)
    if is_quantised(state):
        state = decode(state, {name: value.shape for name, value in model.named_parameters()})
    elif is_quantised_early(state):
        state = decode_early(state, {name: value.shape for name, value in model.named_parameters()})
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise _damaged(checkpoint.path, "its state holds other values than tensors")
    if isinstance(model, Demucs):
        state = _renumbered(state, set(model.state_dict()))
    elif isinstance(model, HTDemucs):
        state = _joined(state)
    elif isinstance(model, ConvTasNet):
        state = {_tasnet_name(name, model.config.X): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def network_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The file's tensors by their published names; None if it is quantised, or holds other values."""
    state = _state(checkpoint)
    named = not (is_quantised(state) or is_quantised_early(state)) and all(
        isinstance(value, Tensor) for value in state.values()
    )
    return state if named else None


_TASNET = {  # beginnings of names in published files: ours
    "encoder.conv1d_U.": "encoder.",
    "separator.network.0.": "norm.",
    "separator.network.1.": "bottleneck.",
    "separator.network.3.": "masks.",
    "decoder.basis_signals.": "decoder.",
}
_TASNET_BLOCK = {  # the same, of parts of a block
    "net.0.": "widen.",
    "net.1.": "activation1.",
    "net.2.": "norm1.",
    "net.3.net.0.": "depthwise.",
    "net.3.net.1.": "activation2.",
    "net.3.net.2.": "norm2.",
    "net.3.net.3.": "narrow.",
}


def _tasnet_name(name: str, blocks: int) -> str:
    """Our name of a tensor of Conv-TasNet. blocks: how many a row has. Names of ours stay."""
    place = re.fullmatch(r"separator\.network\.2\.(\d+)\.(\d+)\.(.+)", name)
    prefix = "" if place is None else f"blocks.{int(place[1]) * blocks + int(place[2])}."
    rest, names = (name, _TASNET) if place is None else (place[3], _TASNET_BLOCK)
    published = next((part for part in names if rest.startswith(part)), "")
    return prefix + names.get(published, "") + rest.removeprefix(published)


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join q, k and v, which are apart in the original's sparse attention; all of ours have them joined."""
    joined = {}
    for name, value in state.items():
        layer, _, rest = name.rpartition("attn.")
        projection, _, kind = rest.partition(".")
        if not layer or projection not in ("q", "k", "v", "proj"):
            joined[name] = value
        elif projection == "proj":
            joined[f"{layer}attn.out_proj.{kind}"] = value
        elif projection == "q":
            parts = [state[f"{layer}attn.{part}.{kind}"] for part in "qkv"]
            joined[f"{layer}attn.in_proj_{kind}"] = torch.cat(parts)
    return joined


def _renumbered(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Rename a layer's last convolution from 2, its index before norms were added, to its index of today."""
    renamed = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        index, _, rest = rest.partition(".")
        new = f"{part}.{index}.3.{rest.removeprefix('2.')}"
        old_layout = part in ("encoder", "decoder") and rest in ("2.weight", "2.bias")
        if old_layout and name not in wanted and new in wanted and new not in state:
            name = new
        renamed[name] = value
    return renamed


def _described(checkpoint: Checkpoint) -> tuple[str, Any, Any] | None:
    """Class name, positional and keyword arguments; None if the file does not have them."""
    payload = checkpoint.payload
    if checkpoint.format == "safetensors":
        header = checkpoint.metadata
        if not {"klass", "args", "kwargs"} <= header.keys():
            return None
        return header["klass"], *(_from_json(checkpoint.path, header[key]) for key in ("args", "kwargs"))
    if isinstance(payload, Mapping) and {"klass", "args", "kwargs", "state"} <= payload.keys():
        klass, args, kwargs = payload["klass"], payload["args"], payload["kwargs"]
    elif isinstance(payload, tuple) and len(payload) == 4:  # the oldest generation
        klass, args, kwargs, _ = payload
    else:
        return None
    return (klass.dotted, args, kwargs) if isinstance(klass, Inert) else None


def _state(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """{name: tensor}, or a quantised state."""
    payload = checkpoint.payload
    if checkpoint.format == "safetensors":
        if "structure" in checkpoint.metadata:
            try:
                tree = _unflatten(json.loads(checkpoint.metadata["structure"]), payload)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise _damaged(checkpoint.path, f"its structure can't be followed ({error})") from error
            payload = tree
    elif isinstance(payload, Mapping) and "state" in payload:
        payload = payload["state"]
    elif isinstance(payload, tuple) and len(payload) == 4:
        payload = payload[3]
    if not isinstance(payload, Mapping) or not payload or not all(isinstance(name, str) for name in payload):
        raise _damaged(checkpoint.path, "it holds no network state")
    return payload


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested state that a tree describes; a class in it becomes its name."""
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "_tensor":
        return tensors[value]
    if kind == "_dict":
        return {key: _unflatten(item, tensors) for key, item in value}
    if kind in ("_list", "_tuple"):
        items = [_unflatten(item, tensors) for item in value]
        return items if kind == "_list" else tuple(items)
    if kind == "_class":
        return Inert(value)
    raise ValueError(f"a node '{kind}'")


def _from_json(path: Path, text: str) -> Any:
    def fraction(node: dict[str, Any]) -> Any:
        if node.get("_type") == "fraction":
            return Fraction(node["numerator"], node["denominator"])
        return node

    try:
        return json.loads(text, object_hook=fraction)
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise _damaged(path, f"its header is not readable ({error})") from error


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (str, int, float, bool, Fraction)


def _damaged(path: Path, fact: str) -> ModelError:
    return ModelError(
        f"The checkpoint '{path}' is not one of Demucs: {fact}.",
        remedy="Download it again, or check that it is the file you meant.",
        code="checkpoint_damaged",
    )
