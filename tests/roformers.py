"""RoFormers as the training toolkit saves them, with random weights: a tensor for each band, by its names."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sepcli.models.roformer.network import Roformer

_PARTS = {
    "attention.to_out": "0.to_out.0",
    "attention.to_qkv": "0.to_qkv",
    "attention.to_gates": "0.to_gates",
    "attention.norm": "0.norm",
    "feed_forward.norm": "1.net.0",
    "feed_forward.wide": "1.net.1",
    "feed_forward.narrow": "1.net.4",
}


def as_published(model: Roformer) -> dict[str, Tensor]:
    """The tensors of a network without refiner, head and the like, in the published layout."""
    theirs: dict[str, Tensor] = {}
    starts = [first for first, _, _ in model.layout.runs]
    last = 2 * model.config.mask_hidden
    for name, tensor in model.state_dict().items():
        if found := re.fullmatch(r"trunk\.blocks\.(\d+)\.(time|bands)\.(.+)", name):
            place = f"layers.{found[1]}.{('time', 'bands').index(found[2])}"
            if found[3] == "norm_out.gamma":
                theirs[f"{place}.norm.gamma"] = tensor
                continue
            _, layer, part, kind = re.split(r"layers\.(\d+)\.(.+)\.", found[3])
            theirs[f"{place}.layers.{layer}.{_PARTS[part]}.{kind}"] = tensor
            freqs = 10000 ** -(torch.arange(0, model.config.dim_head, 2) / model.config.dim_head)
            theirs[f"{place}.layers.{layer}.0.rotary_embed.freqs"] = freqs
        elif found := re.fullmatch(r"band_split\.(norms|linears)\.(\d+)\.?(.*)", name):
            inside = "0.gamma" if found[1] == "norms" else f"1.{found[3]}"
            for k, each in enumerate(tensor, starts[int(found[2])]):
                theirs[f"band_split.to_features.{k}.{inside}"] = each.clone()
        elif found := re.fullmatch(r"estimators\.(\d+)\.masks\.(hidden|last)\.(\d+)\.(.+)", name):
            hidden = found[2] == "hidden"
            number = 2 * int(found[3]) if hidden else last
            for k, each in enumerate(tensor, 0 if hidden else starts[int(found[3])]):
                theirs[f"mask_estimators.{found[1]}.to_freqs.{k}.0.{number}.{found[4]}"] = each.clone()
        else:
            theirs[name] = tensor
    return theirs
