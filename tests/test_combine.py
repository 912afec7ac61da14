"""Stems of several models as one: as audio-separator computes them, in any blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sepcli.engine.combine import HOP, NFFT, Combiner
from sepcli.stems import BLENDS

GOLDEN = Path(__file__).parent / "golden" / "combine" / "audio-separator.npz"


def combined(method, estimates, weights, block):
    combiner = Combiner(method, weights)
    made = [combiner.process(part) for part in estimates.split(block, dim=-1)]
    last = combiner.flush()
    return torch.cat(made if last is None else [*made, last], dim=-1)


def estimates(models, length):
    return torch.randn(models, 1, 2, length, generator=torch.Generator().manual_seed(models))


@pytest.mark.parametrize("method", BLENDS)
@pytest.mark.parametrize("models", [2, 3])
def test_as_audio_separator(method, models):
    """Its Ensembler on three signals of 2,600 samples; tests/golden/combine/README.md says how."""
    with np.load(GOLDEN) as golden:
        given = torch.from_numpy(golden["estimates"])[:models]
        weights = [1.0, 1.0, 1.0][:models]
        found = combined(method, given[:, None], weights, 777)[0]
        # Its last samples lie in one frame and are divided by next to nothing: that is not copied.
        whole = len(given[0, 0]) // HOP * HOP if method.endswith("fft") else None
        torch.testing.assert_close(
            found[:, :whole], torch.from_numpy(golden[f"{method}_{models}"])[:, :whole], rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("method", ["avg_wave", "avg_fft"])
def test_weights_as_audio_separator(method):
    with np.load(GOLDEN) as golden:
        given = torch.from_numpy(golden["estimates"])
        found = combined(method, given[:, None], [2.0, 1.0, 0.5], 2600)[0]
        expected = torch.from_numpy(golden[f"{method}_weighted"])
        torch.testing.assert_close(found[:, : 2 * HOP], expected[:, : 2 * HOP], rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", BLENDS)
@pytest.mark.parametrize("length", [1, HOP - 1, HOP, NFFT, NFFT + 1, 3 * NFFT - 1])
def test_equal_estimates_are_the_result(method, length):
    one = estimates(1, length)
    found = combined(method, one.expand(3, 1, 2, length), [1.0, 2.0, 3.0], 333)
    torch.testing.assert_close(found, one[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", BLENDS)
def test_blocks_change_nothing(method):
    given = estimates(3, 6000)
    whole = combined(method, given, [1.0, 2.0, 3.0], 6000)
    for block in (1, 100, 1024, 2500):
        torch.testing.assert_close(combined(method, given, [1.0, 2.0, 3.0], block), whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", BLENDS)
def test_one_alone_stays_as_it_is(method):
    given = estimates(1, 3000)
    assert torch.equal(combined(method, given, [0.5], 700), given[0])


def test_what_the_ways_choose():
    given = torch.tensor([[3.0, -1.0, 0.0], [-3.0, 2.0, 1.0], [1.0, -4.0, 9.0]])[:, None, None]
    found = {m: combined(m, given, [1.0, 1.0, 1.0], 3).flatten().tolist() for m in BLENDS if m.endswith("wave")}
    assert found["min_wave"] == [1.0, -1.0, 0.0]
    assert found["max_wave"] == [3.0, -4.0, 9.0]  # of equal ones the first
    assert found["median_wave"] == [1.0, -1.0, 1.0]
    assert found["avg_wave"] == pytest.approx([1 / 3, -1.0, 10 / 3])


def test_no_click_at_the_end():
    """Where two models differ the last samples stay as loud as the others, whatever length the track has."""
    for length in (2 * HOP, 3 * HOP - 1):
        found = combined("max_fft", estimates(2, length), [1.0, 1.0], length)
        assert found.abs().max() < 10
