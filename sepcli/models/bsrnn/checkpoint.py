"""Checkpoints of BS-RNN, as PyTorch Lightning wrote them, with the names that the original code gives tensors.

    BN.{band}.{0 norm, 1 convolution}
    separator.{block}.{time_net, band_net, tac_module, attn_block}
    maskers.{stem}.mask.{band}.{0 norm, 1, 3, 5 convolutions}     mask.{band} in files of one stem, before that

Theirs has tensors for each band and head; ours has the bands of a run, and all heads, in one (bands.py,
blocks.py). Theirs has all real parts of a band before its imaginary parts; ours has them bin by bin. Stems are
matched by the names that stand in the file's settings, since another order would swap them silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.bsrnn.network import BSRNN
from sepcli.weights.checkpoint import Checkpoint, network_state
from sepcli.weights.unpickling import InertObject

WINDOWS = ("stft.transf.window", "istft.transf.window")
_AXES = {"time": "time_net", "bands": "band_net"}
_MIXING = {"transform": "transform.0", "average": "average.0", "concat": "concat.0"}
_HEADS = {"queries": "Q", "keys": "K", "values": "V"}
# {our tensor: the names of those that it is made of, and how}
Plan = dict[str, tuple[list[str], Callable[[list[Tensor]], Tensor]]]


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    assert isinstance(model, BSRNN)
    theirs = published_state(checkpoint)
    if theirs is None:
        return dict(checkpoint.payload)
    left = dict(theirs)
    ours: dict[str, Tensor] = {}
    for name, (parts, join) in plan(model, _order(checkpoint, model)).items():
        missing = [part for part in parts if part not in theirs]
        if missing:
            raise KeyError(f"Missing key {missing[0]!r}")
        tensors = [theirs[part] for part in parts]
        if name.endswith("mixing.slope"):
            _same(parts, tensors)
        ours[name] = join(tensors).float()
        for part in parts:
            left.pop(part, None)
    return {**ours, **{name: tensor for name, tensor in left.items() if name not in WINDOWS}}


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout, by its newer names; None for another file."""
    try:
        state = network_state(checkpoint, "BS-RNN")
    except ModelError:
        return None
    if "BN.0.1.weight" not in state:
        return None
    return {re.sub(r"^mask\.", "maskers.0.mask.", name): tensor for name, tensor in state.items()}


def targets(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The names of a file's stems, in the order of its masks; None where it does not say them."""
    settings = checkpoint.payload.get("hyper_parameters") if isinstance(checkpoint.payload, Mapping) else None
    settings = _plain(settings)
    names = _plain(settings.get("targets")) if isinstance(settings, Mapping) else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not names:
        return None
    names = [_plain(name) for name in names]
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def plan(model: BSRNN, order: list[int]) -> Plan:
    """See Plan. order: for each of our masks, which one of the file's it is."""
    found: Plan = {}
    config = model.config
    for r, (first, count, width) in enumerate(model.split.runs):
        band = [f"BN.{k}" for k in range(first, first + count)]
        by_bin = _by_bin(1, width)
        found[f"split.gammas.{r}"] = [f"{b}.0.weight" for b in band], by_bin
        found[f"split.betas.{r}"] = [f"{b}.0.bias" for b in band], by_bin
        found[f"split.linears.{r}.weight"] = [f"{b}.1.weight" for b in band], _columns_by_bin(width)
        found[f"split.linears.{r}.bias"] = [f"{b}.1.bias" for b in band], torch.stack
    for j in range(config.depth):
        _plan_block(found, f"blocks.{j}", f"separator.{j}", config.tac, config.heads)
    for s, theirs in enumerate(order):
        mask = [f"maskers.{theirs}.mask.{k}" for k in range(len(config.bands))]
        for ours, part in (
            ("gamma", "0.weight"),
            ("beta", "0.bias"),
            ("first.bias", "1.bias"),
            ("second.bias", "3.bias"),
        ):
            found[f"maskers.{s}.{ours}"] = [f"{m}.{part}" for m in mask], torch.stack
        for ours, part in (("first.weight", "1.weight"), ("second.weight", "3.weight")):
            found[f"maskers.{s}.{ours}"] = [f"{m}.{part}" for m in mask], _squeezed
        for r, (first, count, width) in enumerate(model.split.runs):
            for part in ("weight", "bias"):
                names = [f"{m}.5.{part}" for m in mask[first : first + count]]
                found[f"maskers.{s}.last.{r}.{part}"] = names, _by_bin(2, width)
    return found


def _plan_block(found: Plan, ours: str, theirs: str, tac: str, heads: int) -> None:
    for axis, net in _AXES.items():
        for name, part in (
            ("gamma", "norm.weight"),
            ("beta", "norm.bias"),
            ("out.weight", "proj.weight"),
            ("out.bias", "proj.bias"),
        ):
            found[f"{ours}.{axis}.{name}"] = [f"{theirs}.{net}.{part}"], _only
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            for direction in ("", "_reverse"):
                name = f"{kind}_l0{direction}"
                found[f"{ours}.{axis}.lstm.{name}"] = [f"{theirs}.{net}.main_layer.{name}"], _only
    if tac:
        for name, part in _MIXING.items():
            for kind in ("weight", "bias"):
                found[f"{ours}.mixing.{name}.{kind}"] = [f"{theirs}.tac_module.{part}.{kind}"], _only
    if tac == "prelu":
        slopes = [f"{theirs}.tac_module.{name}.1.weight" for name in _MIXING]
        found[f"{ours}.mixing.slope"] = slopes, _only
    if heads:
        parts = {
            name: [f"{theirs}.attn_block.attn_conv_{letter}_{head}" for head in range(heads)]
            for name, letter in _HEADS.items()
        }
        parts["out"] = [f"{theirs}.attn_block.attn_concat_proj"]
        for name, each in parts.items():
            place = f"{ours}.attention.{name}"
            found[f"{place}.linear.weight"] = [f"{part}.0.weight" for part in each], _rows
            found[f"{place}.linear.bias"] = [f"{part}.0.bias" for part in each], torch.cat
            found[f"{place}.slope"] = [f"{part}.1.weight" for part in each], torch.cat
            for kind in ("gamma", "beta"):
                found[f"{place}.{kind}"] = [f"{part}.2.{kind}" for part in each], _by_band


# --- how several tensors become one --------------------------------------------------------------------------


def _only(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _squeezed(tensors: list[Tensor]) -> Tensor:
    """Convolutions of width 1, [out, in, 1] -> [.., out, in]."""
    return torch.stack(tensors).squeeze(-1)


def _rows(tensors: list[Tensor]) -> Tensor:
    """[E, D, 1, 1] of each head -> [H * E, D]."""
    return torch.cat(tensors).flatten(1)


def _by_band(tensors: list[Tensor]) -> Tensor:
    """[1, E, 1, K] of each head -> [H, K, E]."""
    return torch.cat(tensors)[:, :, 0].transpose(1, 2)


def _by_bin(halves: int, width: int) -> Callable[[list[Tensor]], Tensor]:
    """Rows (half, part, bin) of each band -> (half, bin, part); half: a mask's values and gates."""

    def join(tensors: list[Tensor]) -> Tensor:
        rows = torch.stack(tensors).squeeze(-1).unflatten(1, (halves, 2, width))
        return rows.transpose(2, 3).flatten(1, 3)

    return join


def _columns_by_bin(width: int) -> Callable[[list[Tensor]], Tensor]:
    """[D, 2 w, 1] of each band, columns (part, bin) -> [.., D, 2 w], columns (bin, part)."""

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).squeeze(-1).unflatten(2, (2, width)).transpose(2, 3).flatten(2)

    return join


# --- stems, and what is checked ------------------------------------------------------------------------------


def _order(checkpoint: Checkpoint, model: BSRNN) -> list[int]:
    """For each mask of the network, the number of the file's mask for that stem."""
    names, ours = targets(checkpoint), model.config.sources
    count = len(model.maskers)
    if names is None:
        return list(range(count))
    if sorted(names) != sorted(ours) or (model.config.subtract and names[-1] != ours[-1]):
        raise ModelError(
            f"The file '{checkpoint.path.name}' has the stems {', '.join(names)}, not {', '.join(ours)}.",
            remedy="Take the file that belongs to these settings, or settings that belong to this file.",
            code="config_mismatch",
        )
    return [names.index(name) for name in ours[:count]]


def _same(names: list[str], tensors: list[Tensor]) -> None:
    """The one slope of TAC stands in a file three times."""
    if not all(tensor.is_meta or torch.equal(tensor, tensors[0]) for tensor in tensors):
        raise ModelError(
            f"Tensors of the checkpoint that should be equal are not: '{names[0]}' is one of them.",
            remedy="The file is damaged or made for another network.",
            code="checkpoint_damaged",
        )


def _plain(value: Any) -> Any:
    """A setting as it is, or what a container of OmegaConf holds: read from its inert state, one level deep."""
    state = value.state if isinstance(value, InertObject) else None
    if isinstance(state, Mapping):
        return state.get("_content", state.get("_val"))
    if isinstance(value, InertObject) and value.items:  # a dict of Lightning's own class
        return dict(each for each in value.items if isinstance(each, tuple))
    return value
