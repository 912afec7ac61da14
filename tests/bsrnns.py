"""BS-RNNs as the original program saves them: a tensor for each band and head, by its names."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sepcli.models.bsrnn.network import BSRNN

_AXES = {"time": "time_net", "bands": "band_net"}
_PARTS = {"gamma": "norm.weight", "beta": "norm.bias", "lstm": "main_layer", "out": "proj"}
_OF_BAND = {"gammas": "0.weight", "betas": "0.bias", "linears": "1"}
_OF_MASK = {"gamma": "0.weight", "beta": "0.bias", "first": "1", "second": "3", "last": "5"}
_OF_HEAD = {
    "linear.weight": "0.weight",
    "linear.bias": "0.bias",
    "slope": "1.weight",
    "gamma": "2.gamma",
    "beta": "2.beta",
}


def as_published(model: BSRNN) -> dict[str, Tensor]:
    """The tensors of a network in the published layout, windows included."""
    window = torch.hann_window(model.config.nfft)
    theirs: dict[str, Tensor] = {"stft.transf.window": window, "istft.transf.window": window}
    for name, tensor in model.state_dict().items():
        kind, *path = name.split(".")
        if kind == "blocks":
            theirs |= _block(model, path, tensor)
            continue
        run = int(path[1]) if kind == "split" else int(path[2]) if path[1] == "last" else None
        first = 0 if run is None else model.split.runs[run][0]
        convolution = "weight" if path[-1] == "weight" else ""
        for k, each in enumerate(tensor, first):
            if kind == "split":
                place = f"BN.{k}.{_OF_BAND[path[0]]}"
                if path[0] != "linears" or convolution:
                    each = each.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # by part, not by bin
            else:
                place = f"maskers.{path[0]}.mask.{k}.{_OF_MASK[path[1]]}"
                if path[1] == "last":
                    each = each.unflatten(0, (2, -1, 2)).transpose(1, 2).flatten(0, 2)
            if path[0] == "linears" or path[1] in ("first", "second", "last"):
                place = f"{place}.{path[-1]}"
            theirs[place] = each[..., None].clone() if convolution else each.clone()
    return theirs


def _block(model: BSRNN, path: list[str], tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of a block: the number, the part of the block, the name in that part."""
    number, part, *rest = path
    place = f"separator.{number}"
    if part in _AXES:
        return {".".join([place, _AXES[part], _PARTS[rest[0]], *rest[1:]]): tensor.clone()}
    if part == "mixing":
        names = ("transform", "average", "concat") if rest == ["slope"] else (rest[0],)
        end = "1.weight" if rest == ["slope"] else f"0.{rest[-1]}"
        return {f"{place}.tac_module.{name}.{end}": tensor.clone() for name in names}
    heads = 1 if rest[0] == "out" else model.config.heads
    end, found = _OF_HEAD[".".join(rest[1:])], {}
    for head, each in enumerate(tensor.chunk(heads)):
        letter = re.sub(r"(?:queries|keys|values)", lambda match: match[0][0].upper(), rest[0])
        inside = "attn_concat_proj" if rest[0] == "out" else f"attn_conv_{letter}_{head}"
        if end == "0.weight":
            each = each[..., None, None]
        elif end.startswith("2."):
            each = each.transpose(1, 2)[:, :, None]
        found[f"{place}.attn_block.{inside}.{end}"] = each.clone()
    return found
