"""Human drum performances from a folder like the Groove MIDI Dataset, cut to fit a song.

Such a folder has an info.csv (columns style, bpm, beat_type, time_signature, midi_filename) and MIDI files,
recorded to a metronome on a Roland TD-11 kit. Knows beats and bars, no audio. (Gillick et al., "Learning to
Groove with Inverse Sequence Transformations", 2019.)
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sepcli.data.synthetic.midi import read_notes
from sepcli.data.synthetic.score import Note
from sepcli.errors import InputError, first_line

# The kit's pads and their rims or edges -> General MIDI keys.
TD11_TO_GM = {
    35: 36,
    36: 36,
    37: 37,
    38: 38,
    40: 38,
    48: 50,
    50: 50,
    45: 47,
    47: 47,
    43: 43,
    58: 43,
    46: 46,
    26: 46,
    42: 42,
    22: 42,
    44: 44,
    49: 49,
    55: 49,
    57: 57,
    52: 57,
    51: 51,
    59: 51,
    53: 53,
    39: 39,
    54: 54,
    56: 56,
}
TEMPO_SPREAD = 0.16  # a performance fits a song whose tempo differs by at most this share
_NEEDED = ("style", "bpm", "beat_type", "time_signature", "midi_filename")


@dataclass(frozen=True)
class Performance:
    """A recorded performance."""

    path: Path
    style: str  # "rock", "funk": the first word of info.csv's style
    tempo: float  # quarter notes a minute
    fill: bool  # True: a fill; False: a beat
    beats_per_bar: int


@dataclass(frozen=True)
class Grooves:
    """The performances of one folder."""

    performances: tuple[Performance, ...]

    def suiting(
        self,
        tempo: float,
        styles: Sequence[str],
        *,
        fill: bool,
        beats_per_bar: int,
    ) -> list[Performance]:
        """The beats or fills that are near that tempo, of these styles; of all styles where these have none.

        Half and double time count as near: a beat at 70 fits a song at 140.
        """

        def near(performance: Performance) -> bool:
            return abs(tempo / performance.tempo - 1) <= TEMPO_SPREAD

        suited = [
            one
            for one in self.performances
            if one.fill == fill and one.beats_per_bar == beats_per_bar and near(one)
        ]
        of_style = [one for one in suited if one.style in styles]
        return of_style or suited


def find_grooves(folder: Path) -> Grooves:
    """The performances of a folder. InputError where it is no such folder or has no beats in 4/4."""
    remedy = "Name a folder of the Groove MIDI Dataset: https://magenta.tensorflow.org/datasets/groove"
    table = folder / "info.csv"
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = first_line(error) if isinstance(error, UnicodeDecodeError) else error.strerror or error
        raise InputError(
            f"The drums folder {folder} has no readable info.csv: {reason}.", remedy=remedy, code="no_drums"
        ) from None
    if missing := [name for name in _NEEDED if not rows or name not in rows[0]]:
        raise InputError(f"{table} lacks the columns {', '.join(missing)}.", remedy=remedy, code="no_drums")
    found = []
    for row in rows:
        path = folder / row["midi_filename"]
        beats, _, unit = row["time_signature"].partition("-")
        if unit == "4" and beats.isdigit() and path.is_file():
            found.append(
                Performance(
                    path,
                    row["style"].partition("/")[0],
                    float(row["bpm"]),
                    row["beat_type"] == "fill",
                    int(beats),
                )
            )
    if not any(one.beats_per_bar == 4 and not one.fill for one in found):
        raise InputError(
            f"None of the {len(rows)} rows of {table} is a 4/4 beat whose MIDI file exists.",
            remedy=remedy,
            code="no_drums",
        )
    return Grooves(tuple(sorted(found, key=lambda one: str(one.path))))


@lru_cache(maxsize=64)
def drum_notes(path: Path) -> tuple[Note, ...]:
    """The notes of a performance in General MIDI keys, without pads that have none."""
    return tuple(
        sorted(
            Note(note.start, note.length, TD11_TO_GM[note.pitch], note.velocity)
            for note in read_notes(path)
            if note.pitch in TD11_TO_GM
        )
    )


def bars_of(performance: Performance) -> int:
    """How many whole bars a performance has, at least one."""
    notes = drum_notes(performance.path)
    end = max((note.start for note in notes), default=0.0)
    return max(1, round((end + 0.3) / performance.beats_per_bar))


def cut(performance: Performance, bar: int, bars: int, at: float) -> list[Note]:
    """`bars` bars of a performance from `bar` on, moved to beat `at`, with a note just before them."""
    early = 0.12  # beats by which a drummer may be early
    begin = bar * performance.beats_per_bar
    end = begin + bars * performance.beats_per_bar
    return [
        Note(max(0.0, note.start - begin + at), note.length, note.pitch, note.velocity)
        for note in drum_notes(performance.path)
        if begin - early <= note.start < end - early
    ]


def loop(
    rng: np.random.Generator,
    beat: Performance,
    fills: Sequence[Performance],
    *,
    start: float,
    bars: int,
    phrase: int,
    fill_share: float = 0.7,
) -> list[Note]:
    """`bars` bars of drums from beat `start` on, made of phrases of a performance.

    A phrase is repeated or comes from another place of the performance; its last bar is often a fill.
    """
    length = bars_of(beat)
    phrase = min(phrase, length)
    home = int(rng.integers(0, length - phrase + 1))
    notes: list[Note] = []
    done = 0
    while done < bars:
        now = min(phrase, bars - done)
        varied = rng.random() < 0.35
        first = int(rng.integers(0, length - now + 1)) if varied else min(home, length - now)
        notes += cut(beat, first, now, start + done * beat.beats_per_bar)
        done += now
    if fills and bars >= 2 and rng.random() < fill_share:
        fill = fills[int(rng.integers(len(fills)))]
        last = start + (bars - 1) * beat.beats_per_bar
        where = int(rng.integers(0, bars_of(fill)))
        played = cut(fill, where, 1, last)
        if len(played) >= 4:
            notes = [note for note in notes if note.start < last - 0.12] + played
    return sorted(notes)
