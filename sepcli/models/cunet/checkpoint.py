"""Checkpoints of CU-Net: the names that Keras gives layers in order of creation. None was ever published.

    dense, dense_1, ... or conv1d, ...   the control's layers; the last two dense ones make gamma and beta
    batch_normalization, ...             of the control from its second layer on, then down, then up
    conv2d, ...; conv2d_transpose, ...   down; up

Kernels are [taps..., in, out], of transposed convolutions [taps..., out, in].
"""

from __future__ import annotations

import re

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.cunet.network import CUNet
from sepcli.weights.checkpoint import Checkpoint

_LAYER = re.compile(r"(conv1d|conv2d|conv2d_transpose|batch_normalization|dense)(?:_(\d+))?/(\w+)")
_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    if checkpoint.format != "tensorflow":
        return dict(checkpoint.payload)
    assert isinstance(model, CUNet)
    return {
        _our_name(name, model): tensor.permute(*reversed(range(tensor.dim())))
        if tensor.dim() < 4
        else tensor.permute(3, 2, 0, 1)
        for name, tensor in checkpoint.payload.items()
    }


def _our_name(name: str, model: CUNet) -> str:
    """ "batch_normalization_2/gamma" -> "down_norms.0.weight"."""
    found = _LAYER.fullmatch(name)
    if found is None:
        raise ModelError(
            f"The checkpoint has a tensor '{name}', which no network of CU-Net has.",
            remedy="Check that it is the file you meant.",
            code="checkpoint_damaged",
        )
    kind, number, part = found[1], int(found[2] or 0), _PARTS.get(found[3], found[3])
    dense = len(model.control.layers) if model.control.kind == "dense" else 0
    norms, layers = len(model.control.norms), len(model.down)
    place = f"{kind}.{number}"
    if kind == "dense":
        place = {dense: "control.gamma", dense + 1: "control.beta"}.get(number, f"control.layers.{number}")
    elif kind == "conv1d":
        place = f"control.layers.{number}"
    elif kind == "conv2d":
        place = f"down.{number}"
    elif kind == "conv2d_transpose":
        place = f"up.{number}"
    elif number < norms:
        place = f"control.norms.{number}"
    elif number < norms + layers:
        place = f"down_norms.{number - norms}"
    else:
        place = f"up_norms.{number - norms - layers}"
    return f"{place}.{part}"
