"""ISR, SIR and SAR of BSS Eval v4 (Vincent et al. 2007; Stoeter, Liutkus, Ito 2018), as museval defines them.

Knows nothing of models or files: [S, C, T] blocks of references s and estimates h in, decibels out. An
estimate is explained in three steps by projections on delayed copies of references, 0 to 511 samples late:

    h = s + e_spat + e_interf + e_artif
    s + e_spat                  what filters of 512 taps make of the stem's own reference
    s + e_spat + e_interf       what they make of all references
    e_artif                     what no reference explains

Version 4 has one set of filters for the whole track and rates frames of a second with it. The filters need
correlations of the whole track, which are summed in the frequency domain as blocks arrive. The rating needs the
signals once more, so the track is held in memory. The projections of a frame are never transformed back: the
transform is long enough to hold them, so their energies are taken in the frequency domain (Parseval).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

TAPS = 512  # of the distortion filters
FFT = 1 << 15  # samples of a transform for the correlations
# Added to the diagonal of normal equations that are singular (a mono stem in both channels), as a share of its
# mean: the projection hardly depends on it, only its filters do.
LOAD = 1e-14


class BssEval:
    """Rates a track: `add` blocks of any length, then ask for the `result`.

    frame: samples of a frame; museval takes one second. taps: the length of the filters.
    """

    def __init__(self, stems: int, channels: int, frame: int, taps: int = TAPS):
        self.stems, self.channels, self.frame, self.taps = stems, channels, frame, taps
        self._step = FFT - (taps - 1)  # samples that one transform advances
        self._blocks: deque[NDArray] = deque()  # [2, S*C, n]: references, estimates
        self._waiting = np.zeros((2, stems * channels, 0))  # samples that are not in the correlations yet
        self._heard = np.zeros(stems, bool)  # whether the reference sounds anywhere
        width = stems * channels
        self._spectra = np.zeros((FFT // 2 + 1, width, 2 * width), complex)  # sums over blocks

    def add(self, references: NDArray, estimates: NDArray) -> None:
        """Add the next block of references and estimates, [S, C, T] each."""
        assert references.shape == estimates.shape, (references.shape, estimates.shape)
        assert references.shape[:2] == (self.stems, self.channels), references.shape
        block = np.stack([references, estimates]).reshape(2, self.stems * self.channels, -1)
        self._blocks.append(block)
        self._heard |= (references.sum(axis=1) != 0).any(axis=-1)
        self._waiting = np.concatenate([self._waiting, block], axis=-1)
        while self._waiting.shape[-1] >= FFT:
            self._correlate(self._waiting[..., :FFT])
            self._waiting = self._waiting[..., self._step :]

    def result(self) -> dict[str, Floats]:
        """{"isr": [S, N] dB, "sir": ..., "sar": ...} for N complete frames. Nothing can be added afterwards.

        A frame is NaN for all stems where any reference or estimate is silent (the sum of its channels is 0
        throughout), +inf where an error is 0. A stem whose reference is silent throughout is NaN and does not
        make the others NaN. A track shorter than a frame is one frame. SIR needs a second stem: it is NaN for
        one.
        """
        while self._waiting.shape[-1]:
            self._correlate(self._waiting[..., :FFT])
            self._waiting = self._waiting[..., self._step :]
        frame = min(self.frame, sum(block.shape[-1] for block in self._blocks))
        size = 1 << (frame + self.taps - 2).bit_length()
        whole, own = self._filters(size)
        ratios = [np.empty((3, self.stems, 0))]
        for part in self._frames(frame):
            sums = part.reshape(2, self.stems, self.channels, frame).sum(axis=2)
            rated = np.full((3, self.stems), np.nan)
            if (sums != 0).any(axis=-1)[:, self._heard].all():
                rated[:, self._heard] = self._rate(np.fft.rfft(part, size), whole, own)[:, self._heard]
            ratios.append(rated[..., None])
        joined = np.concatenate(ratios, axis=-1)
        if self._heard.sum() == 1:
            joined[1] = np.nan
        return dict(zip(("isr", "sir", "sar"), joined, strict=True))

    def _frames(self, frame: int) -> Iterator[Floats]:
        """The complete frames [2, S*C, frame]. The memory of the blocks is freed on the way."""
        left = np.zeros((2, self.stems * self.channels, 0))
        while self._blocks:
            left = np.concatenate([left, self._blocks.popleft()], axis=-1)
            while left.shape[-1] >= frame > 0:
                yield left[..., :frame]
                left = left[..., frame:]

    def _correlate(self, window: Floats) -> None:
        """Add a window's part of r_ab[k] = sum_n a[n] b[n + k], k = 0 ... taps - 1, for references a, all b.

        a is taken from the first `step` samples only, so that n + k stays inside the window.
        """
        spectra = np.fft.rfft(window, FFT)  # [2, S*C, F]
        first = np.fft.rfft(window[0, :, : self._step], FFT)  # [S*C, F]
        both = spectra.reshape(-1, spectra.shape[-1])  # references, then estimates
        self._spectra += first.conj().T[:, :, None] * both.T[:, None, :]

    def _filters(self, size: int) -> tuple[Complexes, Complexes]:
        """The frequency responses of the projection filters, for transforms of `size` samples: (whole, own).

        whole: [F, S*C (of estimates), S*C (of references)], projects on all references. own: [S, F, C, C],
        projects on the stem's own.
        """
        taps, width, channels = self.taps, self.stems * self.channels, self.channels
        r = np.fft.irfft(self._spectra.transpose(1, 2, 0), FFT)[..., :taps]  # [S*C, 2*S*C, taps]
        self._spectra = np.zeros((0, 0, 0), complex)
        gram = _toeplitz_blocks(r[:, :width])  # [S*C, taps, S*C, taps]
        cross = r[:, width:].transpose(0, 2, 1)  # [S*C (references), taps, S*C (estimates)]
        solved = _solve(gram.reshape(width * taps, -1), cross.reshape(width * taps, width))
        whole = np.fft.rfft(solved.reshape(width, taps, width), size, axis=1).transpose(1, 2, 0)
        own = np.empty((self.stems, size // 2 + 1, channels, channels), complex)
        for k in range(self.stems):
            at = slice(k * channels, (k + 1) * channels)
            alone = _solve(
                gram[at, :, at].reshape(channels * taps, -1),
                cross[at, :, at].reshape(channels * taps, channels),
            )
            own[k] = np.fft.rfft(alone.reshape(channels, taps, channels), size, axis=1).transpose(1, 2, 0)
        return whole, own

    def _rate(self, spectra: Complexes, whole: Complexes, own: Complexes) -> Floats:
        """Spectra [2, S*C, F] of one frame -> ISR, SIR and SAR, [3, S] dB."""
        references, estimates = spectra
        everything = (whole @ references.T[:, :, None])[..., 0].T  # [S*C, F]
        alone = own @ references.reshape(self.stems, self.channels, -1).transpose(0, 2, 1)[..., None]
        alone = alone[..., 0].transpose(0, 2, 1).reshape(references.shape)
        return np.stack(
            [
                _decibels(self._energy(references), self._energy(alone - references)),
                _decibels(self._energy(alone), self._energy(everything - alone)),
                _decibels(self._energy(everything), self._energy(estimates - everything)),
            ]
        )

    def _energy(self, spectra: Complexes) -> Floats:
        """Spectra [S*C, F] -> energies [S], up to a common factor: bins between 0 and Nyquist count twice."""
        power = spectra.real**2 + spectra.imag**2
        power[:, 1:-1] *= 2
        return power.sum(axis=-1).reshape(self.stems, self.channels).sum(axis=-1)


def _toeplitz_blocks(r: Floats) -> Floats:
    """The matrix of the normal equations from correlations.

    r[a, b, k] = sum_n a[n] b[n + k] -> G[a, i, b, j] = sum_n a[n - i] b[n - j].
    """
    taps = r.shape[-1]
    # Along lags -(taps - 1) ... taps - 1: r_ab[-k] = r_ba[k].
    lags = np.concatenate([r.transpose(1, 0, 2)[..., :0:-1], r], axis=-1)
    i, j = np.arange(taps)[:, None], np.arange(taps)[None, :]
    return lags[..., i - j + taps - 1].transpose(0, 2, 1, 3)


def _solve(gram: Floats, right: Floats) -> Floats:
    """The least-squares filters: solves the normal equations by Cholesky."""
    matrix, load = torch.from_numpy(np.ascontiguousarray(gram)), 0.0
    mean = float(matrix.diagonal().mean()) or 1.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            break
        matrix.diagonal().add_(mean * (LOAD if load == 0 else 9 * load))
        load = LOAD if load == 0 else 10 * load
    return torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(right)), factor).numpy()


def _decibels(good: Floats, bad: Floats) -> Floats:
    """10 log10(good / bad), +inf where bad is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bad == 0, np.inf, 10 * np.log10(good / bad))
