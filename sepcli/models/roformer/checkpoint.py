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

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.roformer.network import Roformer
from sepcli.models.roformer.transformer import BASE
from sepcli.weights.checkpoint import Checkpoint, network_state

CONTAINERS = (
    "state",
    "state_dict",
    "model_state_dict",
)  # where the toolkit looks for the tensors, in this order
_TRUNK = re.compile(r"layers\.(\d+)\.([01])\.(?:layers\.(\d+)\.([01])\.(.+)|(norm\.gamma))")
_PARTS = {
    "0.norm.gamma": "attention.norm.gamma",
    "0.to_qkv.weight": "attention.to_qkv.weight",
    "0.to_gates.weight": "attention.to_gates.weight",
    "0.to_gates.bias": "attention.to_gates.bias",
    "0.to_out.0.weight": "attention.to_out.weight",
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
        if name.endswith(".rotary_embed.freqs"):
            _check_frequencies(name, tensor, 2 / model.config.dim_head)
        else:
            ours[_our_name(name)] = tensor.float()
    return ours


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout, by their names there; None for another file."""
    payload = checkpoint.payload
    if isinstance(payload, Mapping):
        for container in CONTAINERS:
            if isinstance(payload.get(container), Mapping):
                payload = {"state_dict": payload[container]}
                break
    try:
        state = network_state(Checkpoint(checkpoint.path, payload), "RoFormer")
    except ModelError:
        return None
    return _slots_closed(state) if any(name.startswith("band_split.to_features.") for name in state) else None


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
        theirs, ours = f"mask_estimators.{s}.to_freqs", f"estimators.{s}"
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
    found = _TRUNK.fullmatch(name)
    if found is None:
        return name
    transformer = f"trunk.blocks.{found[1]}.{_AXES[int(found[2])]}"
    if found[6]:
        return f"{transformer}.norm_out.gamma"
    part = _PARTS.get(f"{found[4]}.{found[5]}")
    return name if part is None else f"{transformer}.layers.{found[3]}.{part}"


def _check_frequencies(name: str, tensor: Tensor, step: float) -> None:
    """ModelError where stored frequencies are not those that the network computes: base 10000."""
    if tensor.is_meta:
        return
    expected = BASE ** -(step * torch.arange(len(tensor)))
    if (tensor.float() / expected - 1).abs().max() > _ROUNDED:
        raise ModelError(
            f"The checkpoint has positions of other frequencies than 10000 ** (-{step:g} i), in '{name}'.",
            remedy="sepcli can't run such a network.",
            code="checkpoint_damaged",
        )
