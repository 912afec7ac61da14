"""What the tensors of a BS-RNN's file tell. What they do not: the hop, and stems where the file names none."""

from __future__ import annotations

from typing import Any

from sepcli.models.bsrnn.checkpoint import published_state, targets
from sepcli.models.bsrnn.config import BASS, DRUMS
from sepcli.models.family import Told
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint

STEMS = {4: ("vocals", "bass", "drums", "other")}  # in the order of the published file
OF_BANDS = {BASS: ("bass",), DRUMS: ("drums",)}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect. The stems are those that the file's settings name, if it has settings."""
    state = published_state(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    dim = shapes["BN.0.1.weight"][0]
    bands = tuple(whole(shapes[f"BN.{k}.0.weight"][0] / 2) for k in range(shapes.count("BN.")))
    masks = shapes.count("maskers.")
    config: dict[str, Any] = {
        "bands": bands,
        "nfft": 2 * (sum(bands) - 1),
        "dim": dim,
        "depth": shapes.count("separator."),
        "mask_expansion": whole(shapes["maskers.0.mask.0.1.weight"][0] / dim),
        "tac": "",
    }
    block = Shapes(state, "separator.0.")
    if block.has("tac_module."):
        config["tac"] = "prelu" if "tac_module.transform.1.weight" in block else "tanh"
    heads = 0
    while block.has(f"attn_block.attn_conv_Q_{heads}."):
        heads += 1
    config["heads"] = heads
    if heads:
        config["dim_head"] = block["attn_block.attn_conv_Q_0.0.weight"][0]
    names = targets(checkpoint)
    if names is not None:
        config |= {"sources": names, "subtract": len(names) == masks + 1}
    assumed = {"sources": OF_BANDS.get(bands, numbered(1)) if masks == 1 else STEMS.get(masks, numbered(masks))}
    return Told("BSRNN", config, assumed, exact=True)
