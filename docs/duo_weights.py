"""Make the weights of the bundled model `duo` out of what was trained (docs/training.md).

    python docs/duo_weights.py voice vocals.safetensors --published 2stems.tar.gz --trained RUN --share 0.33
    python docs/duo_weights.py begin begin.safetensors
    python docs/duo_weights.py band band.safetensors --trained RUN --share 0.7

voice: the first of the two U-Nets of Spleeter's two stems, and a share, from 0 to 1, of what a training has
changed in it (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Above 11 kHz, which it does not
see, it takes the average of its mask.
begin: what the training of the second network begins with: `mini`, whose stems are mixed anew (MIXED). Where
the voice is gone, what `mini` takes for one is mostly a part of `other`, and so is half of what it puts in no
stem. The other half goes to the drums.
band: that, and a share of what a training has changed in it.

RUN is the folder of a run, or a file of weights. voice and band are stored as int8 with a scale for each output
channel.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sepcli.loading import load_model, save_model
from sepcli.models.bandsplit import FAMILY as BANDSPLIT
from sepcli.models.bandsplit.bandsplit import BandSplit, BandSplitConfig
from sepcli.models.spleeter import FAMILY as SPLEETER
from sepcli.models.spleeter.network import Spleeter, SpleeterConfig
from sepcli.weights.compact import compact, expand

STEM = "vocals"
# A stem of `begin` -> how much it takes of those of `mini`, and of what is in none of them. Without the latter
# a row adds up to 1: as each mask begins with the same share of the mix, it need not be changed.
MIXED = {
    "drums": {"drums": 1.0, "nothing": 0.5},
    "bass": {"bass": 1.0},
    "other": {"other": 0.5, "vocals": 0.5, "nothing": 0.5},
    "vocals": {"vocals": 1.0},
}


def published(path: Path) -> tuple[dict[str, Tensor], SpleeterConfig]:
    """The vocals network's weights and Config."""
    both = load_model(f"spleeter-2stems={path}").network
    assert isinstance(both, Spleeter)
    prefix = f"unets.{both.known.index(STEM)}."
    weights = {
        name.replace(prefix, "unets.0.", 1): tensor
        for name, tensor in both.state_dict().items()
        if name.startswith(prefix)
    }
    return weights, replace(both.config, sources=(STEM,), extension="average")


def on_the_way(
    weights: Mapping[str, Tensor], begun: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """These weights, and that share of what a training that has begun with `begun` has changed."""
    return {name: weights[name] + share * (trained[name].to(begun[name]) - begun[name]) for name in weights}


def mixed(weights: Mapping[str, Tensor], sources: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a BandSplit whose stems are mixed as MIXED says; masks are linear in the last weights."""
    rows = torch.tensor([[MIXED[made].get(stem, 0.0) for stem in sources] for made in sources])
    nothing = torch.tensor([MIXED[made].get("nothing", 0.0) for made in sources])
    rows = rows - nothing[:, None]  # what is in no stem: the mix minus all stems
    return {
        name: torch.einsum("ms,bhsv->bhmv", rows, tensor) if name.startswith("mask_out.") else tensor
        for name, tensor in weights.items()
    }


def begin() -> tuple[dict[str, Tensor], BandSplitConfig]:
    """The weights that the second network begins with, and its Config."""
    network = load_model("mini").network
    assert isinstance(network, BandSplit)
    return mixed(network.state_dict(), network.sources), network.config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("voice", "begin", "band"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--published", type=Path, help="voice: the archive, its folder, or model.index")
    parser.add_argument("--trained", type=Path, metavar="RUN", help="voice, band: what was trained")
    parser.add_argument("--share", type=float, default=1.0, help="voice, band: of what it has changed")
    given = parser.parse_args()
    if given.which == "begin":
        weights, config = begin()
        save_model(weights, given.out, family=BANDSPLIT.name, arch="BandSplit", config=config)
        return
    if given.trained is None:
        parser.error(f"{given.which} needs --trained")
    trained = load_model(str(given.trained)).network.state_dict()
    if given.which == "band":
        weights, config = begin()
        weights = on_the_way(weights, weights, trained, given.share)
        save_model(weights, given.out, family=BANDSPLIT.name, arch="BandSplit", config=config, small=True)
        return
    if given.published is None:
        parser.error("voice needs --published")
    weights, config = published(given.published)
    # The training began with these as int8. What rounding had changed is left out: with a share of it weights
    # would lie nearer to whole numbers, and the next rounding would undo most of the training.
    weights = on_the_way(weights, expand(compact(weights)), trained, given.share)
    save_model(weights, given.out, family=SPLEETER.name, arch="Spleeter", config=config, small=True)


if __name__ == "__main__":
    main()
