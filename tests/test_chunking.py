import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.engine.chunking import OverlapAdd, StreamBuffer, plan_chunks, triangle
from sepcli.engine.separator import Segment
from sepcli.errors import UsageError


def chunks_of(plan, length):
    start = 0
    while start < length:
        yield plan.chunk(start, length)
        start += plan.stride


@given(length=st.integers(1, 400), size=st.integers(2, 90), overlap=st.floats(0, 0.9))
@settings(max_examples=200)
def test_identity_in_identity_out(length, size, overlap):
    try:
        plan = plan_chunks(Segment(samples=size), overlap, 100)
    except UsageError:
        return  # an overlap so large that the chunk never advances
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    adder, out = OverlapAdd(plan.size, plan.stride), []
    for chunk in chunks_of(plan, length):
        block = x[:, chunk.start : chunk.start + chunk.length]
        out.append(adder.add(block, last=chunk.start + plan.stride >= length))
    torch.testing.assert_close(torch.cat(out, -1), x, rtol=1e-5, atol=1e-6)


def test_a_quarter_overlap_is_a_linear_crossfade():
    size, stride = 400, 300
    adder = OverlapAdd(size, stride)
    adder.add(torch.zeros(size), last=False)
    fade_in = adder.add(torch.ones(size), last=True)[:100]
    torch.testing.assert_close(fade_in, torch.arange(1, 101) / 101)


def test_triangle_is_symmetric_and_peaks_at_one():
    for size in (1, 2, 7, 10):
        weight = triangle(size)
        assert weight.max() == 1 and weight.min() > 0
        torch.testing.assert_close(weight, weight.flip(0))


def test_a_short_last_chunk_is_centred_in_real_audio():
    plan = plan_chunks(Segment(samples=100), 0.25, 100)
    chunk = plan.chunk(75, 98)  # 23 samples are left, 77 of context
    assert (chunk.length, chunk.feed_length, chunk.feed_start) == (23, 100, 75 - 38)
    assert chunk.trim(torch.arange(100)).tolist() == list(range(38, 61))


def test_a_short_tail_runs_at_its_own_length():
    plan = plan_chunks(Segment(samples=100, tail="short", multiple=10), 0.25, 100)
    assert plan.chunk(75, 98).feed_length == 30


def test_margins_are_fed_and_discarded():
    plan = plan_chunks(Segment(samples=100, exact=True, margin=10), 0.25, 100)
    chunk = plan.chunk(0, None)
    assert (plan.size, plan.stride) == (80, 60)
    assert (chunk.feed_start, chunk.feed_length, chunk.length) == (-10, 100, 80)


def test_a_segment_longer_than_an_exact_model_takes_is_refused():
    with pytest.raises(UsageError, match="at most 7.8 s"):
        plan_chunks(Segment(samples=343980, exact=True), 0.25, 44100, seconds=10)
    assert plan_chunks(Segment(samples=343980, exact=True), 0.25, 44100, seconds=7.8).size == 343980


@given(data=st.data())
@settings(max_examples=100)
def test_a_buffer_reads_what_the_stream_held(data):
    x = torch.arange(1, 60.0)
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=8))
    buffer = StreamBuffer(iter(x[: sum(sizes)].split(sizes)) if sum(sizes) <= 59 else iter(x.split(7)))
    total = min(sum(sizes), 59) if sum(sizes) <= 59 else 59
    low = 0
    for _ in range(5):
        start = data.draw(st.integers(low - 5 if low == 0 else low, total + 5))
        length = data.draw(st.integers(1, 30))
        buffer.reach(max(1, start + length))  # a pipeline reaches 1 before it plans anything
        expected = torch.tensor([x[i] if 0 <= i < total else 0.0 for i in range(start, start + length)])
        assert torch.equal(buffer.read(start, length), expected)
        low = max(low, data.draw(st.integers(0, max(0, start))))
        buffer.forget(low)
