"""Checkpoints of Wave-U-Nets.

Of 2018, TensorFlow's: separator/conv1d, conv1d_1, ... are the convolutions in the order in which they run, the
outputs last; separator/interp_0, ... the learnt means between samples. Kernels are [taps, in, out].

Of 2020, torch's: {"model_state_dict": ..., ...} with waveunets.{source, or ALL}.
    {downsampling,upsampling}_blocks.{level}.{pre,post}_shortcut_convs.0.{filter,norm}, .{downconv,upconv}
    bottlenecks.0, output_conv
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Told
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.models.waveunet.later import WaveUNetTorch
from sepcli.models.waveunet.network import WaveUNet
from sepcli.weights.checkpoint import Checkpoint, state_in

PUBLISHED_STEMS = {2: ("accompaniment", "vocals"), 4: ("bass", "drums", "other", "vocals")}
_NAMES = re.compile(r"separator/(?:conv1d(?:_(\d+))?/(kernel|bias)|interp_(\d+))")
PREFIX = "module."
TOGETHER = "ALL"  # the one network of several sources
_PLACES = {
    r"downsampling_blocks\.(\d+)\.": r"downs.\1.",
    r"upsampling_blocks\.(\d+)\.": r"ups.\1.",
    r"bottlenecks\.0\.": "bottom.",
    r"pre_shortcut_convs\.0\.": "first.",
    r"post_shortcut_convs\.0\.": "second.",
    r"(?:down|up)conv\.": "resampling.",
    r"filter\.(weight|bias)$": r"conv.\1",
    r"output_conv\.": "out.",
}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    if isinstance(model, WaveUNet):
        theirs = _of_tensorflow(checkpoint)
        return dict(checkpoint.payload) if theirs is None else _ours(theirs, model)
    assert isinstance(model, WaveUNetTorch)
    state = _of_torch(checkpoint)
    if state is None:
        return dict(checkpoint.payload)
    order = {name: number for number, name in enumerate(model.known if model.config.separate else (TOGETHER,))}
    tensors = {}
    for name, tensor in state.items():
        source, _, rest = name.removeprefix("waveunets.").partition(".")
        for pattern, place in _PLACES.items():
            rest = re.sub(pattern, place, rest)
        tensors[f"networks.{order.get(source, source)}.{rest}"] = tensor
    return tensors


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect. Of 2018, neither rate nor `context` nor names of stems are told: as published."""
    theirs = _of_tensorflow(checkpoint)
    if theirs is not None:
        return _detect_tensorflow(Shapes(theirs))
    state = _of_torch(checkpoint)
    return None if state is None else _detect_torch(Shapes(state, "waveunets."))


# --- TensorFlow ---


def _of_tensorflow(checkpoint: Checkpoint) -> dict[str, Tensor] | None:
    """The network's tensors by their names there; what an optimiser left is left out."""
    if checkpoint.format != "tensorflow":
        return None
    state = {name: tensor for name, tensor in checkpoint.payload.items() if _NAMES.fullmatch(name)}
    return state or None


def _ours(theirs: Mapping[str, Tensor], model: WaveUNet) -> dict[str, Tensor]:
    layers = model.config.layers
    tensors = {}
    for name, tensor in theirs.items():
        found = _NAMES.fullmatch(name)
        assert found, name
        if found[3] is not None:
            tensors[f"between.{found[3]}"] = tensor
            continue
        number = int(found[1] or 0)
        starts = {"downs": 0, "bottom": layers, "ups": layers + 1, "outs": 2 * layers + 1}
        part = [name for name, start in starts.items() if number >= start][-1]
        place = part if part == "bottom" else f"{part}.{number - starts[part]}"
        weight = found[2] == "kernel"
        tensors[f"{place}.{'weight' if weight else 'bias'}"] = tensor.permute(2, 1, 0) if weight else tensor
    return tensors


def _detect_tensorflow(shapes: Shapes) -> Told:
    convs = [shapes["separator/conv1d/kernel"]]
    while (name := f"separator/conv1d_{len(convs)}/kernel") in shapes:
        convs.append(shapes[name])
    width, layers = convs[0][2], 0
    while convs[layers][2] == width * (layers + 1):
        layers += 1
    layers -= 1  # the lowest convolution is as much wider
    outputs, learned = len(convs) - 2 * layers - 1, "separator/interp_0" in shapes
    stems = outputs + 1  # published networks leave the last one to the difference
    config: dict[str, Any] = {
        "channels": convs[0][1],
        "layers": layers,
        "width": width,
        "kernel": convs[layers][0],
        "merge_kernel": convs[layers + 1][0],
        "output_kernel": convs[-1][0],
        "learned": learned,
    }
    assumed = {
        "sources": PUBLISHED_STEMS.get(stems, numbered(stems)),
        "samplerate": 44100 if learned else 22050,
        "difference": True,
        "context": True,
    }
    return Told("WaveUNet", config, assumed)


# --- PyTorch ---


def _of_torch(checkpoint: Checkpoint) -> dict[str, Tensor] | None:
    state = state_in(checkpoint, ("model_state_dict",))
    if state is None:
        return None
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return state if any(name.startswith("waveunets.") for name in state) else None


def _detect_torch(shapes: Shapes) -> Told:
    names = tuple(dict.fromkeys(name.partition(".")[0] for name in shapes))
    first, separate = f"{names[0]}.", names != (TOGETHER,)
    down = f"{first}downsampling_blocks."
    levels = shapes.count(down)
    skipped, channels, kernel = shapes[f"{down}0.pre_shortcut_convs.0.filter.weight"]
    widths = [skipped]
    widths += [shapes[f"{down}{i}.post_shortcut_convs.0.filter.weight"][0] for i in range(levels)]
    norm = f"{down}0.pre_shortcut_convs.0.norm."
    config: dict[str, Any] = {
        "channels": channels,
        "widths": tuple(widths),
        "kernel": kernel,
        "norm": "batch"
        if f"{norm}running_mean" in shapes
        else "group"
        if f"{norm}weight" in shapes
        else "none",
        "fixed": f"{down}0.downconv.filter" in shapes,
        "separate": separate,
    }
    if separate:
        return Told("WaveUNetTorch", {**config, "sources": names})
    stems = whole(shapes[f"{first}output_conv.bias"][0] / channels)
    return Told("WaveUNetTorch", config, {"sources": PUBLISHED_STEMS.get(stems, numbered(stems))})
