"""How far apart the spectra of two signals are, whatever their phases: for stems that a model generates.

Knows nothing of models or files. S^2 is the power of one bin in one frame: a periodic Hann window of 2048
samples, hop 512, frame n centred on sample 512 n, silence beyond both ends.

    LSD      sqrt(mean over bins (log10 S^2 - log10 S'^2)^2), a frame's log-spectral distance
    Mel-MAE  mean over 128 bands of |10 log10 M - 10 log10 M'|, dB; M: the power in triangles of the mel scale

Powers below FLOOR count as FLOOR: rounding to 16 bits alone leaves 6e-8, so below it there is nothing to hear,
while its logarithm would rule the mean. A constant gain of g changes the LSD by 2 |log10 g| and the Mel-MAE by
20 |log10 g|. All is float64.

Axes: S stems, C channels, T samples, N frames, F = 1025 bins, M bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIZE, HOP = 2048, 512  # samples, at any rate
MELS = 128
FLOOR = 1e-8
SOUNDING = 1e-6  # a frame sounds if its mean square reaches this: -60 dBFS

_WINDOW = np.hanning(SIZE + 1)[:-1]


class Stretches:
    """Cuts a stream into pieces that overlap, so that a frame at an edge sees its real surroundings.

    piece   |--|==========|--|               = core: new in each piece, a multiple of HOP long
    piece              |--|==========|--|    - margin: on both sides; silence beyond the ends
    """

    def __init__(self, core: int, margin: int):
        assert core % HOP == 0 and margin >= SIZE // 2, (core, margin)
        self.core, self.margin = core, margin
        self._held: NDArray | None = None  # from a margin before the next core on

    def add(self, block: NDArray) -> Iterator[NDArray]:
        """Add a block [..., T]: yields the pieces [..., margin + core + margin] that are complete."""
        if self._held is None:
            self._held = np.zeros((*block.shape[:-1], self.margin), block.dtype)
        self._held = np.concatenate([self._held, block], axis=-1)
        size = self.core + 2 * self.margin
        while self._held.shape[-1] >= size:
            yield self._held[..., :size]
            self._held = self._held[..., self.core :]

    def end(self) -> Iterator[NDArray]:
        """The end of the stream: yields the last pieces. The core of the last one is shorter, maybe empty."""
        if self._held is not None:
            yield from self.add(np.zeros((*self._held.shape[:-1], self.margin), self._held.dtype))
            yield self._held

    def frames(self, piece: NDArray) -> int:
        """How many frames are centred in the core of a piece; the last piece also has the one at the end."""
        samples = piece.shape[-1] - 2 * self.margin
        return samples // HOP + (samples < self.core)

    def power(self, piece: NDArray) -> Floats:
        """The power of these frames, [..., N, F]."""
        begin = self.margin - SIZE // 2
        return power_frames(piece[..., begin : begin + (self.frames(piece) - 1) * HOP + SIZE])


def power_frames(wave: NDArray) -> Floats:
    """The power of all whole frames of [..., T]: [..., N, F], the first from the first sample on."""
    frames = sliding_window_view(np.asarray(wave, np.float64), SIZE, axis=-1)[..., ::HOP, :]
    spec = np.fft.rfft(frames * _WINDOW, axis=-1)
    return spec.real**2 + spec.imag**2


def distance_frames(a: Floats, b: Floats) -> Floats:
    """Powers [..., N, F] of two signals -> LSD [..., N] of each frame."""
    return np.sqrt(((_logarithm(a) - _logarithm(b)) ** 2).mean(axis=-1))


def mel_error_frames(a: Floats, b: Floats, bank: Floats) -> Floats:
    """Powers [..., N, F] of two signals -> Mel-MAE [..., N] of each frame, dB. bank: [F, M] (mel_bank)."""
    return 10 * np.abs(_logarithm(a @ bank) - _logarithm(b @ bank)).mean(axis=-1)


def sounding(power: Floats) -> NDArray[np.bool_]:
    """Powers [..., C, N, F] -> [..., N]: whether a frame's mean square over channels reaches -60 dBFS."""
    both_sides = 2 * power.sum(axis=-1) - power[..., 0] - power[..., -1]  # Parseval
    return both_sides.mean(axis=-2) >= SOUNDING * SIZE * (_WINDOW**2).sum()


def _logarithm(power: Floats) -> Floats:
    return np.log10(np.maximum(power, FLOOR))


@cache
def mel_bank(samplerate: int) -> Floats:
    """The filters of the bands [F, M]: triangles of height 1, equally spaced in mel up to half the rate.

    It is the scale of Slaney's Auditory Toolbox (1998), as in librosa: linear up to 1 kHz, with 200 / 3 Hz for
    a mel, and logarithmic above, with 27 mels for a factor of 6.4. The height of the triangles does not matter,
    as it cancels in a difference of logarithms. samplerate: Hz.
    """
    hertz, mels = 200 / 3, 15.0  # of a mel below the bend; the bend
    step = np.log(6.4) / 27
    nyquist = samplerate / 2
    top = nyquist / hertz if nyquist < 1000 else mels + np.log(nyquist / 1000) / step
    edges = np.linspace(0, top, MELS + 2)
    edges = np.where(edges < mels, edges * hertz, 1000 * np.exp(step * (edges - mels)))
    bins = np.linspace(0, nyquist, SIZE // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))


class Distance:
    """The LSD of whole tracks: the mean over the frames in which the reference sounds, and over channels.

    Frames in which the reference is silent (below -60 dBFS) are left out. There the distance only says how
    close to nothing the estimate is, and a few such frames would outweigh all music.
    """

    def __init__(self, stems: int):
        self._sums, self._frames = np.zeros(stems), np.zeros(stems)
        self._stretches = Stretches(64 * HOP, SIZE // 2)

    def add(self, references: NDArray, estimates: NDArray) -> None:
        """Add the next block of references and estimates, [S, C, T] each, of any length."""
        for piece in self._stretches.add(np.stack([references, estimates])):
            self._gather(piece)

    def result(self) -> Floats:
        """The LSD [S], NaN where the reference never sounds. Nothing can be added afterwards."""
        for piece in self._stretches.end():
            self._gather(piece)
        with np.errstate(invalid="ignore"):
            return self._sums / self._frames

    def _gather(self, piece: NDArray) -> None:
        reference, estimate = self._stretches.power(piece)  # [S, C, N, F]
        heard = sounding(reference)
        self._sums += (distance_frames(reference, estimate).mean(axis=1) * heard).sum(axis=-1)
        self._frames += heard.sum(axis=-1)
