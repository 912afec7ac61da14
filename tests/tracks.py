"""Small tracks of noise on disk, for tests of whatever reads stems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000  # Hz


def make_track(folder, name, stems, *, seconds=2.5, mixture=True, channels=2, samplerate=RATE, seed=0):
    """FOLDER/NAME/STEM.wav in float; `stems` gives each one's level, {name: RMS}."""
    rng, total = np.random.default_rng(seed), 0
    place = Path(folder) / name
    place.mkdir(parents=True)
    for stem, level in stems.items():
        signal = (level * rng.standard_normal((int(seconds * samplerate), channels))).astype(np.float32)
        total = total + signal
        soundfile.write(place / f"{stem}.wav", signal, samplerate, "FLOAT")
    if mixture:
        soundfile.write(place / "mixture.wav", total, samplerate, "FLOAT")
    return place


def read(path):
    """[C, T] float64."""
    return soundfile.read(path, dtype="float64", always_2d=True)[0].T
