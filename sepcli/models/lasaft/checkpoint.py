"""Published LaSAFT checkpoints: files of PyTorch Lightning, with the network under `spec2spec.`.

    {"state_dict": {"spec2spec.<name>": tensor, ..., "stft.stft.window": [n_fft]}, "hyper_parameters": ..., ...}

Our networks have the published names, so only the prefix is removed. The names of hyper-parameters differ from
version to version, so they are not used: the catalogue says what the network is, the length of the file's
window must agree with it, and every tensor must fit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.lasaft.query import LaSAFTQuery
from sepcli.weights.checkpoint import Checkpoint, network_state

PREFIX = "spec2spec."
WINDOW = "stft.stft.window"


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of `model`, in float32. Only the STFT's window is left out."""
    tensors = {}
    for name, value in network_state(checkpoint, "LaSAFT").items():
        if name == WINDOW:
            _check_window(checkpoint, len(value), model)
        else:
            tensors[name.removeprefix(PREFIX)] = value.float() if value.is_floating_point() else value
    if isinstance(model, LaSAFTQuery) and not model.sources:  # the authors' files have no latents of stems
        tensors.setdefault("mean_latents", model.mean_latents)  # an empty table
    return tensors


def _check_window(checkpoint: Checkpoint, length: int, model: Separator) -> None:
    config: Any = model.config
    wanted = config.n_fft
    if length != wanted:
        raise ModelError(
            f"The checkpoint '{checkpoint.path}' is for windows of {length} samples, the network for {wanted}.",
            remedy="Correct n_fft in the catalogue's [config], or the file it names.",
            code="config_mismatch",
        )
