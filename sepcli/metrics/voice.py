"""How near an estimated voice is to the real one where it sings: spectra, pitch and PESQ on voiced frames.

Knows nothing of models or files: [S, C, T] blocks of references and estimates in, a number for each stem out.
These are the measures of LDM-dmx ("Efficient and Fast Generative-Based Singing Voice Separation using a Latent
Diffusion Model", 2025, section IV-B). Details that its text leaves open are decided here and in
docs/evaluation.md:

    frames    2048 samples, hop 512, as in spectral.py
    voiced    pYIN (Mauch and Dixon 2014) says so of the reference, and it reaches -60 dBFS
    LSD, Mel-MAE      means over voiced frames and channels
    log-F0 RMSE       sqrt(mean (ln f0 - ln f0')^2) over frames that are voiced in both
    PESQ              P.862.2 (wide band) of pieces of 10 s with 3.2 s of voice or more, their mean

Pitch and PESQ are measured on the mean of the channels at 16 kHz. The track is processed in pieces of 10 s, so
memory does not grow with it; for pitch they overlap by half a second on both sides. librosa and pesq are
imported on first use. Callers check first that they are installed (errors.require, errors.missing).
"""

from __future__ import annotations

import warnings

import numpy as np
import soxr
from numpy.typing import NDArray

from sepcli.metrics.spectral import HOP, Stretches, distance_frames, mel_bank, mel_error_frames, sounding

Floats = NDArray[np.float64]

RATE = 16000  # Hz, of pitch and PESQ
PITCH_HOP = 320  # samples at that rate: 20 ms
PITCH_FRAME = 1024  # 64 ms: four periods of the lowest voice
LOWEST, HIGHEST = 65.41, 1046.5  # Hz: C2 to C6, from a bass's lowest tone to a soprano's highest
RESOLUTION = 0.2  # semitones: off by 0.006 in ln f0 at most; half of it would take four times as long
QUIET = 1e-4  # a piece whose samples are all below this has no pitch
PIECE_SECONDS, MARGIN_SECONDS = 10.0, 0.5
LEAST_VOICE = 3.2  # seconds of voice that a piece needs for PESQ: P.862.3, 7.2
METRICS = ("lsd", "mel_mae", "log_f0_rmse", "pesq", "voiced")


def pitch(wave: Floats) -> Floats:
    """The pitch of [T] at 16 kHz: Hz every 20 ms from the first sample on, NaN where there is no voice."""
    import librosa

    if np.abs(wave).max(initial=0) < QUIET:
        return np.full(1 + len(wave) // PITCH_HOP, np.nan)
    return librosa.pyin(
        wave,
        fmin=LOWEST,
        fmax=HIGHEST,
        sr=RATE,
        frame_length=PITCH_FRAME,
        hop_length=PITCH_HOP,
        resolution=RESOLUTION,
    )[0]


def wide_band_pesq(reference: Floats, estimate: Floats) -> float:
    """PESQ of [T] each at 16 kHz: MOS-LQO from 1 to 4.64, NaN where there is nothing to compare."""
    from pesq import PesqError, pesq  # pyright: ignore[reportMissingImports]  (compiled, so often absent)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = pesq(RATE, reference, estimate, "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score >= 1 else float("nan")  # a negative number is an error code


class VoiceSums:
    """Sums over a track: `add` blocks of any length, then ask for the `result`.

    samplerate: Hz. pesq: whether PESQ is measured, too.
    """

    def __init__(self, stems: int, samplerate: int, *, pesq: bool):
        self.samplerate, self._with_pesq = samplerate, pesq
        frames = round(PIECE_SECONDS * samplerate / HOP)
        margin = -(-round(MARGIN_SECONDS * samplerate) // HOP) * HOP
        self._stretches = Stretches(max(frames, 1) * HOP, max(margin, 2 * HOP))
        self._bank = mel_bank(samplerate)
        # For each stem: voiced frames, sums of LSD and Mel-MAE over them; frames voiced in both, sum of
        # (ln f0 / f0')^2 over them; pieces with a PESQ, sum of PESQ over them.
        self._sums = np.zeros((7, stems))

    def add(self, references: NDArray, estimates: NDArray) -> None:
        """Add the next block of references and estimates, [S, C, T] each."""
        for piece in self._stretches.add(np.stack([references, estimates])):
            self._gather(piece)

    def result(self) -> dict[str, Floats]:
        """{metric: [S]}, NaN where undefined; "voiced" is in seconds. Nothing can be added afterwards."""
        for piece in self._stretches.end():
            self._gather(piece)
        voiced, lsd, mel, both, squares, pieces, pesq = self._sums
        with np.errstate(invalid="ignore"):
            found = {"lsd": lsd / voiced, "mel_mae": mel / voiced, "log_f0_rmse": np.sqrt(squares / both)}
            if self._with_pesq:
                found["pesq"] = pesq / pieces
        return {**found, "voiced": voiced * HOP / self.samplerate}

    def _gather(self, piece: NDArray) -> None:
        """Add up a piece of references and estimates, [2, S, C, margin + n + margin]."""
        reference, estimate = self._stretches.power(piece)  # [S, C, N, F]
        lsd = distance_frames(reference, estimate).mean(axis=1)
        mel = mel_error_frames(reference, estimate, self._bank).mean(axis=1)
        loud = sounding(reference)
        for k in range(piece.shape[1]):
            if not loud[k].any():
                continue
            mono = [self._converted(each[k].mean(axis=0)) for each in piece]
            tones = [self._at_frames(pitch(each), lsd.shape[-1]) for each in mono]
            voiced = loud[k] & ~np.isnan(tones[0])
            both = voiced & ~np.isnan(tones[1])
            squares = np.log(tones[0][both] / tones[1][both]) ** 2
            self._sums[:5, k] += [
                voiced.sum(),
                lsd[k, voiced].sum(),
                mel[k, voiced].sum(),
                both.sum(),
                squares.sum(),
            ]
            if self._with_pesq and voiced.sum() * HOP >= LEAST_VOICE * self.samplerate:
                cut = round(self._stretches.margin * RATE / self.samplerate)
                score = wide_band_pesq(*(each[cut : len(each) - cut] for each in mono))
                if not np.isnan(score):
                    self._sums[5:, k] += [1, score]

    def _converted(self, mono: NDArray) -> Floats:
        """[T] -> [T'] at 16 kHz."""
        return soxr.resample(mono.astype(np.float64), self.samplerate, RATE)

    def _at_frames(self, tones: Floats, frames: int) -> Floats:
        """Pitches of a piece, every 20 ms -> [N] for its frames: the nearest in time."""
        seconds = (self._stretches.margin + HOP * np.arange(frames)) / self.samplerate
        nearest = np.rint(seconds * RATE / PITCH_HOP).astype(int)
        return tones[np.minimum(nearest, len(tones) - 1)]
