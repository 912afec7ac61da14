"""SI-SDRi in windows: laws, then the originals' numbers (tests/golden/dicose/metrics)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from sepcli.data.layouts import find_tracks
from sepcli.evaluation.scoring import Material, score
from sepcli.metrics.summary import POOLED, summarize
from sepcli.metrics.windows import ACTIVITY, DICOSE, MSDM, RULES, WindowSums

GOLDEN = Path(__file__).parent / "golden" / "dicose" / "metrics"
RATE = 250  # Hz: a chunk has 2972 samples, a window 1000
CHUNK, WINDOW = 2972, 1000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def summed(references, estimates, mix=None, lengths=None, samplerate=RATE):
    """WindowSums of [A, C, T] and [S, C, T], in blocks of these lengths."""
    mix = references.sum(axis=0) if mix is None else mix
    sums = WindowSums(len(estimates), references.shape[1], samplerate)
    cuts = np.cumsum(lengths or [])
    for s, h, x in zip(*(np.split(each, cuts, axis=-1) for each in (references, estimates, mix)), strict=True):
        sums.add(s, h, x)
    return sums


# --- laws ---


def test_the_mix_itself_is_no_improvement_and_a_gain_changes_nothing():
    s = noise(4, 1, 2 * CHUNK)
    for rule in RULES:
        mix = np.repeat(s.sum(axis=0)[None], 4, axis=0)
        np.testing.assert_allclose(summed(s, mix).windows(rule).si_sdri, 0, atol=1e-9)
        h = s + 0.1 * noise(*s.shape, seed=1)
        same = [summed(s, gain * h).windows(rule).si_sdri for gain in (1.0, 0.01, -3.0)]
        np.testing.assert_allclose(same[1:], [same[0]] * 2, atol=1e-3)


def test_by_the_formula():
    s = noise(3, 2, CHUNK + 5)
    h, x = s + 0.3 * noise(*s.shape, seed=1), s.sum(axis=0)

    def si_sdr(s, h):
        s, h, eps = s.ravel() / 2**0.5, h.ravel() / 2**0.5, 1e-8  # two channels: their mean
        a = (s @ h + eps) / (s @ s + eps)
        return 10 * np.log10((((a * s) ** 2).sum() + eps) / (((a * s - h) ** 2).sum() + eps))

    found = summed(s, h).windows(DICOSE)
    for n, (a, b) in enumerate(found.spans):
        for k in range(3):
            expected = si_sdr(s[k, :, a:b], h[k, :, a:b]) - si_sdr(s[k, :, a:b], x[:, a:b])
            assert found.si_sdri[k, n] == pytest.approx(expected, abs=1e-8)


def test_blocks_of_any_length_give_the_same():
    s = noise(3, 1, 2 * CHUNK + 700)
    h = s[:2] + noise(2, 1, s.shape[-1], seed=1)
    whole = summed(s, h)
    for lengths in ([1, 999, 1, 3000], [500] * 13, [CHUNK, CHUNK]):
        parts = summed(s, h, lengths=lengths)
        for rule in RULES:
            assert parts.windows(rule).spans == whole.windows(rule).spans
            np.testing.assert_allclose(parts.windows(rule).si_sdri, whole.windows(rule).si_sdri, atol=1e-9)


def test_two_equal_channels_score_as_one():
    s = np.concatenate([noise(2, 1, CHUNK), np.zeros((2, 1, CHUNK))])
    h = s + 1e-3 * noise(*s.shape, seed=1)
    one, two = (summed(np.repeat(s, c, axis=1), np.repeat(h, c, axis=1)) for c in (1, 2))
    for rule in RULES:
        np.testing.assert_allclose(two.windows(rule).si_sdri, one.windows(rule).si_sdri, atol=1e-6)


def test_the_silence_threshold_grows_with_the_root_of_the_length():
    """Constant stems just above and below: which windows count is what they say."""
    for samples, stretch in ((CHUNK, "the chunk"), (WINDOW, "a window")):
        level = ACTIVITY * samples**0.5
        for factor, heard in ((1.001, True), (0.999, False)):
            s = np.stack([noise(1, CHUNK), np.full((1, CHUNK), factor * level)])
            spans = summed(s, s).windows(MSDM if samples == WINDOW else DICOSE).spans
            assert ((0, WINDOW) in spans) is heard, stretch


def test_a_window_or_chunk_with_one_active_stem_does_not_count():
    s = noise(4, 1, 2 * CHUNK)
    s[1:, :, CHUNK:] = 0
    s[1:3] = 0
    assert {span[0] // CHUNK for span in summed(s, s).windows(DICOSE).spans} == {0}
    spans = summed(s, s).windows(MSDM).spans  # the one that reaches into the second chunk still has two stems
    assert spans[-1] == (2500, 3500) and len(spans) == 6


def test_silent_stems_are_scored_and_those_without_an_estimate_only_decide():
    s = np.concatenate([noise(1, 1, CHUNK), np.zeros((1, 1, CHUNK)), noise(1, 1, CHUNK, seed=1)])
    found = summed(s, s[:2])  # the third is another model's
    assert found.windows(MSDM).si_sdri.shape == (2, 5)
    assert (found.windows(MSDM).si_sdri[1] > 60).all()  # silence for silence, while the mix is loud
    assert summed(s[:2], s[:2]).windows(MSDM).spans == []


def test_windows_and_chunks_last_as_long_at_every_rate():
    for rate, chunk in ((22050, 262144), (44100, 524288), (48000, 570654), (250, 2972)):
        sums = WindowSums(1, 1, rate)
        assert (sums.chunk, 2 * sums.hop) == (chunk, 4 * rate)
        assert len(list(sums._within((0, sums.chunk)))) == 5


def test_a_track_shorter_than_a_chunk_has_no_window():
    s = noise(2, 1, CHUNK - 1)
    assert all(summed(s, s).windows(rule).si_sdri.shape == (2, 0) for rule in RULES)


# --- the originals ---


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "case.json").read_text()), load_file(GOLDEN / "io.safetensors")


def windows(golden, rule):
    """{track: Windows} of the originals' tracks."""
    case, data = golden
    return {
        track: summed(
            data[f"{track}.stems"][:, None], data[f"{track}.est"][:, None], lengths=[777, 1500, 2000]
        ).windows(rule)
        for track in case["tracks"]
    }


def test_dicoses_windows_and_scores(golden):
    case, data = golden
    found = windows(golden, DICOSE)
    spans = [
        [t, a // CHUNK, a % CHUNK, a % CHUNK + b - a]
        for t, track in enumerate(case["tracks"])
        for a, b in found[track].spans
    ]
    assert spans == data["dicose.windows"].tolist()
    scores = np.concatenate([each.si_sdri for each in found.values()], axis=1)
    theirs = np.stack([data[f"dicose.{stem}"] for stem in case["stems_order"]])
    np.testing.assert_allclose(scores, theirs, atol=1e-3)


def test_msdms_windows_and_scores(golden):
    case, data = golden
    found = windows(golden, MSDM)
    assert [a for each in found.values() for a, _ in each.spans] == data["msdm.start_sample"].tolist()
    scores = np.concatenate([each.si_sdri for each in found.values()], axis=1)
    theirs = np.stack([data[f"msdm.{stem}"] for stem in case["stems_order"]])
    np.testing.assert_allclose(scores, theirs, atol=1e-3)


def test_the_silence_rule_is_theirs(golden):
    for samples, level, _, _ in golden[1]["silence_test"]:
        assert ACTIVITY * samples**0.5 == pytest.approx(level, rel=1e-5)


class Recorded:
    """The golden estimates, as an estimator of all four stems."""

    def __init__(self, names, estimates):
        self.names, self.estimates = tuple(names), estimates

    def sources(self, material):
        return self.names

    def estimate(self, material, progress=None):
        yield from np.array_split(self.estimates, 3, axis=-1)


def test_files_that_are_missing_are_silence_and_the_summary_pools_all_windows(golden, tmp_path):
    case, data = golden
    names = case["stems_order"]
    for track in case["tracks"]:
        (tmp_path / track).mkdir()
        for name, stem in zip(names, data[f"{track}.stems"], strict=True):
            if name not in case["missing_files"][track]:
                soundfile.write(tmp_path / track / f"{name}.wav", stem, RATE, "FLOAT")
    scores = {}
    for track in find_tracks(tmp_path):
        recorded = Recorded(names, data[f"{track.name}.est"][:, None])
        scores[track.name] = score(Material(track, silent=names), recorded, names, windows=RULES).stems
    assert "sdr" not in scores["TrackA"]["piano"]  # whole tracks: the stem is absent
    for protocol in ("msdm", "dicose"):
        (line,) = summarize([scores], [protocol])
        assert line.statistic == POOLED and line.mean.interval > 0
        found = [line.stems[name].value for name in names]
        np.testing.assert_allclose(found, data[f"{protocol}.mean"], atol=1e-3)
        assert line.mean.value == pytest.approx(float(data[f"{protocol}.mean_of_means"][0]), abs=1e-3)
