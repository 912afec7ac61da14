"""ISR, SIR and SAR: equal to museval's, and what projections must do."""

from __future__ import annotations

import numpy as np
import pytest

from sepcli.metrics import bsseval
from sepcli.metrics.bsseval import BssEval
from tests.needs import package

RATE = 2000  # Hz; a frame is a second
TAPS = 24


def music(rng, stems=3, channels=2, samples=RATE * 4 + 77):
    """Estimates that are filtered, leak and are noisy: each ratio has something to measure."""
    references = rng.standard_normal((stems, channels, samples)) * rng.uniform(0.2, 1, (stems, 1, 1))
    filters = rng.standard_normal((stems, channels, 40)) / 20
    filtered = np.array(
        [
            [np.convolve(references[s, c], filters[s, c])[:samples] for c in range(channels)]
            for s in range(stems)
        ]
    )
    noise = 0.1 * rng.standard_normal(references.shape)
    return references, references + filtered + 0.3 * np.roll(references[::-1], 5, axis=-1) + noise


def ours(references, estimates, cuts=(), taps=TAPS):
    found = BssEval(references.shape[0], references.shape[1], RATE, taps)
    for a, b in zip([0, *cuts], [*cuts, references.shape[-1]], strict=True):
        found.add(references[..., a:b], estimates[..., a:b])
    return found.result()


def musevals(references, estimates, taps=TAPS):
    metrics = package("museval").metrics
    swapped = [signal.transpose(0, 2, 1) for signal in (references, estimates)]
    _, isr, sir, sar, _ = metrics.bss_eval(*swapped, window=RATE, hop=RATE, filters_len=taps)
    return {"isr": isr, "sir": sir, "sar": sar}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("channels", "samples"), [(2, RATE * 4 + 77), (1, RATE * 2), (1, RATE - 300)])
def test_equal_to_museval(channels, samples):
    signals = music(np.random.default_rng(0), channels=channels, samples=samples)
    assert_close(ours(*signals), musevals(*signals), 1e-9)


def test_equal_to_museval_with_its_512_taps_and_several_transforms():
    """Longer than a transform of the correlations, so their sum over windows counts."""
    signals = music(np.random.default_rng(1), stems=2, channels=1, samples=bsseval.FFT * 2 + 1000)
    assert_close(ours(*signals, taps=512), musevals(*signals, taps=512), 1e-9)


def test_blocks_do_not_matter():
    signals = music(np.random.default_rng(2), samples=bsseval.FFT + 5000)
    whole = ours(*signals)
    for cuts in ([1], [bsseval.FFT - 1, bsseval.FFT, bsseval.FFT + 1], range(100, 37000, 999)):
        assert_close(ours(*signals, cuts=[*cuts]), whole, 1e-8)


@pytest.mark.parametrize("whose", [0, 1])
def test_a_frame_with_silence_is_undefined_for_all_stems(whose):
    signals = music(np.random.default_rng(3))
    signals[whose][1, :, RATE : 2 * RATE] = [[1.0], [-1.0]] * np.sin(np.arange(RATE))  # the channels' sum is 0
    found, expected = ours(*signals), musevals(*signals)
    assert np.isnan(found["sir"]).all(axis=0).tolist() == [False, True, False, False]
    for name in found:
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(expected[name]))
        assert np.nanmax(np.abs(found[name] - expected[name])) < 1e-9


def test_a_filtered_stem_is_only_spatial_distortion():
    references, _ = music(np.random.default_rng(4), stems=2)
    references[..., -7:] = 0  # nothing is lost at the end
    delayed = np.zeros_like(references)
    delayed[..., 7:] = 0.5 * references[..., :-7]
    found = ours(references, delayed)
    assert found["sir"].min() > 150 and found["isr"].max() < 2
    # 7 samples of a frame lie in the next one, and 7 of the last one in this.
    assert np.abs(found["sar"] - 10 * np.log10(RATE / 14)).max() < 4


def test_a_mono_stem_in_both_channels_is_projected_as_if_it_were_one():
    """Its normal equations are singular; the projection is not touched by that."""
    references, estimates = music(np.random.default_rng(5))
    references[1] = references[1].mean(axis=0)
    found = ours(references, estimates)
    # The same space, spanned by independent signals: the mono stem's second channel is taken out.
    spans = np.concatenate([references.reshape(6, -1)[[0, 1, 2, 4, 5]]])
    delayed = np.stack([np.pad(each, (late, TAPS - 1 - late)) for each in spans for late in range(TAPS)])
    target = np.pad(estimates.reshape(6, -1), ((0, 0), (0, TAPS - 1)))
    filters = np.linalg.lstsq(delayed.T, target.T, rcond=None)[0].reshape(5, TAPS, 6)
    frame = slice(RATE, 2 * RATE)
    explained = np.array(
        [sum(np.convolve(spans[k, frame], filters[k, :, e]) for k in range(5)) for e in range(6)]
    )
    rest = np.pad(estimates.reshape(6, -1)[:, frame], ((0, 0), (0, TAPS - 1))) - explained
    energies = [(each**2).sum(axis=-1).reshape(3, 2).sum(axis=-1) for each in (explained, rest)]
    np.testing.assert_allclose(found["sar"][:, 1], 10 * np.log10(energies[0] / energies[1]), rtol=0, atol=1e-6)


def test_one_stem_has_no_interference():
    signals = music(np.random.default_rng(6), stems=1)
    found = ours(*signals)
    assert np.isnan(found["sir"]).all() and np.isfinite(found["sar"]).all() and np.isfinite(found["isr"]).all()
    assert np.abs(found["sar"] - musevals(*signals)["sar"]).max() < 1e-9


def test_silence_throughout_is_undefined():
    references, estimates = music(np.random.default_rng(7))
    found = ours(references, 0 * estimates)
    assert all(np.isnan(values).all() for values in found.values())
    assert all(np.isnan(values).all() for values in ours(0 * references, 0 * estimates).values())
