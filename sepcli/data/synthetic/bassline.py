"""Bass lines: what a bass plays over the chords of a section. Notes only.

Each style is a function that draws its pattern once (`rng`) and returns `play(chords, kicks)`, so that a
section that comes back is played in the same way. low, high: the range of the bass, as MIDI note numbers.
kicks: the beats of the section at which the bass drum is struck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sepcli.data.synthetic.harmony import Chord, at, grid, nearest
from sepcli.data.synthetic.score import Note

Play = Callable[[Sequence[Chord], Sequence[float]], list[Note]]
BassStyle = Callable[[np.random.Generator, int, int, int], Play]


class _Range:
    """Chooses pitches near one low pitch, so that a line does not jump about."""

    def __init__(self, rng: np.random.Generator, low: int, high: int):
        self.low, self.high = low, high
        # The lower of two draws: most bass lines stay within an octave above the lowest note.
        self.home = low + float(rng.uniform(2, min(14, high - low - 8), size=2).min())

    def root(self, chord: Chord) -> int:
        """The bass note of the chord."""
        return nearest(chord.bass, self.home, self.low, self.high)

    def above(self, chord: Chord, semitones: int) -> int:
        """A note above the bass note, an octave lower where that leaves the range."""
        pitch = self.root(chord) + semitones
        return pitch if pitch <= self.high else pitch - 12

    def fifth(self, chord: Chord) -> int:
        """The fifth of the chord, diminished or augmented where the chord's is."""
        return self.above(chord, 6 if 6 in chord.intervals else 8 if 8 in chord.intervals else 7)


def roots(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Repeated roots: whole notes to sixteenths; the backbone of rock and pop."""
    range_ = _Range(rng, low, high)
    size = float(
        rng.choice([0.5, 0.5, 0.5, 1.0, 2.0, beats_per_bar, 0.25], p=[0.2, 0.2, 0.15, 0.15, 0.1, 0.15, 0.05])
    )
    gate = float(rng.uniform(0.5, 1.0))
    passing = rng.random() < 0.5

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for beat in grid(chords, size):
            chord = at(chords, beat)
            pitch = range_.root(chord)
            leads = at(chords, beat + size)
            if passing and leads is not chord and size <= 1 and leads.bass != chord.bass:
                pitch = range_.root(leads) + (1 if range_.root(leads) < pitch else -1) * (1 + _parity(beat))
                pitch = min(max(pitch, low), high)
            notes.append(Note(beat, size * gate, pitch, 100 if beat % 1 == 0 else 88))
        return notes

    return play


def _parity(beat: float) -> int:
    """0 and 1 in turn, on sixteenths."""
    return int(beat * 4) % 2


def octaves(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Root and octave in turn: disco, synth pop."""
    range_ = _Range(rng, low, min(high, low + 20))
    size = float(rng.choice([0.5, 0.25], p=[0.75, 0.25]))
    gate = float(rng.uniform(0.4, 0.95))
    up_first = rng.random() < 0.8

    def octave(root: int) -> int:
        """That above, or below where that leaves the range; the root itself in a range of less than two."""
        return next((pitch for pitch in (root + 12, root - 12) if low <= pitch <= high), root)

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, size)):
            root = range_.root(at(chords, beat))
            pitch = octave(root) if (number % 2 == 1) == up_first else root
            notes.append(Note(beat, size * gate, pitch, 104 if number % 2 == 0 else 92))
        return notes

    return play


def walking(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """A note on each beat: chord tones, then a step towards the next root: jazz, blues, country."""
    range_ = _Range(rng, low, high)
    skips = float(rng.uniform(0, 0.25))

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        own = np.random.default_rng([chord.root for chord in chords])
        notes = []
        pitch = range_.root(chords[0])
        for beat in grid(chords, 1.0):
            chord, next_ = at(chords, beat), at(chords, beat + 1)
            if abs(beat - chord.start) < 1e-6:
                pitch = range_.root(chord)
            elif next_ is not chord:
                goal = range_.root(next_)
                pitch = goal + int(own.choice([-1, 1, 2, -2]))
            else:
                tones = [p for p in range(low, high + 1) if p % 12 in chord.classes and 0 < abs(p - pitch) <= 7]
                pitch = int(own.choice(tones)) if tones else pitch
            pitch = min(max(pitch, low), high)
            notes.append(Note(beat, 0.92, pitch, int(own.integers(84, 106))))
            if own.random() < skips:
                notes.append(Note(beat + 0.66, 0.25, pitch, 70))
        return notes

    return play


def arpeggio(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Root, third, fifth, octave in a fixed order: ballads, latin, synthwave."""
    range_ = _Range(rng, low, high)
    size = float(rng.choice([0.5, 1.0, 0.25], p=[0.6, 0.25, 0.15]))
    order = [0, *rng.choice([1, 2, 3], size=int(rng.choice([3, 3, 7])), replace=True)]
    gate = float(rng.uniform(0.6, 1.0))

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, size)):
            chord = at(chords, beat)
            tones = (
                range_.root(chord),
                range_.above(chord, chord.intervals[1]),
                range_.fifth(chord),
                range_.above(chord, 12),
            )
            notes.append(
                Note(beat, size * gate, tones[order[number % len(order)]], 98 if number % 2 == 0 else 86)
            )
        return notes

    return play


def syncopated(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Sixteenths drawn once for two bars, with octaves, sevenths, ghost notes and approaches: funk, soul."""
    range_ = _Range(rng, low, min(high, low + 24))
    steps = 2 * beats_per_bar * 4
    weights = np.array(
        [
            0.95 if step % 16 == 0 else 0.5 if step % 4 == 0 else 0.42 if step % 2 == 0 else 0.3
            for step in range(steps)
        ]
    ) * rng.uniform(0.6, 1.1)
    struck = [step for step in range(steps) if rng.random() < weights[step]] or [0]
    tones = {
        step: rng.choice(["root", "root", "octave", "fifth", "seventh", "approach", "ghost"])
        if step % 16
        else "root"
        for step in struck
    }
    gate = float(rng.uniform(0.5, 1.0))

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, 0.25)):
            step = number % steps
            if step not in tones:
                continue
            chord = at(chords, beat)
            after = next((other - step for other in struck if other > step), steps - step)
            tone = tones[step]
            if tone == "approach":
                pitch = min(max(range_.root(at(chords, beat + 0.25 * after)) - 1, low), high)
            else:
                pitch = {
                    "root": range_.root,
                    "ghost": range_.root,
                    "fifth": range_.fifth,
                    "octave": lambda chord: range_.above(chord, 12),
                    "seventh": lambda chord: range_.above(chord, 10),
                }[str(tone)](chord)
            length = 0.1 if tone == "ghost" else min(0.25 * after, 1.0) * gate
            notes.append(Note(beat, length, pitch, 52 if tone == "ghost" else 102 if step % 4 == 0 else 92))
        return notes

    return play


def locked(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """A note with every stroke of the bass drum, held to the next: rock, pop, hip-hop."""
    range_ = _Range(rng, low, high)
    gate = float(rng.uniform(0.6, 1.0))
    fifths = float(rng.uniform(0, 0.3))
    fallback = roots(rng, low, high, beats_per_bar)

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        own = np.random.default_rng(len(chords) * 1000 + len(kicks))
        begin, end = chords[0].start, chords[-1].end
        times = sorted(
            {round(kick * 4) / 4 for kick in kicks if begin <= kick < end - 0.1}
            | {chord.start for chord in chords}
        )
        if len(kicks) < len(chords) / 2:
            return fallback(chords, kicks)
        notes = []
        for beat, after in zip(times, [*times[1:], end], strict=True):
            chord = at(chords, beat)
            first = abs(beat - chord.start) < 1e-6
            pitch = range_.fifth(chord) if not first and own.random() < fifths else range_.root(chord)
            notes.append(Note(beat, max(0.15, min(after - beat, 2.5) * gate), pitch, 104 if first else 94))
        return notes

    return play


def sustained(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """One long note for each chord, perhaps struck again late: dub, ambient, the 808 of hip-hop and trap."""
    range_ = _Range(rng, low, min(high, low + 16))
    again = rng.random() < 0.6
    late = float(rng.choice([1.5, 2.5, 2.75, 3.5]))
    gate = float(rng.uniform(0.7, 1.0))

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for chord in chords:
            pitch = range_.root(chord)
            if again and chord.length > late + 0.25:
                notes += [
                    Note(chord.start, late * gate, pitch, 108),
                    Note(chord.start + late, (chord.length - late) * gate, pitch, 100),
                ]
            else:
                notes.append(Note(chord.start, chord.length * gate, pitch, 106))
        return notes

    return play


def offbeat(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Between the kicks: on every off-beat eighth (house), or the three sixteenths after each beat (trance)."""
    range_ = _Range(rng, low, min(high, low + 18))
    places = [(0.5,), (0.25, 0.5, 0.75), (0.5, 0.75)][int(rng.integers(3))]
    length = 0.45 if len(places) == 1 else 0.21
    jump = rng.random() < 0.3

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        return [
            Note(
                beat + place,
                length,
                range_.root(at(chords, beat)) + (12 if jump and place == places[-1] else 0),
                100,
            )
            for beat in grid(chords, 1.0)
            for place in places
        ]

    return play


def two_feel(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """Root and fifth in turn, straight (country, polka, waltz) or dotted (bossa nova)."""
    range_ = _Range(rng, low, high)
    dotted = beats_per_bar == 4 and rng.random() < 0.5

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, 2.0 if beats_per_bar == 4 else float(beats_per_bar))):
            chord = at(chords, beat)
            pitch = range_.root(chord) if number % 2 == 0 else range_.fifth(chord)
            if dotted:
                notes += [Note(beat, 1.4, pitch, 98), Note(beat + 1.5, 0.45, pitch, 86)]
            else:
                notes.append(Note(beat, 1.5 if beats_per_bar == 4 else 1.0, pitch, 98))
        return notes

    return play


def riff(rng: np.random.Generator, low: int, high: int, beats_per_bar: int) -> Play:
    """A figure of one or two bars in the minor pentatonic of each root: blues rock, reggae, acid."""
    range_ = _Range(rng, low, min(high, low + 24))
    size = float(rng.choice([0.5, 0.25]))
    steps = round(beats_per_bar * int(rng.choice([1, 2])) / size)
    rest = float(rng.uniform(0.2, 0.6))
    figure: list[int | None] = [0]
    for _ in range(steps - 1):
        figure.append(None if rng.random() < rest else int(rng.choice([0, 0, 3, 5, 7, 10, 12])))
    gate = float(rng.uniform(0.5, 0.95))

    def play(chords: Sequence[Chord], kicks: Sequence[float]) -> list[Note]:
        notes = []
        for number, beat in enumerate(grid(chords, size)):
            tone = figure[number % steps]
            if tone is not None:
                chord = at(chords, beat)
                tone = 4 if tone == 3 and 4 in chord.intervals else tone
                notes.append(Note(beat, size * gate, range_.above(chord, tone), 100 if tone == 0 else 90))
        return notes

    return play


STYLES: dict[str, BassStyle] = {
    "roots": roots,
    "octaves": octaves,
    "walking": walking,
    "arpeggio": arpeggio,
    "syncopated": syncopated,
    "locked": locked,
    "sustained": sustained,
    "offbeat": offbeat,
    "two_feel": two_feel,
    "riff": riff,
}
