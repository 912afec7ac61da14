"""A synthesiser in numpy: oscillators, a moving low-pass, envelopes, FM. Notes in, audio out. Knows no songs.

    waves (detuned voices) -> low-pass that follows an envelope -> amplitude envelope

Sampled instruments lack sounds that are common in pop: detuned saws, deep sines, plucks whose filter closes
quickly. A note is computed once for each pitch and length and then repeated, so a song takes little time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sepcli.data.synthetic.score import Note

_BANKS = 7  # fixed low-pass filters; a moving cutoff cross-fades between them


@dataclass(frozen=True)
class Patch:
    """The settings of a sound. Cutoffs are octaves above the pitch of the note; times are seconds."""

    name: str
    saw: float = 0.0  # amplitudes of the waves
    pulse: float = 0.0
    sine: float = 0.0
    sub: float = 0.0  # a sine an octave below
    width: float = 0.5  # of the pulse, 0 to 1
    voices: int = 1
    detune: float = 0.0  # cents between the outermost voices
    spread: float = 0.0  # of the voices over the stereo field, 0 to 1
    fm_ratio: float = 1.0  # modulator to carrier (the carrier is `sine`)
    fm_index: float = 0.0  # radians
    fm_decay: float = 0.3
    cutoff: float = 8.0
    sweep: float = 0.0  # octaves by which the filter is opened at first
    sweep_decay: float = 0.3
    resonance: float = 0.0  # dB at the cutoff
    attack: float = 0.003
    decay: float = 0.5
    sustain: float = 0.7  # 0 to 1
    release: float = 0.08
    drop: float = 0.0  # semitones from which the pitch falls at first
    drop_decay: float = 0.03
    glide: float = 0.0  # from the note before, where that has not ended
    vibrato: float = 0.0  # cents, after the first 0.3 s


def play(
    rng: np.random.Generator, patch: Patch, notes: Sequence[Note], *, tempo: float, frames: int, samplerate: int
) -> np.ndarray:
    """Play the notes: float32 [2, frames]. tempo: quarter notes a minute."""
    out = np.zeros((2, frames), dtype=np.float32)
    beat = 60 / tempo
    made: dict[tuple, np.ndarray] = {}
    before: Note | None = None
    for note in sorted(notes):
        gliding = patch.glide > 0 and before is not None and note.start < before.start + before.length + 0.1
        origin = before.pitch if gliding and before is not None else note.pitch
        seconds = round(note.length * beat * 50) / 50
        # Two variants of each note: free-running oscillators never start in the same way.
        key = note.pitch, origin, seconds, int(rng.integers(2)) if patch.voices > 1 else 0
        if key not in made:
            made[key] = _note(rng, patch, note.pitch, origin, seconds, samplerate)
        begin = round(note.start * beat * samplerate)
        audio = made[key][:, : max(0, frames - begin)]
        out[:, begin : begin + audio.shape[1]] += audio * np.float32((note.velocity / 127) ** 1.3)
        before = note
    return out


def _note(
    rng: np.random.Generator,
    patch: Patch,
    pitch: int,
    origin: int,
    seconds: float,
    samplerate: int,
) -> np.ndarray:
    """A note with its release: float32 [2, T]."""
    samples = max(64, int((seconds + 5 * patch.release) * samplerate))
    times = np.arange(samples) / samplerate
    semitones = pitch + patch.drop * np.exp(-times / patch.drop_decay)
    if origin != pitch:
        semitones = semitones + (origin - pitch) * np.exp(-times / (patch.glide / 3))
    if patch.vibrato:
        semitones = semitones + patch.vibrato / 100 * np.clip((times - 0.3) / 0.3, 0, 1) * np.sin(
            2 * np.pi * 5.3 * times
        )
    wave = np.zeros((2, samples))
    for voice in range(patch.voices):
        place = 0.0 if patch.voices == 1 else 2 * voice / (patch.voices - 1) - 1  # -1 to 1
        hertz = 440 * 2 ** ((semitones - 69 + place * patch.detune / 200) / 12)
        mono = _wave(rng, patch, hertz / samplerate, times)
        side = place * patch.spread * (-1) ** voice
        wave[0] += mono * np.sqrt((1 - side) / 2)
        wave[1] += mono * np.sqrt((1 + side) / 2)
    wave /= np.sqrt(patch.voices)
    opening = patch.cutoff + patch.sweep * np.exp(-times / patch.sweep_decay)
    wave = _low_pass(wave, 440 * 2 ** ((pitch - 69) / 12), opening, patch.resonance, samplerate)
    return (wave * _envelope(patch, times, seconds)).astype(np.float32)


def _wave(rng: np.random.Generator, patch: Patch, step: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The waves of one voice [T]. step: cycles per sample [T]."""
    free = patch.voices > 1
    phase = np.cumsum(step) + (rng.random() if free else 0.0)
    wave = np.zeros(len(step))
    if patch.saw:
        wave += patch.saw * _saw(phase, step)
    if patch.pulse:
        wave += patch.pulse * (_saw(phase, step) - _saw(phase + patch.width, step))
    if patch.sine:
        bend = patch.fm_index * np.exp(-times / patch.fm_decay) * np.sin(2 * np.pi * phase * patch.fm_ratio)
        wave += patch.sine * np.sin(2 * np.pi * phase + bend)
    if patch.sub:
        wave += patch.sub * np.sin(np.pi * phase)
    return wave


def _saw(phase: np.ndarray, step: np.ndarray) -> np.ndarray:
    """A sawtooth whose jumps are rounded over two samples (polyBLEP: Valimaki and Huovilainen 2007)."""
    place = phase % 1
    saw = 2 * place - 1
    after = place < step
    ratio = place[after] / step[after]
    saw[after] -= 2 * ratio - ratio**2 - 1
    before = place > 1 - step
    ratio = (place[before] - 1) / step[before]
    saw[before] -= ratio**2 + 2 * ratio + 1
    return saw


def _low_pass(
    wave: np.ndarray,
    hertz: float,
    opening: np.ndarray,
    resonance: float,
    samplerate: int,
) -> np.ndarray:
    """A low-pass of 24 dB per octave whose cutoff moves: a cross-fade between fixed ones.

    opening: the cutoff at each sample, in octaves above `hertz`.
    """
    low, high = float(opening.min()), float(opening.max())
    top = np.log2(0.45 * samplerate / hertz)
    if low >= top and not resonance:
        return wave
    banks = (
        np.array([min(low, top)])
        if high - low < 0.3
        else np.linspace(low, min(high, max(top, low + 0.3)), _BANKS)
    )
    length = 1 << (wave.shape[1] - 1).bit_length()
    spectrum = np.fft.rfft(wave, length)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / samplerate), 1.0) / hertz)
    out = np.zeros_like(wave)
    for number, bank in enumerate(banks):
        gain = (1 + 2 ** (4 * np.clip(octaves - bank, -10, 10))) ** -1.0
        gain = gain * 10 ** (resonance / 20 * np.exp(-0.5 * ((octaves - bank) / 0.2) ** 2))
        filtered = np.fft.irfft(spectrum * gain, length)[:, : wave.shape[1]]
        if len(banks) == 1:
            return filtered
        position = np.clip((opening - banks[0]) / (banks[1] - banks[0]), 0, len(banks) - 1)
        out += filtered * np.clip(1 - np.abs(position - number), 0, 1)
    return out


def _envelope(patch: Patch, times: np.ndarray, seconds: float) -> np.ndarray:
    """The amplitude [T] of a note that is held for so many seconds."""
    held = patch.sustain + (1 - patch.sustain) * np.exp(-np.maximum(0, times - patch.attack) / patch.decay)
    rise = np.clip(times / patch.attack, 0, 1)
    fall = np.exp(-np.maximum(0, times - seconds) / patch.release)
    return rise * held * fall * np.clip((times[-1] - times) / 0.005, 0, 1)


def draw_patch(rng: np.random.Generator, group: str) -> Patch:
    """Draw a sound for one of the instrument groups "bass.sub", "bass.synth", "synth.*", "pad"."""
    uniform, chance = rng.uniform, rng.random()
    if group == "bass.sub":
        return Patch(
            "sub bass",
            sine=1.0,
            fm_ratio=float(rng.choice([1, 2])),
            fm_index=float(uniform(0, 1.2)),
            fm_decay=float(uniform(0.05, 0.5)),
            drop=float(rng.choice([0, 12, 24])),
            drop_decay=float(uniform(0.01, 0.05)),
            decay=float(uniform(0.4, 2.5)),
            sustain=float(uniform(0, 0.9)),
            release=float(uniform(0.03, 0.2)),
            glide=float(rng.choice([0, 0.08, 0.2])),
            pulse=float(rng.choice([0, 0, 0.1])),
            cutoff=float(uniform(2, 5)),
        )
    if group == "bass.synth":
        common: dict[str, Any] = dict(
            cutoff=float(uniform(0.5, 4)),
            sweep=float(uniform(0, 5)),
            sweep_decay=float(uniform(0.05, 0.5)),
            resonance=float(uniform(0, 12)),
            sustain=float(uniform(0.2, 1)),
            decay=float(uniform(0.1, 0.8)),
            release=float(uniform(0.02, 0.1)),
            sub=float(rng.choice([0, 0.5, 1.0])),
            glide=float(rng.choice([0, 0, 0.05, 0.12])),
        )
        if chance < 0.35:
            return Patch(
                "saw bass", saw=1.0, voices=int(rng.choice([1, 1, 2])), detune=float(uniform(4, 20)), **common
            )
        if chance < 0.55:
            return Patch("square bass", pulse=1.0, width=float(uniform(0.2, 0.5)), **common)
        if chance < 0.75:
            return Patch(
                "detuned bass",
                saw=1.0,
                voices=3,
                detune=float(uniform(20, 60)),
                spread=float(rng.choice([0, 0.4])),
                **{**common, "sweep": 0.5},
            )
        return Patch(
            "fm bass",
            sine=1.0,
            fm_ratio=float(rng.choice([1, 2, 3, 0.5])),
            fm_index=float(uniform(1, 6)),
            fm_decay=float(uniform(0.05, 0.6)),
            **{**common, "cutoff": 8.0, "resonance": 0.0},
        )
    slow = group == "pad"
    times: dict[str, Any] = dict(
        attack=float(uniform(0.08, 0.8)) if slow else float(uniform(0.002, 0.02)),
        release=float(uniform(0.2, 0.8)) if slow else float(uniform(0.03, 0.25)),
        decay=float(uniform(0.5, 2)) if slow else float(uniform(0.1, 1.0)),
        sustain=float(uniform(0.6, 1))
        if group in ("pad", "synth.lead", "synth.chords")
        else float(uniform(0, 0.4)),
    )
    filters: dict[str, Any] = dict(
        cutoff=float(uniform(1, 4) if group in ("pad", "synth.pluck") else uniform(2, 6)),
        sweep=float(uniform(-1, 2) if slow else uniform(0, 4)),
        sweep_decay=float(uniform(0.5, 2) if slow else uniform(0.05, 0.6)),
        resonance=float(uniform(0, 10)),
    )
    vibrato = float(rng.choice([0, 15, 35])) if group == "synth.lead" else 0.0
    if chance < 0.5:
        return Patch(
            "supersaw",
            saw=1.0,
            voices=int(rng.choice([3, 5, 7])),
            detune=float(uniform(8, 50)),
            spread=float(uniform(0.3, 1)),
            vibrato=vibrato,
            **times,
            **filters,
        )
    if chance < 0.75:
        return Patch(
            "pulse synth",
            pulse=1.0,
            width=float(uniform(0.08, 0.5)),
            voices=int(rng.choice([1, 2])),
            detune=float(uniform(3, 15)),
            spread=0.5,
            vibrato=vibrato,
            glide=float(rng.choice([0, 0.06])) if group == "synth.lead" else 0.0,
            **times,
            **filters,
        )
    return Patch(
        "fm synth",
        sine=1.0,
        fm_ratio=float(rng.choice([1, 2, 3, 3.5, 5, 7, 11])),
        fm_index=float(uniform(0.3, 4)),
        fm_decay=float(uniform(0.1, 1.5)),
        vibrato=vibrato,
        voices=int(rng.choice([1, 2])),
        detune=float(uniform(2, 10)),
        spread=0.7,
        **times,
    )
