"""Time stretch: another tempo, the same pitch, level and stereo image."""

import numpy as np
import pytest

from sepcli.data.stretch import FADE, PIECE, REACH, stretch
from tests.sounds import music

RATE = 8000
TEMPI = [0.5, 0.8, 0.95, 1.06, 1.12, 1.25, 2.0]


@pytest.mark.parametrize("tempo", TEMPI)
@pytest.mark.parametrize("frames", [10, 500, 16001])
def test_its_length(tempo, frames):
    out = stretch(music(frames, 2, RATE), tempo, RATE)
    assert out.shape == (2, round(frames / tempo)) and out.dtype == np.float32 and np.isfinite(out).all()


def test_at_its_own_tempo_nothing_changes():
    sound = music(RATE, 2, RATE)
    np.testing.assert_array_equal(stretch(sound, 1, RATE), sound)


@pytest.mark.parametrize("tempo", TEMPI)
@pytest.mark.parametrize("hertz", [45, 440, 1234.5])
def test_pitch_and_level_are_kept(tempo, hertz):
    sound = np.sin(2 * np.pi * hertz * np.arange(3 * RATE) / RATE, dtype=np.float32)[None]
    out = stretch(sound, tempo, RATE)[0, RATE // 8 : -RATE // 8]
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out)), 1 << 18))
    assert abs(spectrum.argmax() * RATE / (1 << 18) - hertz) < 0.5
    assert abs((out**2).mean() - 0.5) < 0.02


@pytest.mark.parametrize("tempo", TEMPI)
def test_what_happens_happens_at_its_time(tempo):
    """Bursts of noise, a second apart."""
    noise = np.random.default_rng(0).standard_normal((1, 6 * RATE)).astype(np.float32)
    sound = noise * (np.arange(6 * RATE) % RATE < RATE // 5)
    out = stretch(sound, tempo, RATE)[0]
    loud = np.convolve(out**2, np.ones(200) / 200, "same") > 0.3
    onsets = np.flatnonzero(loud[1:] & ~loud[:-1]) / RATE
    near = PIECE + FADE + REACH
    for second in range(1, 6):
        assert np.abs(onsets - second / tempo).min() < near
    assert abs(loud.mean() - 0.2) < 0.06


@pytest.mark.parametrize("tempo", [0.9, 1.12])
def test_channels_stay_together(tempo):
    left = music(2 * RATE, 1, RATE)
    out = stretch(np.concatenate([left, -0.5 * left]), tempo, RATE)
    np.testing.assert_allclose(out[1], -0.5 * out[0], atol=1e-6)


def test_silence_stays_silent():
    assert not stretch(np.zeros((2, RATE), np.float32), 0.9, RATE).any()
