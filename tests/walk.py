"""What somebody does with a model of the catalogue, by the program: download, verify, separate, again offline.

Used on published weights (tests/test_network.py, tests/test_spleeter_proof.py) and, so that it is known to
work, on random weights in their layouts from a hub on loopback.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sepcli.weights.entries import Entry

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tests" / "data" / "feelings.flac"


def program(*arguments: str | Path, env: Mapping[str, str], cwd: Path) -> str:
    """What the program prints; it must succeed."""
    command = [sys.executable, "-m", "sepcli", *map(str, arguments)]
    environment = {**env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def results(*arguments: str | Path, env: Mapping[str, str], cwd: Path) -> list[dict[str, Any]]:
    """The objects that the program prints with `--json`."""
    return [json.loads(line) for line in program(*arguments, "--json", env=env, cwd=cwd).splitlines()]


def read(path: Path) -> np.ndarray:
    """[T, C] float64"""
    return soundfile.read(path, dtype="float64", always_2d=True)[0]


def walk(
    entry: Entry, *, env: Mapping[str, str], cwd: Path, more: Sequence[str] = (), seconds: float = 4
) -> None:
    """Everything with one model, in the folder `cwd`; asserts what must hold for any model.

    more: options of every command, such as --catalog FILE. A model that knows no stem by name gets the clip
    itself as an example.
    """
    name = entry.name
    program("models", "download", name, *more, env=env, cwd=cwd)
    assert "is right" in program("models", "verify", name, *more, env=env, cwd=cwd)
    mix = read(CLIP)[: round(seconds * 44100)]
    asked = () if entry.sources else ("--query", f"example={CLIP}")
    options = [
        "-m",
        name,
        "--duration",
        str(seconds),
        "--device",
        "cpu",
        "--bit-depth",
        "32f",
        "--clip",
        "none",
        *more,
    ]
    (first,) = results("separate", CLIP, *options, *asked, "-o", "first", env=env, cwd=cwd)
    assert first["status"] == "done" and list(first["outputs"]) == list(entry.sources or ["example"])
    stems = {stem: read(cwd / path) for stem, path in first["outputs"].items()}
    for stem, samples in stems.items():
        assert samples.shape == mix.shape, stem
        assert np.isfinite(samples).all() and np.abs(samples).max() < 10 * np.abs(mix).max(), stem
    assert max(np.abs(samples).max() for samples in stems.values()) > 1e-3
    (again,) = results(
        "separate", CLIP, *options, *asked, "-o", "again", env={**env, "HF_HUB_OFFLINE": "1"}, cwd=cwd
    )
    for stem, path in again["outputs"].items():
        assert np.array_equal(read(cwd / path), stems[stem]), stem
