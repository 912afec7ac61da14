"""Groups of General MIDI instruments that can play the same part, and the range in which each sounds right.

Knows no SoundFont: render.py finds out which of these presets exist. Voices (choirs, "vox" leads) are left out
on purpose: in a mix they would be sung parts with the label of an instrument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DRUM_BANK = 128  # where a SoundFont keeps its drum kits
LABELS = (
    "drums",
    "percussion",
    "bass",
    "guitar",
    "piano",
    "organ",
    "strings",
    "brass",
    "wind",
    "synth",
    "pad",
    "mallets",
    "plucked",
    "lead",
    "vocals",
)


@dataclass(frozen=True)
class Group:
    """Instruments that can play the same part.

    presets: (bank, program), programs counted from 0. low, high: the lowest and the highest pitch.
    """

    label: str
    presets: tuple[tuple[int, int], ...]
    low: int
    high: int


def _bank0(*programs: int) -> tuple[tuple[int, int], ...]:
    return tuple((0, program) for program in programs)


GROUPS: Mapping[str, Group] = {
    "bass.upright": Group("bass", _bank0(32), 28, 60),
    "bass.electric": Group("bass", _bank0(33, 34, 33, 34, 35), 28, 60),
    "bass.slap": Group("bass", _bank0(36, 37), 28, 62),
    "bass.synth": Group("bass", (*_bank0(38, 39, 87, 81, 80, 38, 39), (8, 38), (8, 39)), 24, 60),
    "bass.sub": Group("bass", (*_bank0(38, 39), (8, 80), (8, 38)), 24, 50),
    "guitar.nylon": Group("guitar", (*_bank0(24), (8, 24)), 40, 84),
    "guitar.steel": Group("guitar", (*_bank0(25, 25), (8, 25), (16, 25)), 40, 84),
    "guitar.clean": Group("guitar", (*_bank0(26, 27, 27), (8, 28), (8, 26)), 40, 86),
    "guitar.muted": Group("guitar", (*_bank0(28), (8, 28)), 40, 76),
    "guitar.drive": Group("guitar", _bank0(29, 30), 38, 86),
    "piano.acoustic": Group("piano", (*_bank0(0, 1, 2, 3, 0, 1), (8, 0)), 33, 100),
    "piano.electric": Group("piano", (*_bank0(4, 5, 4, 5, 2), (8, 4), (8, 5)), 36, 96),
    "piano.clavinet": Group("piano", _bank0(7, 6), 40, 88),
    "organ": Group("organ", (*_bank0(16, 17, 18, 16, 18, 19, 20), (8, 16), (8, 17)), 36, 90),
    "accordion": Group("organ", (*_bank0(21, 22, 23), (8, 21)), 48, 88),
    "mallets": Group("mallets", _bank0(8, 9, 10, 11, 11, 12, 12, 13, 14, 15, 108), 55, 98),
    "strings": Group("strings", (*_bank0(48, 49, 48, 49, 50, 51, 44), (8, 48), (8, 50)), 40, 96),
    "strings.short": Group("strings", _bank0(45, 48), 43, 91),
    "strings.solo": Group("strings", (*_bank0(40, 41, 42, 110), (8, 40)), 48, 93),
    "brass": Group("brass", (*_bank0(61, 61, 62, 63, 56, 57), (8, 61), (8, 62), (8, 63)), 46, 84),
    "brass.solo": Group("brass", _bank0(56, 57, 58, 59, 60), 48, 84),
    "reed": Group("wind", _bank0(64, 65, 66, 67, 68, 69, 70, 71), 49, 86),
    "flute": Group("wind", _bank0(72, 73, 74, 75, 77, 78, 79), 60, 96),
    "synth.lead": Group("lead", (*_bank0(80, 81, 81, 82, 83, 84, 86, 87, 62, 63), (8, 80), (20, 81)), 48, 91),
    "synth.pluck": Group(
        "synth", (*_bank0(80, 81, 84, 86, 87, 90, 96, 98, 99, 100, 103), (20, 81), (8, 62)), 45, 93
    ),
    "synth.chords": Group("synth", (*_bank0(81, 90, 90, 50, 51, 62, 63, 86), (20, 81), (8, 63)), 45, 88),
    "pad": Group("pad", _bank0(88, 89, 90, 92, 93, 94, 95, 97, 99, 50, 51), 40, 90),
    "voice.low": Group("vocals", (), 43, 66),  # sung by sing.py, not by a SoundFont
    "voice.high": Group("vocals", (), 54, 77),
    "plucked": Group("plucked", (*_bank0(46, 104, 105, 106, 107, 108, 15), (8, 107), (16, 25)), 48, 93),
}

# Drum kits of bank 128. Where a SoundFont lacks the wanted kit, its first one is used.
KITS: Mapping[str, tuple[int, ...]] = {
    "acoustic": (*range(20), 0, 1, 2, 8, 16, 16, 17, 18, 19, *range(32, 37), 40, 41, 42),
    "electronic": (24, 25, 24, 25, 16, 8, 26, 28, 30),
}

# General MIDI percussion keys that the generator and the drum performances use.
KICK, RIM, SNARE, CLAP, SNARE2 = 36, 37, 38, 39, 40
HAT, PEDAL_HAT, OPEN_HAT = 42, 44, 46
LOW_TOM, MID_TOM, HIGH_TOM = 43, 47, 50
CRASH, CRASH2, RIDE, RIDE_BELL = 49, 57, 51, 53
TAMBOURINE, COWBELL, SHAKER, CABASA, CLAVES = 54, 56, 82, 69, 75
HIGH_BONGO, LOW_BONGO, MUTE_CONGA, OPEN_CONGA, LOW_CONGA, MARACAS = 60, 61, 62, 63, 64, 70
DRUM_KEYS = range(27, 88)
