"""Checkpoints of Open-Unmix and X-UMX, from four programs. Each has the same layers under names of its own.

    open-unmix   one file a stem: fc1.weight, bn1.*, lstm.*, fc2.weight, ...: the names of core.py
    asteroid     X-UMX: layer_enc.STEM.enc.0.weight, layer_lstm.STEM.*, mean_scale.input_mean_STEM, ...
    NNabla       X-UMX: fc1_STEM/affine/W, fc1_STEM/bn/gamma, lstm_STEM/lstm/weight_l0, ...; Open-Unmix: a file
                 for each stem, without _STEM. Linear layers are [in, out]; LSTMs have an axis of gates.
    danna-sep    X-UMX: STEM_lstm.*, and all else of all stems in one tensor: affine1.0.weight, input_means, ...

Several files of Open-Unmix make one network: the payload is then {stem: the payload of its file}.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.family import Package, Told
from sepcli.models.shapes import Shapes, whole
from sepcli.weights.checkpoint import Checkpoint, state_in

_CONTAINERS = ("state_dict",)
# Constants that some files carry: the windows of STFTs, and the sample rate.
_CONSTANTS = ("stft.window", "transform.0.window", "sample_rate", "encoder.0.window", "decoder.window")
_ASTEROID = {
    "enc.0": "fc1",
    "enc.1": "bn1",
    "dec.0": "fc2",
    "dec.1": "bn2",
    "dec.3": "fc3",
    "dec.4": "bn3",
}
_ASTEROID_LAYER = re.compile(r"layer_(?:enc|dec)\.(.+)\.((?:enc|dec)\.\d)\.(\w+)")
_ASTEROID_LSTM = re.compile(r"layer_lstm\.(.+)\.((?:weight|bias)_\w+)")
_ASTEROID_SCALE = re.compile(r"mean_scale\.((?:in|out)put_(?:mean|scale))_(.+)")
_NNABLA = re.compile(r"(fc[123]|lstm)(?:_(.+?))?/(?:affine|bn|lstm)/(\w+)")
_NNABLA_SCALE = re.compile(r"((?:in|out)put_(?:mean|scale))(?:_(.+))?")
_DANNA = ("drums", "bass", "other", "vocals")  # the order of stems in its tensors
_DANNA_LAYERS = {
    "affine1.0": "fc1",
    "affine1.1": "bn1",
    "affine2.0": "fc2",
    "affine2.1": "bn2",
    "affine2.3": "fc3",
    "affine2.4": "bn3",
}
_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}

# Of published models, by their STFT window in samples: sample rate in Hz, hop in samples.
_PUBLISHED = {4096: (44100, 1024), 1024: (16000, 512)}
_ORDER = ("bass", "drums", "vocals", "other")  # of X-UMX's stems
_WORDS = ("vocals", "drums", "bass", "other", "accompaniment", "speech", "noise")  # that begin names of files


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    payload = checkpoint.payload
    if isinstance(payload, Mapping) and any(str(name).startswith("targets.") for name in payload):
        return dict(payload)
    found = _stems(checkpoint, model.sources)
    if set(found) != set(model.sources):
        raise ModelError(
            f"The checkpoint '{checkpoint.path}' has the stems {', '.join(found) or 'of no network'}, "
            f"but the model {', '.join(model.sources)}.",
            remedy="Check that it is the file you meant; Open-Unmix has one for each stem.",
            code="checkpoint_damaged",
        )
    return {
        f"targets.{number}.{name}": tensor
        for number, stem in enumerate(model.sources)
        for name, tensor in found[stem].items()
    }


def describe(checkpoint: Checkpoint) -> Package | None:
    """See Family.describe: asteroid's files have the arguments of their network."""
    payload = checkpoint.payload
    if not isinstance(payload, Mapping) or payload.get("model_name") != "XUMX":
        return None
    said: dict[str, Any] = dict(payload["model_args"])
    config = {
        "sources": tuple(said["sources"]),
        "samplerate": int(said["sample_rate"]),
        "channels": int(said["nb_channels"]),
        "nfft": int(said["in_chan"]),
        "hop": int(said["n_hop"]),
        "hidden": int(said["hidden_size"]),
        "layers": int(said["nb_layers"]),
        "unidirectional": not said["bidirectional"],
    }
    if said.get("max_bin"):
        config["max_bin"] = int(said["max_bin"])
    if said.get("spec_power", 1) != 1 or said.get("window_length", config["nfft"]) != config["nfft"]:
        raise ModelError(
            f"The X-UMX in '{checkpoint.path}' is for spectrograms that sepcli does not make: spec_power "
            f"{said.get('spec_power')}, windows of {said.get('window_length')} in {config['nfft']} samples.",
            remedy="Use a network for magnitudes (spec_power 1) and windows of in_chan samples.",
        )
    return Package("XUMX", config)


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect. Sample rate and hop do not show; they are as published for windows of that length."""
    arch, found = _arch(checkpoint), _stems(checkpoint, (_stem_of(checkpoint.path),))
    stems = tuple(found)
    shapes = Shapes(found[stems[0]])
    (bins,), (heard,) = shapes["output_mean"], shapes["input_mean"]
    hidden, inputs = shapes["fc1.weight"]
    nfft, channels = 2 * (bins - 1), whole(inputs / heard)
    layers = sum(re.fullmatch(r"lstm\.weight_ih_l\d+", name) is not None for name in shapes)
    config: dict[str, Any] = {
        "nfft": nfft,
        "max_bin": heard,
        "hidden": hidden,
        "layers": layers,
        "unidirectional": "lstm.weight_ih_l0_reverse" not in shapes,
    }
    assumed: dict[str, Any] = {"sources": tuple(sorted(stems, key=_place))}
    if arch == "XUMX":
        config |= {"channels": channels}
    else:
        config |= {"mono": channels == 1}
    samplerate, hop = _PUBLISHED.get(nfft, (44100, nfft // 4))
    assumed |= {"samplerate": samplerate, "hop": hop}
    return Told(arch, config, assumed, missing=() if nfft in _PUBLISHED else ("samplerate", "hop"))


def _arch(checkpoint: Checkpoint) -> str:
    """X-UMX has all stems in one file."""
    state = state_in(checkpoint, _CONTAINERS) or {}
    bridged = any(name.startswith(("layer_enc.", "fc1_", "affine1.")) for name in state)
    return "XUMX" if bridged else "OpenUnmix"


def _place(stem: str) -> int:
    return _ORDER.index(stem) if stem in _ORDER else len(_ORDER)


def _stem_of(path: Path) -> str:
    """The stem that a file's name begins with: "vocals-b62c91ce.pth" -> "vocals"; else "stem1"."""
    word = re.split("[-_.]", path.name)[0]
    return word if word in _WORDS else "stem1"


def _stems(checkpoint: Checkpoint, expected: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """{stem: {name in core.py: tensor}}. expected: whose it is, where a file has one stem without a name."""
    payload = checkpoint.payload
    if state_in(checkpoint, _CONTAINERS) is None and isinstance(payload, Mapping):
        parts = {stem: _stems(replace(checkpoint, payload=part), (stem,)) for stem, part in payload.items()}
        return {stem: part[stem] for stem, part in parts.items()}
    found: dict[str, dict[str, Tensor]] = {}
    state = state_in(checkpoint, _CONTAINERS) or {}
    if "affine1.0.weight" in state:
        return _danna(state)
    for name, tensor in state.items():
        if name not in _CONSTANTS:
            stem, ours = _our_name(name)
            for part, value in _values(ours, tensor).items():
                found.setdefault(stem or expected[0], {})[part] = value
    return found


def _danna(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{stem: {name in core.py: tensor}} of a file of danna-sep. Linear layers are convolutions of one frame."""
    found: dict[str, dict[str, Tensor]] = {stem: {} for stem in _DANNA}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if layer.endswith("_lstm"):
            found.setdefault(layer.removesuffix("_lstm"), {})[f"lstm.{part}"] = tensor
            continue
        ours = f"{_DANNA_LAYERS[layer]}.{part}" if layer in _DANNA_LAYERS else name.replace("means", "mean")
        parts = tensor.chunk(len(_DANNA)) if tensor.dim() else [tensor] * len(_DANNA)
        for stem, value in zip(_DANNA, parts, strict=True):
            found[stem][ours] = value.squeeze(-1) if value.dim() == 3 else value
    return found


def _our_name(name: str) -> tuple[str, str]:
    """The stem, "" where the name has none, and the name in core.py; with a slash where values change too."""
    if match := _ASTEROID_LAYER.fullmatch(name):
        return match[1], f"{_ASTEROID[match[2]]}.{match[3]}"
    if match := _ASTEROID_LSTM.fullmatch(name):
        return match[1], f"lstm.{match[2]}"
    if match := _ASTEROID_SCALE.fullmatch(name) or _NNABLA_SCALE.fullmatch(name):
        return match[2] or "", match[1]
    if match := _NNABLA.fullmatch(name):
        layer, stem, part = match[1], match[2] or "", match[3]
        if layer == "lstm":
            return stem, f"lstm/{part}"
        return stem, f"{layer}/W" if part == "W" else f"{layer.replace('fc', 'bn')}/{_NORM[part]}"
    return "", name


def _values(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor as those of core.py."""
    layer, _, part = name.partition("/")
    if part == "W":
        return {f"{layer}.weight": tensor.float().t()}
    if layer == "lstm":
        return _lstm(part, tensor.float())
    if layer in ("bn1", "bn2", "bn3"):
        found = {f"{layer}.{part}": tensor.float().flatten()}
        if part == "weight":
            found[f"{layer}.num_batches_tracked"] = tensor.new_zeros((), dtype=torch.int64)
        return found
    return {name: tensor if tensor.dtype == torch.int64 else tensor.float()}


def _lstm(part: str, tensor: Tensor) -> dict[str, Tensor]:
    """An LSTM of NNabla as torch has it; gates are in the same order, its one bias is torch's first.

    part: "weight_l0" [directions, gates, H, in + H], "weight" [layers - 1, ...] or "bias" [layers, directions,
    gates, H].
    """
    found = {}
    for number, layer in enumerate(tensor[None] if part == "weight_l0" else tensor):
        for direction, gates in enumerate(layer):
            at = f"l{number + (part == 'weight')}{'_reverse' if direction else ''}"
            if part == "bias":
                found[f"lstm.bias_ih_{at}"] = gates.flatten()
                found[f"lstm.bias_hh_{at}"] = torch.zeros_like(gates).flatten()
            else:
                inputs = gates.shape[-1] - gates.shape[-2]
                found[f"lstm.weight_ih_{at}"], found[f"lstm.weight_hh_{at}"] = gates.flatten(0, 1).split(
                    [inputs, gates.shape[-2]], dim=1
                )
    return found
