"""Writes the JSON files of this folder: names, shapes and order of each published Demucs checkpoint.

They are derived, not read from the files: the demucs package builds each network from the arguments it was
published with. See README.md. Run as `python tests/keys/make.py` with the dev extra installed.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs

FOUR = ["drums", "bass", "other", "vocals"]
HT = {"dconv_mode": 3, "t_dropout": 0.02, "t_sparse_attn_window": 400, "multi_freqs": []}
HT |= {"segment": Fraction(39, 5)}
HT_512 = {**HT, "bottom_channels": 512}
SIX = {"sources": [*FOUR, "guitar", "piano"]}
BANDS = {"multi_freqs": [0.1, 0.3], "multi_freqs_depth": 2}

# file name: (class, {signature in a checkpoint's name: arguments that differ from the constructor's defaults});
# those of one file have the same tensors.
NETWORKS: dict[str, tuple[type, dict[str, dict[str, Any]]]] = {
    "htdemucs": (
        HTDemucs,
        {"955717e8": HT_512, "f7e0c4bc": HT_512, "d12395a8": HT_512, "92cfc3b6": HT_512, "04573f0d": HT_512},
    ),
    "htdemucs_6s": (HTDemucs, {"5c90dfd2": {**HT, **SIX}}),
    "hdemucs": (HDemucs, {"75fc33f5": {}, "e51eebcc": {}, "cfa93e08": {}, "fa0cb7f9": {}, "902315c2": {}}),
    "hdemucs_magnitudes": (
        HDemucs,
        {"a1d90b5c": {"cac": False, "hybrid_old": True}, "5d2d6c55": {"cac": False}},
    ),
    "mdx_hybrid_magnitudes": (
        HDemucs,
        {"c511e2ab": {"cac": False, "hybrid_old": True, "norm_starts": 999}},
    ),
    "mdx_hybrid_bands": (HDemucs, {"7d865c68": {"norm_starts": 999, **BANDS}}),
    "mdx_time": (Demucs, {"0d19c1c6": {"rewrite": False}, "7ecf8ec1": {"rewrite": False}}),
    "repro_mdx_a_time": (Demucs, {"9a6b4851": {}, "1ef250f1": {}}),
}


def tree(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """{"a.b.weight": tensor} -> {"a": {"b": {"weight": "2,3"}}}: each prefix once, in the same order."""
    root: dict[str, Any] = {}
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        place = root
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = ",".join(map(str, tensor.shape))
    return root


def main() -> None:
    for name, (klass, checkpoints) in NETWORKS.items():
        states = []
        for changes in checkpoints.values():
            with torch.device("meta"):
                states.append(klass(**{"sources": FOUR, **changes}).state_dict())
        state = states[0]
        assert all(tree(other) == tree(state) for other in states)
        content = {
            "checkpoints": checkpoints,
            "arch": klass.__name__,
            "dtype": "float16",
            "tensors": len(state),
            "values": sum(tensor.numel() for tensor in state.values()),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value, default=str)}" for key, value in content.items()]
        parts = [
            f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
            for key, value in tree(state).items()
        ]
        lines.append('"state": {\n' + ",\n".join(parts) + "\n}")
        path = Path(__file__).parent / f"{name}.json"
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
