"""Checkpoints of D3Net: NNabla's, whose names are paths through the program that built the network.

    vocals/dense_band/0/us_layers/dense_block4/initial_block/initial_layer/bottleneck/conv1/conv/W
    stem   low band     block 4 of its seven   D2            its first layer

A file holds one stem's network, an archive all of them: the parts of one model. Every name begins with its
stem. Blocks on the way up are counted on from those before. Statistics and scales are stored with axes of
length 1 around them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.d3net.network import D3Net, D3NetConfig
from sepcli.models.family import Told
from sepcli.models.shapes import Shapes, whole
from sepcli.weights.checkpoint import Checkpoint

_STEPS = [  # of a path, and of a name of ours; {} is the number less the one behind
    (r"features_init/(\d+)/conv", "bands.{}.first", 0),
    (r"features_init_full/conv", "full.first", 0),
    (r"dense_band/(\d+)", "bands.{}", 0),
    (r"dense_full", "full", 0),
    (r"match_fm_conv/(\d+)", "match.{}", 0),
    (r"final_dense", "final", 0),
    (r"out_gate/bn/bn", "norm", 0),
    (r"out_gate/conv_gate/conv/conv", "gate", 0),
    (r"out_gate/conv_filt/conv/conv", "filter", 0),
    (r"in_offset", "offset", 0),
    (r"in_scale", "scale", 0),
    (r"decode_scale", "out_scale", 0),
    (r"decode_bias", "out_bias", 0),
    (r"ds_layers/dense_block(\d+)", "down.{}", 0),
    (r"bottleneck_block", "bottom", 0),
    (r"us_layers/upsample(\d+)/upsample", "up.{}", 0),
    (r"us_layers/dense_block(\d+)", "up.{}.block", None),  # the blocks on the way down, and the one below
    (r"initial_(?:block|layer)", "first", 0),
    (r"layers/layer(\d+)", "layers.{}", 1),
    (r"(?:bottleneck/norm1|norm)/bn", "norm", 0),
    (r"bottleneck/conv1/conv|transconv/deconv|conv/conv", "conv", 0),
    (r"W|gamma", "weight", 0),
    (r"b|beta", "bias", 0),
    (r"mean", "mean", 0),
    (r"var", "variance", 0),
]
_RULES = [(re.compile(f"(?:{pattern})(?:/|$)"), name, less) for pattern, name, less in _STEPS]
_DOWN = re.compile(r"(dense_band/\d+|dense_full)/ds_layers/dense_block(\d+)/")


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    if checkpoint.format != "nnabla":
        return dict(checkpoint.payload)
    assert isinstance(model, D3Net)
    tensors = {}
    for stem, net in _nets(_together(checkpoint.payload)).items():
        if stem not in model.known:
            raise ModelError(
                f"The checkpoint has a network for '{stem}', but this model's stems are "
                f"{', '.join(model.known)}.",
                remedy="Check that it is the file you meant.",
                code="checkpoint_damaged",
            )
        number = model.known.index(stem)
        tensors |= {f"nets.{number}.{name}": tensor for name, tensor in net.items()}
    return tensors


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect. The stems have their names in the file; where the low band ends, and how many frames a
    network sees at once, is known of the published four only."""
    if checkpoint.format != "nnabla":
        return None
    nets = _nets(checkpoint.payload)
    published = D3NetConfig()
    order = {stem: number for number, stem in enumerate(published.sources)}
    stems = sorted(nets, key=lambda stem: order.get(stem, len(order)))
    told: dict[str, Any] = {"sources": tuple(stems)}
    for stem in stems:
        for name, value in _told(Shapes(nets[stem])).items():
            if name in _SHARED:
                if told.setdefault(name, value) != value:
                    return None
            else:
                told[name] = (*told.get(name, ()), value)
    numbers = [order.get(stem, 0) for stem in stems]
    assumed = {name: tuple(getattr(published, name)[i] for i in numbers) for name in ("split", "patch")}
    assumed["hop"] = told["nfft"] // 4
    missing = () if set(stems) <= set(order) else ("split", "patch")
    return Told("D3Net", told, assumed=assumed, missing=missing)


_SHARED = ("nfft", "bins", "features", "blocks", "final_growth", "final_layers")


def _told(shapes: Shapes) -> dict[str, Any]:
    """The settings that one network's tensors tell, by our names."""
    bands = {"low": "bands.0", "high": "bands.1", "full": "full"}
    final = shapes.count("final.layers.") + 1
    told = {
        "nfft": 2 * (shapes["offset"][0] - 1),
        "bins": shapes["out_scale"][0],
        "features": tuple(shapes[f"{band}.first.weight"][0] for band in bands.values()),
        "final_growth": whole(shapes["final.first.conv.weight"][0] / final),
        "final_layers": final,
    }
    blocks = []
    for name, band in bands.items():
        down, up = shapes.count(f"{band}.down."), shapes.count(f"{band}.up.")
        places = [f"{band}.down.{i}" for i in range(down)]
        places += [f"{band}.bottom", *(f"{band}.up.{i}.block" for i in range(up))]
        blocks.append(shapes.count(f"{band}.bottom.layers.") + 1)
        layers = tuple(shapes.count(f"{place}.first.layers.") + 1 for place in places)
        told[f"{name}_layers"] = layers
        told[f"{name}_growth"] = tuple(
            whole(shapes[f"{place}.first.first.conv.weight"][0] / (blocks[-1] * count))
            for place, count in zip(places, layers, strict=True)
        )
    told["blocks"] = tuple(blocks)
    return told


def _together(payload: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one file, or of several that are parts of one network."""
    tensors = {}
    for name, value in payload.items():
        tensors |= {name: value} if isinstance(value, Tensor) else value
    return tensors


def _nets(payload: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{stem: its network's tensors under our names}."""
    below: dict[str, dict[str, Tensor]] = {}
    for name, tensor in payload.items():
        stem, _, path = name.partition("/")
        below.setdefault(stem, {})[path] = tensor
    return {stem: _renamed(tensors) for stem, tensors in below.items()}


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One network's tensors under our names; ModelError for a path that no such network has."""
    halvings: dict[str, int] = {}
    for path in tensors:
        if found := _DOWN.match(path):
            halvings[found[1]] = max(halvings.get(found[1], 0), int(found[2]) + 1)
    renamed = {}
    for path, tensor in tensors.items():
        depth = next((count for band, count in halvings.items() if path.startswith(f"{band}/")), 0)
        renamed[_our_name(path, depth)] = tensor if path.endswith("/W") else tensor.flatten()
    return renamed


def _our_name(path: str, halvings: int) -> str:
    """ "dense_full/bottleneck_block/initial_block/..." -> "full.bottom.first..."; halvings: of its band."""
    parts, at = [], 0
    while at < len(path):
        for rule, name, less in _RULES:
            if found := rule.match(path, at):
                number = int(found[1]) - (halvings + 1 if less is None else less) if rule.groups else None
                parts.append(name.format(number))
                at = found.end()
                break
        else:
            raise ModelError(
                f"The checkpoint has a tensor '{path}', which no network of D3Net has.",
                remedy="Check that it is the file you meant.",
                code="checkpoint_damaged",
            )
    return ".".join(parts)
