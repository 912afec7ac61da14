"""Prepare what the second network of `duo` is trained on (preset `duo-band`): what the first one leaves.

    python docs/duo_data.py OUT --songs DIR --music DIR --valid DIR

OUT/left/SONG/STEM.flac    songs in stems (DIR/SONG/STEM.ext): drums, bass and other as they are, without bass
                           and other where they are one; vocals are what the first network has missed of them.
                           All add up to what it leaves of the mix, if none lacks
OUT/taught/SONG/STEM.flac  the same of music without stems, as --band hears it at three speeds, on average;
                           vocals are what is in no other stem
OUT/valid/SONG/STEM.flac   songs in stems to validate on, whose mixture is what the first network leaves

All at 44.1 kHz, stems as loud beside each other as in DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr
from mini_data import BASS_INSIDE, RATE, read

import sepcli
from sepcli.engine.separator import Separator

BAND = ("drums", "bass", "other")
OTHERS_BASS = ("battle_clean",)  # more songs whose bass is in `other`
SPEEDS = (0.92, 1.0, 1.08)

Wave = np.ndarray  # [T, 2] at RATE


def stereo(samples: Wave) -> Wave:
    """[T, C] -> [T, 2]."""
    return samples[:, :2] if samples.shape[1] > 1 else np.repeat(samples, 2, axis=1)


def separated(model: Separator, mix: Wave) -> dict[str, Wave]:
    """{stem: [T, 2]}."""
    stems = sepcli.separate(model, mix.T, RATE, device="cpu")
    return {name: np.asarray(stem, np.float32).T for name, stem in stems.items()}


def at_speeds(model: Separator, mix: Wave) -> dict[str, Wave]:
    """The mean of the stems of the mix at SPEEDS, each brought back to its own."""
    found = {name: np.zeros_like(mix) for name in BAND}
    for speed in SPEEDS:
        played = mix if speed == 1 else soxr.resample(mix, speed, 1.0)
        for name, stem in separated(model, played).items():
            back = stem if speed == 1 else soxr.resample(stem, 1.0, speed)
            back = back[: len(mix)]
            found[name][: len(back)] += back / len(SPEEDS)
    return found


def write(stems: Mapping[str, Wave], folder: Path) -> None:
    """One FLAC a stem, with one gain for all if one of them would clip."""
    gain = min(1.0, 0.99 / max(float(np.abs(stem).max()) for stem in stems.values()))
    folder.mkdir(parents=True, exist_ok=True)
    for name, stem in stems.items():
        soundfile.write(folder / f"{name}.flac", gain * stem, RATE, subtype="PCM_16")


def stems_of(song: Path) -> dict[str, Wave]:
    """The stems of a song, all of one length, without its mixture."""
    stems = {path.stem: stereo(read(path)) for path in sorted(song.glob("*.*"))}
    length = min(map(len, stems.values()))
    return {name: stem[:length] for name, stem in stems.items() if name != "mixture"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for option in ("songs", "music", "valid"):
        parser.add_argument(f"--{option}", type=Path, nargs="+", default=[])
    parser.add_argument("--band", default="mini", help="a model of drums, bass and other (mini)")
    parser.add_argument("--seconds", type=float, default=60, help="of a piece of music without stems")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME", help="pieces of music")
    given = parser.parse_args()
    voice = sepcli.load("duo-vocals", targets=["vocals"])
    for song in (song for folder in given.songs for song in sorted(folder.iterdir()) if song.is_dir()):
        stems = stems_of(song)
        if set(stems) & set(BAND):
            taken = separated(voice, sum(stems.values(), np.zeros((1, 2), np.float32)))["vocals"]
            missed = stems.pop("vocals", np.zeros_like(taken)) - taken
            if song.name in (*BASS_INSIDE, *OTHERS_BASS):
                stems = {name: stem for name, stem in stems.items() if name not in ("bass", "other")}
            write({**stems, "vocals": missed}, given.out / "left" / song.name)
    for song in (song for folder in given.valid for song in sorted(folder.iterdir()) if song.is_dir()):
        stems = stems_of(song)
        mix = stereo(read(song / "mixture.flac"))
        left = mix - separated(voice, mix)["vocals"]
        stems.pop("vocals", None)
        write({**stems, "mixture": left}, given.out / "valid" / song.name)
    band = sepcli.load(given.band, targets=BAND)
    for path in (path for folder in given.music for path in sorted(folder.glob("*.*"))):
        if path.stem in given.leave_out:
            continue
        mix = stereo(read(path))
        start = max(0, len(mix) - round(given.seconds * RATE)) // 2
        mix = mix[start : start + round(given.seconds * RATE)]
        left = mix - separated(voice, mix)["vocals"]
        stems = at_speeds(band, left)
        write({**stems, "vocals": left - sum(stems.values())}, given.out / "taught" / path.stem)


if __name__ == "__main__":
    main()
