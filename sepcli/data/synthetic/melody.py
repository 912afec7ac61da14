"""Melodies: a rhythm and a contour that come back, over a scale and chords. Notes and bends only.

`melody` draws a motif once and returns `play(chords)`. The lines of singers are made here, too: they rest
between phrases and stay within about a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sepcli.data.synthetic.harmony import Chord, at, scale_pitches
from sepcli.data.synthetic.score import Control, Note

Play = Callable[[Sequence[Chord]], list[Note]]


def melody(
    rng: np.random.Generator,
    low: int,
    high: int,
    beats_per_bar: int,
    *,
    tonic: int,
    scale: str,
    density: float,
    span: int = 12,
    bars: int = 2,
    rest_share: float = 0.25,
) -> Play:
    """A melody as play(chords) -> notes.

    density: the share of eighths at which a note begins. span: semitones between the lowest and the highest
    note. bars: the length of the motif. rest_share: the share of the motif that is silent, at its end, on
    average.
    """
    low = low + int(rng.integers(0, max(1, high - low - span)))
    high = min(high, low + span)
    pitches = scale_pitches(tonic, scale, low, high)
    size = float(rng.choice([0.5, 0.5, 0.25], p=[0.5, 0.25, 0.25]))
    steps = round(bars * beats_per_bar / size)
    silent_from = steps * (1 - float(rng.uniform(0, 2 * rest_share)))
    onsets = [
        step
        for step in range(steps)
        if step < silent_from
        and rng.random() < density * (1.5 if (step * size) % 1 == 0 else 1.0 if size == 0.5 else 0.6)
    ] or [0]
    contour = np.cumsum(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3], size=len(onsets)))
    ending = np.cumsum(rng.choice([-2, -1, -1, 0, 1, 1, 2], size=len(onsets)))
    middle = len(pitches) // 2
    gate = float(rng.uniform(0.7, 1.0))
    longest = float(rng.choice([1.0, 2.0, 4.0]))

    def play(chords):
        notes = []
        begin, end = chords[0].start, chords[-1].end
        phrase = steps * size
        for repeat, first in enumerate(np.arange(begin, end - 0.1, phrase)):
            shape = ending if repeat % 2 == 1 else contour
            for number, step in enumerate(onsets):
                beat = float(first + step * size)
                if beat >= end - 0.1:
                    break
                place = int(np.clip(middle + shape[number], 0, len(pitches) - 1))
                pitch = pitches[place]
                if (step * size) % 2 == 0 or number == len(onsets) - 1:  # strong beats have a note of the chord
                    tones = [tone for tone in range(low, high + 1) if tone % 12 in at(chords, beat).classes]
                    pitch = min(tones, key=lambda tone: abs(tone - pitch)) if tones else pitch
                after = onsets[number + 1] * size if number + 1 < len(onsets) else phrase
                length = min(after - step * size, longest, end - beat)
                notes.append(
                    Note(beat, max(0.1, length * gate), int(pitch), 100 if step * size % 1 == 0 else 90)
                )
        return notes

    return play


def rap(rng: np.random.Generator, low: int, high: int, beats_per_bar: int, *, tonic: int) -> Play:
    """Rap as play(chords) -> notes: sixteenths around a low pitch, some stressed; a rest every second bar."""
    home = low + int(rng.integers(2, max(3, (high - low) // 2)))
    steps = beats_per_bar * 4
    density = float(rng.uniform(0.45, 0.8))
    bars = [
        [step for step in range(steps) if rng.random() < density and not (bar == 1 and step > steps - 4)]
        for bar in range(2)
    ]
    stress = rng.integers(-2, 5, size=(2, steps))

    def play(chords):
        notes = []
        begin, end = chords[0].start, chords[-1].end
        for number, first in enumerate(np.arange(begin, end - 0.1, beats_per_bar)):
            struck = bars[number % 2]
            for place, step in enumerate(struck):
                after = struck[place + 1] if place + 1 < len(struck) else min(step + 4, steps)
                length = min((after - step) / 4, 1.0)
                pitch = int(np.clip(home + stress[number % 2, step], low, high))
                notes.append(Note(float(first) + step / 4, 0.95 * length, pitch, 104 if step % 4 == 0 else 94))
        return [note for note in notes if note.start < end - 0.1]

    return play


def expression(
    rng: np.random.Generator,
    notes: Sequence[Note],
    *,
    bends: float,
    vibrato: float,
) -> list[Control]:
    """Slides into notes, and late vibrato. bends, vibrato: the share of the longer notes that get one."""
    controls = []
    for note in notes:
        if note.length >= 0.4 and rng.random() < bends:
            depth = float(rng.choice([-2, -1, -1, 1]))
            for step in range(9):
                controls.append(Control(note.start + 0.02 * step, "bend", depth * (1 - step / 8)))
        if note.length >= 0.9 and rng.random() < vibrato:
            controls += [
                Control(note.start + 0.4 * note.length, "modulation", float(rng.uniform(0.3, 0.9))),
                Control(note.start + note.length, "modulation", 0.0),
            ]
    return controls
