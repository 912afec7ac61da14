"""From models and tracks to scores, on toy models of known output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepcli.evaluate import usdr
from sepcli.separator import Segment
from tests.toys import Split

RATE = 8000


@dataclass(frozen=True)
class Track:
    """As in sepcli.data.layouts."""

    name: str
    stems: dict[str, Path]
    mixture: Path | None
    samplerate: int
    channels: int
    frames: int


def make_track(folder, name, stems, *, seconds=2.5, mixture=True, channels=2, samplerate=RATE, seed=0):
    """A track of noises; `stems` gives each one's level."""
    rng, paths, total = np.random.default_rng(seed), {}, 0
    (folder / name).mkdir(parents=True)
    frames = int(seconds * samplerate)
    for stem, level in stems.items():
        signal = (level * rng.standard_normal((frames, channels))).astype(np.float32)
        total = total + signal
        paths[stem] = folder / name / f"{stem}.wav"
        soundfile.write(paths[stem], signal, samplerate, "FLOAT")
    if mixture:
        soundfile.write(folder / name / "mixture.wav", total, samplerate, "FLOAT")
    return Track(name, paths, folder / name / "mixture.wav" if mixture else None, samplerate, channels, frames)


def read(path):
    return soundfile.read(path, dtype="float64")[0].T


def split(**options):
    return Split(segment=Segment(samples=3000), samplerate=RATE, **options)


def usdr_of(reference, estimate):
    return 10 * np.log10(((reference**2).sum() + 1e-7) / (((reference - estimate) ** 2).sum() + 1e-7))


def test_usdr_is_the_mean_over_the_tracks_that_have_the_stem(tmp_path):
    tracks = [make_track(tmp_path, "a", {"drums": 0.2, "bass": 0.1, "vocals": 0.1, "flute": 0.1}),
              make_track(tmp_path, "b", {"drums": 0.1, "vocals": 0.3}, mixture=False, seed=1),
              make_track(tmp_path, "c", {"flute": 0.1, "harp": 0.3}, seed=2)]  # none of the model's
    found = usdr(split(), tracks, torch.device("cpu"))
    expected = {"drums": [], "bass": [], "vocals": []}
    for track in tracks[:2]:
        mix = sum(read(path) for path in track.stems.values())
        for stem in expected:
            if stem in track.stems:
                expected[stem].append(usdr_of(read(track.stems[stem]), Split.SHARES[stem] * mix))
    assert list(found) == ["drums", "bass", "vocals"]  # the model's order; `other` stands in no track
    assert found == pytest.approx({stem: np.mean(values) for stem, values in expected.items()}, abs=1e-4)


def test_usdr_leaves_the_model_as_it_is_and_takes_only_so_many_seconds(tmp_path):
    track = make_track(tmp_path, "a", {"drums": 0.2, "bass": 0.1, "other": 0.1, "vocals": 0.1})
    model = split().train()
    found = usdr(model, [track], torch.device("cpu"), seconds_limit=1.0)
    assert model.training and not model.calls
    part = slice(0, RATE)
    mix = read(track.mixture)[:, part]
    expected = usdr_of(read(track.stems["bass"])[:, part], Split.SHARES["bass"] * mix)
    assert found["bass"] == pytest.approx(expected, abs=1e-4)


def test_usdr_at_another_rate_and_channel_count_is_taken_at_the_tracks_own(tmp_path):
    """The model sees 8 kHz stereo; the track is 16 kHz mono, and its upper half is lost on the way."""
    track = make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, channels=1, samplerate=2 * RATE)
    found = usdr(split(), [track], torch.device("cpu"))
    assert found["drums"] == pytest.approx(10 * np.log10(0.04 / (0.02 + 0.02 * 0.25 + 0.01 * 0.125)), abs=0.3)
