"""Rates and channels: streaming equals one-shot, exact lengths, nothing moves in time."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.errors import InputError
from sepcli.sound.resample import ChannelMap, Resampler, frames_at, resampled
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
    reference = soxr.resample(x.T, a, b, "VHQ").T
    assert y.shape[1] == frames_at(frames, a, b) >= frames * b / a
    assert 0 <= y.shape[1] - reference.shape[1] <= 1  # soxr rounds to nearest, we round up
    assert np.array_equal(y[:, : reference.shape[1]], reference)


@settings(max_examples=40, deadline=None)
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


# Channels


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("model", [1, 2])
def test_join_undoes_split(channels, model):
    x = music(100, channels)
    channel_map = ChannelMap(channels, model)
    split = channel_map.split(x)
    assert split.shape == (channel_map.groups, model, 100) and split.dtype == np.float32
    stems = np.stack([split, 2 * split])
    joined = channel_map.join(stems)
    assert joined.shape == (2, channels, 100)
    assert np.array_equal(joined, np.stack([x, 2 * x]))  # the mean of two equal floats is exact


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (7, 5), (8, 5)]
)
def test_the_groups_of_a_stereo_model(channels, groups):
    assert ChannelMap(channels, 2).groups == groups
    assert ChannelMap(channels, 1).groups == channels


def test_the_pairs_of_5_1():
    x = np.arange(6, dtype=np.float32)[:, None]
    assert ChannelMap(6, 2).split(x)[..., 0].tolist() == [[0, 1], [2, 2], [3, 3], [4, 5]]


def test_mono_through_a_stereo_model_is_the_mean_of_both_sides():
    stems = np.array([[[[1.0], [3.0]]]], np.float32)
    assert ChannelMap(1, 2).join(stems).tolist() == [[[2.0]]]


def test_the_plain_cases_cost_no_copy():
    x = music(10)
    assert np.shares_memory(ChannelMap(2, 2).split(x), x)
    stems = np.zeros((4, 1, 2, 10), np.float32)
    assert np.shares_memory(ChannelMap(2, 2).join(stems), stems)


@pytest.mark.parametrize("channels", [9, 16])
def test_more_than_eight_channels_are_refused(channels):
    with pytest.raises(InputError, match="up to 8") as caught:
        ChannelMap(channels, 2)
    assert caught.value.code == "channels" and caught.value.remedy
