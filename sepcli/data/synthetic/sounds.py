"""What plays a part: a SoundFont's preset by FluidSynth, our own synthesiser, or an electronic drum kit.

Knows parts and audio [2, T]; neither the form of songs nor stems. A Sound is drawn once and can play notes
several times (second takes, layers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sepcli.data.synthetic import synth
from sepcli.data.synthetic.drumkit import Kit, find_shots
from sepcli.data.synthetic.effects import Audio
from sepcli.data.synthetic.fluidsynth import synthesise
from sepcli.data.synthetic.instruments import DRUM_BANK, GROUPS, KITS
from sepcli.data.synthetic.midi import write_part
from sepcli.data.synthetic.score import Note, Part
from sepcli.data.synthetic.soundfont import read_presets

# {group: the share of its parts that our synthesiser plays, and no SoundFont}.
SYNTHESISED: Mapping[str, float] = {
    "bass.sub": 0.7,
    "bass.synth": 0.6,
    "synth.lead": 0.5,
    "synth.pluck": 0.5,
    "synth.chords": 0.6,
    "pad": 0.35,
}
OWN_KITS = 0.55  # the share of electronic kits that are ours, and no SoundFont's
SHOTS = 0.5  # the share of these that is made of one-shots, where a folder of them is given


@dataclass(frozen=True)
class Sound:
    """A sound with its name."""

    name: str
    play: Callable[[Sequence[Note]], Audio]  # float32 [2, frames]


@dataclass(frozen=True)
class Studio:
    """What all parts of a song share."""

    soundfont: Path
    samples: Path | None  # a folder of drum one-shots
    kit: str  # a key of instruments.KITS
    tempo: float  # quarter notes a minute
    frames: int
    samplerate: int  # Hz
    scratch: Path  # a folder for temporary files


def draw_sound(rng: np.random.Generator, part: Part, studio: Studio) -> Sound:
    """Draw a sound that can play the part."""
    if rng.random() < SYNTHESISED.get(part.group, 0.0):
        patch = synth.draw_patch(rng, part.group)
        return Sound(
            patch.name,
            lambda notes: synth.play(
                rng, patch, notes, tempo=studio.tempo, frames=studio.frames, samplerate=studio.samplerate
            ),
        )
    if part.group == "kit" and studio.kit == "electronic" and rng.random() < OWN_KITS:
        shots = find_shots(studio.samples) if studio.samples is not None and rng.random() < SHOTS else None
        kit = Kit(rng, studio.samplerate, shots)
        return Sound(kit.name, lambda notes: kit.play(notes, tempo=studio.tempo, frames=studio.frames))
    return _soundfont_sound(rng, part, studio)


def _soundfont_sound(rng: np.random.Generator, part: Part, studio: Studio) -> Sound:
    drums = part.group == "kit"
    available = presets(studio.soundfont)
    bank, program = _draw_preset(rng, part, studio.kit, available)
    sends = {
        "reverb": float(rng.uniform(0, 0.6)) * (0.2 if part.label == "bass" else 1.0),
        "chorus": float(rng.choice([0.0, 0.0, rng.uniform(0.1, 0.9)])),
    }
    room = {
        "room_size": float(rng.uniform(0.05, 0.9)),
        "damping": float(rng.uniform(0, 0.7)),
        "reverb": float(rng.uniform(0.3, 0.9)),
        "chorus": float(rng.uniform(0.5, 2.5)),
    }

    def play(notes: Sequence[Note]) -> Audio:
        midi = studio.scratch / "part.mid"
        write_part(
            midi,
            notes,
            part.controls,
            tempo=studio.tempo,
            bank=0 if drums else bank,
            program=program,
            beats=studio.frames / studio.samplerate * studio.tempo / 60,
            drums=drums,
            **sends,
        )
        audio = synthesise(midi, studio.soundfont, samplerate=studio.samplerate, frames=studio.frames, **room)
        midi.unlink()
        return audio

    return Sound(f"{bank}:{program} {available.get((bank, program), 'unknown')}", play)


@lru_cache(maxsize=8)
def presets(path: Path) -> Mapping[tuple[int, int], str]:
    """The presets of a SoundFont (see read_presets); each file is read once."""
    return read_presets(path)


def _draw_preset(
    rng: np.random.Generator,
    part: Part,
    kit: str,
    available: Mapping[tuple[int, int], str],
) -> tuple[int, int]:
    """Draw (bank, program) of the part's group among those in the SoundFont; else its first preset."""
    wanted: Sequence[tuple[int, int]] = (
        GROUPS[part.group].presets if part.group != "kit" else [(DRUM_BANK, program) for program in KITS[kit]]
    )
    there = [preset for preset in wanted if preset in available]
    drawn = float(rng.random())
    if there:
        return there[int(drawn * len(there))]
    return (DRUM_BANK, 0) if part.group == "kit" else min(available)
