"""Syllables of a synthetic speaker, as frames of WORLD that can be sung. Knows words and frames; no notes.

    word -> flite or espeak-ng (subprocess) -> speech -> WORLD analysis -> onset | vowel | coda

WORLD (Morise et al. 2016, "WORLD: a vocoder-based high-quality speech synthesis system"; pyworld) splits speech
into pitch, spectral envelope and aperiodicity, which sing.py then changes separately.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sepcli.errors import DeviceError, OutputError, require

SAMPLERATE = 44100  # Hz, of the frames; speech of 16 or 22.05 kHz is extended
FRAME_SECONDS = 0.005
FFT_SIZE = 2048  # what WORLD needs at 44.1 kHz for pitches down to 65 Hz
BINS = FFT_SIZE // 2 + 1

# (program, voice, higher): real speakers from flite, formant synthesis from espeak-ng.
SPEAKERS: Sequence[tuple[str, str, bool]] = (
    *(
        ("flite", voice, higher)
        for voice, higher in (
            ("slt", True),
            ("rms", False),
            ("awb", False),
            ("rms", False),
            ("awb", False),
            ("kal16", False),
        )
    ),
    *(
        ("espeak-ng", f"{language}+{variant}", higher)
        for language in ("en-us", "en-gb", "fr-fr", "es", "de", "it", "pt-br", "pl", "sv")
        for variant, higher in (
            ("f2", True),
            ("f3", True),
            ("Annie", True),
            ("m3", False),
            ("m7", False),
            ("steph", True),
            ("max", False),
            ("klatt3", False),
        )
    ),
)
# One syllable each, so that a word is a note.
WORDS = """
    love heart night light day way time line mind find eyes sky fly high low slow go know show home alone
    stone road gold cold hold world girl word heard turn burn run sun one none gun young fun come some feel
    real deal steal wheel need dream seem team clean mean free me be see sea tree street sweet meet heat
    beat hand stand land sand band man can plan stars cars far hard dark park start art fire wire tired door
    floor more war storm warm rain pain train chain name game same flame came say stay play wait late fate
    great blue true you who through moon soon room truth move lose choose god lost cost song long strong
    wrong gone on want walk talk fall call all small wall good would could should foot look book took hope
    smoke broke woke boat float coast ghost most down town crowd loud sound ground round found now how here
    near fear tear year clear break shake take make wake face place space grace race dance chance glance
    best rest chest west breath death left kept kiss miss this wish fish rich live give think drink sing
    bring king thing wing sit hit bit skin spin thin joy boy toy voice noise choice there where care fair
    hair share bear black back that glad sad bad mad
""".split()
SOUNDS = "oh ooh ah hey yeah la na da do whoa hoo ha mm no so".split()

_REMEDY = (
    "Install both: `apt install flite espeak-ng` (Debian, Ubuntu) or `brew install flite espeak-ng` (macOS)."
)


@dataclass(frozen=True)
class Syllable:
    """A syllable as N frames of 5 ms; the vowel is [vowel, coda)."""

    envelope: np.ndarray  # float32 [N, BINS], natural logarithm of the power
    noise: np.ndarray  # float32 [N, BINS], aperiodicity, 0 harmonic to 1 noise
    voiced: np.ndarray  # bool [N]
    vowel: int  # the first frame of the vowel
    coda: int  # the first frame after it


def check_speech() -> None:
    """Raise DeviceError where a speech program or pyworld is missing."""
    missing = [name for name in ("flite", "espeak-ng") if shutil.which(name) is None]
    if missing:
        raise DeviceError(
            f"{' and '.join(missing)} not found: sung vocals are made from their speech.",
            remedy=_REMEDY,
            code="no_speech",
        )
    require("pyworld")


def speak(program: str, voice: str, word: str) -> tuple[np.ndarray, int]:
    """Let a program speak a word: (float64 [T], samplerate). OutputError."""
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "word.wav"
        command = (
            [program, "-voice", voice, "-t", word, "-o", str(wave)]
            if program == "flite"
            else [program, "-v", voice, "-s", "110", "-w", str(wave), word]
        )
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        if done.returncode != 0 or not wave.exists():
            said = done.stderr.strip()[:200] or "nothing"
            raise OutputError(
                f"{program} could not speak {word!r} with the voice {voice}; it said: {said}.",
                remedy=_REMEDY,
                code="speech",
            )
        audio, samplerate = soundfile.read(wave, dtype="float64")
    return audio, samplerate


def analyse(audio: np.ndarray, samplerate: int, formant_shift: float = 1.0) -> Syllable | None:
    """The frames of a spoken syllable [T], at SAMPLERATE; None where no vowel can be found.

    formant_shift: all resonances are multiplied by it; above 1 for a smaller vocal tract.
    """
    import pyworld as world  # pyright: ignore[reportMissingImports]  (an extra that has to be compiled)

    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max(initial=1e-9))
    if loud.size < samplerate // 20:
        return None
    audio = audio[loud[0] : loud[-1] + 1]
    audio = audio + 1e-6 * np.random.default_rng(0).standard_normal(len(audio))  # exact zeros have no envelope
    pitch, times = world.dio(audio, samplerate, f0_floor=60.0, f0_ceil=500.0, frame_period=1000 * FRAME_SECONDS)
    pitch = world.stonemask(audio, pitch, times, samplerate)
    envelope = world.cheaptrick(audio, pitch, times, samplerate)
    noise = world.d4c(audio, pitch, times, samplerate)
    # A pitch is also found in hisses, but there D4C calls the lowest harmonics noise.
    voiced = (pitch > 0) & (noise[:, : round(800 / samplerate * (noise.shape[1] - 1) * 2)].mean(axis=1) < 0.7)
    power = envelope.sum(axis=1)
    span = _vowel(voiced, power)
    if span is None:
        return None
    log_envelope, wide_noise = _widened(np.log(envelope + 1e-16), noise, voiced, samplerate, formant_shift)
    level = np.log(power[span[0] : span[1]].mean() / envelope.shape[1])
    return Syllable((log_envelope - level).astype(np.float32), wide_noise.astype(np.float32), voiced, *span)


def _vowel(voiced: np.ndarray, power: np.ndarray) -> tuple[int, int] | None:
    """(first frame, frame after the last) of the longest voiced run within 10 dB of the strongest voiced frame.

    Its edges are trimmed. None where there is no run of 12 frames.
    """
    if not voiced.any():
        return None
    strong = voiced & (power > 0.1 * power[voiced].max())
    edges = np.flatnonzero(np.diff(np.concatenate([[0], strong.astype(np.int8), [0]])))
    begin, end = max(edges.reshape(-1, 2), key=lambda run: run[1] - run[0])
    return (int(begin) + 2, int(end) - 2) if end - begin >= 12 else None


def _widened(
    log_envelope: np.ndarray,
    noise: np.ndarray,
    voiced: np.ndarray,
    samplerate: int,
    shift: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Envelope and aperiodicity on the bins of SAMPLERATE, with the resonances moved by `shift`.

    Above the band of the speech they continue with a plausible slope, falling for voices and nearly flat for
    hisses; all of that is noise.
    """
    hertz = np.arange(BINS) * SAMPLERATE / FFT_SIZE
    known = np.arange(log_envelope.shape[1]) * samplerate / 2 / (log_envelope.shape[1] - 1)
    top = 0.92 * samplerate / 2
    source = hertz / shift
    position = np.minimum(source, top)
    index = np.clip(np.searchsorted(known, position) - 1, 0, len(known) - 2)
    part = (position - known[index]) / (known[index + 1] - known[index])
    wide = log_envelope[:, index] * (1 - part) + log_envelope[:, index + 1] * part
    wide_noise = noise[:, index] * (1 - part) + noise[:, index + 1] * part
    octaves = np.maximum(0, np.log2(np.maximum(source, 1) / top))
    slope = np.where(voiced, -12.0, -2.0)[:, None] * np.log(10) / 10  # dB per octave, as a natural logarithm
    wide += slope * octaves
    wide_noise = np.where(octaves > 0, np.maximum(wide_noise, 0.9), wide_noise)
    # Formant synthesis leaves holes of 60 dB between and above its resonances, which real voices don't have.
    body = np.log(np.exp(wide[:, (hertz > 300) & (hertz < 3000)]).mean(axis=1, keepdims=True))
    above = np.maximum(0, np.log2(np.maximum(hertz, 1) / 1000))
    ground = body - (22 + 6 * above) * np.log(10) / 10
    filled = np.logaddexp(wide, ground)
    share = np.exp(ground - filled) * np.clip(above, 0, 1)  # what is filled in above 1 kHz is breath
    wide_noise = np.where(voiced[:, None], np.maximum(wide_noise, 0.7 * share), wide_noise)
    return np.where(voiced[:, None], filled, wide), wide_noise


def inventory(
    rng: np.random.Generator,
    program: str,
    voice: str,
    formant_shift: float,
    words: int,
) -> list[Syllable]:
    """`words` words and a few sounds ("oh", "yeah") of a speaker, as syllables."""
    chosen = [
        *rng.choice(WORDS, size=words, replace=False),
        *rng.choice(SOUNDS, size=max(2, words // 8), replace=False),
    ]
    found = (analyse(*speak(program, voice, str(word)), formant_shift) for word in chosen)
    return [syllable for syllable in found if syllable is not None]
