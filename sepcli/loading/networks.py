"""A Config and a checkpoint -> the network with these weights, on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError, Notice
from sepcli.models.config import parse_options
from sepcli.models.family import Arch, Family, get_family, hidden_family
from sepcli.nn.undrawn import Undrawn
from sepcli.weights.checkpoint import Checkpoint, tensors_in
from sepcli.weights.compact import expand


def known_family(name: str, notice: Notice) -> Family:
    """The family of that name; a notice where a package would like to be it. ModelError if there is none."""
    hidden = hidden_family(name)
    if hidden is not None:
        notice(f"The model family '{name}' is sepcli's own; the one in the package {hidden} is not used.")
    return get_family(name)


def fill(
    family: Family, arch: Arch, config: Any, checkpoint: Checkpoint, options: Mapping[str, str]
) -> Separator:
    """The network of that config with the checkpoint's weights, every one of them."""
    try:
        with Undrawn():
            model = arch.build(config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{arch.name} can't be built from this config: {error}.",
            remedy="Correct [config] in the catalogue.",
        ) from error
    try:
        _take(model, expand(family.convert(checkpoint, model)), checkpoint)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"The weights in '{checkpoint.path.name}' do not fit {arch.name}: {_complaint(error)}",
            remedy="The file is damaged or made for another network.",
        ) from error
    if options or arch.options is not None:
        model.options = parse_options(arch, options)
    model.eval()
    return model.requires_grad_(False)


def _take(model: Separator, state: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Load the state strictly. What was made of the checkpoint becomes the parameters, and is not copied again;
    what is still mapped to its file is copied.
    """
    mapped = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(checkpoint.payload)}
    own = model.state_dict()
    for name, tensor in state.items():
        mine = own.get(name)
        if mine is None or mine.shape != tensor.shape:
            continue  # which is said below
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        alike = tensor.dtype == mine.dtype and tensor.stride() == mine.stride()  # channels may be last
        if not whole or not alike or tensor.untyped_storage().data_ptr() in mapped:
            state[name] = mine.copy_(tensor)
    model.load_state_dict(state, strict=True, assign=True)


def _complaint(error: Exception) -> str:
    """The first thing that a strict load misses: the line after "Error(s) in loading state_dict"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__


def shorten(model: Separator, segment: Fraction | float | None) -> None:
    """Give the model calls of so many seconds; None: it keeps its own."""
    if segment is not None:
        model.segment = replace(model.segment, samples=int(segment * model.samplerate))
