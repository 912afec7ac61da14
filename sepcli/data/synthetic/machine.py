"""Drum machines: programmed patterns on a grid of sixteenths, and percussion. Notes only.

A pattern has a string for each key, with a character for each sixteenth of a 4/4 bar: "x" struck, "o" softer,
"." not. Strings of 32 characters are two bars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sepcli.data.synthetic import instruments as gm
from sepcli.data.synthetic.score import Note

# Alternatives for each element; for each song, one is drawn. styles.py names the families.
FAMILIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "house": {
        "kick": ("x...x...x...x...",),
        "snare": ("....x.......x...", "....x.......x..o", "................"),
        "hat": ("..x...x...x...x.", "x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo", "................"),
        "open": ("..x...x...x...x.", "................", "......x.......x."),
    },
    "techno": {
        "kick": ("x...x...x...x...", "x...x...x...x.x."),
        "snare": ("................", "....x.......x...", ".......x......x."),
        "hat": ("xoxoxoxoxoxoxoxo", "..x...x...x...x.", "oxoxoxoxoxoxoxox"),
        "open": ("..x...x...x...x.", "................"),
    },
    "trap": {
        "kick": ("x.........x.....", "x......x..x.....", "x..x......x..x..", "x.....x.......x."),
        "snare": ("........x.......", "........x......o"),
        "hat": ("x.x.x.x.x.x.x.x.", "xxxxxxxxxxxxxxxx", "x.x.x.xxx.x.x.x.", "x..x..x.x..x..x."),
        "open": ("................", "..............x."),
    },
    "boombap": {
        "kick": ("x......x..x.....", "x.x.......xx....", "x..x...x..x.....", "x.....x..xx....."),
        "snare": ("....x.......x...", "....x..o.o..x..o"),
        "hat": ("x.x.x.x.x.x.x.x.", "x.xxx.x.x.xxx.x.", "x.x.x.xox.x.x.xo"),
        "open": ("................", "......x.........", "..............x."),
    },
    "breakbeat": {
        "kick": ("x.x.......xx....", "x.....x...x.....", "x..x......x....."),
        "snare": ("....x..o.o..x..o", "....x..x.x..x...", "....x.......x..."),
        "hat": ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo"),
        "open": ("................", "..........x....."),
    },
    "drumnbass": {
        "kick": ("x.........x.....", "x.x.......x....."),
        "snare": ("....x.......x...", "....x..o.o..x..o"),
        "hat": ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo"),
        "open": ("................", "..x.......x....."),
    },
    "pop": {
        "kick": (
            "x.......x.......",
            "x.....x.x.......",
            "x..x..x.x.......",
            "x.......x.x.....",
            "x...x...x...x...",
        ),
        "snare": ("....x.......x...",),
        "hat": ("x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo", "x...x...x...x..."),
        "open": ("................", "..............x.", "..x...x...x...x."),
    },
    "rock": {
        "kick": ("x.......x.x.....", "x.x.....x.......", "x......x..x.....", "x.x...x.x.x...x."),
        "snare": ("....x.......x...", "....x..o.o..x..."),
        "hat": ("x.x.x.x.x.x.x.x.", "x...x...x...x..."),
        "open": ("................", "..............x."),
    },
    "reggaeton": {
        "kick": ("x...x...x...x...",),
        "snare": ("...x..x....x..x.", "...x..x...x...x."),
        "hat": ("x.x.x.x.x.x.x.x.", "................"),
        "open": ("................",),
    },
    "waltz": {  # twelve sixteenths: 3/4
        "kick": ("x...........", "x.....x....."),
        "snare": ("....x...x...", "........x..."),
        "hat": ("x.x.x.x.x.x.", "x...x...x..."),
        "open": ("............",),
    },
}
PERCUSSION = (
    gm.TAMBOURINE,
    gm.SHAKER,
    gm.CABASA,
    gm.MARACAS,
    gm.COWBELL,
    gm.CLAVES,
    gm.MUTE_CONGA,
    gm.OPEN_CONGA,
    gm.LOW_CONGA,
    gm.HIGH_BONGO,
    gm.LOW_BONGO,
)


class Machine:
    """The programmed drums of a song: patterns and keys are drawn once, and varied by the sections."""

    def __init__(self, rng: np.random.Generator, family: str):
        patterns = FAMILIES[family]
        self.patterns = {name: str(rng.choice(choices)) for name, choices in patterns.items()}
        self.keys = {
            "kick": int(rng.choice([36, 36, 35])),
            "hat": gm.HAT,
            "open": gm.OPEN_HAT,
            "snare": int(rng.choice([gm.SNARE, gm.SNARE2, gm.CLAP, gm.SNARE, gm.RIM])),
        }
        self.layer = int(rng.choice([0, 0, gm.CLAP, gm.RIM]))  # a second sound with the snare
        self.rolls = family == "trap" or rng.random() < 0.1
        self.cymbal = rng.random() < 0.6
        self.ride = rng.random() < 0.2  # in choruses

    def bars(
        self,
        rng: np.random.Generator,
        kind: str,
        start: float,
        bars: int,
        beats_per_bar: int,
    ) -> list[Note]:
        """The notes of a section from beat `start` on."""
        silent = set()
        if kind in ("intro", "break", "outro", "bridge"):
            silent = {name for name in self.patterns if rng.random() < 0.35}
        notes = []
        for bar in range(bars):
            first = start + bar * beats_per_bar
            ends = bar == bars - 1 and bars >= 2
            for name, pattern in self.patterns.items():
                if name not in silent:
                    fill = ends and rng.random() < 0.6
                    notes += self._strokes(rng, name, pattern, first, fill=fill, kind=kind)
        if self.cymbal and kind in ("chorus", "bridge", "verse") and rng.random() < 0.7:
            notes.append(Note(start, 2.0, gm.CRASH, 100))
        return notes

    def _strokes(self, rng, name, pattern, first, *, fill, kind) -> list[Note]:
        notes = []
        key = gm.RIDE if name == "hat" and kind == "chorus" and self.ride else self.keys[name]
        for step, mark in enumerate(pattern):
            beat = first + step / 4
            if fill and name == "snare" and step >= len(pattern) - 4 and rng.random() < 0.6:
                notes.append(Note(beat, 0.2, key, 70 + 10 * (step % 4)))
            elif fill and name == "kick" and step >= len(pattern) - 4 and rng.random() < 0.5:
                continue
            elif mark == "x":
                notes.append(Note(beat, 0.24, key, 112 if step % 4 == 0 else 100))
                if name == "snare" and self.layer:
                    notes.append(Note(beat, 0.24, self.layer, 96))
                if name == "hat" and self.rolls and rng.random() < 0.08:
                    parts = int(rng.choice([2, 3, 4]))
                    notes += [Note(beat + part / 4 / parts, 0.1, key, 84) for part in range(1, parts)]
            elif mark == "o":
                notes.append(Note(beat, 0.2, key, 58))
        return notes


def percussion(rng: np.random.Generator, beats_per_bar: int) -> Callable[[float, int], list[Note]]:
    """play(start, bars) -> notes: one to three hand drums or shakers in a pattern of one bar."""
    steps = beats_per_bar * 4
    lines = []
    for key in rng.choice(PERCUSSION, size=int(rng.integers(1, 4)), replace=False):
        if key in (gm.SHAKER, gm.TAMBOURINE, gm.CABASA, gm.MARACAS):
            step_size = int(rng.choice([1, 2, 2, 4]))
            struck = {step: 88 if step % 4 == 0 else 66 for step in range(0, steps, step_size)}
        else:
            struck = {
                step: int(rng.integers(60, 110))
                for step in range(steps)
                if rng.random() < (0.4 if step % 2 == 0 else 0.2)
            }
        lines.append((int(key), struck))

    def play(start: float, bars: int) -> list[Note]:
        return [
            Note(start + bar * beats_per_bar + step / 4, 0.2, key, velocity)
            for bar in range(bars)
            for key, struck in lines
            for step, velocity in struck.items()
        ]

    return play
