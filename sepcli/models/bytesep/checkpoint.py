"""Checkpoints of bytesep: {"model": tensors, ...}, with the names that its code gives them.

    pqmf.{ana,syn}_conv_filter        the filter bank             bn0        the norm of the bins
    encoder_block{level}.conv_block{block}                        conv_block7{a, b, c, d}.conv_block{block}
    decoder_block{level}.{bn1, conv1, conv_block{block + 1}}      after_conv_block1    after_conv2
    in a block: bn1, conv1, bn2, conv2, shortcut; separable: bn1a, conv1a, bn1b, ...

MobileNets have one block where others have several, and no number behind it. The Fourier matrices that files
hold as well (`stft`, `istft`) follow from the settings, and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_lowercase

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.bytesep.network import VALUES, ResUNet
from sepcli.models.family import Told
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint, state_in

PREFIX = "module."
_CONSTANTS = ("stft.", "istft.")
_FILTERS = {
    "filters.analysis": "pqmf.ana_conv_filter.weight",
    "filters.synthesis": "pqmf.syn_conv_filter.weight",
}


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors under the names of the network; sepcli's own files have them already."""
    assert isinstance(model, ResUNet)
    theirs = published_state(checkpoint)
    if theirs is None:
        return dict(checkpoint.payload)
    names = published_names(model)
    return {names.get(name, name): tensor for name, tensor in theirs.items()}


def published_names(model: ResUNet) -> dict[str, str]:
    """{their name: ours}."""
    separable, levels = model.config.separable, len(model.config.widths)
    return {_their_name(name, levels, separable=separable): name for name in model.state_dict()}


def published_state(checkpoint: Checkpoint) -> Mapping[str, Tensor] | None:
    """The tensors of a file in the published layout without the constants; None for another file."""
    state = state_in(checkpoint, ("model",))
    if state is None or not any(name.removeprefix(PREFIX).startswith("pqmf.") for name in state):
        return None
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(_CONSTANTS)}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: all sizes. Not the stem: files of one kind differ in it alone."""
    state = published_state(checkpoint)
    if state is None:
        return None
    shapes = Shapes(state)
    separable = "conv_block7.conv1a.weight" in shapes
    levels = shapes.count("encoder_block", 1)
    block = "conv_block." if separable else "conv_block1."
    conv = "conv1a.weight" if separable else "conv1.weight"
    widths = [shapes[f"encoder_block{level}.{block}{conv}"][:2] for level in range(1, levels + 1)]
    bands, _, taps = shapes["pqmf.ana_conv_filter.weight"]
    channels = whole(widths[0][1] / bands)
    stems = whole(shapes["after_conv2.bias"][0] / (channels * bands * VALUES))
    blocks = middle = 1
    if not separable:
        blocks = shapes.count("encoder_block1.conv_block", 1)
        while shapes.has(f"conv_block{levels + 1}{_letter(middle)}."):
            middle += 1
    config = {
        "channels": channels,
        "bands": bands,
        "taps": taps,
        "nfft": 2 * (shapes["bn0.weight"][0] - 1),
        "widths": tuple(width for width, _ in widths),
        "blocks": blocks,
        "middle": middle,
        "separable": separable,
    }
    if stems == 1:
        return Told("ResUNet", config, exact=True, missing=("sources",))
    return Told("ResUNet", config, {"sources": numbered(stems)}, exact=True)


def _letter(number: int) -> str:
    return ascii_lowercase[number]


def _their_name(name: str, levels: int, *, separable: bool) -> str:
    """The published name of a tensor of ours."""
    if name in _FILTERS:
        return _FILTERS[name]
    if found := re.fullmatch(r"(norm|head)\.(.+)", name):
        return f"{'bn0' if found[1] == 'norm' else 'after_conv2'}.{found[2]}"
    if found := re.fullmatch(r"ups\.(\d+)\.(norm|conv)\.(.+)", name):
        return f"decoder_block{int(found[1]) + 1}.{'bn' if found[2] == 'norm' else 'conv'}1.{found[3]}"
    found = re.fullmatch(r"(downs|middle|ups|after)\.(?:(\d+)\.)?(?:stage\.)?blocks\.(\d+)\.(.+)", name)
    assert found, name
    kind, number, block, rest = found[1], int(found[2] or 0), int(found[3]) + 1, _part(found[4], separable)
    if kind == "ups":
        return f"decoder_block{number + 1}.conv_block{block + 1}.{rest}"
    if kind == "downs":
        return f"encoder_block{number + 1}.conv_block{'' if separable else block}.{rest}"
    place = (
        f"conv_block{levels + 1}{'' if separable else _letter(number)}"
        if kind == "middle"
        else "after_conv_block1"
    )
    return f"{place}.{rest}" if separable else f"{place}.conv_block{block}.{rest}"


def _part(name: str, separable: bool) -> str:
    """The name of a tensor in a residual block."""
    found = re.fullmatch(r"(first|second)\.(\d+)\.(norm|conv)\.(.+)", name)
    if not found:
        return name  # the shortcut
    kind, half = "bn" if found[3] == "norm" else "conv", 1 if found[1] == "first" else 2
    return f"{kind}{half}{_letter(int(found[2])) if separable else ''}.{found[4]}"
