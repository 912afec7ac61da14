"""A composed song: notes in beats, parts, sections. Plain data: no audio, no files, no randomness.

    Song -> Part (one instrument) -> Note (start and length in beats, one beat is a quarter note)

The `label` of a part says what it is ("guitar", "strings", ...); render.py groups labels to stems.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Note:
    """A note of a part."""

    start: float  # beats since the beginning of the song
    length: float  # beats
    pitch: int  # MIDI note number, 60 is middle C; in drum parts the General MIDI percussion key
    velocity: int  # 1 to 127


@dataclass(frozen=True, order=True)
class Control:
    """A MIDI controller or the pitch bend at one time."""

    at: float  # beats
    kind: str  # "bend" (value: semitones), "modulation", "expression" (value: 0 to 1)
    value: float


@dataclass(frozen=True)
class Part:
    """What one instrument plays in a song."""

    name: str  # unique in its song
    label: str  # one of instruments.LABELS
    role: str  # what it plays: "bass", "strum", "pad", "lead", ...
    group: str  # the instrument group, a key of instruments.GROUPS; "kit" for drums
    notes: tuple[Note, ...]
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of a song."""

    kind: str  # "intro", "verse", "chorus", "bridge", "break", "outro"
    bar: int  # the first bar, counted from 0
    bars: int


@dataclass(frozen=True)
class Song:
    """A song as notes."""

    seed: int
    index: int
    style: str
    tempo: float  # quarter notes a minute
    beats_per_bar: int
    key: int  # pitch class of the tonic, 0 is C
    mode: str  # "major" or "minor"
    drummer: str  # "human", "machine" or "none"
    kit: str  # "acoustic" or "electronic": which drum kits fit
    sections: tuple[Section, ...]
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return song_name(self.seed, self.index)

    @property
    def beats(self) -> float:
        """Its length in beats."""
        return float(sum(section.bars for section in self.sections) * self.beats_per_bar)

    @property
    def seconds(self) -> float:
        """Its length from the first beat to the end of the last bar."""
        return self.beats * 60 / self.tempo


def song_name(seed: int, index: int) -> str:
    """The name of a song's folder."""
    return f"song-{seed}-{index:05d}"
