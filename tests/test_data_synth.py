"""The synthesiser and the electronic kits: pitch, spectrum, envelopes; strokes sound as they are named."""

import numpy as np
import pytest
import soundfile

from sepcli.data.synthetic import drumkit, synth
from sepcli.data.synthetic.score import Note
from sepcli.errors import InputError

RATE = 22050
GROUPS = sorted({"bass.sub", "bass.synth", "synth.lead", "synth.pluck", "synth.chords", "pad"})


def played(patch, notes, seconds=1.0, tempo=60, seed=0):
    return synth.play(
        np.random.default_rng(seed), patch, notes, tempo=tempo, frames=int(seconds * RATE), samplerate=RATE
    )


def pitch_of(mono):
    """Hz of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono)), 8 * len(mono)))
    return np.argmax(spectrum) * RATE / (8 * len(mono))


@pytest.mark.parametrize("wave", ["saw", "pulse", "sine"])
def test_a_note_has_its_pitch(wave):
    audio = played(synth.Patch("x", **{wave: 1.0}), [Note(0.0, 1.0, 57, 100)])
    assert pitch_of(audio[0]) == pytest.approx(220, rel=0.003)


def test_a_sawtooth_does_not_alias():
    """Between the harmonics of 880 Hz there is far less than where the jumps are not rounded."""
    rounded = played(synth.Patch("x", saw=1.0), [Note(0.0, 1.0, 81, 100)])[0][2000:20000]
    jagged = 2 * (np.arange(18000) * 880 / RATE % 1) - 1

    def between(audio):
        spectrum = 20 * np.log10(np.abs(np.fft.rfft(audio * np.blackman(len(audio)))) + 1e-9)
        hertz = np.fft.rfftfreq(len(audio), 1 / RATE)
        off = (np.abs(hertz / 880 - np.round(hertz / 880)) > 0.1) & (hertz < 4000)
        return spectrum[off].max() - spectrum.max()

    assert between(rounded) < -35 and between(rounded) < between(jagged) - 8


def test_the_filter_closes():
    bright, dark = (
        played(synth.Patch("x", saw=1.0, cutoff=cutoff), [Note(0.0, 1.0, 45, 100)])[0] for cutoff in (7.0, 1.0)
    )
    spectra = [np.abs(np.fft.rfft(audio)) for audio in (bright, dark)]
    high = [spectrum[3000:].sum() / spectrum.sum() for spectrum in spectra]
    assert high[1] < 0.05 * high[0]
    moving = played(
        synth.Patch("x", saw=1.0, cutoff=1.0, sweep=5.0, sweep_decay=0.1, sustain=1.0),
        [Note(0.0, 1.0, 45, 100)],
    )[0]
    rough = [np.abs(np.diff(moving[begin : begin + 2000], 2)).mean() for begin in (500, 18000)]
    assert rough[1] < 0.2 * rough[0]


def test_notes_end_with_their_release():
    patch = synth.Patch("x", sine=1.0, release=0.05)
    audio = played(patch, [Note(0.25, 0.25, 60, 100)])
    level = np.abs(audio[0])
    assert level[: int(0.245 * RATE)].max() == 0
    assert level[int(0.3 * RATE) : int(0.45 * RATE)].max() > 0.1
    assert level[int(0.8 * RATE) :].max() == 0


def test_a_glide_begins_at_the_note_before():
    patch = synth.Patch("x", sine=1.0, glide=0.3, decay=5.0)
    audio = played(patch, [Note(0.0, 1.0, 45, 100), Note(1.0, 1.0, 57, 100)], seconds=2)[0]
    assert pitch_of(audio[int(1.0 * RATE) : int(1.06 * RATE)]) < 190
    assert pitch_of(audio[int(1.7 * RATE) : int(1.95 * RATE)]) == pytest.approx(220, rel=0.02)


@pytest.mark.parametrize("group", GROUPS)
def test_drawn_patches_sound(group):
    for seed in range(4):
        patch = synth.draw_patch(np.random.default_rng(seed), group)
        notes = [Note(0.0, 0.8, 36, 100), Note(1.0, 0.5, 43, 40)]
        audio = played(patch, notes, seconds=2.0, seed=seed)
        assert audio.dtype == np.float32 and np.isfinite(audio).all()
        assert 0.02 < np.abs(audio).max() < 20
        assert np.array_equal(audio, played(patch, notes, seconds=2.0, seed=seed))


def strokes(kit, key, velocity=127):
    return kit.play([Note(0.0, 0.2, key, velocity)], tempo=60, frames=RATE)


def centroid(audio):
    power = np.abs(np.fft.rfft(audio[0])) ** 2
    return (power * np.fft.rfftfreq(audio.shape[1], 1 / RATE)).sum() / power.sum()


def test_every_percussion_key_makes_a_sound():
    kit = drumkit.Kit(np.random.default_rng(0), RATE)
    for key in range(35, 82):
        audio = strokes(kit, key)
        assert audio.shape == (2, RATE) and np.isfinite(audio).all() and np.abs(audio).max() > 0.05, key


@pytest.mark.parametrize("seed", range(4))
def test_kicks_are_low_and_hats_high(seed):
    kit = drumkit.Kit(np.random.default_rng(seed), RATE)
    kick, snare, hat = (centroid(strokes(kit, key)) for key in (36, 38, 42))
    assert kick < 250 and hat > 4000 and kick < snare < hat


def test_softer_is_quieter_and_duller():
    kit = drumkit.Kit(np.random.default_rng(1), RATE)
    loud, soft = strokes(kit, 38, 127), strokes(kit, 38, 30)
    assert np.abs(soft).max() < 0.4 * np.abs(loud).max() and centroid(soft) < centroid(loud)


def test_a_closed_hat_ends_an_open_one():
    kit = drumkit.Kit(np.random.default_rng(2), RATE)
    alone = kit.play([Note(0.0, 1.0, 46, 110)], tempo=60, frames=RATE)
    choked = kit.play([Note(0.0, 1.0, 46, 110), Note(0.1, 0.1, 42, 1)], tempo=60, frames=RATE)
    after = slice(int(0.15 * RATE), int(0.4 * RATE))
    assert np.abs(choked[:, after]).max() < 0.1 * np.abs(alone[:, after]).max()


def test_one_shots_are_found_by_name(tmp_path):
    (tmp_path / "more").mkdir()
    names = {
        "bd_boom": "kick",
        "drum_bass_hard": "kick",
        "sn_dub": "snare",
        "elec_hi_snare": "snare",
        "drum_cymbal_closed": "hat",
        "drum_cymbal_open": "open",
        "drum_splash_soft": "crash",
        "drum_tom_lo_hard": "tom",
        "perc_snap": "clap",
        "tabla_na": "percussion",
    }
    for name in (*names, "loop_amen", "bass_hit_c", "ambi_drone", "misc_crow"):
        soundfile.write(tmp_path / "more" / f"{name}.wav", np.full(500, 0.5), 11025)
    (tmp_path / "README.md").write_text("bd_ sn_")
    found = drumkit.find_shots(tmp_path)
    assert {path.stem: kind for kind, paths in found.items() for path in paths} == names
    kit = drumkit.Kit(np.random.default_rng(0), RATE, found)
    assert "one-shots" in kit.name
    assert np.abs(strokes(kit, 36)).max() > 0.5


def test_a_folder_without_drums(tmp_path):
    with pytest.raises(InputError, match="no drum one-shots") as caught:
        drumkit.find_shots(tmp_path)
    assert "sonic-pi-samples" in caught.value.remedy
