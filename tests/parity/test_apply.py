"""The engine against demucs' own `apply_model`: cutting, context, weights, tails, shifts and bags."""

import random

import pytest
import torch

from sepcli.engine.ensemble import Ensemble
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from tests.needs import package
from tests.toys import Context

demucs = package("demucs", "apply")

LENGTHS = [1, 399, 400, 301, 600, 900, 3217]  # 1, segment-1, segment, stride+1 (tail), k*stride, long


class TheirModel(torch.nn.Module):
    """A toy separator in the shape that apply_model wants; `valid_length` only where ours declares one."""

    def __init__(self, ours, valid_length=None):
        super().__init__()
        self.ours = ours
        self.device = torch.nn.Parameter(torch.zeros(1))  # a bag asks its members where they are
        self.sources, self.samplerate = list(ours.sources), ours.samplerate
        self.audio_channels = ours.channels
        self.segment = ours.segment.samples / ours.samplerate
        if valid_length:
            self.valid_length = valid_length

    def forward(self, mix):
        return self.ours(mix)


VARIANTS = {
    "fixed": (Segment(samples=400, exact=True), lambda n: 400),
    "short": (Segment(samples=400, tail="short"), None),
    "valid": (
        Segment(samples=400, valid_length=lambda n: -(-n // 64) * 64 + 10),
        lambda n: -(-n // 64) * 64 + 10,
    ),
}


def pair(name, seed):
    segment, valid_length = VARIANTS[name]
    ours = Context(segment, normalize=False, seed=seed)
    return ours, TheirModel(ours, valid_length)


def run_ours(model, x, **settings):
    engine = Engine(model, Settings(**settings), torch.device("cpu"), torch.float32)
    return torch.cat(list(engine.separate(iter(x.split(97, dim=-1)))), dim=-1)[:, 0]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_split_equals_apply_model(variant, length, overlap):
    ours, theirs = pair(variant, 1)
    x = torch.randn(1, 2, length, generator=torch.Generator().manual_seed(length))
    expected = demucs.apply.apply_model(theirs, x, shifts=0, split=True, overlap=overlap)[0]
    torch.testing.assert_close(run_ours(ours, x, overlap=overlap), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shifts_equal_apply_model(variant, monkeypatch):
    ours, theirs = pair(variant, 2)
    x = torch.randn(1, 2, 2000, generator=torch.Generator().manual_seed(5))
    draw = random.Random(7)  # the offsets that seed 7 gives our engine: half a second at 1000 Hz
    monkeypatch.setattr(demucs.apply.random, "randint", lambda low, high: draw.randint(0, 500))
    expected = demucs.apply.apply_model(theirs, x, shifts=3, split=True, overlap=0.25)[0]
    torch.testing.assert_close(run_ours(ours, x, shifts=3, seed=7), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shifts", [0, 2])
def test_bags_equal_apply_model(shifts, monkeypatch):
    pairs = [pair(name, seed) for seed, name in enumerate(VARIANTS)]
    weights = [[1.0, 0.5], [0.0, 2.0], [3.0, 1.0]]
    bag = demucs.apply.BagOfModels([theirs for _, theirs in pairs], weights)
    ensemble = Ensemble([ours for ours, _ in pairs], weights, ("a", "b"))
    x = torch.randn(1, 2, 1777, generator=torch.Generator().manual_seed(6))
    draw = random.Random(9)
    monkeypatch.setattr(demucs.apply.random, "randint", lambda low, high: draw.randint(0, 500))
    expected = demucs.apply.apply_model(bag, x, shifts=shifts, split=True, overlap=0.25)[0]
    torch.testing.assert_close(run_ours(ensemble, x, shifts=shifts, seed=9), expected, rtol=0, atol=1e-6)
