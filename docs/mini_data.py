"""Prepare the recorded part of what `mini` is trained on (preset `mini`, docs/training.md); needs the files.

    python docs/mini_data.py OUT --songs DIR --voices DIR --samples DIR --guitars DIR

OUT/real/SONG/STEM.flac    stems of the CC0 songs, without those that hold more than their name says
OUT/solo/vocals/*.flac     single voices
OUT/pool/STEM/*.flac       drum loops, basses and atmospheres of sonic-pi-samples; guitars

All at 44.1 kHz, each brought to about -19 dBFS where it sounds, so that augmentation alone decides on levels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 44100  # Hz
LEVEL = -19.0  # dBFS, of the seconds that are not silent
# In the other songs the bass is inside `other`.
STEMS = {"lithium": ("vocals", "drums", "bass", "other"), "hydrogen": ("vocals", "drums", "other"),
         "potassium": ("vocals", "drums"), "rubidium": ("vocals", "drums"), "caesium": ("vocals", "drums")}
DRUM_LOOPS = ("amen", "amen_full", "breakbeat", "industrial", "compus", "tabla", "safari", "perc1", "perc2",
              "3d_printer", "mehackit1", "mehackit2", "weirdo", "electric", "mika")


def convert(source: Path, target: Path) -> None:
    """Any file -> FLAC at RATE and LEVEL, never clipping."""
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    second = min(RATE, len(samples))
    parts = samples[: len(samples) // second * second].reshape(-1, second * samples.shape[1])
    levels = np.sqrt(np.square(parts).mean(1))
    sounding = levels[levels > 0.1 * levels.max()]
    gain = 10 ** (LEVEL / 20) / np.sqrt(np.square(sounding).mean())
    gain = min(gain, 0.99 / np.abs(samples).max())
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, gain * samples, RATE, subtype="PCM_16")


def pool_of(name: str) -> str | None:
    """The stem that a file of sonic-pi-samples serves as, by its name; None for the others."""
    if name.startswith("loop_"):
        return "drums" if name.removeprefix("loop_") in DRUM_LOOPS else None
    return {"bass": "bass", "guit": "other", "ambi": "other"}.get(name.split("_")[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for option in ("songs", "voices", "samples", "guitars"):
        parser.add_argument(f"--{option}", type=Path)
    given = parser.parse_args()
    for song, stems in STEMS.items() if given.songs else ():
        for stem in stems:
            (source,) = (given.songs / song).glob(f"{stem}.*")
            convert(source, given.out / "real" / song / f"{stem}.flac")
    for source in sorted(given.voices.glob("*.*")) if given.voices else ():
        convert(source, given.out / "solo" / "vocals" / f"{source.stem}.flac")
    for source in sorted(given.samples.glob("*.flac")) if given.samples else ():
        if stem := pool_of(source.stem):
            convert(source, given.out / "pool" / stem / source.name)
    for source in sorted(given.guitars.glob("*/guitar.ogg")) if given.guitars else ():
        if source.parent.name != "Feelings":  # the repository's clip is of that song
            convert(source, given.out / "pool" / "other" / f"{source.parent.name}.flac")


if __name__ == "__main__":
    main()
