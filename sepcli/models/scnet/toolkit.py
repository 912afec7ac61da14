"""The common training toolkit's settings of an SCNet (the `model` part of its YAML files), as ours.

It has the plain and the masked network as two kinds, `scnet` and `scnet_masked`, with the same settings. The
tensors of a file tell which of them it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepcli.errors import ModelError
from sepcli.models.scnet.config import SCNetConfig
from sepcli.weights.toolkit import training_part, yaml_text

_SAME = {
    "audio_channels": "channels",
    "dims": "dims",
    "nfft": "nfft",
    "hop_size": "hop",
    "normalized": "normalized",
    "band_SR": "shares",
    "band_stride": "strides",
    "band_kernel": "kernels",
    "conv_depths": "depths",
    "compress": "compress",
    "conv_kernel": "kernel",
    "num_dplayer": "layers",
    "expand": "expand",
}
MASK_HIDDEN = 64  # of every masked network


def read_settings(arch: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings from the toolkit's, {name: value}; ModelError, by name, for what sepcli does not know."""
    del arch  # there is one
    unknown = sorted(set(model) - {*_SAME, "sources", "win_size"})
    if unknown:
        raise _refused(f"settings that sepcli does not know: {', '.join(unknown)}")
    nfft = model.get("nfft", SCNetConfig.nfft)
    if model.get("win_size", nfft) != nfft:
        raise _refused("windows (win_size) shorter than nfft")
    settings = {ours: model[theirs] for theirs, ours in _SAME.items() if theirs in model}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def write_settings(config: SCNetConfig) -> dict[str, Any]:
    """The toolkit's settings of a network of ours: what `read_settings` reads. ModelError for what it lacks."""
    if config.standardize or masked(config) is None:
        raise ModelError(
            "The training toolkit has no network with these settings of SCNet: "
            "either all of hann, positions and mask_hidden = 64, or none of them; and not standardize.",
            remedy="Only sepcli's own file holds it.",
            code="no_such_format",
        )
    settings = {theirs: getattr(config, ours) for theirs, ours in _SAME.items()}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"sources": list(config.sources), "win_size": config.nfft, **settings}


def masked(config: SCNetConfig) -> bool | None:
    """Which of the toolkit's kinds a network is; None: neither."""
    switches = (config.hann, config.positions, config.mask_hidden == MASK_HIDDEN)
    if not any(switches) and not config.mask_hidden:
        return False
    return True if all(switches) else None


def write_yaml(config: SCNetConfig) -> str:
    """A configuration file of the toolkit for a network of ours. ModelError for what it lacks."""
    return yaml_text(
        {
            "audio": {
                "chunk_size": config.chunk,
                "num_channels": config.channels,
                "sample_rate": config.samplerate,
                "min_mean_abs": 0.0,
            },
            "model": write_settings(config),
            "training": training_part(config.sources),
            "inference": {
                "batch_size": 1,
                "dim_t": config.chunk // config.hop + 1,
                "num_overlap": 4,
                "normalize": config.normalize,
            },
        }
    )


def _refused(what: str) -> ModelError:
    return ModelError(
        f"The configuration of this SCNet has {what}.",
        remedy="sepcli can't run such a network; check that it is the file you meant.",
        code="bad_config",
    )
