"""Folders of stems for the tests of data: short files whose samples tell where they come from."""

import numpy as np
import soundfile

from tests.sounds import music

RATE = 8000  # Hz: small files


def write(path, samples, rate=RATE):
    """samples [C, T] as the format that the suffix says; float where the format has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {".wav": {"subtype": "FLOAT"}, ".flac": {"subtype": "PCM_24"}}.get(path.suffix, {})
    if path.suffix == ".opus":
        options = {"format": "OGG", "subtype": "OPUS"}
    soundfile.write(path, np.asarray(samples).T, rate, **options)
    return path


def track(folder, stems, seconds=3.0, rate=RATE, channels=2, suffix=".wav", mixture=False, seed=0):
    """A track's folder with a piece of music for each of `stems`; {stem: [C, T]}."""
    sounds = {
        stem: 0.3 * music(round(seconds * rate), channels, rate, seed=100 * seed + index)
        for index, stem in enumerate(stems)
    }
    for stem, samples in sounds.items():
        write(folder / f"{stem}{suffix}", samples, rate)
    if mixture:
        write(folder / f"mixture{suffix}", sum(sounds.values()), rate)
    return sounds
