"""The 1-D U-Net of DiCoSe: published names and sizes, taps, and what it is that it does not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sepcli.models.dicose.unet import Shape, Taps, UNet

KEYS = Path(__file__).parents[1] / "keys" / "dicose"
PUBLISHED = {
    "deterministic": ({"labels": 4}, 405_231_900),
    "diffusion": ({"labels": 4, "timed": True}, 405_496_220),
    "msdm": ({"channels": 4, "timed": True}, 405_497_700),
    "isdm": ({"timed": True}, 405_491_100),
}
TINY = Shape(
    width=16,
    patch=4,
    multipliers=(1, 2, 2),
    factors=(4, 2),
    blocks=(1, 2),
    attentions=(False, True),
    heads=2,
    head_features=8,
)


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} of a published network, without what a checkpoint puts before the names."""

    def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
        found = {}
        for key, value in tree.items():
            if isinstance(value, dict):
                found |= flat(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = tuple(map(int, value.split(",")))
        return found

    said = json.loads((KEYS / f"{name}.json").read_text(encoding="utf-8"))
    shapes = flat(said["state"])
    assert len(shapes) == said["tensors"] and said["parameters"] == PUBLISHED[name][1]
    return shapes


def test_no_file_is_forgotten():
    assert {path.stem for path in KEYS.glob("*.json")} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_number_of_parameters(name):
    arguments, parameters = PUBLISHED[name]
    with torch.device("meta"):
        network = UNet(Shape(), **arguments)
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == published_shapes(name)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_defaults_never_change():
    """They are the published networks', and catalogue entries are differences from them."""
    assert vars(Shape()) == dict(
        width=256,
        patch=16,
        multipliers=(1, 2, 4, 4, 4, 4, 4),
        factors=(4, 4, 4, 2, 2, 2),
        blocks=(2, 2, 2, 2, 2, 2),
        attentions=(False, False, False, True, True, True),
        heads=8,
        head_features=128,
        ff_multiplier=2,
        groups=8,
    )
    assert Shape().multiple == 8192


def test_taps_of_a_published_segment():
    """By name, at 11.9 s: 15 tensors, as wide and as long as the levels."""
    with torch.device("meta"):
        network = UNet(Shape(), labels=4)
        m = network.condition(torch.zeros(1, 4))
        wave, taps = network(torch.zeros(1, 1, 262144), m)
    assert wave.shape == (1, 1, 262144)
    assert taps.stem.shape == (1, 1, 262144) and taps.head.shape == (1, 256, 16384)
    encoder = [(256, 16384), (512, 4096), (1024, 1024), (1024, 256), (1024, 128), (1024, 64)]
    assert [tuple(tap.shape[1:]) for tap in taps.encoder] == encoder
    assert taps.bottleneck.shape == (1, 1024, 32)
    assert [tuple(tap.shape[1:]) for tap in taps.decoder] == [(1024, 32), *reversed(encoder[1:])]
    again = Taps.of(taps.ordered())
    assert all(one is other for one, other in zip(again.ordered(), taps.ordered(), strict=True))
    assert again.bottleneck is taps.bottleneck and len(again.encoder) == len(again.decoder) == 6


@torch.inference_mode()
def test_injecting_nothing_is_nothing():
    network = UNet(TINY, labels=2)
    x, m = torch.randn(2, 1, 64), network.condition(torch.eye(2))
    wave, taps = network(x, m)
    zeros = Taps.of(torch.zeros_like(tap) for tap in taps.ordered())
    assert torch.equal(network(x, m, zeros)[0], wave)


def test_every_tap_is_heard_and_learns():
    """A change of any of them changes the output, and every one has a gradient."""
    torch.manual_seed(0)
    network = UNet(TINY, labels=2, timed=True)
    x, m = torch.randn(2, 1, 64), network.condition(torch.eye(2), torch.tensor([-0.5, 0.3]))
    taps = Taps.of(torch.randn_like(tap).requires_grad_() for tap in network(x, m)[1].ordered())
    network(x, m, taps)[0].square().mean().backward()
    assert all(tap.grad.abs().max() > 0 for tap in taps.ordered())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@torch.inference_mode()
def test_reduced_precision_keeps_the_frequencies_of_time():
    torch.manual_seed(0)
    network = UNet(TINY, timed=True)
    weights = network.to_time[0][0].weights.clone()
    x, time = torch.randn(2, 1, 64), torch.tensor([-2.3, 0.1])
    wave, _ = network(x, network.condition(time=time))
    network.compute_in(torch.bfloat16)
    assert torch.equal(network.to_time[0][0].weights, weights) and network.dtype == torch.bfloat16
    reduced, _ = network(x.bfloat16(), network.condition(time=time))
    assert (reduced.float() - wave).norm() < 0.05 * wave.norm()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factors": (4, 3)}, "even"),
        ({"blocks": (1,)}, "one for each level"),
        ({"patch": 5}, "multiple of patch"),
        ({"width": 20, "groups": 16}, "groups"),
    ],
)
def test_impossible_shapes(changes, words):
    with pytest.raises(ValueError, match=words):
        UNet(Shape(**{**vars(TINY), **changes}), labels=1)
