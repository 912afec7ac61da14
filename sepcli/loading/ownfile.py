"""The format in which sepcli writes weights: safetensors, whose header says which network they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sepcli.errors import ModelError
from sepcli.models.config import plain_config
from sepcli.models.family import Family, Package
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.compact import compact

OWN_FORMAT = "sepcli"  # the key in the header


def describe(checkpoint: Checkpoint, family: Family) -> Package | None:
    """What a checkpoint says of itself: in our own header, else in a way that `family` knows."""
    own = own_header(checkpoint)
    if own is None:
        return None if family.describe is None else family.describe(checkpoint)
    return Package(own["arch"], own["config"]) if own["family"] == family.name else None


def own_header(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """{"family": ..., "arch": ..., "config": {...}} in a file that sepcli wrote; None in others."""
    text = checkpoint.metadata.get(OWN_FORMAT)
    if text is None:
        return None
    try:
        said = json.loads(text)
        kinds = {"family": str, "arch": str, "config": dict}
        if not all(isinstance(said[key], kind) for key, kind in kinds.items()):
            raise ValueError(text)
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"What '{checkpoint.path}' says of itself can't be read.",
            remedy="Get the file again, or write it anew.",
            code="checkpoint_damaged",
        ) from error
    return said


def save_model(
    model_state: Mapping[str, torch.Tensor],
    path: Path,
    *,
    family: str,
    arch: str,
    config: Any,
    small: bool = False,
) -> None:
    """Write a checkpoint in sepcli's own self-describing format (safetensors, config in the header).

    small: large tensors as int8 (`weights.compact`), in a quarter of the bytes.
    """
    from safetensors.torch import save_file

    header = json.dumps({"family": family, "arch": arch, "config": plain_config(config)})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model_state.items()}
    if small:
        tensors = {name: tensor.contiguous() for name, tensor in compact(tensors).items()}
    save_file(tensors, path, metadata={OWN_FORMAT: header})
