"""Checkpoints of Spleeter: TensorFlow's, with the names that Keras gives layers in order of creation.

    conv2d, conv2d_1, ...              7 a U-Net: down 0..5, last
    conv2d_transpose, ...              6 a U-Net: up 0..5
    batch_normalization, ...           12 a U-Net: down 0..5, up 0..5; the sixth feeds nothing and is left out

The U-Nets follow each other in the order of the sources. Kernels are [height, width, in, out], of transposed
convolutions [height, width, out, in]; both become what torch has by turning the axes around. What an optimiser
has left in a file is left out: these names and no others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.family import Told
from sepcli.models.shapes import numbered
from sepcli.models.spleeter.unet import LEVELS
from sepcli.weights.checkpoint import Checkpoint

PUBLISHED_STEMS = {
    2: ("vocals", "accompaniment"),
    4: ("vocals", "drums", "bass", "other"),
    5: ("vocals", "piano", "drums", "bass", "other"),
}
_OPTIMISER = re.compile(r".*/Adam(_1)?|beta[12]_power|global_step")
_LAYER = re.compile(r"(conv2d|conv2d_transpose|batch_normalization)(?:_(\d+))?/(\w+)")
_CONVS = LEVELS + 1
_NORMS = 2 * LEVELS
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "mean", "moving_variance": "variance"}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    if checkpoint.format != "tensorflow":
        return dict(checkpoint.payload)
    tensors = {}
    for name, tensor in _network(checkpoint.payload).items():
        ours = _our_name(name)
        if ours is not None:
            tensors[ours] = tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor
    return tensors


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: the number of stems and the widths. Activations do not show; they are as published."""
    if checkpoint.format != "tensorflow":
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in _network(checkpoint.payload).items()}
    stems, rest = divmod(sum(name.startswith("conv2d") and name.endswith("/kernel") for name in shapes), 13)
    if rest:
        return None
    layers = ["conv2d", *(f"conv2d_{k}" for k in range(1, LEVELS))]
    filters = tuple(shapes[f"{layer}/kernel"][3] for layer in layers)
    assumed = {
        "sources": PUBLISHED_STEMS.get(stems, numbered(stems)),
        "output": "softmax" if stems == 5 else "sigmoid",
    }
    if stems > 2:
        assumed |= {"conv_activation": "ELU", "deconv_activation": "ELU"}
    return Told("Spleeter", {"filters": filters, "channels": shapes["conv2d/kernel"][2]}, assumed=assumed)


def _network(payload: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of the optimiser."""
    return {name: tensor for name, tensor in payload.items() if not _OPTIMISER.fullmatch(name)}


def _our_name(name: str) -> str | None:
    """ "conv2d_8/kernel" -> "unets.1.down.1.conv.weight"; None for the norm that feeds nothing."""
    found = _LAYER.fullmatch(name)
    if found is None:
        raise ModelError(
            f"The checkpoint has a tensor '{name}', which no network of Spleeter has.",
            remedy="Check that it is the file you meant.",
            code="checkpoint_damaged",
        )
    kind, number, part = found[1], int(found[2] or 0), found[3]
    if kind == "batch_normalization":
        unet, k = divmod(number, _NORMS)
        place = f"down_norms.{k}" if k < LEVELS else f"up_norms.{k - LEVELS}"
        return None if k == LEVELS - 1 else f"unets.{unet}.{place}.{_NORM.get(part, part)}"
    part = {"kernel": "weight"}.get(part, part)
    if kind == "conv2d_transpose":
        unet, k = divmod(number, LEVELS)
        return f"unets.{unet}.up.{k}.conv.{part}"
    unet, k = divmod(number, _CONVS)
    return f"unets.{unet}.down.{k}.conv.{part}" if k < LEVELS else f"unets.{unet}.last.{part}"
