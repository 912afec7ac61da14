"""Checkpoints of the ldm family: a pure map from their names to ours."""

from __future__ import annotations

from torch import Tensor

from sepcli.checkpoint import Checkpoint, network_state
from sepcli.family import Package
from sepcli.separator import Separator


def describe(checkpoint: Checkpoint) -> Package | None:
    """None: such a file names no network, and ours are recognised by their own header."""
    return None


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of `model`, in float32."""
    return {name: value.float() for name, value in network_state(checkpoint, "EnCodec").items()}
