"""The training toolkit's settings of an MDX23C, as ours and back (the original's YAML has the same names).

The network stands in `model`, its spectrogram in `audio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepcli.errors import ModelError
from sepcli.models.mdx23c.config import MDX23CConfig
from sepcli.weights.toolkit import training_part, yaml_text

_MODEL = {
    "num_subbands": "subbands",
    "num_channels": "width",
    "growth": "growth",
    "num_scales": "scales",
    "num_blocks_per_scale": "blocks",
    "bottleneck_factor": "bottleneck",
}
_AUDIO = {"n_fft": "nfft", "hop_length": "hop", "dim_f": "bins"}
_NEEDED = (*_MODEL, "scale", "norm", "act")  # the original has no defaults


def read_settings(arch: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings from the part `model`, {name: value}; ModelError for what is missing or not known."""
    missing = [name for name in _NEEDED if name not in model]
    if missing:
        raise _refused(f"lacks {', '.join(missing)}")
    unknown = sorted(set(model) - set(_NEEDED))
    if unknown:
        raise _refused(f"has settings that sepcli does not know: {', '.join(unknown)}")
    scale = model["scale"]
    if not isinstance(scale, list | tuple) or len(scale) != 2:
        raise _refused(f"has a scale of {scale!r}, but it must be two numbers: for frames and for bins")
    norm = str(model["norm"])
    if norm not in ("InstanceNorm", "BatchNorm") and not norm.startswith("GroupNorm"):
        norm = "none"  # as in the original, whatever the word
    if "InstanceNorm" in norm:
        norm = "InstanceNorm"
    return {
        **{ours: _count(model, theirs) for theirs, ours in _MODEL.items()},
        "scale": tuple(scale),
        "norm": norm,
        "act": str(model["act"]),
    }


def read_audio(audio: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings from the part `audio`; a call's length stands there as samples or as `dim_t` frames."""
    missing = [name for name in _AUDIO if name not in audio]
    if missing:
        raise _refused(f"lacks {', '.join(missing)} in `audio`")
    found = {ours: _count(audio, theirs) for theirs, ours in _AUDIO.items()}
    if "num_channels" in audio:
        found["channels"] = _count(audio, "num_channels")
    if audio.get("chunk_size") is not None:
        found["chunk"] = _count(audio, "chunk_size")
    elif audio.get("dim_t") is not None:
        found["chunk"] = found["hop"] * (_count(audio, "dim_t") - 1)
    return found


def write_settings(config: MDX23CConfig) -> dict[str, Any]:
    """The part `model` for a network of ours: what `read_settings` reads."""
    model: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in _MODEL.items()}
    return {**model, "scale": list(config.scale), "norm": config.norm, "act": config.act}


def write_yaml(config: MDX23CConfig) -> str:
    """A configuration file of the toolkit for a network of ours.

    A network of one stem is a target, with the rest of the mix as the second instrument.
    """
    frames = config.chunk // config.hop + 1
    audio: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in _AUDIO.items()}
    audio |= {
        "chunk_size": config.chunk,
        "dim_t": frames,
        "num_channels": config.channels,
        "sample_rate": config.samplerate,
        "min_mean_abs": 0.001,
    }
    inference = {"batch_size": 1, "dim_t": frames, "num_overlap": 4}
    return yaml_text(
        {
            "audio": audio,
            "model": write_settings(config),
            "training": training_part(config.sources),
            "inference": inference,
        }
    )


def _count(part: Mapping[str, Any], name: str) -> int:
    value = part[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(f"has {name} as {value!r}, but it must be a whole number above 0")
    return value


def _refused(what: str) -> ModelError:
    return ModelError(
        f"The configuration of this MDX23C {what}.",
        remedy="Check that it is the file that belongs to the checkpoint.",
        code="bad_config",
    )
