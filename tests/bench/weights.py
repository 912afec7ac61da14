"""The same random weights twice: in the official safetensors layout for sepcli, and as a package for demucs.

    python -m tests.bench.weights DIR [NAME...]

Float16, as published, so both programs start from equal numbers. Every path of the network has an audible part:
each LayerScale is between 0.2 and 0.5 (fresh ones are 1e-4 and 1e-3), and vectors have noise of 0.2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

# The same segment, channels and rate, so the same buffers around it, in a hundredth of the time.
SMALL = {"channels": 4, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "segment": Fraction(39, 5)}
TINY = {**SMALL, "segment": 1}  # only to try the scripts


@dataclass(frozen=True)
class Weights:
    """name: for demucs (`-n NAME --repo FOLDER`). model: for sepcli (`-m MODEL`)."""

    name: str
    file: Path  # official safetensors layout

    @property
    def repo(self) -> Path:
        return self.file.parent

    @property
    def model(self) -> str:
        """Full size takes the place of the catalogue's file: the entry's properties hold, such as `half`."""
        return f"htdemucs={self.file}" if self.name == "htdemucs" else str(self.file)


def make(name: str, folder: Path) -> Weights:
    """Write NAME.safetensors and NAME.th into the folder, once. name: htdemucs (full size), small, tiny."""
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
