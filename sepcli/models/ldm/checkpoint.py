"""Checkpoints of the ldm family: tensors by their published names -> by ours.

EnCodec is published in two files with the same weights. Our networks have the names of the first one, but all
codebooks are one tensor. Only their vectors are taken, not the statistics of their training.

    the hub's model.safetensors           encodec_48khz-7e698e3e.th
    encoder.layers.N[...].conv|norm.*     encoder.model.N[...].conv.conv|norm.*     also decoder, with `convtr`
    quantizer.layers.K.codebook.embed     quantizer.vq.layers.K._codebook.embed     -> quantizer.codebooks[K]
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.weights.checkpoint import Checkpoint, network_state

# The vectors of a codebook (embed), and the counts and running sums of its training.
_CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.(embed|embed_avg|cluster_size|inited)")


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of `model`, in float32."""
    return {name: value.float() for name, value in named_as_ours(checkpoint).items()}


def named_as_ours(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The file's tensors under our names, without those that only training needs."""
    tensors: dict[str, Tensor] = {}
    books: dict[int, Tensor] = {}
    for name, value in network_state(checkpoint, "EnCodec").items():
        codebook = _CODEBOOK.fullmatch(name)
        if codebook is None:
            tensors[_ours(name)] = value
        elif codebook[2] == "embed":
            books[int(codebook[1])] = value
    if books:
        tensors["quantizer.codebooks"] = torch.stack([books[number] for number in sorted(books)])
    return tensors


def _ours(name: str) -> str:
    """Our name of a tensor of either file."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    return re.sub(r"\.(?:conv|convtr)\.(?:(norm)|conv|convtr)\.", lambda found: f".{found[1] or 'conv'}.", name)
