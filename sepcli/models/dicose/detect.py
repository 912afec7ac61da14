"""What the tensors of DiCoSe's and MSDM's files tell: PyTorch Lightning's, with the prefixes of `PUBLISHED`.

    net.model.unet.*                                        Consistency
    model.unet.* and pre_trained_mixture_feature_...*       Diffusion
    model.unet.* without a time                             Deterministic
    model.unet.* without a label                            MSDM

One file of ISDM is one of its four networks and no model. Shapes do not tell the number of attention heads, the
groups of norms, the sample rate, the length of a segment, and how noise was scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sepcli.models.dicose.checkpoint import PUBLISHED
from sepcli.models.dicose.frame import DicoseConfig
from sepcli.models.dicose.unet import Shape
from sepcli.models.family import Told
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint, network_state


def detect(checkpoint: Checkpoint) -> Told | None:
    """See the file's head, and Family.detect."""
    state = network_state(checkpoint, "DiCoSe or MSDM")
    for arch in ("Consistency", "Diffusion"):
        if all(_unet(state, prefixes) for prefixes in PUBLISHED[arch].values()):
            return _told(arch, _unet(state, PUBLISHED[arch]["unet."]))
    shapes = _unet(state, PUBLISHED["MSDM"]["unet."])
    if not shapes.has("to_time."):
        return _told("Deterministic", shapes)
    return None if shapes.has("to_features.") or _audio(shapes) == 1 else _told("MSDM", shapes)


def _unet(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> Shapes:
    """The U-Net below the first of the prefixes that is there."""
    return next((found for prefix in prefixes if (found := Shapes(state, prefix))), Shapes({}))


def _audio(shapes: Shapes) -> int:
    return shapes["to_in.module_list.0.block.block1.project.weight"][1]


def _told(arch: str, shapes: Shapes) -> Told:
    stems = shapes["to_features.0.weight"][1] if shapes.has("to_features.") else _audio(shapes)
    width = whole(shapes["to_mapping.0.weight"][0] / 4)
    inner = shapes["to_in.module_list.0.block.block1.project.weight"][0]
    levels = range(shapes.count("downsamples."))
    heads = Shape.heads
    config: dict[str, Any] = {
        "width": width,
        "patch": whole(width / inner),
        "multipliers": (1, *(whole(_down(shapes, level)[0] / width) for level in levels)),
        "factors": tuple(_down(shapes, level)[2] // 2 for level in levels),
        "blocks": tuple(shapes.count(f"downsamples.{level}.blocks.") for level in levels),
        "attentions": tuple(shapes.has(f"downsamples.{level}.transformer.") for level in levels),
        # Weights tell heads * head_features.
        "head_features": whole(shapes["bottleneck.attention.fn.to_q.weight"][0] / heads),
    }
    forward = next((name for name in shapes if name.endswith("transformer.feed_forward.1.weight")), None)
    if forward is not None:
        config["ff_multiplier"] = whole(shapes[forward][0] / shapes[forward][1])
    return Told(arch, config, {} if stems == len(DicoseConfig.sources) else {"sources": numbered(stems)})


def _down(shapes: Shapes, level: int) -> tuple[int, ...]:
    return shapes[f"downsamples.{level}.downsample.weight"]
