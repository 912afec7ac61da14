"""What the tensors of an MDX23C's file tell, and what they do not.

They tell all sizes of the network. The window, the hop, the activation, the names of the stems and the length
of calls are in no tensor; nor is whether the audio is stereo, or which of two norms is meant.
"""

from __future__ import annotations

from typing import Any

from sepcli.models.family import Told
from sepcli.models.mdx23c.checkpoint import published_state
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint

CHANNELS = 2  # of all public files
FRAMES = 256  # of a call of most of them


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: the sizes; the rest is taken to be as in most public files."""
    state = published_state(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    level = "encoder_blocks.0."
    width, rows, *_ = shapes["first_conv.weight"]
    outward, inward, *scale = shapes[f"{level}downscale.conv.2.weight"]
    narrow, f = shapes[f"{level}tfc_tdf.blocks.0.tdf.2.weight"]
    stems = whole(shapes["final_conv.2.weight"][0] / rows)
    norm = f"{level}tfc_tdf.blocks.0.tfc1.0."
    config: dict[str, Any] = {
        "width": width,
        "growth": outward - inward,
        "scales": shapes.count("encoder_blocks."),
        "scale": tuple(scale),
        "blocks": shapes.count(f"{level}tfc_tdf.blocks."),
        "bottleneck": f // narrow,
    }
    if f"{norm}running_mean" in shapes:
        config["norm"] = "BatchNorm"
    elif f"{norm}weight" not in shapes:
        config["norm"] = "none"
    subbands = whole(rows / (2 * CHANNELS))
    nfft = 2 * f * subbands
    hop = max(nfft // (8 if nfft > 4096 else 4), 1)
    assumed = {
        "sources": ("vocals", "instrumental") if stems == 2 else numbered(stems),
        "channels": CHANNELS,
        "subbands": subbands,
        "bins": f * subbands,
        "nfft": nfft,
        "hop": hop,
        "chunk": hop * (FRAMES - 1),
    }
    return Told("MDX23C", config, assumed, exact=True)
