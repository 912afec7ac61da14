"""Spleeter against what its own graph computed in TensorFlow (tests/golden/spleeter), in its tolerances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sepcli.models.spleeter import FAMILY, Spleeter, SpleeterConfig, SpleeterOptions
from sepcli.nn.stft import spleeter_stft
from sepcli.weights.checkpoint import read_checkpoint
from tests.contracts import peak_error, run

GOLDEN = Path(__file__).parents[1] / "golden" / "spleeter"
CASES = sorted(path.parent.name for path in GOLDEN.glob("tiny-*/case.json"))
TOLERANCE = 2e-5  # of the peak


class Golden:
    """One case: the network with its weights, and the tensors of io.safetensors."""

    def __init__(self, name: str):
        case = json.loads((GOLDEN / name / "case.json").read_text())
        self.config: dict[str, Any] = case["config"]
        said, of_unet = case["config"], case["config"]["model"]["params"]
        config = SpleeterConfig(
            sources=tuple(said["instrument_list"]),
            frame_length=said["frame_length"],
            frames=said["T"],
            bins=said["F"],
            filters=tuple(of_unet["conv_n_filters"]),
            conv_activation=of_unet.get("conv_activation", "LeakyReLU"),
            deconv_activation=of_unet.get("deconv_activation", "ReLU"),
            output="softmax" if said["model"]["type"] == "unet.softmax_unet" else "sigmoid",
        )
        assert said["frame_step"] * 4 == said["frame_length"]
        self.model = Spleeter(config).eval()
        weights = FAMILY.convert(read_checkpoint(GOLDEN / name / "model.index"), self.model)
        self.model.load_state_dict(weights, strict=True)
        self.options = SpleeterOptions(exponent=said["separation_exponent"], extension=said["mask_extension"])
        self.io = load_file(GOLDEN / name / "io.safetensors")

    def wave(self, name: str) -> Tensor:
        """[C, T]"""
        return self.io[name].T

    def stems(self, kind: str) -> Tensor:
        """[1, S, C, T]"""
        return torch.stack([self.wave(f"{kind}.{stem}") for stem in self.model.sources])[None]


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    return Golden(request.param)


def test_spectrogram(golden):
    spec = spleeter_stft(golden.wave("input"), golden.model.window)  # [C, N, F]
    expected = torch.view_as_complex(golden.io["stft"]).permute(2, 0, 1)
    assert peak_error(torch.view_as_real(spec), torch.view_as_real(expected)) < 1e-5


def test_networks(golden):
    """The estimated magnitudes, from the original's own spectrogram."""
    blocks = golden.io["spectrogram"].permute(0, 3, 1, 2)  # [blocks, C, N, bins]
    with torch.inference_mode():
        outputs = golden.model.magnitudes(blocks)
    expected = torch.stack([golden.io[f"network.{s}"].permute(0, 3, 1, 2) for s in golden.model.sources], dim=1)
    assert peak_error(outputs, expected) < TOLERANCE


def test_stems(golden):
    golden.model.options = golden.options
    assert peak_error(run(golden.model, golden.wave("input")[None]), golden.stems("output")) < TOLERANCE


def test_wiener_filter():
    golden = Golden("tiny-2stems")
    golden.model.options = SpleeterOptions(mwf=True)
    assert peak_error(run(golden.model, golden.wave("input")[None]), golden.stems("output_mwf")) < TOLERANCE
