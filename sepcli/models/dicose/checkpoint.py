"""Checkpoints of DiCoSe, MSDM and ISDM: tensors by their published names -> by ours.

Published files come from PyTorch Lightning and have several GB. In addition to the networks they hold states of
optimisers, teacher and target of a distillation, and some networks twice. `PUBLISHED` says which U-Net of such
a file is which of ours:

    model.unet.<name> -> unet.<name>          below these prefixes our networks have the published names

Everything else is left out. That costs nothing, because files are mapped into memory, not read. Files that
sepcli wrote have our names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.weights.checkpoint import Checkpoint, network_state

_UNET = ("model.unet.", "model.diffusion.net.")  # the same tensors twice
_BASE = ("pre_trained_mixture_feature_extractor_model.model.unet.",)

# {network: {our prefix: prefixes in a published file; the first one that occurs is taken}}
PUBLISHED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Deterministic": {"unet.": ("model.unet.",)},
    "Diffusion": {"unet.": _UNET, "base.": _BASE},
    # The student, which makes the samples; not `target_model`, its average, nor `teacher_model`.
    "Consistency": {"unet.": ("net.model.unet.", "net.model.diffusion.net."), "base.": _BASE},
    "MSDM": {"unet.": _UNET},
}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of `model`, in float32."""
    state = _state(checkpoint)
    ours = {name.partition(".")[0] for name in model.state_dict()}
    if all(name.partition(".")[0] in ours for name in state):
        return {name: value.float() for name, value in state.items()}
    arch = type(model).__name__
    if arch not in PUBLISHED:
        raise _mismatch(checkpoint, arch, f"its networks are not called {' or '.join(sorted(ours))}")
    return {
        ours + name: value
        for ours, theirs in PUBLISHED[arch].items()
        for name, value in _network(checkpoint, state, theirs, arch).items()
    }


def join(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """ISDM's files, one for each source and in their order -> the tensors of our one network."""
    return {
        f"unets.{number}.{name}": value
        for number, checkpoint in enumerate(checkpoints)
        for name, value in _network(checkpoint, _state(checkpoint), _UNET, "ISDM").items()
    }


def _network(
    checkpoint: Checkpoint, state: Mapping[str, Tensor], prefixes: Sequence[str], arch: str
) -> dict[str, Tensor]:
    """The tensors under the first of the prefixes that occurs, in float32, by their names without it."""
    for prefix in prefixes:
        found = {
            name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)
        }
        if found:
            return found
    raise _mismatch(checkpoint, arch, f"nothing in it is called {' or '.join(f'{p}*' for p in prefixes)}")


def _mismatch(checkpoint: Checkpoint, arch: str, why: str) -> ModelError:
    return ModelError(
        f"The checkpoint '{checkpoint.path}' is not one of {arch}: {why}.",
        remedy="Check that it is the file you meant, and the `arch` of the catalogue's entry.",
        code="checkpoint_mismatch",
    )


def _state(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    return network_state(checkpoint, "DiCoSe or MSDM")
