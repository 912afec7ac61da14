"""Checkpoints of SCNets, with the names that the original code and the training toolkit give tensors.

    encoder.{level}.SDlayer.convs.{band}              conv_modules.{band}.layers.{module}.{part}    globalconv
    separation_net.dp_modules.{layer}.{norm,lstm,linear}_layers.{0 rows, 1 frames}
    decoder.{level}.0.conv                            decoder.{level}.1.convtrs.{band}
    pos_embed_f                                       mask_layer.{0, 2}                             masked only

The last transposed convolutions and the last layer of the masks have the channels of all stems in one tensor of
theirs; ours has one for each stem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Exported
from sepcli.models.scnet.network import SCNet
from sepcli.models.scnet.toolkit import write_yaml
from sepcli.weights.checkpoint import Checkpoint, state_in

CONTAINERS = ("best_state", "state", "state_dict", "model_state_dict")
PREFIX = "module."
_PARTS = {"0": "norm", "1": "wide", "3": "depthwise", "4": "norm_hidden", "6": "out"}
_KINDS = {"norm_layers": "norm", "lstm_layers": "lstm", "linear_layers": "linear"}
_AXES = ("rows", "frames")


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    assert isinstance(model, SCNet)
    theirs = published_state(checkpoint)
    if theirs is None:
        return dict(checkpoint.payload)
    names = _names(model)
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        places = names.get(name, name)
        if isinstance(places, str):
            ours[places] = tensor.float()
        else:  # a transposed convolution's weight is [inputs, outputs, ...]
            pieces = tensor.chunk(len(places), dim=int("convtrs" in name and tensor.dim() > 1))
            ours |= {place: piece.float() for place, piece in zip(places, pieces, strict=True)}
    return ours


def export(model: SCNet) -> Exported:
    """The network as the training toolkit reads it: tensors by its names, and a YAML file of settings."""
    return Exported(as_published(model), {".yaml": write_yaml(replace(model.config, sources=model.sources))})


def as_published(model: SCNet) -> dict[str, Tensor]:
    """The network's weights under the names of published files: what `convert` reads. Not of a narrowed one."""
    state = model.state_dict()
    return {
        name: state[places]
        if isinstance(places, str)
        else torch.cat([state[place] for place in places], dim=int("convtrs" in name and ".weight" in name))
        for name, places in _names(model).items()
    }


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout, by their names there; None for another file."""
    state = state_in(checkpoint, CONTAINERS)
    if state is None:
        return None
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return state if any(name.startswith("encoder.0.SDlayer.") for name in state) else None


def _names(model: SCNet) -> dict[str, str | tuple[str, ...]]:
    """{their name: ours, or ours of all stems}."""
    last, names = len(model.encoder) - 1, dict[str, str | tuple[str, ...]]()
    of_stems: dict[str, dict[int, str]] = {}
    for name in model.state_dict():
        theirs, stem = _their_name(name, last)
        if stem is None:
            names[theirs] = name
        else:
            of_stems.setdefault(theirs, {})[stem] = name
    return names | {theirs: tuple(stems[k] for k in sorted(stems)) for theirs, stems in of_stems.items()}


def _their_name(name: str, last: int) -> tuple[str, int | None]:
    """The published name of a tensor of ours, and the stem that it belongs to, if it belongs to one.

    last: the number of the last decoder level.
    """
    kinds = {ours: theirs for theirs, ours in _KINDS.items()}
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    if name == "positions":
        return "pos_embed_f", None
    if found := re.fullmatch(r"masks\.outs\.(\d+)\.(.+)", name):
        return f"mask_layer.2.{found[2]}", int(found[1])
    if found := re.fullmatch(r"heads\.(\d+)\.bands\.(.+)", name):
        return f"decoder.{last}.1.convtrs.{found[2]}", int(found[1])
    if found := re.fullmatch(r"trunk\.layers\.(\d+)\.(rows|frames)\.(norm|lstm|linear)\.(.+)", name):
        axis = _AXES.index(found[2])
        return f"separation_net.dp_modules.{found[1]}.{kinds[found[3]]}.{axis}.{found[4]}", None
    if found := re.fullmatch(r"encoder\.(\d+)\.bands\.(\d+)\.modules_in_time\.(\d+)\.(\w+)\.(.+)", name):
        part = parts[found[4]]
        return f"encoder.{found[1]}.conv_modules.{found[2]}.layers.{found[3]}.{part}.{found[5]}", None
    rules = {
        r"masks\.hidden\.": "mask_layer.0.",
        r"encoder\.(\d+)\.bands\.(\d+)\.conv\.": r"encoder.\1.SDlayer.convs.\2.",
        r"encoder\.(\d+)\.mix\.": r"encoder.\1.globalconv.",
        r"fusions\.(\d+)\.": r"decoder.\1.0.",
        r"widenings\.(\d+)\.bands\.": r"decoder.\1.1.convtrs.",
    }
    for pattern, published in rules.items():
        changed, count = re.subn(rf"^{pattern}", published, name)
        if count:
            return changed, None
    raise AssertionError(name)
