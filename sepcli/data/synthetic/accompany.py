"""How chords are played: strums, chugs, stabs, block and broken chords, pads, arpeggios. Notes only.

As in bassline.py, each role is a function that draws its pattern once (`rng`) and returns `play(chords)`. low,
high: the range of the instrument, as MIDI note numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sepcli.data.synthetic.harmony import Chord, at, close_voicing, grid, guitar_voicing, power_voicing
from sepcli.data.synthetic.score import Note

Play = Callable[[Sequence[Chord]], list[Note]]
Role = Callable[[np.random.Generator, int, int, int], Play]


def _rhythm(rng: np.random.Generator, beats_per_bar: int, density: float) -> list[float]:
    """Onsets within a bar, in beats, on a grid of eighths or sixteenths; the first beat nearly always."""
    size = float(rng.choice([0.5, 0.25], p=[0.7, 0.3]))
    steps = round(beats_per_bar / size)
    onsets = [
        step * size
        for step in range(steps)
        if rng.random() < (0.9 if step == 0 else density * (1.2 if (step * size) % 1 == 0 else 0.8))
    ]
    return onsets or [0.0]


def _spans(chords: Sequence[Chord], onsets: Sequence[float], beats_per_bar: int) -> list[tuple[float, float]]:
    """A bar's rhythm repeated over the chords: (beat, beats until the next onset or chord)."""
    begin, end = chords[0].start, chords[-1].end
    bars = round((end - begin) / beats_per_bar)
    times = sorted(
        {begin + bar * beats_per_bar + onset for bar in range(bars) for onset in onsets}
        | {chord.start for chord in chords}
    )
    return [(beat, after - beat) for beat, after in zip(times, [*times[1:], end], strict=True)]


def strum(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """All strings one after another, down on the beats and up between them; some strokes are left out."""
    size = float(rng.choice([0.5, 0.5, 0.25, 1.0], p=[0.4, 0.2, 0.25, 0.15]))
    steps = round(beats_per_bar / size)
    struck = [rng.random() < (0.95 if (step * size) % 1 == 0 else 0.6) for step in range(steps)]
    struck[0] = True
    spread = float(rng.uniform(0.008, 0.05))  # beats from string to string
    mute = float(rng.choice([1.0, 1.0, 0.5]))
    bottom = low + int(rng.integers(0, 8))

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        times = [beat for number, beat in enumerate(grid(chords, size)) if struck[number % steps]]
        for beat, after in zip(times, [*times[1:], chords[-1].end], strict=True):
            chord = at(chords, beat)
            after = min(after, chord.end)
            pitches = guitar_voicing(chord, bottom, min(high, bottom + 30))
            down = (beat / size) % 2 < 1
            pitches = pitches if down else pitches[::-1][:4]
            for string, pitch in enumerate(pitches):
                late = string * spread
                notes.append(
                    Note(
                        beat + late,
                        max(0.1, (after - beat) * mute - late),
                        pitch,
                        int(np.clip((98 if down else 84) - 3 * string, 1, 127)),
                    )
                )
        return notes

    return play


def chug(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Power chords, short and repeated, or held: rock, punk, metal."""
    held = rng.random() < 0.35
    onsets = _rhythm(rng, beats_per_bar, float(rng.uniform(0.4, 1.0)))
    eighths = rng.random() < 0.5
    gate = float(rng.uniform(0.45, 1.0))
    octave = rng.random() < 0.7
    bottom = low + int(rng.integers(0, 5))

    def play(chords: Sequence[Chord]) -> list[Note]:
        spans = (
            [(chord.start, chord.length) for chord in chords]
            if held
            else [(beat, 0.5) for beat in grid(chords, 0.5)]
            if eighths
            else _spans(chords, onsets, beats_per_bar)
        )
        return [
            Note(beat, length * (0.97 if held else gate), pitch, 110 if beat % 1 == 0 else 96)
            for beat, length in spans
            for pitch in power_voicing(at(chords, beat), bottom, octave)
        ]

    return play


def offbeats(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Short chords on the off-beats: reggae, ska, house piano."""
    place = float(rng.choice([0.5, 0.5, 1.0]))
    length = float(rng.uniform(0.12, 0.4))
    centre = float(rng.uniform(low + 12, high - 8))
    double = rng.random() < 0.25

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, 1.0)):
            if place == 1.0 and number % 2 == 0:
                continue
            when = beat if place == 1.0 else beat + 0.5
            for pitch in close_voicing(at(chords, when), centre, low, high):
                notes.append(Note(when, length, pitch, 96))
                if double:
                    notes.append(Note(when + 0.25, length / 2, pitch, 74))
        return notes

    return play


def scratch(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Sixteenths of a few high strings, most of them damped: funk and disco guitar."""
    steps = beats_per_bar * 4
    loud = rng.random(steps) < rng.uniform(0.2, 0.45)
    loud[int(rng.integers(0, 4))] = True
    ghost = rng.random(steps) < rng.uniform(0.1, 0.6)
    centre = float(rng.uniform(low + 20, min(high - 6, low + 32)))

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, 0.25)):
            step = number % steps
            if loud[step] or ghost[step]:
                for pitch in close_voicing(at(chords, beat), centre, low, high, 3):
                    notes.append(Note(beat, 0.2 if loud[step] else 0.06, pitch, 100 if loud[step] else 48))
        return notes

    return play


def block(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Chords in a rhythm, perhaps over left-hand roots: pop piano, organ, electric piano."""
    onsets = _rhythm(rng, beats_per_bar, float(rng.uniform(0.15, 0.6)))
    centre = float(rng.uniform(low + 16, high - 12))
    gate = float(rng.uniform(0.4, 1.0))
    left = rng.random() < 0.4
    count = int(rng.choice([3, 4, 4, 5]))

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        for beat, length in _spans(chords, onsets, beats_per_bar):
            for pitch in close_voicing(at(chords, beat), centre, low, high, count):
                notes.append(Note(beat, length * gate, pitch, 94 if beat % 1 == 0 else 84))
        if left:
            for chord in chords:
                root = low + (chord.bass - low) % 12
                notes.append(Note(chord.start, chord.length * 0.95, root, 86))
                if root + 12 <= high:
                    notes.append(Note(chord.start, chord.length * 0.95, root + 12, 78))
        return notes

    return play


def broken(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Chord tones one after another: picked guitars, Alberti piano, harps."""
    size = float(rng.choice([0.5, 0.25, 1 / 3], p=[0.6, 0.3, 0.1]))
    count = int(rng.choice([3, 4, 5]))
    order = list(rng.permutation(count)) if rng.random() < 0.5 else [0, 2, 1, 2, *range(count)]
    order = [int(min(tone, count - 1)) for tone in order]
    centre = float(rng.uniform(low + 12, high - 12))
    ring = float(rng.choice([1.0, 2.0, 4.0]))
    root_first = rng.random() < 0.6

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, size)):
            chord = at(chords, beat)
            pitches = close_voicing(chord, centre, low, high, count)
            pitch = pitches[order[number % len(order)] % len(pitches)]
            if root_first and abs(beat - chord.start) < 1e-6:
                pitch = low + (chord.root - low) % 12
            notes.append(Note(beat, min(size * ring, chord.end - beat), pitch, 88 if number % 2 == 0 else 78))
        return notes

    return play


def sustain(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Held chords that move as little as they can: pads, strings, organ."""
    centre = float(rng.uniform(low + 14, high - 14))
    count = int(rng.choice([2, 3, 4, 4, 5]))
    swell = float(rng.uniform(0.9, 1.05))

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        near = centre
        for chord in chords:
            pitches = close_voicing(chord, near, low, high, count)
            near = 0.5 * centre + 0.5 * float(np.mean(pitches))
            notes += [Note(chord.start, chord.length * swell, pitch, 84) for pitch in pitches]
        return notes

    return play


def stabs(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """A few short accents in two bars: brass, synth hits, orchestra."""
    bars = 2
    steps = bars * beats_per_bar * 4
    onsets = sorted({float(rng.integers(0, steps)) / 4 for _ in range(int(rng.integers(1, 6)))})
    centre = float(rng.uniform(low + 12, high - 10))
    length = float(rng.choice([0.2, 0.4, 0.9]))

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        begin, end = chords[0].start, chords[-1].end
        for first in np.arange(begin, end, bars * beats_per_bar):
            for onset in onsets:
                beat = float(first + onset)
                if beat < end - 0.05:
                    notes += [
                        Note(beat, min(length, end - beat), pitch, 104)
                        for pitch in close_voicing(at(chords, beat), centre, low, high, 4)
                    ]
        return notes

    return play


def arpeggiator(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """The arpeggio of a machine: up, down, both or a fixed shuffle, over one to three octaves."""
    size = float(rng.choice([0.25, 0.5, 1 / 3], p=[0.7, 0.2, 0.1]))
    count = int(rng.choice([3, 4, 6, 8]))
    shape = str(rng.choice(["up", "down", "both", "shuffle"]))
    gate = float(rng.uniform(0.3, 1.0))
    shuffle = rng.permutation(count)
    centre = float(rng.uniform(low + 14, high - 14))
    rests = rng.random(16) < rng.choice([0.0, 0.0, 0.25])

    def play(chords: Sequence[Chord]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, size)):
            if rests[number % 16]:
                continue
            pitches = close_voicing(at(chords, beat), centre, low, high, count)
            size_ = len(pitches)
            turn = number % max(1, 2 * size_ - 2)
            step = {
                "up": number % size_,
                "down": size_ - 1 - number % size_,
                "both": turn if turn < size_ else 2 * size_ - 2 - turn,
                "shuffle": int(shuffle[number % count]) % size_,
            }[shape]
            notes.append(Note(beat, size * gate, pitches[step], 96 if number % 4 == 0 else 84))
        return notes

    return play


ROLES: dict[str, Role] = {
    "strum": strum,
    "chug": chug,
    "offbeats": offbeats,
    "scratch": scratch,
    "block": block,
    "broken": broken,
    "sustain": sustain,
    "stabs": stabs,
    "arpeggiator": arpeggiator,
}
