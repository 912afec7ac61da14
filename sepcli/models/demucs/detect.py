"""What the tensors of a Demucs checkpoint tell that does not name its network: a bare state, as from
`torch.save(model.state_dict())`, or one under `state`.

    tencoder.* and crosstransformer.*   HTDemucs
    tencoder.*                          HDemucs
    encoder.0.2.weight [.., .., 1]      EarlyDemucs, where nothing of Demucs v3 is there
    encoder.0.0.weight                  Demucs
    encoder.conv1d_U.weight             ConvTasNet

A bare state of EarlyDemucs is taken for one of v2: files of v1 say what they are. Shapes do not tell strides,
activations, norms' groups and most of what attention is like. Quantised states have no names and are not
detected, nor are networks of sparse attention: its kind leaves no trace in weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepcli.models.demucs.checkpoint import network_tensors
from sepcli.models.family import Told
from sepcli.models.shapes import PUBLISHED_STEMS, Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint

STRIDE = 4  # of all published networks; a window's length follows from it


def detect(checkpoint: Checkpoint) -> Told | None:
    """See the file's head, and Family.detect."""
    state = network_tensors(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    if "encoder.conv1d_U.weight" in shapes:
        return _tasnet(shapes)
    if not shapes.has("tencoder."):
        return _early(shapes) if _is_early(shapes) else _demucs(shapes)
    if shapes.has("crosstransformer."):
        return None if _sparse(shapes) else _htdemucs(shapes)
    return _hdemucs(shapes)


def _htdemucs(shapes: Shapes) -> Told:
    config, stems = _hybrid(shapes)
    first, top = "crosstransformer.layers.0.", "crosstransformer."
    hidden, channels = shapes[f"{first}linear1.weight"]
    config |= {
        "bottom_channels": shapes["channel_upsampler.weight"][0] if shapes.has("channel_upsampler.") else 0,
        "t_layers": shapes.count(f"{top}layers."),
        "t_hidden_scale": hidden / channels,
        "t_cross_first": shapes.has(f"{first}cross_attn."),
        "t_norm_in": shapes.has(f"{top}norm_in."),
        "t_norm_out": shapes.has(f"{first}norm_out."),
        "t_layer_scale": shapes.has(f"{first}gamma_1."),
    }
    learned = f"{top}position_embeddings.embedding.weight"
    if learned in shapes:
        config |= {"t_emb": "scaled", "t_max_positions": shapes[learned][0]}
    return Told("HTDemucs", config, _assumed(stems))


def _hdemucs(shapes: Shapes) -> Told:
    config, stems = _hybrid(shapes)
    return Told("HDemucs", config | _deep_refinement(shapes, config, _level), _assumed(stems))


def _hybrid(shapes: Shapes) -> tuple[dict[str, Any], int]:
    """Settings that both hybrid networks have, and the number of stems."""
    depth = shapes.count("encoder.")
    first, last = _level(shapes, "encoder", 0), _level(shapes, "decoder", depth - 1)
    width, inputs, kernel, _ = shapes[f"{first}conv.weight"]
    width_t, audio = shapes["tencoder.0.conv.weight"][:2]
    config: dict[str, Any] = {
        "audio_channels": audio,
        "cac": whole(inputs / audio) == 2,
        "channels": width,
        "channels_time": None if width_t == width else width_t,
        "kernel_size": kernel,
        **_growth(shapes, depth, lambda level: f"{_level(shapes, 'encoder', level)}conv.weight"),
        **_rewrite(shapes, f"{first}rewrite.weight", f"{last}rewrite.weight"),
        "norm_starts": shapes.first(f"{_level(shapes, 'encoder', level)}norm1." for level in range(depth)),
        **_refinement(shapes, f"{first}dconv.", f"{last}dconv.", width),
    }
    rows = shapes.get("freq_emb.embedding.weight")
    config |= {"freq_emb": 0} if rows is None else {"nfft": 2 * STRIDE * rows[0]}
    stems = shapes[f"tdecoder.{shapes.count('tdecoder.') - 1}.conv_tr.weight"][1] / audio
    return config, whole(stems)


def _demucs(shapes: Shapes) -> Told | None:
    width, audio, kernel = shapes["encoder.0.0.weight"]
    if audio > 2:  # GibbsDemucs, which only sepcli's own files hold, or none of ours
        return None
    depth = shapes.count("encoder.")
    down, up = _convolutions(shapes, "encoder.0."), _convolutions(shapes, f"decoder.{depth - 1}.")
    rewrite = len(down) == 2
    config: dict[str, Any] = {
        "audio_channels": audio,
        "channels": width,
        "kernel_size": kernel,
        "rewrite": rewrite,
        **({"glu": shapes[down[1]][0] == 2 * width, "context": shapes[up[0]][2] // 2} if rewrite else {}),
        **_growth(shapes, depth, lambda level: f"encoder.{level}.0.weight"),
        "lstm_layers": sum(name.startswith("lstm.lstm.weight_ih_") for name in shapes) // 2,
        "norm_starts": shapes.first(f"encoder.{level}.1." for level in range(depth)),
    }
    inner = [_branches(shapes, "encoder.0."), _branches(shapes, f"decoder.{depth - 1}.")]
    config |= _refinement(shapes, inner[0], inner[1], width)
    config |= _deep_refinement(shapes, config, lambda _, part, level: f"{part}.{level}.")
    return Told("Demucs", config, _assumed(whole(shapes[up[-1]][1] / audio)))


def _is_early(shapes: Shapes) -> bool:
    """Layers of two convolutions at most, in the places that they had before there were norms."""
    parts = {name.split(".")[2] for name in shapes if name.startswith(("encoder.", "decoder."))}
    return parts == {"0", "2"}


def _early(shapes: Shapes) -> Told:
    width, audio, kernel = shapes["encoder.0.0.weight"]
    depth = shapes.count("encoder.")
    last = "final.weight" if "final.weight" in shapes else f"decoder.{depth - 1}.2.weight"
    outputs = shapes[last][0 if last == "final.weight" else 1]
    config: dict[str, Any] = {
        "audio_channels": audio,
        "channels": width,
        "kernel_size": kernel,
        "glu": shapes["encoder.0.2.weight"][0] == 2 * width,
        "context": shapes["decoder.0.0.weight"][2],
        "lstm_layers": sum(name.startswith("lstm.lstm.weight_ih_") for name in shapes) // 2,
        "upsample": last == "final.weight",
        **_growth(shapes, depth, lambda level: f"encoder.{level}.0.weight"),
    }
    assumed = {"resample": False, "epsilon": 0.0} if config["upsample"] else {}
    return Told("EarlyDemucs", config, assumed | _assumed(whole(outputs / audio)))


def _tasnet(shapes: Shapes) -> Told:
    filters, audio, size = shapes["encoder.conv1d_U.weight"]
    rows = "separator.network.2."
    first = f"{rows}0.0."
    config = {
        "N": filters,
        "L": size,
        "B": shapes["separator.network.1.weight"][0],
        "H": shapes[f"{first}net.0.weight"][0],
        "P": shapes[f"{first}net.3.net.0.weight"][2],
        "X": shapes.count(f"{rows}0."),
        "R": shapes.count(rows),
        "audio_channels": audio,
    }
    return Told("ConvTasNet", config, _assumed(whole(shapes["separator.network.3.weight"][0] / filters)))


def _level(shapes: Shapes, part: str, level: int) -> str:
    """Prefix of a layer; of one with frequency bands, its first band's."""
    bands = f"{part}.{level}.layers.0."
    return bands if shapes.has(bands) else f"{part}.{level}."


def _growth(shapes: Shapes, depth: int, weight: Callable[[int], str]) -> dict[str, Any]:
    return (
        {"depth": depth, "growth": shapes[weight(1)][0] / shapes[weight(0)][0]} if depth > 1 else {"depth": 1}
    )


def _rewrite(shapes: Shapes, down: str, up: str) -> dict[str, Any]:
    if down not in shapes:
        return {"rewrite": False}
    return {"rewrite": True, "context_enc": shapes[down][-1] // 2, "context": shapes[up][-1] // 2}


def _refinement(shapes: Shapes, down: str, up: str, width: int) -> dict[str, Any]:
    """What the first level's DConv tells, in the encoder or the decoder."""
    modes = {1: bool(down) and shapes.has(f"{down}layers."), 2: bool(up) and shapes.has(f"{up}layers.")}
    mode = sum(number for number, there in modes.items() if there)
    if not mode:
        return {"dconv_mode": 0}
    layers = f"{down if modes[1] else up}layers."
    hidden = shapes[f"{layers}0.0.weight"][0]
    return {"dconv_mode": mode, "dconv_depth": shapes.count(layers), "dconv_comp": width / hidden}


def _deep_refinement(
    shapes: Shapes, config: dict[str, Any], prefix: Callable[[Shapes, str, int], str]
) -> dict[str, Any]:
    """The first levels whose DConv has attention and LSTMs; the number of levels where none has."""
    if not config["dconv_mode"]:
        return {}
    depth = config["depth"]
    if config["dconv_mode"] & 1:
        levels = [prefix(shapes, "encoder", level) for level in range(depth)]
    else:
        levels = [prefix(shapes, "decoder", depth - 1 - level) for level in range(depth)]

    def start(part: str) -> int:
        having = (any(name.startswith(level) and part in name for name in shapes) for level in levels)
        return next((number for number, there in enumerate(having) if there), depth)

    return {"dconv_attn": start(".query_decay."), "dconv_lstm": start(".lstm.")}


def _convolutions(shapes: Shapes, layer: str) -> list[str]:
    """Names of the weights of a time-domain layer's own convolutions, in order: [C', C, kernel]."""
    names = [name for name in shapes if name.startswith(layer) and name.endswith(".weight")]
    own = [name for name in names if name.removeprefix(layer).count(".") == 1 and len(shapes[name]) == 3]
    return sorted(own, key=lambda name: int(name.removeprefix(layer).partition(".")[0]))


def _branches(shapes: Shapes, layer: str) -> str:
    """Prefix of the DConv in a time-domain layer, "" where it has none."""
    found = (name for name in shapes if name.startswith(layer) and ".layers.0.0." in name)
    return next((name.partition("layers.")[0] for name in found), "")


def _sparse(shapes: Shapes) -> bool:
    """The original's sparse attention has q, k and v apart."""
    return any(".q.weight" in name for name in shapes if name.startswith("crosstransformer."))


def _assumed(stems: int) -> dict[str, Any]:
    return {"sources": PUBLISHED_STEMS.get(stems) or numbered(stems)}
