"""Rates: streaming equals one-shot, exact lengths, nothing moves in time."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.sound.resample import Resampler, frames_at, resampled
from tests.sounds import music

PAIRS = [
    (44100, 48000), (48000, 44100), (8000, 44100), (44100, 8000), (11025, 44100), (192000, 44100),
    (44100, 192000), (96000, 44100), (44056, 44100), (16000, 48000), (48000, 16000),
]  # fmt: skip


def cut(x, size):
    return [x[:, i : i + size] for i in range(0, x.shape[1], size)]


def whole(x, a, b, size=65536, frames=None):
    out = list(resampled(cut(x, size), a, b, x.shape[0], frames=frames))
    return np.concatenate(out, axis=1) if out else np.zeros((x.shape[0], 0), np.float32)


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("frames", [1, 2, 7, 1000, 44100, 100003])
def test_streaming_equals_one_shot(a, b, frames):
    x = music(frames)
    y = whole(x, a, b, 4099)
    reference = soxr.resample(x.T.copy(), a, b, "VHQ").T  # soxr 0.5 takes frames one behind another only
    assert y.shape[1] == frames_at(frames, a, b) >= frames * b / a
    assert 0 <= y.shape[1] - reference.shape[1] <= 1  # soxr rounds to nearest, we round up
    assert np.array_equal(y[:, : reference.shape[1]], reference)


@settings(max_examples=40)
@given(
    frames=st.integers(1, 20000),
    rates=st.sampled_from(PAIRS),
    sizes=st.lists(st.integers(0, 7000), min_size=1, max_size=5),
    channels=st.integers(1, 3),
)
def test_the_blocks_never_show(frames, rates, sizes, channels):
    x = music(frames, channels)
    blocks, at = [], 0
    while at < frames:
        for size in sizes:
            blocks.append(x[:, at : at + size])
            at += size
        at += 0 if any(sizes) else frames
        if not any(sizes):
            blocks.append(x)
    y = np.concatenate(list(resampled(blocks, *rates, channels)), axis=1)
    assert np.array_equal(y, whole(x, *rates))


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 147, 160, 1000, 44099, 44101])
def test_there_and_back_gives_exactly_the_frames(a, b, frames):
    x = music(frames, samplerate=a, noise=0)  # tones up to 2 kHz: inside every band here
    back = whole(whole(x, a, b), b, a, frames=frames)
    assert back.shape == x.shape
    if frames > 40000:  # the ends, where silence is assumed beyond, aside
        inner = slice(2000, -2000)
        assert np.abs(back - x)[:, inner].max() < 2e-6


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_an_impulse_stays_in_place(a, b):
    x = np.zeros((1, a), np.float32)
    x[0, a // 2] = 1
    y = whole(x, a, b)
    at = a // 2 / a * b
    window = np.arange(y.shape[1])
    energy = y[0].astype(np.float64) ** 2
    assert abs((energy * window).sum() / energy.sum() - at) < 0.01


def test_it_is_torchaudios_resampling_within_the_band():
    """Another implementation of the same ideal: a windowed sinc as long as soxr's."""
    import torch
    import torchaudio.functional

    x = music(44100)
    theirs = torchaudio.functional.resample(
        torch.from_numpy(x), 44100, 48000, lowpass_filter_width=256, rolloff=0.98
    ).numpy()
    ours = whole(x, 44100, 48000)
    assert ours.shape == theirs.shape
    inner = slice(2000, -2000)
    difference = np.abs(ours - theirs)[:, inner]
    assert np.sqrt((difference**2).mean()) < 3e-3  # the noise in the two transition bands
    low = music(44100, noise=0)
    theirs = torchaudio.functional.resample(
        torch.from_numpy(low), 44100, 48000, lowpass_filter_width=256, rolloff=0.98
    ).numpy()
    assert np.abs(whole(low, 44100, 48000) - theirs)[:, inner].max() < 1e-4


def test_equal_rates_pass_through_without_a_copy():
    x = music(1000)
    resampler = Resampler(44100, 44100, 2)
    assert resampler.process(x) is x
    assert resampler.flush().shape == (2, 0)
    out = list(resampled([x], 44100, 44100, 2))
    assert len(out) == 1 and np.shares_memory(out[0], x)


def test_an_empty_stream_stays_empty():
    assert whole(np.zeros((2, 0), np.float32), 44100, 48000).shape == (2, 0)


def test_a_length_that_the_stream_does_not_have_is_a_mistake():
    with pytest.raises(AssertionError):
        whole(music(1000), 44100, 48000, frames=2000)


def test_fewer_frames_crop():
    x = music(5000)
    assert np.array_equal(whole(x, 44100, 48000, frames=100), whole(x, 44100, 48000)[:, :100])
