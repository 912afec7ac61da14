"""Random weights, twice the same: in the official safetensors layout for sepcli, as a package for demucs.

    python -m tests.bench.weights DIR [NAME...]

Float16, as published, so both programs start from equal numbers. No path is left out by tiny values: every
LayerScale is between 0.2 and 0.5 (fresh ones begin at 1e-4 and 1e-3), and vectors have noise of 0.2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

# The same segment, channels and rate, so the same buffers around it, in a hundredth of the time.
SMALL = {"channels": 4, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "segment": Fraction(39, 5)}
TINY = {**SMALL, "segment": 1}  # only for trying the scripts


@dataclass(frozen=True)
class Weights:
    """name: what demucs calls it (`-n NAME --repo FOLDER`). model: what sepcli calls it (`-m MODEL`)."""

    name: str
    file: Path  # official safetensors layout

    @property
    def repo(self) -> Path:
        return self.file.parent

    @property
    def model(self) -> str:
        """Full size stands in for the catalogue's file, so what is declared there holds: `half` above all."""
        return f"htdemucs={self.file}" if self.name == "htdemucs" else str(self.file)


def make(name: str, folder: Path) -> Weights:
    """htdemucs (as published), small or tiny -> NAME.safetensors and NAME.th in the folder, once."""
    import torch
    from demucs.htdemucs import HTDemucs
    from demucs.states import get_state

    from tests.keys.make import FOUR, HT_512
    from tests.parity.test_demucs_time import randomised, save_safetensors

    weights = Weights(name, folder / f"{name}.safetensors")
    if weights.file.exists():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    kwargs: dict[str, Any] = {"htdemucs": HT_512, "small": SMALL, "tiny": TINY}[name]
    torch.manual_seed(0)
    network = randomised(HTDemucs(**{"sources": FOUR, **kwargs}))
    args, kwargs = network._init_args_kwargs
    package = {"klass": HTDemucs, "args": args, "kwargs": kwargs, "training_args": {}}
    package["state"] = get_state(network, None, half=True)
    torch.save(package, weights.file.with_suffix(".th"))
    save_safetensors(package, weights.file)
    return weights


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for wanted in sys.argv[2:] or ["htdemucs", "small"]:
        print(make(wanted, Path(sys.argv[1])).file)
