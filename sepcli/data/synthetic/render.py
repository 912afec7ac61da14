"""Renders songs to stems on disk: a sound for each part is drawn, played, processed; each stem is a FLAC.

    OUT/song-SEED-00012/{drums,bass,other}.flac  song.json

Song i depends only on (seed, i), the SoundFonts and the drums folder: not on the number of hours and jobs, or
on songs that are there already. A finished song is kept; an unfinished one is in a hidden folder and is made
again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sepcli.data.synthetic import mixdown
from sepcli.data.synthetic.compose import compose
from sepcli.data.synthetic.drumkit import find_shots
from sepcli.data.synthetic.effects import Audio, active_rms, at_level, db, pan
from sepcli.data.synthetic.fluidsynth import find_fluidsynth
from sepcli.data.synthetic.groove import Grooves, find_grooves
from sepcli.data.synthetic.instruments import GROUPS, LABELS
from sepcli.data.synthetic.score import Note, Part, Song, song_name
from sepcli.data.synthetic.soundfont import read_presets
from sepcli.data.synthetic.sounds import Studio, draw_sound
from sepcli.data.synthetic.vocals import sing_part
from sepcli.data.synthetic.voice import check_speech
from sepcli.errors import UsageError, from_os, parameter, require
from sepcli.system.processes import in_processes

GENERATOR = 3  # raised when the same seed gives other songs; it is in every song.json
# {grouping: {label: its stem}}; a label that is not named is left out.
GROUPINGS: Mapping[str, Mapping[str, str]] = {
    "four": {
        label: {"drums": "drums", "percussion": "drums", "bass": "bass"}.get(label, "other")
        for label in LABELS
        if label != "vocals"
    },
    "slakh": {"drums": "drums", "percussion": "drums", "bass": "bass", "guitar": "guitar", "piano": "piano"},
    "none": {},  # only vocals, where they are wanted
}
# Roles that are recorded twice, for the left and the right, in a share of songs.
_DOUBLED = ("chug", "strum", "broken", "block", "sustain", "arpeggiator", "riff")
NEEDS: Mapping[str, Sequence[str]] = {"slakh": ("guitar", "piano")}  # labels that every song must have


@dataclass(frozen=True)
class RenderSettings:
    """How songs are rendered."""

    soundfonts: tuple[Path, ...]  # for each song, one is drawn
    drums: Path | None  # a folder like the Groove MIDI Dataset's; None: every drum part is programmed
    samples: Path | None = None  # a folder of drum one-shots, for electronic kits
    stems: str = "four"  # a key of GROUPINGS
    samplerate: int = 44100  # Hz
    channels: int = 2
    vocals: bool = False  # one more stem, of a synthetic singer

    @property
    def grouping(self) -> Mapping[str, str]:
        """{label: its stem}."""
        return {**GROUPINGS[self.stems], **({"vocals": "vocals"} if self.vocals else {})}


@dataclass(frozen=True)
class Rendered:
    """A song that is in the folder."""

    name: str
    seconds: float
    new: bool  # False: it was there before


def check_settings(settings: RenderSettings) -> None:
    """Raise an error, before any work, where mido, FluidSynth, a SoundFont or the drums folder is missing."""
    if settings.stems not in GROUPINGS:
        raise UsageError(
            f"There is no grouping of stems named {settings.stems!r}; there are: {', '.join(GROUPINGS)}.",
            remedy=f"Choose one of them for {parameter('stems')}.",
        )
    if not settings.soundfonts:
        raise UsageError(
            "No SoundFont is named.",
            remedy=(
                f"Give one with {parameter('soundfonts')}; Debian has some: `apt install fluid-soundfont-gm` "
                "puts one at /usr/share/sounds/sf2/FluidR3_GM.sf2."
            ),
        )
    require("mido")
    find_fluidsynth()
    for path in settings.soundfonts:
        read_presets(path)
    if settings.drums is not None:
        find_grooves(settings.drums)
    if settings.samples is not None:
        find_shots(settings.samples)
    if settings.vocals:
        check_speech()


def render_dataset(
    out: Path,
    *,
    hours: float,
    seed: int,
    settings: RenderSettings,
    jobs: int = 1,
    done: Callable[[Rendered, float], None] = lambda song, seconds: None,
) -> float:
    """Render songs 0, 1, ... of `seed` until they last `hours`. Returns the seconds of music that there are.

    jobs: songs at a time, each in a process. done: called after each song, with the song and the seconds that
    are finished. OutputError where `out` can't be written; other errors as for `check_settings`.
    """
    check_settings(settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os(error, out) from None
    total = 0.0
    for song in _rendered(out, _wanted(hours, seed, settings), seed, settings, jobs):
        total += song.seconds
        done(song, total)
    return total


def _wanted(hours: float, seed: int, settings: RenderSettings) -> Iterator[int]:
    """The indices of songs, as many as last `hours`."""
    seconds, index = 0.0, 0
    while seconds < hours * 3600:
        yield index
        seconds += _compose(seed, index, settings).seconds
        index += 1


def _rendered(
    out: Path,
    indices: Iterator[int],
    seed: int,
    settings: RenderSettings,
    jobs: int,
) -> Iterator[Rendered]:
    if jobs <= 1:
        for index in indices:
            yield render_song(out, seed, settings, index)
        return
    try:
        yield from in_processes(partial(render_song, out, seed, settings), indices, jobs)
    except BaseException:  # the processes have ended, so nobody writes there any more
        for unfinished in out.glob(f".{song_name(seed, 0)[:-5]}*.unfinished"):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


@lru_cache(maxsize=4)
def _grooves(folder: Path | None) -> Grooves | None:
    return None if folder is None else find_grooves(folder)


def _compose(seed: int, index: int, settings: RenderSettings) -> Song:
    return compose(seed, index, _grooves(settings.drums), needs=NEEDS.get(settings.stems, ()))


def render_song(out: Path, seed: int, settings: RenderSettings, index: int) -> Rendered:
    """Render song number `index` into its folder, unless it is there."""
    final = out / song_name(seed, index)
    if (final / "song.json").is_file():
        return Rendered(final.name, float(json.loads((final / "song.json").read_text())["seconds"]), False)
    song = _compose(seed, index, settings)
    hidden = out / f".{final.name}.unfinished"
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir()
        stems, facts = render_stems(song, settings, hidden)
        for name, audio in stems.items():
            soundfile.write(hidden / f"{name}.flac", audio.T, settings.samplerate, subtype="PCM_16")
        (hidden / "song.json").write_text(json.dumps(facts, indent=1) + "\n")
        os.replace(hidden, final)
    except OSError as error:
        raise from_os(error, final) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return Rendered(final.name, facts["seconds"], True)


def render_stems(
    song: Song, settings: RenderSettings, scratch: Path
) -> tuple[dict[str, Audio], dict[str, Any]]:
    """Render a song: ({stem: [C, T]}, what song.json says). scratch: a folder for temporary files."""
    rng = np.random.default_rng([song.seed, song.index, 20])
    soundfont = settings.soundfonts[int(rng.integers(len(settings.soundfonts)))]
    tail = float(rng.uniform(1.0, 3.0))  # seconds in which the last notes end
    frames = round((song.seconds + tail) * settings.samplerate)
    stems = {
        stem: np.zeros((settings.channels, frames), dtype=np.float32)
        for stem in dict.fromkeys(settings.grouping.values())
    }
    machine = song.drummer == "machine"
    studio = Studio(soundfont, settings.samples, song.kit, song.tempo, frames, settings.samplerate, scratch)
    parts, audios, facts = [], [], []
    for number, part in enumerate(song.parts):
        # Each part has a generator of its own, so that leaving one out changes no other.
        own = np.random.default_rng([song.seed, song.index, 30, number])
        if part.label not in settings.grouping:
            continue
        if part.label == "vocals":
            audio, presets = sing_part(own, song, part, settings.samplerate, settings.channels, frames)
        else:
            audio, presets = _play_part(own, part, studio, settings.channels)
            audio = mixdown.process_part(
                own,
                audio,
                settings.samplerate,
                label=part.label,
                group=part.group,
                role=part.role,
                beat_seconds=60 / song.tempo,
                machine=machine,
            )
        audios.append(at_level(audio, -20 + mixdown.part_level(own, part.label), settings.samplerate))
        parts.append(part)
        facts.append(
            {
                "name": part.name,
                "label": part.label,
                "role": part.role,
                "group": part.group,
                "sounds": presets,
                "notes": len(part.notes),
            }
        )
    if machine and rng.random() < 0.4:
        kicks = [note.start * 60 / song.tempo for note in song.parts[0].notes if note.pitch in (35, 36)]
        audios = mixdown.duck_parts(rng, audios, [part.label for part in parts], kicks, settings.samplerate)
    for part, audio in zip(parts, audios, strict=True):
        stems[settings.grouping[part.label]] += audio
    stems = mixdown.finish(rng, stems, settings.samplerate)
    return stems, {
        "generator": GENERATOR,
        "seed": song.seed,
        "index": song.index,
        "style": song.style,
        "tempo": song.tempo,
        "beats_per_bar": song.beats_per_bar,
        "key": song.key,
        "mode": song.mode,
        "drummer": song.drummer,
        "seconds": frames / settings.samplerate,
        "soundfont": soundfont.name,
        "sections": [[section.kind, section.bar, section.bars] for section in song.sections],
        "parts": facts,
    }


def _play_part(rng: np.random.Generator, part: Part, studio: Studio, channels: int) -> tuple[Audio, list[str]]:
    """Play a part: ([C, T], names of its sounds). It is one take, two takes left and right, or two layers."""
    steady = part.group == "kit" or part.label == "bass"
    place = float(np.clip(rng.normal(0, 0.1 if steady else 0.4), -0.9, 0.9))
    loudness, steepness = float(rng.uniform(0.8, 1.15)), float(rng.uniform(0.7, 1.3))
    notes = [
        Note(
            note.start,
            note.length,
            note.pitch,
            int(np.clip(round(127 * loudness * (note.velocity / 127) ** steepness), 1, 127)),
        )
        for note in part.notes
    ]
    sound = draw_sound(rng, part, studio)
    names = [sound.name]
    if not steady and part.role in _DOUBLED and rng.random() < 0.3:
        side = float(rng.uniform(0.4, 1.0))
        total = pan(sound.play(notes), -side) + pan(sound.play(_again(rng, notes, studio.tempo)), side)
    else:
        total = pan(sound.play(notes), place)
        if part.group != "kit" and rng.random() < 0.2:
            higher = int(rng.choice([0, 12] if part.label == "bass" else [0, 12, -12]))
            low, high = GROUPS[part.group].low, GROUPS[part.group].high + 12
            moved = [
                Note(note.start, note.length, note.pitch + higher, note.velocity)
                for note in notes
                if low <= note.pitch + higher <= high
            ]
            layer = draw_sound(rng, part, studio)
            level = active_rms(total, studio.samplerate) * db(float(rng.uniform(-14, -3)))
            added = pan(layer.play(moved), place)
            total += added * np.float32(level / max(active_rms(added, studio.samplerate), 1e-6))
            names.append(layer.name)
    return (total.mean(axis=0, keepdims=True) if channels == 1 else total), names


def _again(rng: np.random.Generator, notes: Sequence[Note], tempo: float) -> tuple[Note, ...]:
    """The notes as played a second time."""
    jitter = 0.012 * tempo / 60  # beats: 12 ms
    return tuple(
        Note(
            max(0.0, note.start + float(rng.normal(0, jitter))),
            note.length,
            note.pitch,
            int(np.clip(note.velocity + rng.normal(0, 6), 1, 127)),
        )
        for note in notes
    )
