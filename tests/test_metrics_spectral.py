"""Distances of spectra: laws, and what librosa and torchaudio say of the transform and the mel filters."""

from __future__ import annotations

import numpy as np
import pytest
import torchaudio.functional

from sepcli.metrics import spectral
from sepcli.metrics.spectral import HOP, SIZE, Distance, Stretches, mel_bank, power_frames
from tests.needs import package

RATE = 16000


def noise(*shape, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(shape)


def distance(reference, estimate, lengths=()):
    """LSD of [S, C, T], given in blocks of these lengths."""
    sums = Distance(len(reference))
    cuts = np.cumsum(lengths).astype(int)
    for s, h in zip(np.split(reference, cuts, axis=-1), np.split(estimate, cuts, axis=-1), strict=True):
        sums.add(s, h)
    return sums.result()


def frames(wave):
    """[..., T] -> [..., 1 + T // 512, F], all at once."""
    return power_frames(np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(SIZE // 2, SIZE // 2)]))


# --- laws ---


def test_identical_signals_have_no_distance():
    s = noise(2, 2, 20000)
    np.testing.assert_array_equal(distance(s, s), 0)
    power = frames(s)
    assert not spectral.mel_error_frames(power, power, mel_bank(RATE)).any()


@pytest.mark.parametrize("gain", [2.0, 0.5, -10.0])
def test_a_gain_is_its_logarithm(gain):
    s = noise(1, 1, 20000)
    assert distance(s, gain * s)[0] == pytest.approx(2 * abs(np.log10(abs(gain))), rel=1e-9)
    error = spectral.mel_error_frames(frames(s), frames(gain * s), mel_bank(RATE))
    np.testing.assert_allclose(error, 20 * abs(np.log10(abs(gain))), rtol=1e-9)
    assert 20 * np.log10(2) == pytest.approx(6.0206, abs=1e-5)  # 6.02 dB are an LSD of 0.602


def test_phases_do_not_matter_and_other_noise_does():
    s = noise(1, 1, 40000)
    assert distance(s, -s)[0] == 0
    # log10 of Gaussian noise's power deviates by pi / sqrt(6) / ln 10, the difference of two by sqrt(2) more.
    expected = np.pi / 3**0.5 / np.log(10)
    assert distance(s, noise(1, 1, 40000, seed=1))[0] == pytest.approx(expected, rel=0.02)


def test_blocks_of_any_length_give_what_the_whole_gives():
    s, h = noise(3, 2, 70001), noise(3, 2, 70001, seed=1)
    whole = spectral.distance_frames(frames(s), frames(h)).mean(axis=(1, 2))
    for lengths in ((), [1, 5000, 3], [64 * HOP, 64 * HOP], [HOP] * 130, [33000, 33000]):
        np.testing.assert_allclose(distance(s, h, lengths), whole, rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 511, 512, 2048, 5000, 64 * HOP - 1, 64 * HOP, 64 * HOP + 1])
def test_every_length_has_its_frames(samples):
    s = noise(1, samples)
    stretches = Stretches(64 * HOP, SIZE // 2)
    pieces = [*stretches.add(s), *stretches.end()]
    found = np.concatenate([stretches.power(piece) for piece in pieces], axis=-2)
    np.testing.assert_allclose(found, frames(s), atol=1e-12)
    assert found.shape == (1, 1 + samples // HOP, SIZE // 2 + 1)


def test_frames_in_which_the_reference_is_silent_are_left_out():
    s, h = noise(2, 2, 60000), noise(2, 2, 60000, seed=1)
    s[0, :, 30000:] *= 1e-4  # -100 dBFS: below what counts
    s[1] = 0
    found = distance(s, h)
    assert found[0] == pytest.approx(distance(s[:1, :, :30000], h[:1, :, :30000])[0], rel=0.1)
    assert np.isnan(found[1])


def test_silence_is_finite_and_what_nobody_hears_is_silence():
    s = noise(1, 1, 20000)
    found = distance(s, 0 * s)[0]
    assert 2 < found < 15
    assert distance(s, 1e-9 * noise(1, 1, 20000, seed=1))[0] == pytest.approx(found)


def test_a_sine_of_minus_sixty_decibels_is_where_sound_begins():
    t = np.arange(20000) / RATE
    for level, heard in ((1.01e-3, True), (0.99e-3, False)):
        sine = level * 2**0.5 * np.sin(2 * np.pi * 1000 * t)
        assert spectral.sounding(power_frames(sine[None])).all() == heard


# --- librosa and torchaudio ---


@pytest.mark.slow  # numba compiles librosa
def test_the_transform_is_librosas():
    librosa = package("librosa")
    wave = noise(20000)
    theirs = np.abs(librosa.stft(wave, n_fft=SIZE, hop_length=HOP, pad_mode="constant")).T ** 2
    np.testing.assert_allclose(frames(wave), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rate", [1600, 8000, 22050, 44100, 48000, 96000])
def test_the_mel_filters_are_librosas(rate):
    librosa = package("librosa")
    theirs = librosa.filters.mel(sr=rate, n_fft=SIZE, n_mels=spectral.MELS, norm=None, dtype=np.float64).T
    np.testing.assert_allclose(mel_bank(rate), theirs, atol=1e-9)
    assert (mel_bank(rate).max(axis=0) > 0).all()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_mel_filters_are_torchaudios_to_its_single_precision(rate):
    theirs = torchaudio.functional.melscale_fbanks(
        SIZE // 2 + 1, 0.0, rate / 2, spectral.MELS, rate, norm=None, mel_scale="slaney"
    )
    np.testing.assert_allclose(mel_bank(rate), theirs, atol=3e-5)  # its frequencies are float32: 1.3e-5 apart
