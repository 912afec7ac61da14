"""The interval of a mean over tracks, by what it must be on simple and on drawn data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sepcli.metrics.interval import half_width, student_t
from tests.needs import package


def column(*values, weights=None):
    weights = weights or [1.0] * len(values)
    return {f"t{k}": pair for k, pair in enumerate(zip(values, weights, strict=True))}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 19, 50, 223, 1000])
def test_students_t(freedom):
    stats = package("scipy", "stats").stats
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-11)
    assert student_t(freedom, 0.5) == pytest.approx(stats.t.ppf(0.75, freedom), rel=1e-11)


def test_one_stem_is_the_textbooks_interval():
    values = [1.0, 4.0, 2.5, 7.0, -3.0]
    stats = package("scipy", "stats").stats
    expected = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) / 5**0.5
    assert half_width([column(*values)]) == pytest.approx(expected)
    assert half_width([column(*values, weights=[3.0] * 5)]) == pytest.approx(expected)


def test_stems_that_every_track_has_are_as_their_mean():
    bass, drums = [1.0, 4.0, 2.5], [2.0, -1.0, 0.0]
    together = [(b + d) / 2 for b, d in zip(bass, drums, strict=True)]
    assert half_width([column(*bass), column(*drums)]) == pytest.approx(half_width([column(*together)]))


def test_a_track_of_many_windows_counts_as_one_track():
    same = half_width([column(1.0, 3.0)])
    assert half_width([column(1.0, 3.0, weights=[100.0, 100.0])]) == pytest.approx(same)
    heavy = half_width([column(0.0, 1.0, 2.0, weights=[1.0, 98.0, 1.0])])
    assert heavy < half_width([column(0.0, 1.0, 2.0)])  # nearly all is known of the middle one


def test_the_interval_covers_what_it_says():
    """Tracks of random lengths, two stems that share half of their variation, some missing."""
    rng, held, draws = np.random.default_rng(0), 0, 2000
    for _ in range(draws):
        weights = rng.integers(5, 30, 20).astype(float)
        common = rng.standard_normal(20)
        columns = []
        for there in (20, 14):
            values = common + rng.standard_normal(20)
            columns.append({k: (values[k], weights[k]) for k in range(there)})
        means = [sum(v * w for v, w in c.values()) / sum(w for _, w in c.values()) for c in columns]
        held += abs(np.mean(means)) <= half_width(columns)
    assert 0.93 < held / draws < 0.97


def test_undefined():
    for columns in ([], [column(1.0)], [column(1.0, 2.0), column(1.0)], [column(1.0, math.inf)]):
        assert math.isnan(half_width(columns))
