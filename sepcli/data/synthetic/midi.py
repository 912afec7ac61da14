"""Writes parts of songs as Standard MIDI Files, and reads drum performances from such files, with mido.

Knows no audio. Times are beats (quarter notes), whatever the ticks of a file are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sepcli.data.synthetic.score import Control, Note
from sepcli.errors import InputError

TICKS = 960  # of the files we write, a quarter note
DRUM_CHANNEL = 9  # counted from 0
BEND_RANGE = 12  # semitones of a full pitch bend; sent with every part

_CONTROLLERS = {"modulation": 1, "expression": 11}


def write_part(
    path: Path,
    notes: Sequence[Note],
    controls: Sequence[Control],
    *,
    tempo: float,
    beats: float,
    bank: int,
    program: int,
    drums: bool,
    pan: float = 0.0,
    reverb: float = 0.0,
    chorus: float = 0.0,
) -> None:
    """Write a part as a file that ends at `beats`.

    tempo: quarter notes a minute. pan: -1 left to 1 right. reverb, chorus: send levels, 0 to 1. drums: the
    program is a kit and is played on the drum channel.
    """
    import mido

    channel = DRUM_CHANNEL if drums else 0
    setup = [(6, BEND_RANGE), (38, 0)]
    events: list[tuple[int, int, mido.Message]] = []  # (tick, order within the tick, message)

    def control(tick: int, order: int, number: int, value: float) -> None:
        events.append(
            (
                tick,
                order,
                mido.Message(
                    "control_change", channel=channel, control=number, value=max(0, min(127, round(value)))
                ),
            )
        )

    if not drums:
        control(0, 0, 0, bank)
    events.append((0, 1, mido.Message("program_change", channel=channel, program=program)))
    for number, value in [
        (7, 110),
        (10, 64 + 63 * pan),
        (91, 127 * reverb),
        (93, 127 * chorus),
        (101, 0),
        (100, 0),
        *setup,
    ]:
        control(0, 2, number, value)
    for item in controls:
        tick = max(0, round(item.at * TICKS))
        if item.kind == "bend":
            pitch = max(-8192, min(8191, round(item.value / BEND_RANGE * 8192)))
            events.append((tick, 3, mido.Message("pitchwheel", channel=channel, pitch=pitch)))
        else:
            control(tick, 3, _CONTROLLERS[item.kind], 127 * item.value)
    for note in _without_overlaps(notes):
        begin = max(0, round(note.start * TICKS))
        end = max(begin + 1, round((note.start + note.length) * TICKS))
        events.append(
            (begin, 5, mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity))
        )
        # Before the same key begins anew: 4 comes before 5.
        events.append((end, 4, mido.Message("note_off", channel=channel, note=note.pitch)))
    events.sort(key=lambda event: event[:2])

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(60e6 / tempo))])
    now = 0
    for tick, _, message in events:
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=max(0, round(beats * TICKS) - now)))
    mido.MidiFile(type=0, ticks_per_beat=TICKS, tracks=[track]).save(path)


def _without_overlaps(notes: Sequence[Note]) -> list[Note]:
    """The notes, each ending before its key is struck again: MIDI can't tell two notes of a key apart."""
    following: dict[int, float] = {}
    kept = []
    for note in sorted(notes, reverse=True):
        begin = following.get(note.pitch)
        length = note.length if begin is None else min(note.length, begin - note.start)
        if length > 1 / TICKS:
            kept.append(Note(note.start, length, note.pitch, note.velocity))
            following[note.pitch] = note.start
    return kept[::-1]


def read_notes(path: Path) -> list[Note]:
    """All notes of a file, of all tracks and channels, sorted by their start. InputError: it is no MIDI."""
    import mido

    try:
        file = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path} can't be read as MIDI: {error}.",
            remedy="Get the file again, or take it out of info.csv.",
            code="not_midi",
        ) from None
    notes = []
    for track in file.tracks:
        tick = 0
        sounding: dict[tuple[int, int], tuple[int, int]] = {}  # (channel, pitch) -> (tick, velocity)
        for message in track:
            tick += message.time
            if message.type not in ("note_on", "note_off"):
                continue
            key = message.channel, message.note
            if key in sounding:
                begin, velocity = sounding.pop(key)
                notes.append(
                    Note(
                        begin / file.ticks_per_beat,
                        max(1, tick - begin) / file.ticks_per_beat,
                        message.note,
                        velocity,
                    )
                )
            if message.type == "note_on" and message.velocity > 0:
                sounding[key] = tick, message.velocity
    return sorted(notes)
