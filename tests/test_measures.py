"""The levels of stems: equal to what published programs measure, and independent of how the stem is cut."""

from __future__ import annotations

import numpy as np
import pytest

from sepcli.sound.measures import StemLevels, StemMeter
from tests.needs import package

pyloudnorm = package("pyloudnorm")


def levels(wave, samplerate, layout=(), block=30011) -> StemLevels:
    """wave: [C, T]"""
    meter = StemMeter(samplerate, len(wave), layout)
    for start in range(0, wave.shape[1], block):
        meter.add(wave[:, start : start + block])
    return meter.levels()


def noise(channels, frames, low=0.2, high=0.2, seed=0):
    """Every other quarter is at another level."""
    quarters = np.arange(frames) * 4 // max(frames, 1) % 2
    sound = np.random.default_rng(seed).standard_normal((channels, frames))
    return (sound * np.where(quarters, low, high)).astype(np.float32)


def sine(hertz, samplerate, seconds, peak=1.0, channels=1):
    wave = peak * np.sin(2 * np.pi * hertz * np.arange(int(samplerate * seconds)) / samplerate)
    return np.repeat(wave[None], channels, axis=0).astype(np.float32)


@pytest.mark.parametrize("samplerate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels, low", [(1, 0.2), (2, 0.01), (2, 1e-5), (5, 0.05)])
def test_loudness_is_that_of_another_program_with_both_gates(samplerate, channels, low):
    wave = noise(channels, samplerate * 4, low)
    layout = ("FL", "FR", "FC", "SL", "SR") if channels == 5 else ()
    # 0.01 dB: FFmpeg sorts the blocks into steps of that size, and each is rounded down.
    other = pyloudnorm.Meter(samplerate, filter_class="DeMan").integrated_loudness(wave.T.astype(np.float64))
    assert levels(wave, samplerate, layout).lufs == pytest.approx(other, abs=0.015)


def test_a_full_scale_tone_is_as_loud_as_the_recommendation_says():
    """BS.1770-4, Annex 1: 0 dBFS at 997 Hz in one of left, centre and right gives -3.01 LKFS."""
    found = levels(sine(997, 48000, 3), 48000)
    assert found.lufs == pytest.approx(-3.01, abs=0.02)
    assert (found.peak_dbfs, found.rms_dbfs) == (pytest.approx(0, abs=1e-3), pytest.approx(-3.0103, abs=1e-3))


@pytest.mark.parametrize(
    "layout, heard",
    [
        (("FL", "FR", "FC", "LFE", "BL", "BR"), [1, 1, 1, 0, 1.41, 1.41]),
        (("FL", "FR", "FC", "LFE", "SL", "SR"), [1, 1, 1, 0, 1.41, 1.41]),
        (("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), [1, 1, 1, 0, 1, 1, 1.41, 1.41]),
        ((), [1, 1, 1, 1, 1, 1]),
    ],
)
def test_channels_weigh_what_the_recommendation_gives_them(layout, heard):
    tone = sine(997, 48000, 1, 0.25)
    alone = levels(tone, 48000).lufs
    for channel, weight in enumerate(heard):
        wave = np.zeros((len(heard), tone.shape[1]), np.float32)
        wave[channel] = tone
        found = levels(wave, 48000, layout).lufs
        if weight == 0:
            assert found is None
        else:
            assert found == pytest.approx(alone + 10 * np.log10(weight), abs=0.02)


@pytest.mark.parametrize("samplerate, frames", [(44100, 100003), (1000, 777), (44100, 1), (8000, 801)])
def test_blocks_of_any_size_give_the_same(samplerate, frames):
    wave = noise(2, frames, low=1e-4)
    whole = levels(wave, samplerate, block=frames)
    for block in (1 if frames < 1000 else 401, 4410, 65537):
        found = levels(wave, samplerate, block=block)
        assert found.lufs == whole.lufs
        for name in ("peak_dbfs", "rms_dbfs", "silence"):
            assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-9)


def test_peak_and_rms_are_those_of_all_channels():
    wave = noise(3, 5000)
    found = levels(wave, 44100)
    assert found.peak_dbfs == pytest.approx(20 * np.log10(np.abs(wave).max()))
    assert found.rms_dbfs == pytest.approx(10 * np.log10((wave.astype(np.float64) ** 2).mean()))


def test_silence_is_a_share_of_time():
    loud, soft = noise(2, 4410, 0.1, 0.1), noise(2, 4410, 9e-4, 9e-4)
    assert levels(loud, 44100).silence == 0
    wave = np.concatenate([loud, soft, soft, soft[:, :441]], axis=1)  # the last window is a tenth of one
    assert levels(wave, 44100).silence == pytest.approx(2.1 / 3.1)
    assert levels(soft, 44100).silent and not levels(wave, 44100).silent
    assert not levels(noise(2, 4410, 1.2e-3, 1.2e-3), 44100).silence  # -58.4 dBFS is heard


def test_nothing_is_silent_and_json_has_no_infinity():
    found = levels(np.zeros((2, 44100), np.float32), 44100)
    assert found == StemLevels(None, None, None, 1.0) and found.silent
    assert found.as_json() == {"peak_dbfs": None, "rms_dbfs": None, "lufs": None, "silence": 1.0}
    nearly = StemLevels(-3.0, -20.123, -18.987, 1 - 1e-9)
    assert nearly.as_json() == {"peak_dbfs": -3.0, "rms_dbfs": -20.12, "lufs": -18.99, "silence": 0.9999}


def test_a_sound_shorter_than_a_block_has_no_loudness():
    assert levels(noise(2, 17000), 44100).lufs is None
    assert levels(noise(2, 18000), 44100).lufs is not None
    assert levels(noise(2, 3000), 1000).lufs is None  # the filter does not exist at this rate
