"""The main job for real: a full-size htdemucs from a hub, the repository's clip, the program, against demucs.

Random weights in the official layout; the catalogue's own `htdemucs` is replaced by one that points at a hub on
loopback. What demucs' own program does around its network (standardising the track) is done here as it does it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from sepcli.weights.catalog import bundled_catalog, read_catalog
from tests.bench.sound import CLIP
from tests.bench.weights import make
from tests.fakehub import FakeHub
from tests.needs import package

demucs = package("demucs", "apply", "hf")

ROOT = Path(__file__).parents[2]

CATALOG = """
[htdemucs]
family = "demucs"
arch = "HTDemucs"
sources = ["drums", "bass", "other", "vocals"]
samplerate = 44100
channels = 2

[htdemucs.config]
multi_freqs = []
bottom_channels = 512
dconv_mode = 3
t_dropout = 0.02
t_sparse_attn_window = 400
segment = "39/5"

[htdemucs.files]
model = {{ {pin} }}
"""


def separate(out: Path, catalog: Path, env: dict[str, str]) -> dict:
    """The result that `sepcli separate` prints."""
    options = ["--precision", "float32", "--bit-depth", "32f", "--clip", "none", "--shifts", "0"]
    command = [sys.executable, "-m", "sepcli", "separate", str(CLIP), "--model", "htdemucs"]
    command += ["--device", "cpu", "--catalog", str(catalog), "--out", str(out), "--json", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stem(result: dict, name: str, out: Path) -> torch.Tensor:
    """[C, T]"""
    assert soundfile.info(out.parent / result["outputs"][name]).subtype == "FLOAT"
    return torch.from_numpy(soundfile.read(out.parent / result["outputs"][name], dtype="float32")[0].T.copy())


@pytest.mark.slow
def test_the_clip_through_a_full_size_htdemucs_from_the_hub(tmp_path):
    weights = make("htdemucs", tmp_path / "weights")
    mix = torch.from_numpy(soundfile.read(CLIP, dtype="float32")[0].T.copy())
    theirs = demucs.hf.load_safetensors_model(weights.file).eval()
    mono = mix.mean(0)
    mean, scale = mono.mean(), mono.std() + 1e-8
    with torch.inference_mode():
        expected = demucs.apply.apply_model(theirs, ((mix - mean) / scale)[None], shifts=0, overlap=0.25)[0]
    expected = expected * scale  # [S, C, T]
    expected[theirs.sources.index("other")] += mean  # demucs gives it to every stem, and has it four times

    catalog = tmp_path / "catalog.toml"
    with FakeHub() as hub:
        pin = hub.add("someone/HTDemucs", "955717e8.safetensors", weights.file)
        catalog.write_text(CATALOG.format(pin=", ".join(f"{key} = {json.dumps(pin[key])}" for key in pin)))
        bundled = read_catalog(bundled_catalog())["htdemucs"]
        assert read_catalog(catalog)["htdemucs"].members[0].config == bundled.members[0].config
        env = hub.env(tmp_path / "home", PYTHONPATH=str(ROOT))
        first = separate(tmp_path / "first", catalog, env)
        assert hub.count("GET") == 1
    assert first["precision"] == "float32" and not first["warnings"]

    ratios = {}
    for name, reference in zip(theirs.sources, expected, strict=True):
        ours = stem(first, name, tmp_path / "first")
        assert ours.shape == reference.shape == mix.shape
        error = (reference - ours).double().square().sum()
        ratios[name] = (10 * torch.log10(reference.double().square().sum() / error)).item()
    print("SNR against demucs:", {name: f"{ratio:.1f} dB" for name, ratio in ratios.items()})
    assert min(ratios.values()) >= 85

    # The hub is gone and forbidden: the cache is enough, and the stems are the same to the bit.
    again = separate(tmp_path / "again", catalog, env | {"HF_HUB_OFFLINE": "1"})
    for name in theirs.sources:
        assert torch.equal(stem(again, name, tmp_path / "again"), stem(first, name, tmp_path / "first"))
