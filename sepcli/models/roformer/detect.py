"""What the tensors of a RoFormer's file tell, and what they do not: hop, names of stems, length of calls.

The number and widths of the bands give the window and the channels. A network with the same tensors may still
be trained for another hop, which nothing in the file shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sepcli.models.family import Told
from sepcli.models.roformer.bands import mel
from sepcli.models.roformer.checkpoint import published_state
from sepcli.models.shapes import PUBLISHED_STEMS, Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint

WINDOWS = tuple(2**power for power in range(6, 15))  # samples
RATES = (44100, 48000, 32000, 24000, 22050, 16000)  # Hz
STEMS = {  # in the order of published files
    4: PUBLISHED_STEMS[4],
    6: ("bass", "drums", "other", "vocals", "guitar", "piano"),
}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: the network and its sizes; stems, hop and length of calls are taken as published."""
    state = published_state(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    (heads,) = shapes["layers.0.0.layers.0.0.to_gates.bias"]
    dim, inner = shapes["layers.0.0.layers.0.0.to_out.0.weight"]
    linears = "mask_estimators.0.to_freqs.0.0."
    hidden = sum(name.startswith(linears) and name.endswith(".weight") for name in shapes) - 1
    config: dict[str, Any] = {
        "dim": dim,
        "depth": shapes.count("layers."),
        "layers": shapes.count("layers.0.0.layers."),
        "heads": heads,
        "dim_head": whole(inner / heads),
        "mask_hidden": hidden,
    }
    config |= {
        "polar": any(".pope_embed." in name for name in shapes),
        "value_residual": any(".to_value_residual_mix." in name for name in shapes),
        "refiner": shapes.count("mask_estimators.0.layers."),
    }
    head = Shapes(state, "mask_estimators.0.segm.backbone.")
    if head:
        levels = ("stem", *(f"p{level}.0" for level in range(2, 6)))
        config["head"] = tuple(head[f"{level}.pwconv.weight"][0] for level in levels)
    if hidden:
        config["mask_expansion"] = whole(shapes[f"{linears}0.weight"][0] / dim)
    stems = shapes.count("mask_estimators.")
    assumed = {"sources": STEMS.get(stems, numbered(stems))}
    widths = _widths(state)
    if "final_norm.gamma" in shapes:
        return Told("BSRoformer", {**config, **_side_by_side(widths)}, assumed, exact=True)
    return Told("MelBandRoformer", {**config, **_mel(widths)}, assumed, exact=True)


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    """Values of each band: twice its bins and channels."""
    shapes = Shapes(state, "band_split.to_features.")
    return [shapes[f"{band}.0.gamma"][0] for band in range(shapes.count(""))]


def _side_by_side(widths: list[int]) -> dict[str, Any]:
    for channels in (2, 1):
        bands = [width / (2 * channels) for width in widths]
        if 2 * (sum(bands) - 1) in WINDOWS:
            return {
                "channels": channels,
                "nfft": whole(2 * (sum(bands) - 1)),
                "bands": tuple(whole(bins) for bins in bands),
            }
    raise ValueError("no spectrogram has these bands")


def _mel(widths: list[int]) -> dict[str, Any]:
    for samplerate in RATES:
        for nfft in WINDOWS:
            try:
                bins = mel(len(widths), nfft, samplerate).widths
            except ValueError:  # more bands than such a window can have
                continue
            for channels in (2, 1):
                if [2 * channels * width for width in bins] == widths:
                    return {
                        "channels": channels,
                        "nfft": nfft,
                        "samplerate": samplerate,
                        "bands": len(widths),
                    }
    raise ValueError("no spectrogram has these bands on the mel scale")
