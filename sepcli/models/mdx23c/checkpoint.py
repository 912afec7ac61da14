"""Checkpoints of MDX23C: the network's own names, in the containers of the programs that train it.

    first_conv, encoder_blocks.{level}, bottleneck_block, decoder_blocks.{level}, final_conv.{0, 2}
    *.tfc_tdf.blocks.{block}.{tfc1, tdf, tfc2}.{0 norm, 2 layer; tdf: 3 norm, 5 layer too}, .shortcut
    *.{downscale, upscale}.conv.{0 norm, 2 convolution}

The window is in no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Exported
from sepcli.models.mdx23c.network import MDX23C
from sepcli.models.mdx23c.toolkit import write_yaml
from sepcli.weights.checkpoint import Checkpoint, state_in

CONTAINERS = ("state", "state_dict", "model_state_dict", "best_state")  # in what programs put the tensors
FIRST = "first_conv.weight"  # in front of it stands what a wrapper has put before all names


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors, in float32; sepcli's own files have the same names."""
    theirs = published_state(checkpoint)
    if theirs is None:
        return dict(checkpoint.payload)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in theirs.items()}


def export(model: MDX23C) -> Exported:
    """The network as the training toolkit reads it: its tensors, and a YAML file of settings."""
    return Exported(model.state_dict(), {".yaml": write_yaml(replace(model.config, sources=model.sources))})


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout; None for another file."""
    state = state_in(checkpoint, CONTAINERS)
    if state is None or not any(".tfc_tdf.blocks.0." in name for name in state):
        return None
    prefix = next((name for name in state if name.endswith(FIRST)), FIRST).removesuffix(FIRST)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
