"""Make the vocals network of the bundled model `duo` out of Spleeter's two stems (docs/provenance.md).

    python docs/duo_vocals.py 2stems.tar.gz sepcli/models/spleeter/vocals.safetensors

It is the first of the two U-Nets, unchanged but for its storage: int8 with a scale for each output channel.
Above 11 kHz, which it does not see, it takes the average of its mask (docs/log.md).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from sepcli.loading import load_model, save_model
from sepcli.models.spleeter import FAMILY
from sepcli.models.spleeter.network import Spleeter

STEM = "vocals"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", type=Path, help="the archive, its folder, or model.index")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    both = load_model(f"spleeter-2stems={options.published}").network
    assert isinstance(both, Spleeter)
    prefix = f"unets.{both.known.index(STEM)}."
    weights = {
        name.replace(prefix, "unets.0.", 1): tensor
        for name, tensor in both.state_dict().items()
        if name.startswith(prefix)
    }
    config = replace(both.config, sources=(STEM,), extension="average")
    save_model(weights, options.out, family=FAMILY.name, arch="Spleeter", config=config, small=True)


if __name__ == "__main__":
    main()
