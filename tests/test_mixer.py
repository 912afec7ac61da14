"""Stems mixed anew: from all stems and the mix, block by block as on the whole track."""

from __future__ import annotations

import pytest
import torch

from sepcli.engine.ensemble import Ensemble
from sepcli.engine.mixer import Mixed
from sepcli.engine.pipeline import measure
from sepcli.engine.separator import Segment
from tests.contracts import peak_error
from tests.toys import Context, Split, separate

CPU = torch.device("cpu")


def mixed(*, normalize=False, sources=("drums", "bass")):
    drums = Split(["drums"], Segment(samples=1000), samplerate=1000, normalize=normalize)
    bass = Split(["bass"], Segment(samples=1400, margin=100), samplerate=1000, normalize=normalize)
    matrix = torch.randn(2, 2, 3, 2, generator=torch.Generator().manual_seed(1))
    whole = Mixed(Ensemble([drums, bass], [[1, 0], [0, 1]], ["drums", "bass"]), matrix, ["drums", "bass"])
    return whole.select(sources) if sources != whole.sources else whole


@pytest.mark.parametrize("length", [1, 999, 1751, 12345])
@pytest.mark.parametrize(("shifts", "groups"), [(0, 1), (2, 3)])
def test_every_stem_is_the_sum_that_the_matrix_says(length, shifts, groups):
    x = torch.randn(groups, 2, length, generator=torch.Generator().manual_seed(0))
    model = mixed()
    parts = torch.stack([x * Split.SHARES["drums"], x * Split.SHARES["bass"], x])  # [S + 1, G, C, T]
    for stem, factors in enumerate(model.matrix):
        for channel, row in enumerate(factors):
            expected = (row[:, None, :, None] * parts).sum(dim=(0, 2))
            out = separate(model, x, shifts=shifts)
            torch.testing.assert_close(out[stem, :, channel], expected, rtol=1e-4, atol=1e-5)


def test_one_stem_is_that_stem_of_the_whole_and_needs_every_network():
    x = torch.randn(1, 2, 5000)
    narrowed = mixed(sources=("bass",))
    assert len(narrowed.ensemble.members) == 2 and narrowed.offset_stem == mixed().offset_stem == "bass"
    assert peak_error(separate(narrowed, x), separate(mixed(), x)[1:]) < 1e-6
    assert peak_error(narrowed(x), mixed()(x)[:, 1:]) < 1e-6


def test_a_standardised_track_is_mixed_with_the_mix_that_the_networks_saw():
    x = 0.3 * torch.randn(1, 2, 4000) + 0.5
    stats = measure(iter([x]))
    seen = (x - stats.mean[:, None, None]) / stats.scale[:, None, None]
    out, apart = separate(mixed(normalize=True), x), separate(mixed(), seen) * stats.scale
    apart[1] += stats.mean
    torch.testing.assert_close(out, apart, rtol=1e-4, atol=1e-5)


def test_as_the_networks_over_the_whole_track_and_then_the_matrix():
    network = Context(Segment(samples=700), normalize=False).eval()
    matrix = torch.randn(2, 2, 3, 2, generator=torch.Generator().manual_seed(2))
    x = torch.randn(1, 2, 5000)
    stems = separate(network, x)
    out = separate(Mixed(Ensemble.of(network), matrix, ["a", "b"]), x)
    expected = torch.einsum("scij,igjt->sgct", matrix, torch.cat([stems, x[None]]))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
