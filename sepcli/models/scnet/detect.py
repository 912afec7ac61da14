"""What the tensors of an SCNet's file tell, and what not: window, hop, shares of the bands, names of stems.

Nor do they tell whether the track is to be standardised. Where that is not known, it is taken to be not.
"""

from __future__ import annotations

from typing import Any

from sepcli.models.family import Told
from sepcli.models.scnet.checkpoint import published_state
from sepcli.models.scnet.config import SCNetConfig
from sepcli.models.shapes import PUBLISHED_STEMS, Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint

LARGE = (0.225, 0.372, 0.403)  # shares of the bands of wide networks with six layers
XL = (0.23, 0.37, 0.4)  # with eight


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: the network and its sizes; the spectrogram and the stems are taken as published."""
    state = published_state(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    levels, bands = shapes.count("encoder."), shapes.count("encoder.0.SDlayer.convs.")
    width, values, *_ = shapes["encoder.0.SDlayer.convs.0.weight"]
    kernels = tuple(shapes[f"encoder.0.SDlayer.convs.{band}.weight"][2] for band in range(bands))
    dims = (values, *(shapes[f"encoder.{level}.globalconv.bias"][0] for level in range(levels)))
    stems = whole(shapes[f"decoder.{levels - 1}.1.convtrs.0.bias"][0] / values)
    double, _, kernel = shapes["encoder.0.conv_modules.0.layers.0.1.weight"]
    hidden = shapes["separation_net.dp_modules.0.lstm_layers.0.weight_hh_l0"][1]
    layers = shapes.count("separation_net.dp_modules.")
    config: dict[str, Any] = {
        "channels": whole(values / 2),
        "dims": dims,
        "kernels": kernels,
        "depths": tuple(shapes.count(f"encoder.0.conv_modules.{band}.layers.") for band in range(bands)),
        "compress": whole(width / whole(double / 2)),
        "kernel": kernel,
        "layers": layers,
        "expand": whole(hidden / dims[-1]),
        "positions": "pos_embed_f" in shapes,
        "mask_hidden": shapes["mask_layer.0.bias"][0] if "mask_layer.0.bias" in shapes else 0,
    }
    if config["positions"]:
        config["nfft"] = 2 * (shapes["pos_embed_f"][2] - 1)
    assumed: dict[str, Any] = {
        "sources": PUBLISHED_STEMS.get(stems, numbered(stems)),
        "hann": config["mask_hidden"] > 0,
        "strides": tuple(1 if rows == SCNetConfig.kernels[0] else rows for rows in kernels),
    }
    if dims[1] > SCNetConfig.dims[1]:
        assumed["shares"] = XL if layers > SCNetConfig.layers else LARGE
    return Told("SCNet", config, assumed, exact=True)
