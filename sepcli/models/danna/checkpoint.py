"""Checkpoints of danna-sep: TorchScript archives, of which the tensors are read. Their names are the networks'.

Filters that double and halve the sample rate (`up_sample`, `down_sample`) are in the files of DemucsSplit. They
follow from no setting, and are left out.
"""

from __future__ import annotations

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.models.family import Told
from sepcli.models.shapes import PUBLISHED_STEMS, Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint, network_state

_CONSTANTS = ("up_sample.kernel", "down_sample.kernel")


def convert(checkpoint: Checkpoint, model: Separator) -> dict[str, Tensor]:
    """The file's tensors without the constants."""
    state = network_state(checkpoint, "danna-sep")
    return {name: tensor for name, tensor in state.items() if name not in _CONSTANTS}


def detect(checkpoint: Checkpoint) -> Told | None:
    """See Family.detect: all sizes but those of spectrogram and call, and the names of stems."""
    shapes = Shapes(network_state(checkpoint, "danna-sep"))
    if shapes.has("convs_1x1."):
        width, channels, _ = shapes["encoder.0.0.weight"]
        stems = whole(shapes["convs_1x1.0.weight"][0] / shapes["convs_1x1.0.weight"][1])
        config = {
            "audio_channels": channels,
            "channels": width,
            "depth": shapes.count("encoder."),
            "lstm_layers": sum(f"lstm.weight_ih_l{layer}" in shapes for layer in range(len(shapes))),
        }
        return Told("DemucsSplit", config, {"sources": _stems(stems)})
    if not shapes.has("attn.0.qkv_conv."):
        return None
    channels = shapes["down_convs.0.0.d2_layers.0.conv_layers.0.weight"][1]
    width = whole(shapes["attn.0.qkv_conv.bias"][0] / 3)
    config = {
        "channels": channels,
        "growth": shapes["down_convs.0.0.d2_layers.0.bn_layers.0.0.weight"][0],
        "levels": shapes.count("down_convs."),
        "attended": shapes["attn.1.weight"][0],
        "width": width,
    }
    stems = whole(shapes["end.3.bias"][0] / channels)
    return Told("UNetAttn", config, {"sources": _stems(stems)})


def _stems(count: int) -> tuple[str, ...]:
    return PUBLISHED_STEMS.get(count, numbered(count))
