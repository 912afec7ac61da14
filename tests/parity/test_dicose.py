"""The 1-D U-Net against what the originals computed (tests/golden/dicose), in the tolerances there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sepcli.models.dicose.unet import Shape, Taps, UNet

GOLDEN = Path(__file__).parents[1] / "golden" / "dicose"
SHAPES = {
    "width": "base_channels",
    "patch": "patch_size",
    "multipliers": "channel_multipliers",
    "factors": "downsample_factors",
    "blocks": "resnet_blocks_per_level",
    "attentions": "attention_per_level",
    "heads": "attention_heads",
    "head_features": "attention_head_features",
    "ff_multiplier": "attention_ff_multiplier",
    "groups": "groupnorm_groups",
}


def shape_of(said: dict[str, Any]) -> Shape:
    """A case's `config` in our words."""
    values = {ours: said[theirs] for ours, theirs in SHAPES.items()}
    return Shape(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class Golden:
    """One case: our network with its weights, its tensors, and the comparison."""

    def __init__(self, name: str, **network: Any):
        self.case = json.loads((GOLDEN / name / "case.json").read_text())
        self.tensors = load_file(GOLDEN / name / "io.safetensors")
        self.network = UNet(shape_of(self.case["config"]), **network).eval()
        self.network.load_state_dict(load_file(GOLDEN / name / "weights.safetensors"), strict=True)

    def check(self, **found: Tensor) -> None:
        for name, result in found.items():
            expected = self.tensors[name]
            assert result.shape == expected.shape, name
            allowed = self.case["tolerance"]["rel_to_max"] * expected.abs().max().item() + 1e-6
            assert (result - expected).abs().max().item() <= allowed, name


@pytest.fixture(params=["", "_small"])
def deterministic(request) -> Golden:
    return Golden(f"det_unet{request.param}", labels=4)


@pytest.fixture
def diffusion(request, deterministic) -> Golden:
    suffix = request.node.callspec.params["deterministic"]
    return Golden(f"diffusion_unet{suffix}", labels=4, timed=True)


@torch.inference_mode()
def run_base(golden: Golden) -> tuple[Tensor, Tensor, Taps]:
    """m, waveform and taps of the deterministic case."""
    m = golden.network.condition(golden.tensors["label"])
    return (m, *golden.network(golden.tensors["mixture"], m))


def test_deterministic(deterministic):
    m, wave, taps = run_base(deterministic)
    names = [f"f{number:02d}" for number in range(len(taps.ordered()))]
    assert set(names[1:]) == {name for name in deterministic.tensors if name[:2] in ("f0", "f1")}
    deterministic.check(mapping=m, wave=wave, **dict(zip(names[1:], taps.ordered()[1:], strict=True)))
    assert torch.equal(taps.stem, deterministic.tensors["mixture"])


@torch.inference_mode()
def test_every_label(deterministic):
    mix = deterministic.tensors["mixture"][:1].expand(4, -1, -1)
    wave, _ = deterministic.network(mix, deterministic.network.condition(torch.eye(4)))
    deterministic.check(wave_all_labels=wave)


@torch.inference_mode()
def test_head_of_the_last_tap_is_the_output(deterministic):
    """The original's last feature is the decoder's output with the stem's added in place."""
    m, wave, taps = run_base(deterministic)
    assert torch.equal(deterministic.network.to_out(taps.head, m), wave)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["ours", "theirs"])
@torch.inference_mode()
def test_diffusion(deterministic, diffusion, source):
    """Fed our own taps, and the original's features in their order."""
    _, _, taps = run_base(deterministic)
    if source == "theirs":
        given = deterministic.tensors
        numbered = [given[f"f{number:02d}"] for number in range(1, len(taps.ordered()))]
        taps = Taps.of([given["mixture"], *numbered])
    network, tensors = diffusion.network, diffusion.tensors
    m = network.condition(deterministic.tensors["label"], tensors["c_noise"])
    before = [tap.clone() for tap in taps.ordered()]
    diffusion.check(
        mapping=m, F=network(tensors["x"], m, taps)[0], F_without_features=network(tensors["x"], m)[0]
    )
    assert all(map(torch.equal, taps.ordered(), before))
