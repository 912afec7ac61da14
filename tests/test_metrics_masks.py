"""Oracle masks: the transform is scipy's, a stream gives what one piece gives, and masks do what they say."""

from __future__ import annotations

import numpy as np
import pytest

from sepcli.metrics.masks import HOP, ORACLES, SIZE, Istft, Stft, Wiener, learn, make_mask, masked
from sepcli.metrics.sdr import Sums
from tests.needs import package

SAMPLES = 3 * SIZE + 517


def stems(rng, count=3, channels=2, samples=SAMPLES):
    """Coloured, panned differently and not always there."""
    out = np.empty((count, channels, samples))
    for k in range(count):
        tone = np.convolve(rng.standard_normal(samples), np.cos(np.arange(30) * (0.2 + 0.9 * k)))[:samples]
        tone[: k * samples // 4] = 0
        pan = rng.uniform(0.2, 1, (channels, 1))
        out[k] = pan * tone + 0.05 * rng.standard_normal((channels, samples))
    return out


def estimates(name, sources, mix=None, block=None):
    mix = sources.sum(axis=0) if mix is None else mix
    both, samples = np.concatenate([mix[None], sources]), mix.shape[-1]
    blocks = [both[..., a : a + (block or samples)] for a in range(0, samples, block or samples)]
    mask = make_mask(name)
    if isinstance(mask, Wiener):
        learn(mask, (part[1:] for part in blocks))
    return np.concatenate(list(masked(mask, blocks, samples)), axis=-1)


@pytest.mark.parametrize("samples", [SAMPLES, SIZE, SIZE + 1, 4 * HOP, 4 * HOP - 1])
@pytest.mark.parametrize("block", [100, HOP, SIZE + 3, 10**6])
def test_the_transform_is_scipys(samples, block):
    signal = package("scipy", "signal").signal
    wave = np.random.default_rng(0).standard_normal((2, samples))
    transform, back = Stft(), Istft()
    specs = [transform.process(wave[:, a : a + block]) for a in range(0, samples, block)] + [transform.flush()]
    expected = signal.stft(wave, nperseg=SIZE)[-1]
    np.testing.assert_allclose(np.concatenate(specs, axis=-1), expected, rtol=0, atol=1e-14)
    waves = np.concatenate([back.process(spec) for spec in specs], axis=-1)
    assert waves.shape[-1] >= samples
    np.testing.assert_allclose(waves[:, :samples], wave, rtol=0, atol=1e-12)


def test_a_mix_shorter_than_a_window_comes_back():
    sources = stems(np.random.default_rng(1), samples=37)
    np.testing.assert_allclose(estimates("irm2", sources).sum(axis=0), sources.sum(axis=0), atol=1e-9)


@pytest.mark.parametrize("name", ORACLES)
def test_blocks_do_not_matter(name):
    sources = stems(np.random.default_rng(2))
    whole = estimates(name, sources)
    assert whole.shape == sources.shape
    for block in (999, SIZE):
        np.testing.assert_allclose(estimates(name, sources, block=block), whole, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["irm1", "irm2", "mwf"])
def test_soft_masks_share_the_mix_out(name):
    sources = stems(np.random.default_rng(3))
    mix = sources.sum(axis=0) + 0.1 * np.random.default_rng(4).standard_normal(sources.shape[1:])
    np.testing.assert_allclose(estimates(name, sources, mix).sum(axis=0), mix, rtol=0, atol=1e-6)


def test_ratio_masks_are_the_formula():
    signal = package("scipy", "signal").signal
    sources = stems(np.random.default_rng(5))
    mix = sources.sum(axis=0)
    X, Y = signal.stft(mix, nperseg=SIZE)[-1], signal.stft(sources, nperseg=SIZE)[-1]
    for name, power in {"irm1": 1, "irm2": 2}.items():
        weight = np.abs(Y) ** power
        expected = signal.istft(X * weight / (weight.sum(axis=0) + 2.22e-16))[1][..., :SAMPLES]
        np.testing.assert_allclose(estimates(name, sources), expected, rtol=0, atol=1e-9)


def test_the_binary_mask_gives_a_bin_to_whoever_has_more_than_half_of_it():
    signal = package("scipy", "signal").signal
    sources = stems(np.random.default_rng(6))
    X, Y = signal.stft(sources.sum(axis=0), nperseg=SIZE)[-1], signal.stft(sources, nperseg=SIZE)[-1]
    expected = signal.istft(np.where(np.abs(Y) > np.abs(X) / 2, X, 0))[1][..., :SAMPLES]
    np.testing.assert_allclose(estimates("ibm", sources), expected, rtol=0, atol=1e-9)


def test_the_wiener_filter_is_the_formula_bin_by_bin():
    sources = stems(np.random.default_rng(7))
    transform = Stft()
    Y = np.concatenate([transform.process(sources), transform.flush()], axis=-1)  # [S, C, F, N]
    X = Y.sum(axis=0) * np.exp(0.3j)
    mask = Wiener()
    mask.learn(Y)
    found = mask(X, Y)
    bins, frames, count = Y.shape[2], Y.shape[3], len(Y)
    for f in range(0, bins, 97):
        R = []
        for j in range(count):
            outer = [np.outer(y, y.conj()) / (np.mean(np.abs(y) ** 2) + 2.22e-16) for y in Y[j, :, f].T]
            mean = np.mean(outer, axis=0)
            R.append(mean * 2 / np.trace(mean).real + 1e-10 * np.eye(2))
        for n in range(frames):
            P = [(Y[j, :, f, n].conj() @ np.linalg.inv(R[j]) @ Y[j, :, f, n]).real / 2 for j in range(count)]
            whole = sum(P[j] * R[j] for j in range(count))
            for j in range(count):
                expected = P[j] * R[j] @ np.linalg.inv(whole) @ X[:, f, n]
                np.testing.assert_allclose(found[j, :, f, n], expected, rtol=1e-5, atol=1e-9)


def test_the_wiener_filter_of_mono_is_the_ratio_mask_of_powers():
    sources = stems(np.random.default_rng(8), channels=1)
    np.testing.assert_allclose(estimates("mwf", sources), estimates("irm2", sources), rtol=0, atol=1e-6)


def test_the_wiener_filter_tells_stems_apart_by_where_they_stand():
    """Where spectra agree, masks of single channels are lost; the filter goes by level between channels."""
    rng = np.random.default_rng(9)
    pans = np.array([[[1.0], [0.5]], [[0.5], [1.0]]])
    sources = pans * rng.standard_normal((2, 1, SAMPLES))
    scores = {}
    for name in ("irm2", "mwf"):
        sums = Sums(2, 2, SAMPLES)
        sums.add(sources, estimates(name, sources))
        scores[name] = sums.usdr().min()
    assert scores["mwf"] > scores["irm2"] + 10


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_silence_and_any_number_of_channels(name, channels):
    sources = stems(np.random.default_rng(10), channels=channels)
    sources[1] = 0
    found = estimates(name, sources)
    assert np.isfinite(found).all() and np.abs(found[1]).max() < 1e-6
    assert np.isfinite(estimates(name, 0 * sources)).all()
