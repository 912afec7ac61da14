"""The common training toolkit's settings of a RoFormer (the `model` part of its YAML files), as ours.

Its two networks count the layers of a mask estimator differently, and take other defaults for what a file does
not say. Both are facts of its code (Music-Source-Separation-Training, 2024 to 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepcli.errors import ModelError
from sepcli.models.roformer.config import (
    BANDS,
    BSRoformerConfig,
    MelBandRoformerConfig,
    RoformerConfig,
)
from sepcli.weights.toolkit import training_part, yaml_text

KINDS = {"bs_roformer": "BSRoformer", "mel_band_roformer": "MelBandRoformer"}  # its names of networks
_SAME = {
    "dim": "dim",
    "depth": "depth",
    "heads": "heads",
    "dim_head": "dim_head",
    "stft_n_fft": "nfft",
    "stft_hop_length": "hop",
    "stft_normalized": "normalized",
    "mlp_expansion_factor": "mask_expansion",
    "skip_connection": "skip",
    "zero_dc": "zero_dc",
    "use_pope": "polar",
    "ff_dropout": "dropout",
}
_DEFAULTS: dict[str, Any] = {
    "stereo": False,
    "time_transformer_depth": 2,
    "freq_transformer_depth": 2,
    "linear_transformer_depth": 0,
    "dim_head": 64,
    "heads": 8,
    "stft_n_fft": 2048,
    "stft_hop_length": 512,
    "stft_normalized": False,
    "mlp_expansion_factor": 4,
    "skip_connection": False,
    "use_pope": False,
}
_DEFAULTS_OF = {
    "BSRoformer": {"mask_estimator_depth": 2, "ff_dropout": 0.0, "freqs_per_bands": BANDS},
    "MelBandRoformer": {
        "mask_estimator_depth": 1,
        "ff_dropout": 0.1,
        "num_bands": 60,
        "sample_rate": 44100,
    },
}
# What changes no stem: how attention is computed, checks of sizes, and settings of training.
_NO_EFFECT = {
    "flash_attn",
    "sage_attention",
    "use_torch_checkpoint",
    "attn_dropout",
    "dim_freqs_in",
    "stft_win_length",
    "match_input_audio_length",
    "num_stems",
    "multi_stft_resolution_loss_weight",
    "multi_stft_resolutions_window_sizes",
    "multi_stft_hop_size",
    "multi_stft_normalized",
}
# Mel settings that files of BS-RoFormer carry too, without effect.
_STRAY = {"BSRoformer": {"num_bands", "sample_rate"}, "MelBandRoformer": {"freqs_per_bands"}}


def read_settings(arch: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings from the toolkit's, {name: value}; ModelError, by name, for what sepcli does not know.

    arch: "BSRoformer" or "MelBandRoformer". zero_dc is False where a file does not say it: the networks were
    trained so. Sources, samplerate of BS-RoFormer, and calls stand elsewhere in such a file.
    """
    own = _DEFAULTS_OF[arch]
    unknown = sorted(set(model) - {*_SAME, *_DEFAULTS, *own, *_NO_EFFECT, *_STRAY[arch]})
    if unknown:
        raise _refused(f"settings that sepcli does not know: {', '.join(unknown)}")
    given = {**_DEFAULTS, **own, **model}
    if given["linear_transformer_depth"]:
        raise _refused("linear attention (linear_transformer_depth), which no published file has")
    if given["time_transformer_depth"] != given["freq_transformer_depth"]:
        raise _refused("transformers of different depths along time and bands")
    if given.get("stft_win_length", given["stft_n_fft"]) != given["stft_n_fft"]:
        raise _refused("windows (stft_win_length) shorter than stft_n_fft")
    settings = {ours: given[theirs] for theirs, ours in _SAME.items() if theirs in given}
    settings["channels"] = 2 if given["stereo"] else 1
    settings["layers"] = given["time_transformer_depth"]
    if arch == "BSRoformer":
        settings["mask_hidden"] = given["mask_estimator_depth"] - 1
        settings["bands"] = tuple(given["freqs_per_bands"])
    else:
        settings["mask_hidden"] = given["mask_estimator_depth"]
        settings["bands"] = given["num_bands"]
        settings["samplerate"] = given["sample_rate"]
    return settings


def write_settings(config: RoformerConfig) -> dict[str, Any]:
    """The toolkit's settings of a network of ours: what `read_settings` reads. ModelError for what it lacks."""
    lacks = [name for name in ("value_residual", "refiner", "head") if getattr(config, name)]
    if lacks:
        raise ModelError(
            f"The training toolkit has no network with {', '.join(lacks)}.",
            remedy="Only sepcli's own file holds it.",
            code="no_such_format",
        )
    model: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in _SAME.items()}
    model |= {
        "stereo": config.channels == 2,
        "num_stems": len(config.sources),
        "time_transformer_depth": config.layers,
        "freq_transformer_depth": config.layers,
        "attn_dropout": config.dropout,
        "dim_freqs_in": config.nfft // 2 + 1,
        "stft_win_length": config.nfft,
        "flash_attn": True,
    }
    if isinstance(config, BSRoformerConfig):
        return {**model, "freqs_per_bands": tuple(config.bands), "mask_estimator_depth": config.mask_hidden + 1}
    assert isinstance(config, MelBandRoformerConfig)
    return {
        **model,
        "num_bands": config.bands,
        "sample_rate": config.samplerate,
        "mask_estimator_depth": config.mask_hidden,
        "match_input_audio_length": True,
    }


def write_yaml(config: RoformerConfig, *, num_overlap: int = 2) -> str:
    """A configuration file of the toolkit for a network of ours. ModelError for what it lacks.

    num_overlap: in how many chunks each sample is. A network of one stem is a target, with the rest of the mix
    as the second instrument.
    """
    frames = config.chunk // config.hop + 1
    tables: dict[str, dict[str, Any]] = {
        "audio": {
            "chunk_size": config.chunk,
            "dim_f": config.nfft // 2,
            "dim_t": frames,
            "hop_length": config.hop,
            "n_fft": config.nfft,
            "num_channels": config.channels,
            "sample_rate": config.samplerate,
            "min_mean_abs": 0.0,
        },
        "model": write_settings(config),
        "training": training_part(config.sources),
        "inference": {"batch_size": 1, "dim_t": frames, "num_overlap": num_overlap},
    }
    return yaml_text(tables)


def _refused(what: str) -> ModelError:
    return ModelError(
        f"The configuration of this RoFormer has {what}.",
        remedy="sepcli can't run such a network; check that it is the file you meant.",
        code="bad_config",
    )
