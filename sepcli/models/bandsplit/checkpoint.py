"""Checkpoints of BandSplit: sepcli wrote them, they say what they are, and tensors have the network's names."""

from __future__ import annotations

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.weights.checkpoint import Checkpoint


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The tensors under their names, float16 as float32."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.payload.items()
    }
