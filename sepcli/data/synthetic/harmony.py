"""Chords from Roman numerals, scales, and voicings that move little. Pitches, and the time spans of chords.

Numerals count along the major scale in both modes: the sixth of a minor key is written "bVI". Lower case is
minor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAJOR_DEGREES = {"I": 0, "II": 2, "III": 4, "IV": 5, "V": 7, "VI": 9, "VII": 11}  # semitones above the tonic
_NUMERAL = re.compile(r"(b|#)?([IV]+|[iv]+)(.*)")
# Semitones above the root for each suffix: (upper case, lower case)
_QUALITIES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "": ((0, 4, 7), (0, 3, 7)),
    "5": ((0, 7), (0, 7)),
    "6": ((0, 4, 7, 9), (0, 3, 7, 9)),
    "7": ((0, 4, 7, 10), (0, 3, 7, 10)),
    "maj7": ((0, 4, 7, 11), (0, 3, 7, 11)),
    "9": ((0, 4, 7, 10, 14), (0, 3, 7, 10, 14)),
    "maj9": ((0, 4, 7, 11, 14), (0, 3, 7, 11, 14)),
    "add9": ((0, 4, 7, 14), (0, 3, 7, 14)),
    "sus2": ((0, 2, 7), (0, 2, 7)),
    "sus4": ((0, 5, 7), (0, 5, 7)),
    "7sus4": ((0, 5, 7, 10), (0, 5, 7, 10)),
    "+": ((0, 4, 8), (0, 4, 8)),
    "o": ((0, 3, 6), (0, 3, 6)),
    "o7": ((0, 3, 6, 9), (0, 3, 6, 9)),
    "m7b5": ((0, 3, 6, 10), (0, 3, 6, 10)),
    "13": ((0, 4, 10, 14, 21), (0, 3, 10, 14, 21)),
    "7#9": ((0, 4, 7, 10, 15), (0, 3, 7, 10, 15)),
}
SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}


@dataclass(frozen=True)
class Chord:
    """A chord of a song, from one beat to another."""

    start: float  # beats
    length: float  # beats
    root: int  # pitch class
    intervals: tuple[int, ...]  # semitones above the root, the root itself first
    bass: int  # pitch class of the bass: the root, or another one where the chord is inverted

    @property
    def end(self) -> float:
        """Beats."""
        return self.start + self.length

    @property
    def classes(self) -> tuple[int, ...]:
        """The pitch classes of its notes, the root first."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def parse_numeral(text: str) -> tuple[int, tuple[int, ...]]:
    """ "bVIImaj7" -> (10, (0, 4, 7, 11)): semitones of the root above the tonic, and the chord's intervals."""
    match = _NUMERAL.fullmatch(text)
    assert match and match[3] in _QUALITIES, text
    accidental, degree, suffix = match.groups()
    root = MAJOR_DEGREES[degree.upper()] + {"b": -1, "#": 1, None: 0}[accidental]
    return root % 12, _QUALITIES[suffix][degree.islower()]


def at(chords: Sequence[Chord], beat: float) -> Chord:
    """The chord that sounds at `beat`; after the end, the last chord."""
    for chord in chords:
        if beat < chord.end - 1e-6:
            return chord
    return chords[-1]


def grid(chords: Sequence[Chord], size: float) -> list[float]:
    """The beats from the beginning of the chords to their end, `size` beats apart."""
    count = round((chords[-1].end - chords[0].start) / size)
    return [chords[0].start + number * size for number in range(count)]


def nearest(pitch_class: int, pitch: float, low: int, high: int) -> int:
    """The pitch of that class nearest to `pitch` within [low, high] (at least an octave wide)."""
    assert high - low >= 11
    first = low + (pitch_class - low) % 12
    return min(range(first, high + 1, 12), key=lambda found: (abs(found - pitch), found))


def close_voicing(chord: Chord, centre: float, low: int, high: int, count: int = 4) -> list[int]:
    """Up to `count` chord tones around `centre`, ascending, each pitch once: close position, any inversion."""
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 in chord.classes]
    starts = range(max(1, len(pitches) - count + 1))
    best = min(starts, key=lambda start: abs(sum(pitches[start : start + count]) / count - centre))
    return pitches[best : best + count]


def guitar_voicing(chord: Chord, low: int, high: int, strings: int = 6) -> list[int]:
    """The root, then chord tones upwards, at least three semitones apart: the notes of a barre chord."""
    root = low + (chord.root - low) % 12
    pitches = [root]
    for pitch in range(root + 5, high + 1):
        if len(pitches) == strings:
            break
        if pitch % 12 in chord.classes and pitch - pitches[-1] >= 3:
            pitches.append(pitch)
    return pitches


def power_voicing(chord: Chord, low: int, octave: bool = True) -> list[int]:
    """A power chord from `low` on: root, fifth, octave; root and octave where the chord has no plain fifth."""
    root = low + (chord.root - low) % 12
    fifth = 7 if 6 not in chord.intervals and 8 not in chord.intervals else 12
    return [root, root + fifth] + ([root + 12] if octave and fifth != 12 else [])


def scale_pitches(tonic: int, scale: str, low: int, high: int) -> list[int]:
    """The pitches of a scale of SCALES within [low, high], ascending. tonic: its pitch class."""
    steps = {(tonic + step) % 12 for step in SCALES[scale]}
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in steps]
