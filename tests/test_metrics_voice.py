"""The measures of a voice, on tones whose pitch is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sepcli.metrics import voice
from sepcli.metrics.voice import VoiceSums, pitch
from tests.needs import need

RATE = 16000


def sung(seconds, tone=220.0, samplerate=RATE, level=0.1):
    """[T]: twelve harmonics with vibrato, and as much of noise as a breath."""
    t = np.arange(int(seconds * samplerate)) / samplerate
    phase = 2 * np.pi * tone * t + 2 * np.sin(2 * np.pi * 5 * t)
    wave = sum(np.sin(k * phase) / k for k in range(1, 13) if k * tone < 0.45 * samplerate)
    return level * wave + 1e-3 * np.random.default_rng(0).standard_normal(len(t))


def measured(reference, estimate, samplerate=RATE, lengths=(), pesq=False):
    """{metric: value} of one mono stem, in blocks of these lengths."""
    need("librosa", *(["pesq"] if pesq else []))
    sums = VoiceSums(1, samplerate, pesq=pesq)
    cuts = np.cumsum(lengths).astype(int)
    for s, h in zip(np.split(reference, cuts), np.split(estimate, cuts), strict=True):
        sums.add(s[None, None].astype(np.float32), h[None, None].astype(np.float32))
    return {name: float(values[0]) for name, values in sums.result().items()}


@pytest.mark.slow
def test_the_pitch_of_a_tone_and_none_of_noise_and_silence():
    tones = pitch(sung(2, 220.0))
    assert len(tones) == 101 and (~np.isnan(tones)).mean() > 0.9
    assert np.nanmedian(tones) == pytest.approx(220, rel=0.02)
    assert np.isnan(pitch(0.1 * np.random.default_rng(0).standard_normal(RATE))).mean() > 0.9
    for quiet in (np.zeros(RATE), np.zeros(0), 1e-6 * sung(1)):
        assert np.isnan(pitch(quiet)).all()


def test_the_same_voice_is_perfect():
    s = sung(5)
    found = measured(s, s, pesq=True)
    assert found["lsd"] == found["mel_mae"] == found["log_f0_rmse"] == 0
    assert found["pesq"] == pytest.approx(4.64, abs=0.01) and found["voiced"] == pytest.approx(5, abs=0.3)


@pytest.mark.slow
def test_a_quieter_voice_is_off_by_its_gain_but_not_in_pitch():
    s = sung(3)
    found = measured(s, s / 2)
    assert found["lsd"] == pytest.approx(np.log10(4), abs=1e-4)
    assert found["mel_mae"] == pytest.approx(20 * np.log10(2), abs=1e-3) and found["log_f0_rmse"] < 1e-3


@pytest.mark.parametrize("semitones", [1, -3])
def test_a_voice_in_another_key_is_off_by_the_interval(semitones):
    found = measured(sung(3), sung(3, 220 * 2 ** (semitones / 12)))
    assert found["log_f0_rmse"] == pytest.approx(abs(semitones) / 12 * np.log(2), rel=0.05)


@pytest.mark.slow
def test_only_voiced_frames_count():
    """Noise before the voice, and what an estimate makes of it, change nothing; nor does a voice at -60 dB."""
    s = sung(3)
    noise = 0.05 * np.random.default_rng(1).standard_normal(2 * RATE)
    alone = measured(s, 0.9 * s)
    for before, there in ((noise, 0 * noise), (1e-3 * sung(2), noise)):
        found = measured(np.concatenate([before, s]), np.concatenate([there, 0.9 * s]))
        assert found["voiced"] == pytest.approx(alone["voiced"], abs=0.15)
        assert found["lsd"] == pytest.approx(alone["lsd"], abs=0.15)


def test_a_reference_that_never_sings_has_no_score():
    noise = 0.1 * np.random.default_rng(1).standard_normal(2 * RATE)
    for reference in (noise, np.zeros(2 * RATE), np.zeros(100), np.zeros(0)):
        found = measured(reference, sung(2)[: len(reference)], pesq=True)
        assert found.pop("voiced") < 0.2
        if len(reference) < 2 * RATE or not reference.any():
            assert np.isnan(list(found.values())).all() and found.keys() == set(voice.METRICS) - {"voiced"}


def test_silence_for_a_voice_is_far_away_but_has_no_pitch():
    found = measured(sung(5), np.zeros(5 * RATE), pesq=True)
    assert found["lsd"] > 2 and found["mel_mae"] > 30
    assert np.isnan([found["log_f0_rmse"], found["pesq"]]).all()


@pytest.mark.slow
def test_blocks_of_any_length_and_pieces_give_the_same():
    """Longer than a piece of 10 s, at another rate."""
    rate = 11025
    s, h = sung(13, samplerate=rate), sung(13, 233.08, rate)
    whole = measured(s, h, rate)
    assert measured(s, h, rate, [1, 50000, 3]) == pytest.approx(whole, rel=1e-6)
    assert whole["voiced"] == pytest.approx(13, abs=0.4)
    assert whole["log_f0_rmse"] == pytest.approx(np.log(2) / 12, rel=0.05)


def test_channels_are_averaged_and_stems_are_apart():
    need("librosa")
    left, right = sung(3), sung(3)
    s = np.stack([np.stack([left, right]), np.zeros((2, len(left)))]).astype(np.float32)
    sums = VoiceSums(2, RATE, pesq=False)
    sums.add(s, s * np.array([1, 0.5], np.float32)[None, :, None])
    found = sums.result()
    assert found["lsd"][0] == pytest.approx(np.log10(4) / 2, abs=1e-4) and np.isnan(found["lsd"][1])
    assert "pesq" not in found


@pytest.mark.slow
def test_pesq_wants_enough_of_a_voice():
    assert np.isnan(measured(sung(2), sung(2), pesq=True)["pesq"])
    noisy = sung(5) + 0.02 * np.random.default_rng(2).standard_normal(5 * RATE)
    assert 1 <= measured(sung(5), noisy, pesq=True)["pesq"] < 4


@pytest.mark.slow
def test_librosa_is_imported_only_where_a_pitch_is_wanted():
    code = (
        "import sys, sepcli.evaluation.evaluate, sepcli.evaluation.validation, sepcli.cli.scores\n"
        "assert not {'librosa', 'pesq', 'numba', 'scipy'} & set(sys.modules), 'not lazy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
