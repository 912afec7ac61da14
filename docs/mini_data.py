"""Prepare the recorded part of what `mini` is trained on (preset `mini`, docs/training.md); needs the files.

    python docs/mini_data.py OUT --songs DIR --voices DIR --samples DIR --guitars DIR --projects DIR

OUT/real/SONG/STEM.flac    stems of the CC0 songs, bass and other cut apart where they are one
OUT/played/SONG/STEM.flac  demonstration songs of LMMS, a music studio, each stem played by it (needs `lmms`)
OUT/solo/vocals/*.flac     single voices
OUT/pool/STEM/*.flac       drum loops, basses and atmospheres of sonic-pi-samples; guitars

All at 44.1 kHz, each brought to about -19 dBFS where it sounds, so that augmentation alone decides on levels.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import numpy as np
import soundfile
import soxr
import torch
import torchaudio

RATE = 44100  # Hz
LEVEL = -19.0  # dBFS, of the seconds that are not silent
SONGS = ("lithium", "hydrogen", "potassium", "rubidium", "caesium")
BASS_INSIDE = ("potassium", "rubidium", "caesium")  # songs whose bass is in `other`: they are cut at CROSSOVER
CROSSOVER = 150.0  # Hz; on a song whose stems are known this finds the bass with 4 to 12 dB SDR
DRUM_LOOPS = (
    "amen",
    "amen_full",
    "breakbeat",
    "industrial",
    "compus",
    "tabla",
    "safari",
    "perc1",
    "perc2",
    "3d_printer",
    "mehackit1",
    "mehackit2",
    "weirdo",
    "electric",
    "mika",
)

# Songs of the Debian package lmms-common under Artistic-2 or BSD-2-clause; the others are CC BY-SA or GPL.
PROJECTS = (
    "CapDan-ReggaeTry",
    "CapDan-ReggaetonTry",
    "CapDan-ZeroSumGame-OriginalByZakarra",
    "EsoXLB-CPU",
    "Impulslogik-Zen",
    "Momo64-esp",
    "Oglsdl-Dr8v2",
    "Oglsdl-PpTrip",
    "Saber-FinalStep",
    "Settel-InnerRecreation",
    "Socceroos-Progress",
    "TameAnderson-MakeMe",
    "Thomasso-AxeFromThe80s",
    "Greshz-CoolSnip",
    "Surrender-Main",
)
A440 = 57  # LMMS's number of that key
LOW = 43  # the highest median key of a bass


def read(source: Path) -> np.ndarray:
    """Any file -> [T, C] at RATE."""
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return samples if rate == RATE else soxr.resample(samples, rate, RATE)


def write(samples: np.ndarray, target: Path) -> None:
    """[T, C] -> FLAC at RATE and LEVEL, never clipping."""
    second = min(RATE, len(samples))
    parts = samples[: len(samples) // second * second].reshape(-1, second * samples.shape[1])
    levels = np.sqrt(np.square(parts).mean(1))
    sounding = levels[levels > 0.1 * levels.max()]
    gain = 10 ** (LEVEL / 20) / np.sqrt(np.square(sounding).mean())
    gain = min(gain, 0.99 / np.abs(samples).max())
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, gain * samples, RATE, subtype="PCM_16")


def crossover(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[T, C] -> what is below CROSSOVER, what is above; they add up. Second order, without delay."""
    low = torch.from_numpy(samples.T.copy())
    for _ in range(2):  # there and back: no delay
        low = torchaudio.functional.lowpass_biquad(low, RATE, CROSSOVER).flip(-1)
    below = low.numpy().T
    return below, samples - below


def pool_of(name: str) -> str | None:
    """The stem that a file of sonic-pi-samples serves as, by its name; None for the others."""
    if name.startswith("loop_"):
        return "drums" if name.removeprefix("loop_") in DRUM_LOOPS else None
    return {"bass": "bass", "guit": "other", "ambi": "other"}.get(name.split("_")[0])


def part_of(track: ElementTree.Element, in_pattern: bool) -> str | None:
    """The stem that an instrument track of a project belongs to; None where its names and notes do not tell."""
    (instrument,) = track.findall("instrumenttrack/instrument")
    source = next((child.get("src") or "" for child in instrument), "").lower()
    name = (track.get("name") or "").lower()
    if source.startswith(("drums/zap", "effects/", "drumsynth/misc_fx/", "drumsynth/effects/")):
        return "other"
    if source.startswith(("drums/", "beats/", "drumsynth/")) and "instrument" not in source:
        return "drums"
    if "bass" in f"{name} {source}" or name.split()[-1:] == ["sub"] or instrument.get("name") == "lb302":
        return "bass"
    keys = [int(note.get("key")) for note in track.iter("note")]
    if not keys or (in_pattern and len(set(keys)) == 1):
        return None  # a synthesiser on one note in a drum pattern may be anything
    low = median(keys) + A440 - int(track.find("instrumenttrack").get("basenote")) <= LOW
    return "bass" if low else "other"


def play(project: Path, out: Path) -> None:
    """Render the stems of one LMMS project to OUT/SONG/STEM.flac: once each, everything else muted."""

    def lmms(*given: object) -> str:
        command = ["lmms", "--allowroot", *map(str, given)]
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
        ).stdout

    dumped = lmms("dump", project)
    for stem in ("drums", "bass", "other"):
        song = ElementTree.fromstring(dumped[dumped.index("<") :])
        nested = {track for pattern in song.iter("bbtrack") for track in pattern.iter("track")}
        parts = {
            track: part_of(track, track in nested) for track in song.iter("track") if track.get("type") == "0"
        }
        if stem not in parts.values():
            continue
        for track, part in parts.items():
            if part != stem:
                track.set("muted", "1")
        with tempfile.TemporaryDirectory() as folder:
            source, wave = Path(folder) / "song.mmp", Path(folder) / "song.wav"
            ElementTree.ElementTree(song).write(source, encoding="unicode", xml_declaration=True)
            lmms("render", source, "-f", "wav", "-a", "-s", RATE, "-o", wave)
            if soundfile.info(wave).frames and np.abs(soundfile.read(wave)[0]).max() > 1e-3:
                write(read(wave), out / project.stem / f"{stem}.flac")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for option in ("songs", "voices", "samples", "guitars", "projects"):
        parser.add_argument(f"--{option}", type=Path)
    given = parser.parse_args()
    for song in SONGS if given.songs else ():
        for source in sorted((given.songs / song).glob("*.*")):
            folder = given.out / "real" / song
            if source.stem == "other" and song in BASS_INSIDE:
                for stem, samples in zip(("bass", "other"), crossover(read(source)), strict=True):
                    write(samples, folder / f"{stem}.flac")
            elif source.stem in ("vocals", "drums", "bass", "other"):
                write(read(source), folder / f"{source.stem}.flac")
    for source in sorted(given.voices.glob("*.*")) if given.voices else ():
        write(read(source), given.out / "solo" / "vocals" / f"{source.stem}.flac")
    for source in sorted(given.samples.glob("*.flac")) if given.samples else ():
        if stem := pool_of(source.stem):
            write(read(source), given.out / "pool" / stem / source.name)
    for source in sorted(given.guitars.glob("*/guitar.ogg")) if given.guitars else ():
        if source.parent.name != "Feelings":  # the repository's clip is of that song
            write(read(source), given.out / "pool" / "other" / f"{source.parent.name}.flac")
    for source in sorted(given.projects.rglob("*.mmpz")) if given.projects else ():
        if source.stem in PROJECTS:
            play(source, given.out / "played")


if __name__ == "__main__":
    main()
