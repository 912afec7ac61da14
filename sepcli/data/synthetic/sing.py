r"""Sings notes: syllables of voice.py on a melody, with a singer's pitch. Knows frames and notes; no songs.

note   |------------|--------------------|       the vowel begins on the beat, its consonants before it
frames ss|aaaaaaaa nn|t|iiiiiiiiiiiiii mm|       vowels are stretched, consonants keep their length
pitch  _/~~~~~~~~~\__/~~~~~vvvvvvvvvv\___        glides, overshoot, late vibrato, drift
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepcli.data.synthetic.score import Note
from sepcli.data.synthetic.voice import (
    BINS,
    FFT_SIZE,
    FRAME_SECONDS,
    SAMPLERATE,
    SPEAKERS,
    Syllable,
    inventory,
)

_NATURAL = np.log(10) / 10  # a dB as a natural logarithm of power


@dataclass(frozen=True)
class Singer:
    """A voice and its habits. All of it is drawn once."""

    program: str
    voice: str
    formant_shift: float
    syllables: Sequence[Syllable]
    vibrato_hertz: float
    vibrato_cents: float
    vibrato_delay: float  # seconds
    glide: float  # seconds from note to note
    scoop: float  # the share of phrases whose first note begins too low
    drift: float  # cents
    breath: float  # dB of added noise in vowels, relative to the voice
    tilt: float  # dB per octave above 500 Hz
    ring: float  # dB of the singer's formant near 3 kHz
    inhales: bool

    @property
    def name(self) -> str:
        """The program and its voice."""
        return f"{self.program} {self.voice}"


def draw_singer(rng: np.random.Generator, *, high: bool, words: int = 40) -> Singer:
    """Draw a singer. high: a voice for the upper range. words: how many syllables the singer knows."""
    program = "flite" if rng.random() < 0.6 else "espeak-ng"
    voices = [voice for name, voice, higher in SPEAKERS if name == program and higher == high]
    voice = voices[int(rng.integers(len(voices)))]
    # There are few real speakers, so their vocal tracts are varied more.
    shift = float(np.exp(rng.normal(0.03 if high else 0, 0.1 if program == "flite" else 0.06)))
    tuned = rng.random() < 0.12  # pitch correction as an effect
    return Singer(
        program,
        voice,
        shift,
        inventory(rng, program, voice, shift, words),
        vibrato_hertz=float(rng.uniform(4.6, 6.6)),
        vibrato_cents=0.0 if tuned else float(rng.choice([8, 25, 45, 70, 100])),
        vibrato_delay=float(rng.uniform(0.1, 0.6)),
        glide=0.01 if tuned else float(rng.uniform(0.03, 0.13)),
        scoop=0.0 if tuned else float(rng.uniform(0, 0.7)),
        drift=1.0 if tuned else float(rng.uniform(5, 22)),
        breath=float(rng.uniform(-40, -12)),
        tilt=float(rng.normal(0.5, 1.2)),
        ring=float(rng.uniform(0, 8)),
        inhales=bool(rng.random() < 0.7),
    )


def sing(
    rng: np.random.Generator,
    singer: Singer,
    notes: Sequence[Note],
    *,
    tempo: float,
    frames: int,
    spoken: bool = False,
) -> np.ndarray:
    """Sing the notes: float32 [frames] at SAMPLERATE. tempo: beats a minute. spoken: rap, its pitch falls."""
    out = np.zeros(frames, dtype=np.float32)
    beat = 60 / tempo
    for phrase in phrases(notes, gap=0.35 / beat):
        start = phrase[0].start * beat
        audio, lead = _sing_phrase(rng, singer, phrase, beat, spoken)
        begin = round((start - lead) * SAMPLERATE)
        audio = audio[max(0, -begin) :]
        begin = max(0, begin)
        audio = audio[: max(0, frames - begin)]
        out[begin : begin + len(audio)] += audio
    return out


def phrases(notes: Sequence[Note], gap: float) -> list[list[Note]]:
    """The notes of one voice, cut into phrases where `gap` beats are silent, or after 24 notes."""
    found: list[list[Note]] = []
    for note in sorted(notes):
        last = found[-1][-1] if found else None
        if last is None or note.start - (last.start + last.length) > gap or len(found[-1]) >= 24:
            found.append([note])
        elif note.start - last.start > 0.05:  # of two notes at once, one voice sings the first
            found[-1].append(note)
    return found


def _sing_phrase(
    rng,
    singer: Singer,
    phrase: Sequence[Note],
    beat: float,
    spoken: bool,
) -> tuple[np.ndarray, float]:
    """Sing a phrase: (audio, by how many seconds it begins before the first note)."""
    import pyworld as world  # pyright: ignore[reportMissingImports]  (an extra that has to be compiled)

    chosen = [singer.syllables[int(rng.integers(len(singer.syllables)))] for _ in phrase]
    starts = np.array([note.start * beat for note in phrase])
    ends = np.array([(note.start + note.length) * beat for note in phrase])
    ends[:-1] = np.where(starts[1:] - ends[:-1] < 0.15, starts[1:], ends[:-1])  # legato
    lead = chosen[0].vowel * FRAME_SECONDS + 0.02
    offset = starts[0] - lead
    total = int((ends[-1] - offset + 0.3) / FRAME_SECONDS) + 1
    index = np.full(total, -1)  # of the syllable that sounds in each frame
    place = np.zeros(total)  # the frame within it
    for number, syllable in enumerate(chosen):
        _place(index, place, number, syllable, chosen, starts - offset, ends - offset)
    envelope = np.full((total, BINS), -30.0, dtype=np.float32)
    noise = np.ones((total, BINS), dtype=np.float32)
    voiced = np.zeros(total, dtype=bool)
    for number, syllable in enumerate(chosen):
        here = index == number
        lower = np.clip(place[here].astype(int), 0, len(syllable.voiced) - 2)
        part = (place[here] - lower)[:, None].astype(np.float32)
        loudness = (phrase[number].velocity - 100) / 6 + rng.normal(0, 1.5)  # dB
        envelope[here] = (
            syllable.envelope[lower] * (1 - part)
            + syllable.envelope[lower + 1] * part
            + np.float32(loudness * _NATURAL)
        )
        noise[here] = syllable.noise[lower] * (1 - part) + syllable.noise[lower + 1] * part
        voiced[here] = syllable.voiced[lower] | ((lower >= syllable.vowel) & (lower < syllable.coda))
    envelope = _smoothed(envelope, 5)
    pitch = _pitch(rng, singer, phrase, starts - offset, ends - offset, total, spoken)
    hertz = np.arange(BINS) * SAMPLERATE / FFT_SIZE
    octaves = np.log2(np.maximum(hertz, 60) / 500)
    shape = singer.tilt * np.clip(octaves, 0, 5) + singer.ring * np.exp(
        -0.5 * ((octaves - np.log2(3000 * singer.formant_shift / 500)) / 0.25) ** 2
    )
    envelope += (shape * _NATURAL).astype(np.float32) * voiced[:, None]
    # A constant power at any pitch: WORLD gives each pulse the envelope, so higher notes would be louder.
    envelope += np.where(voiced, np.log(150 / np.maximum(pitch, 50)), 0)[:, None].astype(np.float32) * 0.5
    breathy = 10 ** (singer.breath / 20) * np.clip(0.3 + 0.3 * octaves, 0.1, 1.2)
    noise = np.clip(np.maximum(noise, breathy * voiced[:, None]), 0.0005, 1)
    audio = world.synthesize(
        np.where(voiced, pitch, 0.0),
        np.exp(envelope.astype(np.float64)),
        noise.astype(np.float64),
        SAMPLERATE,
        1000 * FRAME_SECONDS,
    )
    if singer.inhales and rng.random() < 0.8:
        audio, more = _inhale(rng, singer, audio)
        lead += more
    return audio.astype(np.float32), lead


def _place(index, place, number, syllable: Syllable, chosen, starts, ends) -> None:
    """Which frames of `syllable` sound when: its vowel from the note's start to its end less the coda."""
    begin, end = starts[number] / FRAME_SECONDS, ends[number] / FRAME_SECONDS
    follows = number + 1 < len(chosen) and starts[number + 1] - ends[number] < 1e-6
    coda = len(syllable.voiced) - syllable.coda
    room = end - begin
    before_next = min(chosen[number + 1].vowel, 0.3 * room) if follows else 0
    coda_frames = min(coda, 0.3 * room)
    vowel_end = end - before_next - coda_frames
    previous = (ends[number - 1] - starts[number - 1]) / FRAME_SECONDS if number else np.inf
    joined = number > 0 and starts[number] - ends[number - 1] < 1e-6
    onset_frames = min(syllable.vowel, 0.3 * previous) if joined else syllable.vowel
    marks = [begin - onset_frames, begin, vowel_end, vowel_end + coda_frames]
    frames = np.arange(max(0, round(marks[0])), min(len(index), round(marks[3])))
    # A diphthong stays in its first half for most of the note and moves late.
    vowel, length = syllable.vowel, syllable.coda - syllable.vowel
    where = np.interp(
        frames,
        [marks[0], begin, begin + 0.75 * (vowel_end - begin), vowel_end, marks[3] + 1e-6],
        [0, vowel, vowel + 0.5 * length, syllable.coda, len(syllable.voiced) - 1],
    )
    index[frames] = number
    place[frames] = where


def _smoothed(frames: np.ndarray, width: int) -> np.ndarray:
    """The moving average along time, so that syllables run into each other."""
    padded = np.pad(frames, ((width // 2, width // 2), (0, 0)), mode="edge")
    total = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    return ((total[width:] - total[:-width]) / width).astype(np.float32)


def _pitch(rng, singer: Singer, phrase, starts, ends, total: int, spoken: bool) -> np.ndarray:
    """The pitch in Hz [total]: the notes, with what a singer does between and on them."""
    times = np.arange(total) * FRAME_SECONDS
    cents = np.full(total, 100.0 * phrase[0].pitch)
    for number, note in enumerate(phrase):
        before = cents[-1] if number else 100.0 * note.pitch
        glide = singer.glide * float(rng.uniform(0.6, 1.5))
        middle = starts[number] - 0.3 * glide
        step = 1 / (1 + np.exp(-np.clip((times - middle) / (glide / 5), -40, 40)))
        cents = np.where(times > middle - 2 * glide, before + (100.0 * note.pitch - before) * step, cents)
    if rng.random() < singer.scoop:
        depth = float(rng.uniform(60, 300))
        cents -= depth * np.exp(-np.maximum(0, times - starts[0] + 0.02) / 0.07)
    for number in range(len(phrase)):
        length = ends[number] - starts[number]
        if length > singer.vibrato_delay + 0.2:
            local = times - starts[number] - singer.vibrato_delay * 0.7
            swell = np.clip(local / 0.4, 0, 1) * (times < ends[number])
            rate = singer.vibrato_hertz * (1 + 0.05 * float(rng.normal()))
            cents += (
                singer.vibrato_cents
                * swell
                * np.sin(2 * np.pi * rate * np.maximum(0, local))
                * float(rng.uniform(0.5, 1.2))
            )
        if length > 0.3 and rng.random() < 0.12 and not spoken:  # the pitch falls at the end
            cents -= 250 * np.clip((times - ends[number] + 0.12) / 0.12, 0, 1) * (times < ends[number] + 0.05)
    slow = np.convolve(
        rng.standard_normal(total + 60), np.hanning(61) / np.sqrt((np.hanning(61) ** 2).sum()), "valid"
    )
    fast = rng.standard_normal(total)
    cents += singer.drift * slow + 3 * fast
    if spoken:  # speech falls through each phrase and within each syllable
        cents -= 250 * (times / max(times[-1], 0.1)) + 60 * slow
        for number in range(len(phrase)):
            inside = (times >= starts[number]) & (times < ends[number])
            cents[inside] -= 120 * (times[inside] - starts[number]) / max(0.05, ends[number] - starts[number])
    return 440 * 2 ** ((cents - 6900) / 1200)


def _inhale(rng, singer: Singer, audio: np.ndarray) -> tuple[np.ndarray, float]:
    """(audio with a breath before it, seconds of that). A breath is noise through an open vowel that swells."""
    import pyworld as world  # pyright: ignore[reportMissingImports]  (an extra that has to be compiled)

    seconds = float(rng.uniform(0.15, 0.45))
    count = int(seconds / FRAME_SECONDS)
    syllable = singer.syllables[int(rng.integers(len(singer.syllables)))]
    middle = syllable.envelope[(syllable.vowel + syllable.coda) // 2].astype(np.float64)
    hertz = np.arange(BINS) * SAMPLERATE / FFT_SIZE
    bright = 0.5 * middle + np.where(hertz < 400, -4.0, 0.0)
    bright += float(rng.uniform(-40, -24)) * _NATURAL - np.log(np.exp(bright).mean())
    swell = np.log(np.hanning(count + 2)[1:-1] ** 0.7 + 1e-4)
    breath = world.synthesize(
        np.zeros(count),
        np.exp(bright[None] + swell[:, None]),
        np.ones((count, BINS)),
        SAMPLERATE,
        1000 * FRAME_SECONDS,
    )
    gap = int(0.03 * SAMPLERATE)
    return np.concatenate([breath, np.zeros(gap), audio]), (len(breath) + gap) / SAMPLERATE
