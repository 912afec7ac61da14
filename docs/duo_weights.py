"""Make the weights of the bundled model `duo` out of what was trained (docs/training.md).

    python docs/duo_weights.py voice vocals.safetensors --published 2stems.tar.gz --trained RUN --share 0.4
    python docs/duo_weights.py band band.safetensors --trained RUN

voice: the first of the two U-Nets of Spleeter's two stems, and a share, from 0 to 1, of what a training has
changed in it (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Above 11 kHz, which it does not
see, it takes the average of its mask.
band: the network of a run, as it is.

Both are stored as int8 with a scale for each output channel.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sepcli.loading import load_model, save_model
from sepcli.models.bandsplit import FAMILY as BANDSPLIT
from sepcli.models.spleeter import FAMILY as SPLEETER
from sepcli.models.spleeter.network import Spleeter, SpleeterConfig
from sepcli.weights.compact import compact, expand

STEM = "vocals"


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


def on_the_way(weights: dict[str, Tensor], trained: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """These weights, and that share of what the training has changed.

    It began with them as int8. What rounding had changed is left out: with a share of it weights would lie
    nearer to whole numbers, and the next rounding would undo most of the training.
    """
    begun = expand(compact(weights))
    return {name: weights[name] + share * (trained[name].to(begun[name]) - begun[name]) for name in weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("voice", "band"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--published", type=Path, help="voice: the archive, its folder, or model.index")
    parser.add_argument("--trained", type=Path, required=True, help="the folder of a run")
    parser.add_argument("--share", type=float, default=1.0, help="voice: of what the training has changed")
    given = parser.parse_args()
    trained = load_model(str(given.trained)).network
    family, arch, weights, config = BANDSPLIT, "BandSplit", trained.state_dict(), trained.config
    if given.which == "voice":
        if given.published is None:
            parser.error("voice needs --published")
        family, arch = SPLEETER, "Spleeter"
        before, config = published(given.published)
        weights = on_the_way(before, weights, given.share)
    save_model(weights, given.out, family=family.name, arch=arch, config=config, small=True)


if __name__ == "__main__":
    main()
