"""BandSplit checkpoints are sepcli's own: the loader knows what they say, and the names are the network's."""

from __future__ import annotations

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Package
from sepcli.weights.checkpoint import Checkpoint


def describe(checkpoint: Checkpoint) -> Package | None:
    """None: no other program writes such files, and ours are recognised by their own header."""
    return None


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The tensors under their names, float16 widened."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.payload.items()
    }
