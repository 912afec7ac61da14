"""What the tensors of a LaSAFT checkpoint tell, a file of PyTorch Lightning: hyper-parameters are not believed.

    condition_generator.*     LaSAFTv1
    embedding.first_conv.*    LaSAFTQuery
    otherwise                 LaSAFTv2

Shapes do not tell the hop, the length of a segment, activations, and whether a network gives a mask.
"""

from __future__ import annotations

from typing import Any

from sepcli.models.family import Told
from sepcli.models.lasaft.checkpoint import PREFIX
from sepcli.models.lasaft.spectral import ConditionedConfig
from sepcli.models.shapes import Shapes, numbered, whole
from sepcli.weights.checkpoint import Checkpoint, network_state

DEFAULTS = ConditionedConfig()


def detect(checkpoint: Checkpoint) -> Told | None:
    """See the file's head, and Family.detect."""
    shapes = Shapes(network_state(checkpoint, "LaSAFT"), PREFIX)
    if shapes.has("condition_generator."):
        return _v1(shapes)
    return _query(shapes) if shapes.has("embedding.first_conv.") else _v2(shapes)


def _v1(shapes: Shapes) -> Told:
    light = shapes.has("encoders.0.LaSIFT.")
    transform = "LaSAFT_bn_layer.0.weight" if light else "tdfs.tdf.0.weight"
    dk, latent = shapes["encoders.0.keys"]
    sources, e = shapes["embedding.weight"]
    config = _common(shapes, transform)
    config |= {"analyser": "light" if light else "heavy", "num_tdfs": latent, "dk": dk, "embedding_dim": e}
    # The heavy transforms have one bottleneck for all latent sources, the light ones one for each.
    config |= _bottlenecks(shapes, transform, each=latent if light else 1, times=1 if light else latent)
    return Told("LaSAFTv1", config, _assumed(sources))


def _v2(shapes: Shapes) -> Told:
    sources, e = shapes["embedding.weight"]
    return Told("LaSAFTv2", _unet(shapes) | {"embedding_dim": e}, _assumed(sources))


def _query(shapes: Shapes) -> Told:
    """Files of the authors' have no latents of stems: such a network knows none by name, and takes queries."""
    net = "embedding."
    convs = [shapes[f"{net}first_conv.0.weight"][0]]
    convs += [
        shapes[f"{net}conv_nets.{number}.strided_conv.0.weight"][0]
        for number in range(shapes.count(f"{net}conv_nets."))
    ]
    gates, width = shapes[f"{net}gru.weight_ih_l0"]
    config = _unet(shapes) | {
        "embedding_dim": shapes[f"{net}fc.weight"][0],
        "query_channels": tuple(convs),
        "query_hidden": whole(gates / 3),
        "query_n_fft": 2 * (width // convs[-1]) << (len(convs) - 1),
    }
    known = shapes["mean_latents"][0] if "mean_latents" in shapes else 0
    return Told("LaSAFTQuery", config | ({} if known else {"sources": ()}), _assumed(known) if known else {})


def _unet(shapes: Shapes) -> dict[str, Any]:
    """Settings that both v2 networks have."""
    transform, decoder = "tdf.tdf.0.weight", "decoders.0.tfc_lightsaft."
    hears_query = shapes.has(f"{decoder}query_pocm_generator.")
    hears_key = shapes.has(f"{decoder}keys.0.")
    least = shapes[f"{decoder}LaSIFT.1.weight"][1]
    return _common(shapes, transform) | {
        "num_tdfs": whole(shapes[f"{decoder}LaSAFT_bn_layer.0.weight"][0] / least),
        "dk": shapes[f"{decoder}keys.3.weight"][0] if hears_key else shapes[f"{decoder}keys"][2],
        "listening": {0: "none", 1: "query", 2: "key", 3: "query_key"}[hears_query + 2 * hears_key],
        **_bottlenecks(shapes, transform),
    }


def _common(shapes: Shapes, transform: str) -> dict[str, Any]:
    """Settings that all networks have. transform: the first weight of a block's transform, [units, bins]."""
    width, parts, *_ = shapes["first_conv.0.weight"]
    levels = shapes.count("encoders.")
    return {
        "channels": whole(parts / 2),
        "internal_channels": width,
        "n_internal_layers": shapes.count("encoders.0.tfc.H."),
        "n_blocks": 2 * levels + 1,
        "n_fft": 2 * shapes[f"encoders.0.{transform}"][1],
    }


def _bottlenecks(shapes: Shapes, transform: str, *, each: int = 1, times: int = 1) -> dict[str, int]:
    """Settings that give the units of every level's bottleneck: max(bins * times // factor, least).

    each: a weight has rows for so many bottlenecks.
    """
    blocks = [*(f"encoders.{level}" for level in range(shapes.count("encoders."))), "mid_block"]
    sizes = [shapes[f"{block}.{transform}"] for block in blocks]
    units = {bins: whole(rows / each) for rows, bins in sizes}  # of each level; the first has the most
    bins, most = next(iter(units.items()))
    factor, least = max(bins * times // most, 1), min(units.values())
    if all(count == bins * times // factor for bins, count in units.items()):  # none is raised to the least
        least = min(least, DEFAULTS.min_bn_units)
    return {"bn_factor": factor, "min_bn_units": least}


def _assumed(sources: int) -> dict[str, Any]:
    return {} if sources == len(DEFAULTS.sources) else {"sources": numbered(sources)}
