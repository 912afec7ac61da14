"""The audio for measurements, and how well two results agree."""

from __future__ import annotations

from math import inf, log10
from pathlib import Path

import numpy as np
import soundfile

CLIP = Path(__file__).parents[1] / "data" / "feelings.flac"  # 15 s of stereo music, 44.1 kHz


def music(path: Path, seconds: float) -> Path:
    """Write the repository's clip again and again, as 16-bit WAV; block by block, because it may be hours."""
    clip, samplerate = soundfile.read(CLIP, dtype="int16")
    left = round(seconds * samplerate)
    with soundfile.SoundFile(path, "w", samplerate, clip.shape[1], "PCM_16", format="WAV") as file:
        while left:
            file.write(clip[:left])
            left -= min(left, len(clip))
    return path


def noise(path: Path, seconds: float) -> Path:
    """Write Gaussian noise, stereo, 44.1 kHz, standard deviation 0.1, as float32 WAV."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * 44100), 2), np.float32)
    soundfile.write(path, samples, 44100, "FLOAT")
    return path


def stems(folder: Path) -> dict[str, Path]:
    """{stem: file} of the one track below the folder."""
    return {path.stem: path for path in sorted(folder.rglob("*.wav"))}


def worst_snr(result: Path, reference: Path) -> float:
    """SNR of the worst stem in two folders of stems, in dB: 10 log10(sum r^2 / sum (r - x)^2).

    Each without its mean: demucs gives the offset of the mix to every stem, sepcli to one.
    """
    ours, theirs = stems(result), stems(reference)
    assert ours.keys() == theirs.keys() and ours, (sorted(ours), sorted(theirs))
    return min(_snr(ours[stem], theirs[stem]) for stem in ours)


def _snr(result: Path, reference: Path) -> float:
    x, _ = soundfile.read(result, dtype="float64")
    r, _ = soundfile.read(reference, dtype="float64")
    assert x.shape == r.shape, (x.shape, r.shape)
    x, r = x - x.mean(axis=0), r - r.mean(axis=0)
    error = np.square(r - x).sum()
    return 10 * log10(np.square(r).sum() / error) if error else inf
