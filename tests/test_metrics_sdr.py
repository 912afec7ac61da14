"""SDRs from running sums: equal to museval and to the plain formulas, for any way of cutting into blocks."""

from __future__ import annotations

import numpy as np
import pytest

from sepcli.metrics.sdr import USDR_DELTA, Sums, frame_samples
from tests.needs import package

RATE = 800  # Hz; a frame is a second


def music(rng, stems=3, channels=2, samples=RATE * 5 + 333):
    """References of different levels with a common part, and estimates that leak and are off."""
    references = rng.standard_normal((stems, channels, samples)) * rng.uniform(0.05, 1, (stems, 1, 1))
    references += 0.2 * rng.standard_normal((1, channels, samples))
    estimates = references + 0.3 * references[::-1] + 0.1 * rng.standard_normal(references.shape)
    return references, estimates


def sums(references, estimates, cuts=()):
    found = Sums(references.shape[0], references.shape[1], RATE)
    for a, b in zip([0, *cuts], [*cuts, references.shape[-1]], strict=True):
        found.add(references[..., a:b], estimates[..., a:b])
    return found


def museval_sdr(references, estimates, taps=4):
    """By museval itself; its SDR does not depend on the length of its filters, its time does."""
    metrics = package("museval").metrics
    sdr, *_ = metrics.bss_eval(
        references.transpose(0, 2, 1), estimates.transpose(0, 2, 1), window=RATE, hop=RATE, filters_len=taps
    )
    return sdr


def test_a_frame_is_a_second_cut_to_whole_samples():
    assert frame_samples(44100) == 44100 and frame_samples(44100, 0.50001) == 22050


@pytest.mark.parametrize("samples", [RATE * 5 + 333, RATE * 3, RATE - 1, RATE, RATE + 1])
@pytest.mark.parametrize("channels", [1, 2])
def test_museval_sdr_is_musevals(samples, channels):
    references, estimates = music(np.random.default_rng(0), channels=channels, samples=samples)
    ours, theirs = sums(references, estimates).museval_sdr(), museval_sdr(references, estimates)
    assert ours.shape == theirs.shape == (3, max(samples // RATE, 1))  # the tail is no frame, unless it is all
    assert np.abs(ours - theirs).max() < 1e-9


def test_museval_sdr_is_that_of_musevals_own_settings():
    """512 taps, by the function that museval's users call."""
    museval = package("museval")
    references, estimates = music(np.random.default_rng(13), stems=2, channels=1)
    swapped = [signal.transpose(0, 2, 1) for signal in (references, estimates)]
    theirs, *_ = museval.evaluate(*swapped, win=RATE, hop=RATE)
    assert np.abs(sums(references, estimates).museval_sdr() - theirs).max() < 1e-9


@pytest.mark.parametrize("silence", ["zeros", "anti-phase"])
@pytest.mark.parametrize("whose", ["reference", "estimate"])
def test_a_frame_with_silence_is_undefined_for_all_stems_as_in_museval(silence, whose):
    references, estimates = music(np.random.default_rng(1))
    signal = references if whose == "reference" else estimates
    frame = slice(2 * RATE, 3 * RATE)
    signal[1, :, frame] = 0.0
    if silence == "anti-phase":
        signal[1, :, frame] = np.array([[1.0], [-1.0]]) * np.sin(np.arange(RATE))
    signal[1, :, RATE : 2 * RATE - 1] = 0  # all but one sample: not silent
    found = sums(references, estimates)
    ours, theirs = found.museval_sdr(), museval_sdr(references, estimates)
    assert np.isnan(ours).all(axis=0).tolist() == [False, False, True, False, False]
    assert found.silent_frames().tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert np.nanmax(np.abs(ours - theirs)) < 1e-9


def test_silence_throughout_is_undefined_where_museval_refuses():
    references, estimates = music(np.random.default_rng(2))
    estimates[0] = 0
    assert np.isnan(sums(references, estimates).museval_sdr()).all()
    with pytest.raises(ValueError, match="silent"):
        museval_sdr(references, estimates)


def test_no_error_is_infinite():
    references, estimates = music(np.random.default_rng(3))
    estimates[1] = references[1]
    found = sums(references, estimates)
    assert np.isposinf(found.museval_sdr()[1]).all() and np.isfinite(found.museval_sdr()[[0, 2]]).all()
    assert np.isposinf(found.si_sdr()[1])
    assert museval_sdr(references, estimates)[1].min() > 250  # its projections leave rounding


def test_float32_input_is_summed_in_float64():
    references, estimates = (signal.astype(np.float32) for signal in music(np.random.default_rng(4)))
    exact = museval_sdr(references.astype(np.float64), estimates.astype(np.float64))
    assert np.abs(sums(references, estimates).museval_sdr() - exact).max() < 1e-9


def test_blocks_do_not_matter():
    references, estimates = music(np.random.default_rng(5))
    estimates[1, :, RATE : 2 * RATE] = 0
    whole = sums(references, estimates)
    for cuts in ([1, 2, 3], [RATE - 1, RATE, RATE + 1, 4 * RATE], [700, 700, 4100], range(7, 4000, 131)):
        parts = sums(references, estimates, [*cuts])
        assert parts.samples == whole.samples
        for ask in (Sums.museval_sdr, Sums.usdr, Sums.si_sdr, lambda each: each.si_sdr(zero_mean=True)):
            np.testing.assert_allclose(ask(parts), ask(whole), rtol=0, atol=1e-9)


def test_usdr_is_one_ratio_over_track_and_channels():
    references, estimates = music(np.random.default_rng(6))
    error = ((references - estimates) ** 2).sum(axis=(1, 2))
    energy = (references**2).sum(axis=(1, 2))
    expected = 10 * np.log10((energy + USDR_DELTA) / (error + USDR_DELTA))
    np.testing.assert_allclose(sums(references, estimates).usdr(), expected, rtol=0, atol=1e-10)


def test_usdr_of_silence_is_0_and_of_a_perfect_estimate_finite():
    references, _ = music(np.random.default_rng(7))
    np.testing.assert_allclose(sums(references, 0 * references).usdr(), 0, atol=1e-12)
    perfect = 10 * np.log10((references**2).sum(axis=(1, 2)) / USDR_DELTA + 1)
    np.testing.assert_allclose(sums(references, references).usdr(), perfect, atol=1e-9)
    assert sums(0 * references, 0 * references).usdr().tolist() == [0, 0, 0]


@pytest.mark.parametrize("zero_mean", [False, True])
def test_si_sdr_is_the_formula(zero_mean):
    references, estimates = music(np.random.default_rng(8))
    references, estimates = references + 0.3, estimates - 0.2  # offsets, so that their removal shows
    s, h = references, estimates
    if zero_mean:
        s, h = (signal - signal.mean(axis=-1, keepdims=True) for signal in (s, h))
    expected = []
    for k in range(len(s)):
        target = (h[k] * s[k]).sum() / (s[k] ** 2).sum() * s[k]
        expected.append(10 * np.log10((target**2).sum() / ((target - h[k]) ** 2).sum()))
    found = sums(references, estimates).si_sdr(zero_mean=zero_mean)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_si_sdr_is_blind_to_gain_and_polarity_and_undefined_for_silence():
    references, estimates = music(np.random.default_rng(9))
    expected = sums(references, estimates).si_sdr()
    for gain in (0.01, -3.0):
        np.testing.assert_allclose(sums(references, gain * estimates).si_sdr(), expected, rtol=0, atol=1e-8)
    assert np.isnan(sums(references, 0 * estimates).si_sdr()).all()
    assert np.isnan(sums(0 * references, estimates).si_sdr()).all()


def test_si_sdr_is_precise_for_small_errors():
    references, _ = music(np.random.default_rng(10))
    noise = np.random.default_rng(11).standard_normal(references.shape)
    noise -= (
        references
        * (noise * references).sum(axis=(1, 2), keepdims=True)
        / (references**2).sum(axis=(1, 2), keepdims=True)
    )
    estimates = references + 1e-6 * noise
    e = estimates - references  # with the rounding of the addition
    expected = 10 * np.log10((references**2).sum(axis=(1, 2)) / (e**2).sum(axis=(1, 2)))
    np.testing.assert_allclose(sums(references, estimates).si_sdr(), expected, rtol=0, atol=1e-5)


def test_a_delay_is_judged_very_differently():
    """Why the metric's name is always printed: 37 samples late is nothing to the ear."""
    rng = np.random.default_rng(12)
    signal = rng.standard_normal((1, 1, RATE * 4))
    late = np.roll(signal, 37, axis=-1)
    found = sums(signal, late)
    assert found.usdr()[0] == pytest.approx(-3, abs=0.5) and found.si_sdr()[0] < -20
