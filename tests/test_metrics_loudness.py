"""Loudness by what the recommendation says of tones, and by what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sepcli.metrics.loudness import k_filter, loudness


def tone(hertz, level, *, samplerate=48000, seconds=5.0, channels=1):
    """A sine whose peaks are at `level` dBFS."""
    time = np.arange(round(seconds * samplerate)) / samplerate
    return np.tile(10 ** (level / 20) * np.sin(2 * math.pi * hertz * time), (channels, 1))


@pytest.mark.parametrize("samplerate", [44100, 48000, 96000])
def test_full_scale_in_one_channel_is_3_below(samplerate):
    """BS.1770, annex 1: a sine of 997 Hz at 0 dBFS in left or right reads -3.01."""
    assert loudness(tone(997, 0.0, samplerate=samplerate), samplerate) == pytest.approx(-3.01, abs=0.02)


def test_channels_add_up_and_gains_are_decibels():
    one, two = tone(500, -20.0), tone(500, -20.0, channels=2)
    assert loudness(two, 48000) == pytest.approx(loudness(one, 48000) + 10 * math.log10(2))
    assert loudness(two / 2, 48000) == pytest.approx(loudness(two, 48000) - 20 * math.log10(2))


def test_k_at_48_kilohertz_is_the_recommendations():
    z = np.exp(-2j * math.pi * (f := np.linspace(0, 0.5, 50)))
    shelf = np.polyval([1.19839281085285, -2.69169618940638, 1.53512485958697], z)
    shelf = shelf / np.polyval([0.73248077421585, -1.69065929318241, 1], z)
    high_pass = np.polyval([1, -2, 1], z) / np.polyval([0.99007225036621, -1.99004745483398, 1], z)
    assert k_filter(f, 48000) == pytest.approx(shelf * high_pass, abs=1e-10)


@pytest.mark.slow
def test_pauses_and_murmur_do_not_count():
    """EBU Tech 3341, case 3: 10 s at -36, 60 s at -23, 10 s at -36 read -23."""
    parts = [
        tone(1000, level, seconds=seconds, channels=2)
        for level, seconds in [(-36.0, 10), (-23.0, 60), (-36.0, 10)]
    ]
    assert loudness(np.concatenate(parts, axis=1), 48000) == pytest.approx(-23.0, abs=0.1)
    silence = np.zeros((2, 48000 * 20))
    assert loudness(np.concatenate([parts[1], silence], axis=1), 48000) == pytest.approx(-23.0, abs=0.1)


def test_silence_and_less_than_a_block_have_none():
    assert loudness(np.zeros((2, 48000)), 48000) == -math.inf
    assert loudness(tone(997, 0.0, seconds=0.3), 48000) == -math.inf
    assert loudness(tone(997, -80.0), 48000) == -math.inf
