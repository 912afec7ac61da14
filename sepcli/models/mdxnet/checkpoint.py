"""Checkpoints of MDX-Net: `.onnx` files, and two ways in which KUIELab's code names tensors.

    first_conv.{0 convolution, 1 norm}   ds.i, us.i the same   final_conv.0
    encoding_blocks.i, bottleneck_block, decoding_blocks.i   .tfc.H.j.{0, 1}  .tdf.{0, 1, 3, 4}  (mdx-net)
    ds_dense.i, mid_dense, us_dense.i                        .H.j.{0, 1}      .tdf.{0, 1, 3, 4}  (submission)

A training checkpoint also holds the window and padding, constants that tell the length of both. In an `.onnx`
file (graph.py) most norms are folded into convolutions already. Where a network has none
(`MDXNetConfig.folded`), those that a file still has are folded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import ModelError
from sepcli.models.family import Exported, Told
from sepcli.models.mdxnet.blocks import factor_and_summand, folded
from sepcli.models.mdxnet.graph import parse
from sepcli.models.mdxnet.network import MDXNet
from sepcli.models.mdxnet.table import known
from sepcli.models.shapes import Shapes, whole
from sepcli.weights.checkpoint import Checkpoint, network_state

_BLOCKS = {
    "encoding_blocks": "encoders",
    "ds_dense": "encoders",
    "bottleneck_block": "middle",
    "mid_dense": "middle",
    "decoding_blocks": "decoders",
    "us_dense": "decoders",
}
_NORM = {"running_mean": "mean", "running_var": "variance"}
_INSIDE = re.compile(r"(\w+?)((?:\.\d+)?)\.(?:(?:tfc\.)?H\.(\d+)\.([01])|tdf\.([0134]))\.(\w+)")
_CONV = re.compile(r"(first_conv|ds|us)((?:\.\d+)?)\.([01])\.(\w+)")
_CONSTANTS = ("window", "freq_pad")
_PARTS = ("weight", "bias", "mean", "variance")


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already.

    The gain is what the network's Config or UVR's table gives the file. ModelError where that table gives it a
    window of another length than the network has.
    """
    assert isinstance(model, MDXNet)
    if checkpoint.format == "safetensors" and "gain" in checkpoint.payload:
        return dict(checkpoint.payload)
    if checkpoint.graph is not None:
        state = parse(checkpoint).state
    else:
        state = _ours(network_state(checkpoint, "MDX-Net"))
    if model.config.folded:
        state = _folded(state)
    state = {name: tensor.float() for name, tensor in state.items()}
    told = known(checkpoint.path)
    if told is not None and told.nfft != model.config.nfft:
        raise ModelError(
            f"'{checkpoint.path.name}' is for windows of {told.nfft} samples, not {model.config.nfft}.",
            remedy="Give sepcli the file alone, which it knows by its hash, or name the entry of this file.",
            code="config_mismatch",
        )
    gain = model.config.compensate
    if gain is None:
        gain = 1.0 if told is None else told.compensate
    device = next(iter(state.values())).device if state else None
    return {**state, "gain": torch.tensor(gain, device=device)}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: all sizes. Stem and window are known by the file's hash, or are asked for."""
    told = known(checkpoint.path)
    if checkpoint.graph is not None:
        parsed = parse(checkpoint)
        settings, assumed = parsed.settings, {} if parsed.frames is None else {"frames": parsed.frames}
    else:
        state = network_state(checkpoint, "MDX-Net")
        shapes = Shapes(_ours(state))
        if "first.norm.mean" not in shapes:
            return None
        growth, inputs = shapes["first.conv.weight"][:2]
        inner, bins = shapes["middle.linears.0.linear.weight"]
        scales = shapes.count("downs.")
        settings = {
            "channels": whole(inputs / 2),
            "bins": bins << scales,
            "growth": growth,
            "scales": scales,
            "convs": shapes.count("middle.convs."),
            "bottleneck": whole(bins / inner),
        }
        assumed = {}
        if all(name in state for name in _CONSTANTS):
            settings["nfft"], assumed["frames"] = state["window"].shape[0], state["freq_pad"].shape[-1]
    if told is not None:
        settings["nfft"] = told.nfft
        assumed |= {"sources": (told.stem,), "frames": told.frames, "compensate": told.compensate, "deaf": 3}
    missing = tuple(name for name in ("nfft", "sources") if name not in {**settings, **assumed})
    return Told("MDXNet", settings, assumed, exact=True, missing=missing)


def export(model: MDXNet) -> Exported:
    """The network under the names of KUIELab's mdx-net, constants included. ModelError for a folded one."""
    if model.config.folded:
        raise ModelError(
            "The norms of this network are part of its convolutions; other programs have them apart.",
            remedy="Other programs read the published .onnx file. Sepcli's own file can be shared: "
            "`sepcli models push`.",
            code="no_such_format",
        )
    config, theirs = model.config, {"window": model.window}
    missing = config.nfft // 2 + 1 - config.bins
    theirs["freq_pad"] = torch.zeros(1, 2 * config.channels, missing, config.frames)
    for name, tensor in model.state_dict().items():
        if name != "gain":
            theirs[_their_name(name)] = tensor
    return Exported(theirs, {})


def _ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a training checkpoint by our names, without its constants and counters."""
    return {
        _our_name(name): tensor
        for name, tensor in state.items()
        if name not in _CONSTANTS and not name.endswith(".num_batches_tracked")
    }


def _our_name(name: str) -> str:
    """ "encoding_blocks.0.tfc.H.1.1.weight" -> "encoders.0.convs.1.norm.weight"; others stay as they are."""
    if found := _INSIDE.fullmatch(name):
        block, number, conv, part, linear, what = found.groups()
        if block not in _BLOCKS:
            return name
        if conv is not None:
            place = f"convs.{conv}.{'conv' if part == '0' else 'norm'}"
        else:
            place = f"linears.{int(linear) // 3}.{'linear' if linear in '03' else 'norm'}"
        return f"{_BLOCKS[block]}{number}.{place}.{_NORM.get(what, what)}"
    if found := _CONV.fullmatch(name):
        layer, number, part, what = found.groups()
        ours = {"first_conv": "first", "ds": "downs", "us": "ups"}[layer]
        return f"{ours}{number}.{'conv' if part == '0' else 'norm'}.{_NORM.get(what, what)}"
    return name.replace("final_conv.0.", "last.")


def _their_name(name: str) -> str:
    """The name in mdx-net of a tensor of ours: what `_our_name` undoes."""
    theirs = {ours: theirs for theirs, ours in _NORM.items()}
    blocks = {"encoders": "encoding_blocks", "middle": "bottleneck_block", "decoders": "decoding_blocks"}
    head, *rest = name.split(".")
    what = theirs.get(rest[-1], rest[-1])
    if head in blocks:
        number = rest[:1] if head != "middle" else []
        kind, index, part = rest[len(number) : len(number) + 3]
        inside = ["tfc", "H", index, str(int(part == "norm"))]
        if kind == "linears":
            inside = ["tdf", str(3 * int(index) + int(part == "norm"))]
        return ".".join([blocks[head], *number, *inside, what])
    if head == "last":
        return f"final_conv.0.{what}"
    number = rest[:1] if head != "first" else []
    layer = {"first": "first_conv", "downs": "ds", "ups": "us"}[head]
    return ".".join([layer, *number, str(int(rest[-2] == "norm")), what])


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the norms behind convolutions folded into these."""
    done = dict(state)
    for name in state:
        place = name.removesuffix(".conv.weight")
        norm = [f"{place}.norm.{part}" for part in _PARTS]
        if place == name or not all(part in state for part in norm):
            continue
        weight, bias = f"{place}.conv.weight", f"{place}.conv.bias"
        factor, summand = factor_and_summand(*(done.pop(part) for part in norm))
        transposed = place.startswith("ups.")
        done[weight], done[bias] = folded(state[weight], state[bias], factor, summand, transposed=transposed)
    return done
