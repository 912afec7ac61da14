"""Checkpoints of Meta-TasNet: {"args": its program's settings, "state_dict": tensors}, with our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Package, Told
from sepcli.models.shapes import PUBLISHED_STEMS, Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint, network_state
from sepcli.weights.unpickling import InertObject

_SETTINGS = {  # theirs: ours
    "stages_num": "stages",
    "N": "latent",
    "L": "length",
    "W": "stride",
    "filters": "filters",
    "num_mels": "mels",
    "B": "bottleneck",
    "H": "hidden",
    "kernel": "kernel",
    "layers": "layers",
    "stack": "stack",
}
_LAYERS = 6  # of a row, as published


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors."""
    return dict(network_state(checkpoint, "Meta-TasNet"))


def describe(checkpoint: Checkpoint) -> Package | None:
    """See Family.describe: the program's settings are in the file."""
    payload = checkpoint.payload
    args = payload.get("args") if isinstance(payload, Mapping) else None
    said = args.state if isinstance(args, InertObject) else None
    if not isinstance(said, Mapping) or not {*_SETTINGS, "independent_params", "sampling_rate"} <= set(said):
        return None
    return Package("MetaTasNet", settings(said))


def settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings of the program's."""
    config: dict[str, Any] = {ours: int(said[theirs]) for theirs, ours in _SETTINGS.items()}
    config["samplerate"] = int(said["sampling_rate"]) * 2 ** (config["stages"] - 1)
    if said["independent_params"]:
        return config | {"embedding": 0, "bias": bool(said["residual_bias"])}
    return config | {"embedding": int(said["E_1"]), "narrow": int(said["E_2"])}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: all but the stride, taken for the length of filters, and the rows of blocks."""
    shapes = Shapes(network_state(checkpoint, "Meta-TasNet"), "stages.")
    first, mask = "0.encoder.", "0.mask."
    generated = "0.instrument_embedding.weight" in shapes
    stages, blocks = shapes.count(""), shapes.count(f"{mask}tcn.")
    latent, length = shapes[f"{first}bottleneck.2.weight"][0], shapes[f"{first}filters.0.weight"][2]
    rate = 8000 * shapes[f"{first}spectrogram.window"][0] // 1024
    config: dict[str, Any] = {
        "samplerate": rate * 2 ** (stages - 1),
        "stages": stages,
        "latent": latent,
        "length": length,
        "filters": shapes.count(f"{first}filters."),
        "mels": shapes[f"{first}spectrogram.mel_transform.bias"][0],
    }
    if generated:
        stems, embedding = shapes["0.instrument_embedding.weight"]
        hidden = whole(shapes[f"{mask}tcn.0.norm_1.affine.bias"][0] / 2)
        config |= {
            "embedding": embedding,
            "narrow": shapes[f"{mask}in_conv.bottleneck.bias"][0],
            "bottleneck": whole(shapes[f"{mask}norm_2.affine.bias"][0] / 2),
            "hidden": hidden,
            "kernel": whole(shapes[f"{mask}tcn.0.dconv1d.kernel.bias"][0] / hidden),
        }
    else:
        stems = whole(shapes[f"{mask}norm_1.group_norm.bias"][0] / latent)
        config |= {
            "embedding": 0,
            "bias": f"{mask}tcn.0.res_out.conv.bias" in shapes,
            "bottleneck": whole(shapes[f"{mask}norm_2.group_norm.bias"][0] / stems),
            "hidden": whole(shapes[f"{mask}tcn.0.norm_1.group_norm.bias"][0] / stems),
            "kernel": shapes[f"{mask}tcn.0.dconv1d.conv.weight"][2],
        }
    layers = _LAYERS if blocks % _LAYERS == 0 else blocks
    assumed = {
        "sources": PUBLISHED_STEMS.get(stems, numbered(stems)),
        "stride": length,
        "layers": layers,
        "stack": blocks // layers,
    }
    return Told("MetaTasNet", config, assumed, missing=() if blocks % _LAYERS == 0 else ("layers", "stack"))
