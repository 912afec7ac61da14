"""Whole tracks through every variant of the hybrid networks, against demucs' own `apply_model`."""

from __future__ import annotations

import pytest
import torch

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from tests.needs import package
from tests.parity.test_hybrid import H_VARIANTS, HT, HT_VARIANTS, H, pair, peak_error

demucs = package("demucs", "apply")

CASES = {f"HTDemucs, {name}": ("ht", HT | changes) for name, changes in HT_VARIANTS.items()}
CASES |= {f"HDemucs, {name}": ("h", H | {"segment": 0.25} | changes) for name, changes in H_VARIANTS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind, kwargs", CASES.values(), ids=CASES)
def test_whole_tracks(kind, kwargs):
    ours, theirs = pair(kind, **kwargs)
    ours.normalize = False  # apply_model leaves that to its caller
    engine = Engine(ours, Settings(overlap=0.25), torch.device("cpu"), torch.float32)
    segment, stride = engine.stage.plans[0].size, engine.stage.plans[0].stride
    for samples in [1, segment - 1, segment, stride + 1, 2 * stride, 3 * segment + 77]:
        mix = torch.randn(1, ours.channels, samples, generator=torch.Generator().manual_seed(samples))
        result = torch.cat(list(engine.separate(iter(mix.split(997, dim=-1)))), dim=-1)[:, 0]
        assert result.isfinite().all()
        try:
            expected = demucs.apply.apply_model(theirs, mix, shifts=0, split=True, overlap=0.25)[0]
        except ValueError:
            assert (samples - 1) % stride == 0  # its norms refuse a call of a single sample
            continue
        if expected.isfinite().all():  # the original has no deviation of a single mono sample
            assert peak_error(result, expected) <= 1e-5, samples
