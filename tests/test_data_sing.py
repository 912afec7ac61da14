"""Synthetic singers: on pitch, in time, with consonants and vibrato.

Needs flite, espeak-ng and pyworld; the laws of phrases and the errors do not.
"""

import numpy as np
import pytest

from sepcli.data.synthetic import sing, vocals, voice
from sepcli.data.synthetic.compose import compose
from sepcli.data.synthetic.score import Note
from sepcli.errors import DeviceError
from tests.needs import need, package

RATE = voice.SAMPLERATE
SPEECH = ("flite", "espeak-ng", "pyworld")


@pytest.fixture(scope="module")
def syllables():
    need(*SPEECH)
    return voice.inventory(np.random.default_rng(0), "flite", "rms", 1.0, 8)


def singer(syllables, **changes):
    habits = dict(
        vibrato_hertz=5.5,
        vibrato_cents=0.0,
        vibrato_delay=0.2,
        glide=0.03,
        scoop=0.0,
        drift=0.0,
        breath=-40.0,
        tilt=0.0,
        ring=3.0,
        inhales=False,
    )
    return sing.Singer("flite", "rms", 1.0, syllables, **{**habits, **changes})


def pitch_track(audio):
    """Hz every 5 ms, 0 where unvoiced."""
    track, _times = package("pyworld").harvest(
        audio.astype(np.float64), RATE, f0_floor=60, f0_ceil=600, frame_period=5
    )
    return track


NOTES = [Note(0.5, 1.0, 50, 100), Note(1.5, 1.0, 53, 100), Note(2.5, 2.0, 55, 100)]


def test_it_is_sung_on_pitch_and_in_time(syllables):
    audio = sing.sing(np.random.default_rng(1), singer(syllables), NOTES, tempo=60, frames=6 * RATE)
    assert audio.shape == (6 * RATE,) and audio.dtype == np.float32 and np.isfinite(audio).all()
    track = pitch_track(audio)
    for note in NOTES:
        middle = track[int((note.start + 0.25) * 200) : int((note.start + 0.6) * 200)]
        cents = 1200 * np.log2(middle[middle > 0] / (440 * 2 ** ((note.pitch - 69) / 12)))
        assert len(cents) > 40 and abs(np.median(cents)) < 30
    assert np.abs(audio[: int(0.1 * RATE)]).max() < 0.01 * np.abs(audio).max()
    assert np.abs(audio[int(5.2 * RATE) :]).max() < 0.01 * np.abs(audio).max()


def test_vibrato_has_its_rate_and_depth(syllables):
    note = [Note(0.2, 3.0, 50, 100)]
    plain, moved = (
        pitch_track(
            sing.sing(
                np.random.default_rng(2),
                singer(syllables, vibrato_cents=cents),
                note,
                tempo=60,
                frames=4 * RATE,
            )
        )[300:600]
        for cents in (0.0, 80.0)
    )
    spread = [np.std(1200 * np.log2(track[track > 0])) for track in (plain, moved)]
    assert spread[0] < 15 and 20 < spread[1] < 90
    wave = np.log2(np.where(moved > 0, moved, np.median(moved)))
    spectrum = np.abs(np.fft.rfft((wave - wave.mean()) * np.hanning(len(wave)), 4000))
    assert np.argmax(spectrum[40:]) + 40 == pytest.approx(5.5 * 20, abs=12)  # bins of 0.05 Hz


def test_consonants_are_noise_and_vowels_are_not(syllables):
    counted = [
        (
            syllable.voiced[syllable.vowel : syllable.coda].mean(),
            syllable.noise[syllable.vowel : syllable.coda, 5:60].mean(),
        )
        for syllable in syllables
    ]
    assert len(counted) >= 6
    assert all(voiced > 0.9 and noise < 0.5 for voiced, noise in counted)
    hissing = voice.analyse(*voice.speak("flite", "rms", "see"))
    assert hissing.vowel > 8 and not hissing.voiced[2 : hissing.vowel // 2].any()


def test_formants_shift():
    need(*SPEECH)
    low, high = (voice.analyse(*voice.speak("espeak-ng", "en-us+m3", "ah"), shift) for shift in (0.9, 1.2))
    means = [syllable.envelope[syllable.vowel : syllable.coda].mean(axis=0) for syllable in (low, high)]
    hertz = np.arange(voice.BINS) * RATE / voice.FFT_SIZE
    inside = (hertz > 300) & (hertz < 4000)
    centroids = [(np.exp(mean[inside]) * hertz[inside]).sum() / np.exp(mean[inside]).sum() for mean in means]
    assert centroids[1] > 1.15 * centroids[0]


def test_a_song_is_sung():
    need(*SPEECH)
    song = compose(0, 3)
    part = next(part for part in song.parts if part.name == "vocals")
    frames = int(20 * RATE)
    audio, names = vocals.sing_part(np.random.default_rng(0), song, part, RATE, 2, frames)
    assert audio.shape == (2, frames) and np.isfinite(audio).all() and np.abs(audio).max() > 0.05
    assert names[0].split()[0] in ("flite", "espeak-ng")
    again, _ = vocals.sing_part(np.random.default_rng(0), song, part, RATE, 2, frames)
    assert np.array_equal(audio, again)


def test_phrases():
    notes = [Note(0.0, 1.0, 60, 90), Note(1.0, 1.0, 62, 90), Note(1.01, 1.0, 70, 90), Note(4.0, 1.0, 60, 90)]
    first, second = sing.phrases(notes, gap=0.5)
    assert [note.pitch for note in first] == [60, 62] and [note.pitch for note in second] == [60]


def test_harmonies_stay_in_the_scale():
    song = compose(0, 3)
    notes = next(part for part in song.parts if part.name == "vocals").notes[:20]
    from sepcli.data.synthetic.harmony import SCALES

    moved = vocals._harmony(song, notes, 2)
    scale = {(song.key + step) % 12 for step in SCALES[song.mode]}
    assert {note.pitch % 12 for note in moved} <= scale
    assert all(1 <= high.pitch - low.pitch <= 6 for low, high in zip(notes, moved, strict=True))


def test_missing_programs_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="flite and espeak-ng not found") as caught:
        voice.check_speech()
    assert "apt install flite espeak-ng" in caught.value.remedy
