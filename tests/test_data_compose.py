"""Composed songs: the same seed gives the same notes, and the notes are music that its instruments can play."""

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sepcli.data.synthetic import accompany, bassline, harmony, machine
from sepcli.data.synthetic.compose import SECONDS, compose
from sepcli.data.synthetic.harmony import Chord
from sepcli.data.synthetic.instruments import DRUM_KEYS, GROUPS, KITS, LABELS
from sepcli.data.synthetic.styles import STYLES


@functools.cache
def songs():
    """Thirty, composed for the first test that needs them."""
    return [compose(3, index) for index in range(30)]


@pytest.mark.slow
def test_a_song_depends_on_its_seed_and_index_alone():
    alone = compose(3, 21)
    assert alone == songs()[21]
    assert alone != songs()[22]
    assert compose(4, 21) != alone


def test_most_styles_come_up_soon():
    assert len({song.style for song in songs()}) > len(STYLES) / 2


@pytest.mark.parametrize("index", range(30))
def test_notes_lie_in_the_song_and_in_their_instruments_range(index):
    song = songs()[index]
    names = [part.name for part in song.parts]
    assert len(set(names)) == len(names) and {"drums", "bass", "vocals"} <= set(names) and len(names) >= 4
    for part in song.parts:
        assert part.notes, part.name
        assert part.label in LABELS
        low, high = (
            (DRUM_KEYS[0], DRUM_KEYS[-1])
            if part.group == "kit"
            else (GROUPS[part.group].low, GROUPS[part.group].high)
        )
        for note in part.notes:
            assert low <= note.pitch <= high, (part.name, part.role, part.group)
            assert 0 <= note.start < song.beats and note.length > 0 and 1 <= note.velocity <= 127
        assert list(part.notes) == sorted(part.notes)


def test_form():
    for song in songs():
        bar = 0
        for section in song.sections:
            assert section.bar == bar and section.bars >= 1
            bar += section.bars
        bar_seconds = song.beats_per_bar * 60 / song.tempo
        assert SECONDS[0] <= song.seconds <= SECONDS[1] + bar_seconds
        assert song.seconds == pytest.approx(bar * bar_seconds)


def test_parts_enter_and_leave():
    """Stems need silences: in most songs something pauses for a bar or more."""
    pausing = {"drums": 0, "bass": 0, "vocals": 0}
    for song in songs():
        for part in song.parts:
            if part.name in pausing:
                edges = [0.0, *sorted(note.start for note in part.notes), song.beats]
                pausing[part.name] += max(np.diff(edges)) >= 2 * song.beats_per_bar
    assert all(len(songs()) / 4 <= count for count in pausing.values()), pausing
    assert pausing["drums"] < len(songs())


def test_programmed_drums_keep_to_the_grid():
    checked = 0
    for song in songs():
        assert song.drummer == "machine"
        if STYLES[song.style].swing != (0.0,):
            continue
        starts = np.array([note.start for note in song.parts[0].notes])
        on_grid = np.abs(starts * 48 - np.round(starts * 48)) < 1e-6  # sixteenths, and rolls of 2, 3 or 4
        assert on_grid.all()
        checked += 1
    assert checked > 10


def test_four_on_the_floor():
    song = next(song for song in songs() if song.style == "house")
    kicks = {note.start for note in song.parts[0].notes if note.pitch in (35, 36)}
    section = next(section for section in song.sections if section.kind == "chorus")
    begin = section.bar * 4
    assert {float(begin + beat) for beat in range(4)} <= kicks


@pytest.mark.slow
def test_needs_are_met():
    for index in range(10):
        labels = {part.label for part in compose(1, index, needs=("guitar", "piano")).parts}
        assert {"guitar", "piano"} <= labels


def test_numerals():
    assert harmony.parse_numeral("I") == (0, (0, 4, 7))
    assert harmony.parse_numeral("vi") == (9, (0, 3, 7))
    assert harmony.parse_numeral("bVIImaj7") == (10, (0, 4, 7, 11))
    assert harmony.parse_numeral("iim7b5") == (2, (0, 3, 6, 10))
    for style in STYLES.values():
        for progression in (*style.major, *style.minor):
            for numeral in progression.split():
                harmony.parse_numeral(numeral)


def test_styles_name_what_exists():
    for name, style in STYLES.items():
        assert set(style.bass.split()) <= set(bassline.STYLES), name
        assert set(style.bass_groups.split()) <= set(GROUPS), name
        assert set(style.machines.split()) <= set(machine.FAMILIES), name
        assert style.parts, name
        for layer in style.parts:
            assert set(layer.groups) <= set(GROUPS) and 0 < layer.chance <= 1, name
            assert set(layer.roles) <= {*accompany.ROLES, "lead", "riff"}, name
    assert all(group.label in LABELS and group.high - group.low >= 18 for group in GROUPS.values())
    assert set(KITS) == {"acoustic", "electronic"}


def test_machine_patterns_are_whole_bars():
    for name, patterns in machine.FAMILIES.items():
        for choices in patterns.values():
            for pattern in choices:
                assert len(pattern) == (12 if name == "waltz" else 16) and set(pattern) <= set("xo.")


CHORDS = [
    Chord(4.0 * number, 4.0, root, intervals, root)
    for number, (root, intervals) in enumerate(
        [(0, (0, 4, 7)), (9, (0, 3, 7, 10)), (5, (0, 7)), (11, (0, 3, 6))]
    )
]


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(bassline.STYLES)))
@example(seed=690, name="octaves")  # a high root
def test_a_bass_line_stays_in_its_range_and_repeats(seed, name):
    play = bassline.STYLES[name](np.random.default_rng(seed), 28, 55, 4)
    kicks = [float(beat) for beat in range(0, 16, 2)]
    notes = play(CHORDS, kicks)
    assert notes and all(28 <= note.pitch <= 55 and 0 <= note.start < 16 for note in notes)
    assert play(CHORDS, kicks) == notes  # a section that comes back is played alike


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(accompany.ROLES)))
def test_accompaniments_play_chord_tones(seed, name):
    play = accompany.ROLES[name](np.random.default_rng(seed), 40, 84, 4)
    notes = play(CHORDS)
    assert notes and play(CHORDS) == notes
    for note in notes:
        assert 40 <= note.pitch <= 84
        nominal = note.start if name != "strum" else note.start - 0.3  # strings follow each other
        chords = {harmony.at(CHORDS, max(0.0, nominal)), harmony.at(CHORDS, note.start)}
        # Power chords always have a fifth; over a diminished chord they leave it to the octave.
        allowed = {tone for chord in chords for tone in chord.classes}
        assert note.pitch % 12 in allowed or (
            name == "chug" and note.pitch % 12 in {(chord.root + 7) % 12 for chord in chords}
        ), name


@pytest.mark.parametrize("name", sorted(set(bassline.STYLES) - {"offbeat"}))
def test_a_chord_begins_with_its_root(name):
    hits = []
    for seed in range(5):
        notes = bassline.STYLES[name](np.random.default_rng(seed), 28, 55, 4)(CHORDS, [0.0, 4.0, 8.0, 12.0])
        assert {note.pitch % 12 for note in notes if note.start == 0} <= {0}
        hits += [
            note.pitch % 12 == chord.root for chord in CHORDS for note in notes if note.start == chord.start
        ]
    assert len(hits) > 8 and np.mean(hits) > 0.7  # a passing note or the fifth may come instead


def test_locked_bass_follows_the_kick():
    play = bassline.locked(np.random.default_rng(0), 28, 55, 4)
    kicks = [0.0, 1.5, 2.75, 4.0, 6.5, 8.0, 11.0, 12.0]
    assert {note.start for note in play(CHORDS, kicks)} == set(kicks)


def test_close_voicings_move_little():
    one, two = (harmony.close_voicing(chord, 60, 40, 84) for chord in CHORDS[:2])
    assert abs(np.mean(one) - np.mean(two)) < 4
