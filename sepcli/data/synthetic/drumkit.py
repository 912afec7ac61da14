"""Electronic drum kits: strokes synthesised in numpy, or one-shots from a folder. Notes in, audio out.

    kick   a sine that falls from a click          snare  a tone and noise       clap  bursts of noise
    hats   noise or a cluster of squares, high-passed; open ones ring            toms  falling sines

A stroke is made once for each key and loudness and then repeated, as in a drum machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from sepcli.data.synthetic import instruments as gm
from sepcli.data.synthetic.effects import colour, eq
from sepcli.data.synthetic.score import Note
from sepcli.errors import InputError

# Words in the name of a one-shot -> the kind of stroke; the first that fits counts.
_NAMED: Sequence[tuple[tuple[str, ...], str]] = (
    (("loop",), ""),
    (("bd_", "kick", "bass_drum", "drum_bass"), "kick"),
    (("bass", "ambi", "guit", "vinyl", "misc", "robot", "phone", "voc"), ""),
    (("snare", "sn_"), "snare"),
    (("clap", "snap"), "clap"),
    (("hat_open", "cymbal_open", "open"), "open"),
    (("hat", "cymbal_closed", "cymbal_pedal", "closed", "tick"), "hat"),
    (("splash", "crash", "cymbal"), "crash"),
    (("tom",), "tom"),
    (("cowbell",), "cowbell"),
    (("tabla", "perc", "wood", "pop", "ping", "blip", "plip", "bong", "conga", "shake", "tamb"), "percussion"),
)
_KEYS: Mapping[str, tuple[int, ...]] = {
    "kick": (35, 36),
    "snare": (37, 38, 40),
    "clap": (39,),
    "hat": (42, 44),
    "open": (46,),
    "tom": (41, 43, 45, 47, 48, 50),
    "crash": (49, 52, 55, 57),
    "ride": (51, 53, 59),
    "cowbell": (56,),
}
_PEAKS: Mapping[str, float] = {
    "kick": 1.0,
    "snare": 0.8,
    "clap": 0.6,
    "hat": 0.3,
    "open": 0.3,
    "crash": 0.45,
    "ride": 0.3,
    "tom": 0.7,
    "cowbell": 0.3,
    "percussion": 0.4,
}


def sound_of(key: int) -> str:
    """The kind of stroke of a General MIDI percussion key; "percussion" for hand drums and all others."""
    return next((name for name, keys in _KEYS.items() if key in keys), "percussion")


class Kit:
    """The electronic kit of a song. shots: {kind of stroke: files} to draw one-shots from; it may be empty."""

    def __init__(
        self, rng: np.random.Generator, samplerate: int, shots: Mapping[str, Sequence[Path]] | None = None
    ):
        self.samplerate = samplerate
        self.seed = int(rng.integers(2**32))
        self.name = "synthesised kit"
        self._made: dict[tuple[int, int], np.ndarray] = {}
        self._tone = {
            name: float(rng.uniform(0, 1))
            for name in (
                "kick",
                "snare",
                "clap",
                "hat",
                "open",
                "tom",
                "crash",
                "ride",
                "cowbell",
                "percussion",
            )
        }
        self._files: dict[str, Path] = {}
        if shots:
            self._files = {
                kind: files[int(rng.integers(len(files)))]
                for kind, files in sorted(shots.items())
                if kind and rng.random() < 0.9
            }
            self.name = "one-shots: " + ", ".join(path.stem for path in self._files.values())
        self._pitch = float(2 ** (rng.normal(0, 2) / 12))

    def play(self, notes: Sequence[Note], *, tempo: float, frames: int) -> np.ndarray:
        """Play the notes: float32 [2, frames]. tempo: quarter notes a minute."""
        out = np.zeros((2, frames), dtype=np.float32)
        beat = 60 / tempo
        ordered = sorted(notes)
        closing = {note.start for note in ordered if sound_of(note.pitch) == "hat"}
        for note in ordered:
            loudness = min(3, note.velocity // 32)
            key = note.pitch, loudness
            if key not in self._made:
                self._made[key] = self._stroke(*key)
            begin = round(note.start * beat * self.samplerate)
            audio = self._made[key][:, : max(0, frames - begin)]
            if sound_of(note.pitch) == "open":  # a closed hat ends the open one
                ends = min((start for start in closing if start > note.start + 0.01), default=None)
                if ends is not None:
                    length = max(1, round((ends - note.start) * beat * self.samplerate))
                    audio = audio[:, :length]
                    audio = audio * np.clip((length - np.arange(audio.shape[1])) / 200, 0, 1)
            out[:, begin : begin + audio.shape[1]] += audio * np.float32((note.velocity / 127) ** 1.4)
        return out

    def _stroke(self, key: int, loudness: int) -> np.ndarray:
        kind = sound_of(key)
        if kind in self._files:
            made = _one_shot(self._files[kind], self.samplerate, self._pitch)
            if kind == "kick":  # a long boom on every beat would be a bass
                made = made * np.exp(-np.maximum(0, np.arange(made.shape[1]) / self.samplerate - 0.25) / 0.1)
        else:
            made = getattr(self, f"_{kind}")(np.random.default_rng([self.seed, key]), self._tone[kind], key)
        made = (made * (_PEAKS[kind] / max(float(np.abs(made).max()), 1e-9))).astype(np.float32)
        return made if loudness == 3 else colour(made, self.samplerate, eq(high_cut=3000 + 4000 * loudness))

    def _times(self, seconds: float) -> np.ndarray:
        return np.arange(int(seconds * self.samplerate)) / self.samplerate

    def _noise(self, rng, seconds: float, low: float, high: float = 0.0) -> np.ndarray:
        raw = rng.standard_normal((2, int(seconds * self.samplerate))).astype(np.float32)
        return colour(raw, self.samplerate, eq(low_cut=low, high_cut=high)).astype(np.float64)

    def _kick(self, rng, tone, key):
        ring = 0.12 + 0.6 * tone * rng.random()
        times = self._times(0.05 + 4 * ring)
        base, drop = rng.uniform(42, 62), rng.uniform(60, 320)
        speed = rng.uniform(0.012, 0.05)
        phase = 2 * np.pi * (base * times + drop * speed * (1 - np.exp(-times / speed)))
        body = np.sin(phase) * np.exp(-times / ring) * np.clip(times / 0.001, 0, 1)
        body = np.tanh(body * rng.uniform(1, 4))
        click = self._noise(rng, 0.05 + 4 * ring, rng.uniform(800, 4000))
        click *= np.exp(-times / rng.uniform(0.001, 0.006))
        return body + click * rng.uniform(0, 0.35)

    def _snare(self, rng, tone, key):
        ring = rng.uniform(0.06, 0.25)
        times = self._times(5 * ring)
        pitch = rng.uniform(150, 260)
        body = sum(
            np.sin(2 * np.pi * pitch * ratio * times + np.exp(-times / 0.01)) * gain
            for ratio, gain in ((1, 1), (1.6, 0.5))
        ) * np.exp(-times / rng.uniform(0.03, 0.12))
        wires = self._noise(rng, 5 * ring, rng.uniform(700, 2500)) * np.exp(-times / ring)
        if key == gm.RIM:
            return np.stack([np.sin(2 * np.pi * 1700 * times) * np.exp(-times / 0.012)] * 2) + 0.1 * wires
        return body * (1 - 0.7 * tone) + wires * (0.3 + 0.5 * tone)

    def _clap(self, rng, tone, key):
        times = self._times(0.6)
        bursts = sum(
            np.exp(-np.maximum(0, times - start) / 0.006) * (times >= start)
            for start in (0, rng.uniform(0.008, 0.013), rng.uniform(0.018, 0.026))
        )
        tail = np.exp(-np.maximum(0, times - 0.025) / rng.uniform(0.04, 0.15)) * (times >= 0.025)
        return self._noise(rng, 0.6, rng.uniform(600, 1200), rng.uniform(4000, 12000)) * (bursts + tail)

    def _metal(self, rng, seconds: float) -> np.ndarray:
        """Six square waves at odd ratios, as in analogue drum machines."""
        times = self._times(seconds)
        base = rng.uniform(280, 620)
        cluster = sum(
            np.sign(np.sin(2 * np.pi * base * ratio * times))
            for ratio in (1.0, 1.342, 1.2312, 1.6532, 1.9523, 2.1523)
        )
        high = colour(
            np.stack([cluster] * 2).astype(np.float32), self.samplerate, eq(low_cut=rng.uniform(5000, 8000))
        )
        return colour(high, self.samplerate, eq(low_cut=5000.0)).astype(np.float64)

    def _cymbal(self, rng, tone, seconds: float, ring: float) -> np.ndarray:
        times = self._times(seconds)
        noise = self._noise(rng, seconds, rng.uniform(4500, 9000))
        noise = noise / noise.std()
        metal = self._metal(rng, seconds)
        return (noise * (1 - tone) + metal / max(metal.std(), 1e-9) * tone) * np.exp(-times / ring)

    def _hat(self, rng, tone, key):
        return self._cymbal(rng, tone, 0.3, rng.uniform(0.012, 0.05))

    def _open(self, rng, tone, key):
        return self._cymbal(rng, self._tone["hat"], 1.2, rng.uniform(0.1, 0.35))

    def _crash(self, rng, tone, key):
        return self._cymbal(rng, 0.3 * tone, 3.0, rng.uniform(0.4, 0.9))

    def _ride(self, rng, tone, key):
        return self._cymbal(rng, tone, 1.2, rng.uniform(0.15, 0.4))

    def _tom(self, rng, tone, key):
        times = self._times(0.9)
        base = 70 * 2 ** ((key - 41) / 12)
        phase = 2 * np.pi * (base * times + base * 0.6 * 0.05 * (1 - np.exp(-times / 0.05)))
        return np.stack([np.sin(phase) * np.exp(-times / rng.uniform(0.1, 0.25))] * 2)

    def _cowbell(self, rng, tone, key):
        times = self._times(0.5)
        wave = np.sign(np.sin(2 * np.pi * 540 * times)) + np.sign(np.sin(2 * np.pi * 800 * times))
        return np.stack([wave * np.exp(-times / 0.08)] * 2)

    def _percussion(self, rng, tone, key):
        if key in (gm.SHAKER, gm.CABASA, gm.MARACAS, gm.TAMBOURINE):
            times = self._times(0.2)
            return (
                self._noise(rng, 0.2, rng.uniform(3000, 7000))
                * np.exp(-times / 0.03)
                * np.clip(times / 0.01, 0, 1)
            )
        times = self._times(0.6)
        base = rng.uniform(180, 900)
        wave = np.sin(2 * np.pi * base * times + 2 * np.exp(-times / 0.02))
        wave *= np.exp(-times / rng.uniform(0.03, 0.15))
        return np.stack([wave] * 2) + self._noise(rng, 0.6, 2000.0) * np.exp(-times / 0.004) * 0.2


@lru_cache(maxsize=256)
def _one_shot(path: Path, samplerate: int, pitch: float) -> np.ndarray:
    """Read a one-shot: float32 [2, T], at most 3 s, played at `pitch` times its speed."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = soxr.resample(audio, rate * pitch, samplerate)[: 3 * samplerate]
    audio = np.repeat(audio[:, :1], 2, axis=1) if audio.shape[1] == 1 else audio[:, :2]
    return np.ascontiguousarray(audio.T)


@lru_cache(maxsize=4)
def find_shots(folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """{kind of stroke: files}, by the names of the files in a folder and below.

    InputError where no kick or no snare is found.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".flac", ".wav", ".ogg", ".aif", ".aiff"):
            name = path.stem.lower()
            kind = next((kind for words, kind in _NAMED if any(word in name for word in words)), "")
            if kind:
                found.setdefault(kind, []).append(path)
    if "kick" not in found or "snare" not in found:
        raise InputError(
            f"{folder} has no drum one-shots: no file is named like a kick (bd_*, *kick*) and a snare (sn_*, "
            "*snare*).",
            remedy="Name a folder of them; Debian has one: `apt install sonic-pi-samples` "
            "(/usr/share/sonic-pi/samples).",
            code="no_samples",
        )
    return {kind: tuple(paths) for kind, paths in found.items()}
