"""Checkpoints of RoFormers, with the names that the original code and the training toolkit give tensors.

    band_split.to_features.{band}.{0 norm, 1 linear}
    layers.{block}.{0 time, 1 bands}.layers.{layer}.{0 attention, 1 feed-forward}  .norm in Mel-Band RoFormer
    final_norm                                                                     in BS-RoFormer
    mask_estimators.{stem}.to_freqs.{band}.0.{0, 2, ... linear}

Theirs has tensors for each band; ours has the bands of a run in one (bands.py). Constants that stand in a file
under each attention (frequencies of positions) are checked and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.family import Exported
from sepcli.models.roformer.network import Roformer
from sepcli.models.roformer.toolkit import write_yaml
from sepcli.models.roformer.transformer import BASE, Polar, Rotary
from sepcli.weights.checkpoint import Checkpoint, state_in

CONTAINERS = (
    "state",
    "state_dict",
    "model_state_dict",
)  # where the toolkit looks for the tensors, in this order
_TRUNK = re.compile(r"layers\.(\d+)\.([01])\.(?:layers\.(\d+)\.([01])\.(.+)|(norm\.gamma))")
_OWN = re.compile(r"mask_estimators\.(\d+)\.(.+)")  # of a refiner or a head
_ESTIMATOR = re.compile(r"^estimators\.(\d+)\.")
_OURS = re.compile(  # of a trunk, or of a mask estimator's refiner
    r"(?:trunk|(mask_estimators\.\d+\.)refiner)\.blocks\.(\d+)\.(time|bands)\."
    r"(?:layers\.(\d+)\.(.+)|(norm_out\.gamma))"
)
_SHARED_BIAS = re.compile(r"linear_\d+_bias_0")
_PARTS = {
    "0.norm.gamma": "attention.norm.gamma",
    "0.to_qkv.weight": "attention.to_qkv.weight",
    "0.to_gates.weight": "attention.to_gates.weight",
    "0.to_gates.bias": "attention.to_gates.bias",
    "0.to_out.0.weight": "attention.to_out.weight",
    "0.to_value_residual_mix.weight": "attention.to_mix.weight",
    "0.to_value_residual_mix.bias": "attention.to_mix.bias",
    "1.net.0.gamma": "feed_forward.norm.gamma",
    "1.net.1.weight": "feed_forward.wide.weight",
    "1.net.1.bias": "feed_forward.wide.bias",
    "1.net.4.weight": "feed_forward.narrow.weight",
    "1.net.4.bias": "feed_forward.narrow.bias",
}
_AXES = ("time", "bands")
_ROUNDED = 2**-10  # relative: files in float16 hold rounded constants


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    assert isinstance(model, Roformer)
    theirs = published_state(checkpoint)
    if theirs is None:
        return dict(checkpoint.payload)
    ours: dict[str, Tensor] = {}
    left = dict(theirs)
    for name, parts in _stacked(model).items():
        tensors = [left.pop(part) for part in parts if part in left]
        missing = [part for part in parts if part not in theirs]
        if missing:
            raise KeyError(f"Missing key {missing[0]!r}")
        ours[name] = torch.stack(tensors).float()
    for name, tensor in left.items():
        place = _our_name(name)
        if _is_constant(name, tensor, model.config.dim_head):
            continue
        if place in ours and not tensor.is_meta and not torch.equal(ours[place], tensor.float()):
            raise ModelError(
                f"Tensors of the checkpoint that should be equal are not: '{name}' is one of them.",
                remedy="The file is damaged or made for another network.",
                code="checkpoint_damaged",
            )
        ours[place] = tensor.float()
    return ours


def export(model: Roformer) -> Exported:
    """The network as the training toolkit reads it: tensors by its names, and a YAML file of settings."""
    return Exported(as_published(model), {".yaml": write_yaml(replace(model.config, sources=model.sources))})


def as_published(model: Roformer) -> dict[str, Tensor]:
    """The network's weights under the names of published files, with their constants: what `convert` reads."""
    state, theirs = model.state_dict(), dict[str, Tensor]()
    stacked = _stacked(model)
    parts = {ours: part for part, ours in _PARTS.items()}
    for name, tensor in state.items():
        if name in stacked:
            theirs |= dict(zip(stacked[name], tensor.unbind(), strict=True))
            continue
        if ".head." in name:
            theirs[_ESTIMATOR.sub(r"mask_estimators.\1.", name).replace(".head.", ".segm.", 1)] = tensor
            continue
        place = _ESTIMATOR.sub(r"mask_estimators.\1.", name)
        found = _OURS.fullmatch(place)
        if found is None:
            if "_positions." not in name:
                theirs[place] = tensor  # a norm behind a trunk
            continue
        own, block, axis = found[1] or "", found[2], _AXES.index(found[3])
        transformer = f"{own}layers.{block}.{axis}"
        if found[6]:
            theirs[f"{transformer}.norm.gamma"] = tensor
            continue
        theirs[f"{transformer}.layers.{found[4]}.{parts[found[5]]}"] = tensor
        if found[5] == "attention.norm.gamma":  # once for each attention
            trunk = model.trunk if not own else model.get_submodule(name.split(".blocks.")[0])
            positions = trunk.get_submodule(f"{found[3]}_positions")
            assert isinstance(positions, Rotary)
            embedding = f"{transformer}.layers.{found[4]}.0"
            if isinstance(positions, Polar):
                theirs[f"{embedding}.pope_embed.bias"] = positions.bias.detach()
                theirs[f"{embedding}.pope_embed.inv_freqs"] = positions.frequencies(tensor.device)
            else:
                theirs[f"{embedding}.rotary_embed.freqs"] = positions.frequencies(tensor.device)
    return theirs


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout, by their names there; None for another file."""
    state = state_in(checkpoint, CONTAINERS)
    if state is None or not any(name.startswith("band_split.to_features.") for name in state):
        return None
    return _slots_closed(state)


def _slots_closed(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Later code keeps an empty place for a linear attention that no file has; here it is closed."""
    if any(name.startswith("layers.0.0.") for name in state):
        return state
    return {re.sub(r"^(layers\.\d+)\.([12])\.", _one_less, name): tensor for name, tensor in state.items()}


def _one_less(found: re.Match[str]) -> str:
    return f"{found[1]}.{int(found[2]) - 1}."


def _stacked(model: Roformer) -> dict[str, list[str]]:
    """{our tensor of several bands: theirs, one a band}."""
    found: dict[str, list[str]] = {}
    bands, runs = len(model.layout.bands), model.layout.runs
    for r, (first, count, _) in enumerate(runs):
        run = range(first, first + count)
        found[f"band_split.norms.{r}"] = [f"band_split.to_features.{k}.0.gamma" for k in run]
        for part in ("weight", "bias"):
            found[f"band_split.linears.{r}.{part}"] = [f"band_split.to_features.{k}.1.{part}" for k in run]
    for s in range(len(model.estimators)):
        theirs, ours = f"mask_estimators.{s}.to_freqs", f"estimators.{s}.masks"
        hidden = model.config.mask_hidden
        for part in ("weight", "bias"):
            for h in range(hidden):
                found[f"{ours}.hidden.{h}.{part}"] = [f"{theirs}.{k}.0.{2 * h}.{part}" for k in range(bands)]
            for r, (first, count, _) in enumerate(runs):
                found[f"{ours}.last.{r}.{part}"] = [
                    f"{theirs}.{k}.0.{2 * hidden}.{part}" for k in range(first, first + count)
                ]
    return found


def _our_name(name: str) -> str:
    """ "layers.3.1.layers.0.0.to_qkv.weight" -> "trunk.blocks.3.bands.layers.0.attention.to_qkv.weight".

    Names that are unknown stay as they are, and the network then refuses them.
    """
    trunk, inside, own = "trunk", name, _OWN.fullmatch(name)
    if own is not None:
        estimator, inside = f"estimators.{own[1]}", own[2]
        trunk = f"{estimator}.refiner"
        if inside == "norm.gamma":
            return f"{estimator}.{inside}"
        if inside.startswith("segm."):
            return f"{estimator}.head.{inside.removeprefix('segm.')}"
    found = _TRUNK.fullmatch(inside)
    if found is None:
        return name
    axis = _AXES[int(found[2])]
    transformer = f"{trunk}.blocks.{found[1]}.{axis}"
    if found[6]:
        return f"{transformer}.norm_out.gamma"
    if found[5] == "pope_embed.bias":  # all attention along one axis has the same, again and again in a file
        return f"{trunk}.{axis}_positions.bias"
    part = _PARTS.get(f"{found[4]}.{found[5]}")
    return name if part is None else f"{transformer}.layers.{found[3]}.{part}"


def _is_constant(name: str, tensor: Tensor, dim_head: int) -> bool:
    """Whether a tensor only holds what the network computes itself; ModelError where it holds anything else."""
    if name.endswith(".rotary_embed.freqs"):
        expected = BASE ** -(torch.arange(0, dim_head, 2) / dim_head)
    elif name.endswith(".pope_embed.inv_freqs"):
        expected = BASE ** -(torch.arange(dim_head) / dim_head)
    elif _SHARED_BIAS.fullmatch(name):
        expected = torch.zeros(tensor.shape)
    else:
        return False
    if tensor.is_meta:
        return True
    if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, rtol=_ROUNDED, atol=0):
        raise ModelError(
            f"The checkpoint has other constants in '{name}' than published networks have.",
            remedy="sepcli can't run such a network.",
            code="checkpoint_damaged",
        )
    return True
