"""What the tensors of a codec tell: EnCodec's 48 kHz model, as its authors or transformers store it.

Other EnCodec models have other names and no norms after their convolutions. Shapes do not tell the sample rate,
the length of a call, and the dilation of residual blocks.
"""

from __future__ import annotations

from typing import Any

from sepcli.models.family import Told
from sepcli.models.ldm.checkpoint import named_as_ours
from sepcli.models.shapes import Shapes, whole
from sepcli.weights.checkpoint import Checkpoint


def detect(checkpoint: Checkpoint) -> Told | None:
    """See the file's head, and Family.detect."""
    shapes = Shapes(named_as_ours(checkpoint))
    if not shapes.has("encoder.layers.0.norm."):
        return None
    width, channels, kernel = shapes["encoder.layers.0.conv.weight"]
    # Layers without weights leave gaps in the numbers.
    numbers = sorted({int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")})
    memory = next(number for number in numbers if shapes.has(f"encoder.layers.{number}.lstm."))
    down = [n for n in numbers if 0 < n < memory and f"encoder.layers.{n}.conv.weight" in shapes]
    latent, _, last_kernel = shapes[f"encoder.layers.{numbers[-1]}.conv.weight"]
    residual = "encoder.layers.1.block."
    config: dict[str, Any] = {
        "channels": channels,
        "filters": width,
        "kernel": kernel,
        "latent": latent,
        "last_kernel": last_kernel,
        "ratios": tuple(whole(shapes[f"encoder.layers.{each}.conv.weight"][2] / 2) for each in reversed(down)),
        "residuals": down[0] - 2,
        "residual_kernel": shapes[f"{residual}1.conv.weight"][2],
        "compress": whole(width / shapes[f"{residual}1.conv.weight"][0]),
        "lstm_layers": sum(name.startswith(f"encoder.layers.{memory}.lstm.weight_ih_") for name in shapes),
        "codebooks": shapes["quantizer.codebooks"][0] if "quantizer.codebooks" in shapes else 0,
    }
    if config["codebooks"]:
        config["codebook_size"] = shapes["quantizer.codebooks"][1]
    return Told("Codec", config)
