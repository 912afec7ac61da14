"""The vocal part of a song as audio: a singer is drawn, takes and harmonies are sung and mixed to one stem.

Knows songs and audio. How a note is sung is in sing.py, what a studio does with it in mixdown.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr

from sepcli.data.synthetic import mixdown
from sepcli.data.synthetic.effects import Audio
from sepcli.data.synthetic.harmony import scale_pitches
from sepcli.data.synthetic.score import Note, Part, Song
from sepcli.data.synthetic.sing import draw_singer, sing
from sepcli.data.synthetic.voice import SAMPLERATE


def sing_part(
    rng: np.random.Generator,
    song: Song,
    part: Part,
    samplerate: int,
    channels: int,
    frames: int,
) -> tuple[Audio, list[str]]:
    """Sing a part: ([C, frames], the name of the singer and the number of takes)."""
    singer = draw_singer(rng, high=part.group == "voice.high")
    wanted = round(frames * SAMPLERATE / samplerate)
    takes: list[tuple[Sequence[Note], float, float]] = [(part.notes, float(rng.normal(0, 0.05)), 0.0)]
    choruses = [
        (section.bar * song.beats_per_bar, (section.bar + section.bars) * song.beats_per_bar)
        for section in song.sections
        if section.kind == "chorus"
    ]
    if rng.random() < 0.35:  # doubled on both sides, throughout or in the choruses
        notes = part.notes if rng.random() < 0.3 else _within(part.notes, choruses)
        side, level = float(rng.uniform(0.2, 0.9)), float(rng.uniform(-12, -2))
        takes += [(notes, -side, level), (notes, side, level)]
    if part.role == "sing" and rng.random() < 0.35:
        third = _harmony(song, _within(part.notes, choruses), int(rng.choice([2, -3, 2, 4])))
        takes.append((third, float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-10, -3))))
    audios = []
    for notes, position, level in takes:
        if notes:
            audio = sing(
                rng,
                singer,
                _late(rng, notes, song.tempo),
                tempo=song.tempo,
                frames=wanted,
                spoken=part.role == "rap",
            )
            if samplerate != SAMPLERATE:
                audio = soxr.resample(audio, SAMPLERATE, samplerate)
            audio = np.pad(audio, (0, max(0, frames - len(audio))))[:frames]
            audios.append((audio[None], position, level))
    mixed = mixdown.process_vocals(rng, audios, samplerate, channels, beat_seconds=60 / song.tempo)
    return mixed, [f"{singer.name} ({len(audios)} {'take' if len(audios) == 1 else 'takes'})"]


def _within(notes: Sequence[Note], spans: Sequence[tuple[float, float]]) -> list[Note]:
    """The notes that begin within one of the spans (beats)."""
    return [note for note in notes if any(begin - 0.1 <= note.start < end - 0.1 for begin, end in spans)]


def _harmony(song: Song, notes: Sequence[Note], steps: int) -> list[Note]:
    """The notes, moved by `steps` of the scale of the song's key."""
    scale = scale_pitches(song.key, song.mode, 30, 100)
    moved = []
    for note in notes:
        place = min(range(len(scale)), key=lambda number: abs(scale[number] - note.pitch))
        moved.append(Note(note.start, note.length, scale[place + steps], note.velocity))
    return moved


def _late(rng: np.random.Generator, notes: Sequence[Note], tempo: float) -> list[Note]:
    """The notes, each moved by about 15 ms: no two takes are alike."""
    spread = 0.015 * tempo / 60  # beats
    return [
        Note(max(0.0, note.start + float(rng.normal(0, spread))), note.length, note.pitch, note.velocity)
        for note in notes
    ]
