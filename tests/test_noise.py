import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.engine.noise import Noise


def one(start, length, seed=1, draw=0, source="vocals", group=0):
    return Noise(seed, [start], [group]).normal(draw, source, 2, length)[0]


@given(a=st.integers(-1000, 1000), offset=st.integers(0, 50), length=st.integers(1, 60))
@settings(max_examples=100)
def test_overlapping_windows_see_the_same_noise(a, offset, length):
    whole = one(a, offset + length)
    assert torch.equal(whole[:, offset:], one(a + offset, length))


def test_a_window_that_begins_anywhere_in_a_long_one():
    """Drawn in blocks, whose ends must not show: two normals come of a word, four words of a step."""
    whole = one(0, 3 * 65536)
    for offset in (1, 2, 3, 5, 8, 65535, 65537, 100_001):
        for length in (1, 7, 65536 + 3):
            assert torch.equal(whole[:, offset : offset + length], one(offset, length)), (offset, length)


def test_a_batch_equals_its_items():
    batch = Noise(3, [0, 500, -7], [0, 1, 0]).normal(2, "bass", 2, 100)
    for i, (start, group) in enumerate([(0, 0), (500, 1), (-7, 0)]):
        assert torch.equal(batch[i], one(start, 100, seed=3, draw=2, source="bass", group=group))


def test_every_part_of_the_key_matters():
    base = one(0, 1000)
    for change in ({"seed": 2}, {"draw": 1}, {"source": "bass"}, {"group": 1}):
        other = one(0, 1000, **change)
        assert abs(torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]) < 0.1
    assert abs(torch.corrcoef(base)[0, 1]) < 0.1


def test_it_is_standard_normal():
    x = one(0, 200_000).double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
    assert torch.isfinite(x).all()
    flat = x.flatten()
    shares = [(flat < bound).double().mean().item() for bound in (-2, -1, 0, 1, 2)]
    assert shares == pytest.approx([0.02275, 0.15866, 0.5, 0.84134, 0.97725], abs=0.003)


def test_neighbours_know_nothing_of_each_other():
    """Two come of one word, by its halves."""
    x = one(0, 200_000)[0].double()
    for step in (1, 2, 4, 8):
        for power in (1, 2):
            pair = torch.stack([x[:-step:2] ** power, x[step::2][: len(x[:-step:2])] ** power])
            assert abs(torch.corrcoef(pair)[0, 1]) < 0.015, (step, power)
