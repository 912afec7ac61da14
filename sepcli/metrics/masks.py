"""Oracles: the best that masks on a spectrogram can do when the stems are known (IRM, IBM, MWF of SiSEC 2018).

Knows nothing of files: spectrograms of the mix and of all its stems in, spectrograms of the estimates out. It
also has the transform to them and back, as a stream. X is the mix [C, F, N], Y the stems [S, C, F, N]. All
masks but the last treat each channel by itself:

    irm1   |Y_j| / sum_k |Y_k|              ideal ratio mask of magnitudes
    irm2   |Y_j|^2 / sum_k |Y_k|^2          of powers
    ibm    1 where |Y_j| > |X| / 2, else 0  ideal binary mask, a majority vote
    mwf    P_j R_j (sum_k P_k R_k)^-1 X     multichannel Wiener filter of the local Gaussian model: a power P_j
                                            for each bin and frame, a spatial covariance R_j [C, C] for each bin

The transform is scipy's default: periodic Hann of 2048 samples, hop 1024, half a window of silence at both
ends. All is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complexfloating]

SIZE = 2048  # samples of a window
HOP = SIZE // 2
EPS = float(np.finfo(np.float64).eps)  # keeps masks of silence from dividing by 0
# Added to spatial covariances of trace C: a stem in the middle has one of rank 1, which has no inverse.
SPATIAL_EPS = 1e-10

Mask = Callable[[Complexes, Complexes], Complexes]  # X [C, F, N], Y [S, C, F, N] -> estimates [S, C, F, N]

_WINDOW = np.hanning(SIZE + 1)[:-1]


class Stft:
    """The transform as a stream: [..., T] blocks in, [..., F, N] blocks of complete frames out, F = 1025."""

    def __init__(self) -> None:
        self._left: Floats | None = None

    def process(self, block: NDArray) -> Complexes:
        """The next block [..., T] -> the frames [..., F, N] that it completes; N may be 0."""
        if self._left is None:
            self._left = np.zeros((*block.shape[:-1], HOP))
        self._left = np.concatenate([self._left, block], axis=-1)
        count = max(0, (self._left.shape[-1] - SIZE) // HOP + 1)
        frames = (
            np.stack([self._left[..., n * HOP : n * HOP + SIZE] for n in range(count)], axis=-2)
            if count
            else np.zeros((*block.shape[:-1], 0, SIZE))
        )
        self._left = self._left[..., count * HOP :]
        return np.fft.rfft(frames * (_WINDOW / _WINDOW.sum()), axis=-1).swapaxes(-1, -2)

    def flush(self) -> Complexes:
        """The last frames, which reach beyond the end, into silence."""
        assert self._left is not None, "no block has come"
        held = self._left.shape[-1] + HOP  # with half a window of silence
        padding = HOP + (-(held - SIZE) % HOP if held > SIZE else SIZE - held)
        return self.process(np.zeros((*self._left.shape[:-1], padding)))


class Istft:
    """The inverse transform as a stream: overlap-add of windowed frames over the sum of squared windows."""

    def __init__(self) -> None:
        self._left: Floats | None = None  # the second half of the last frame
        self._norm = _WINDOW[:HOP] ** 2 + _WINDOW[HOP:] ** 2

    def process(self, spec: Complexes) -> Floats:
        """The next frames [..., F, N] -> the samples [..., T] that are complete.

        The first frame gives none: half a window of the silence before the beginning is dropped.
        """
        frames = np.fft.irfft(spec.swapaxes(-1, -2), SIZE) * (_WINDOW * _WINDOW.sum())  # [..., N, SIZE]
        if frames.shape[-2] == 0:
            return np.zeros((*frames.shape[:-2], 0))
        if self._left is None:
            tails, heads = frames[..., :-1, HOP:], frames[..., 1:, :HOP]
        else:
            tails = np.concatenate([self._left[..., None, :], frames[..., :-1, HOP:]], axis=-2)
            heads = frames[..., :HOP]
        self._left = frames[..., -1, HOP:]
        wave = (tails + heads) / self._norm
        return wave.reshape(*wave.shape[:-2], -1)


def ratio_mask(power: float) -> Mask:
    """The ideal ratio mask of magnitudes (power 1) or of powers (power 2)."""

    def mask(mix: Complexes, stems: Complexes) -> Complexes:
        weights = np.abs(stems) ** power
        return weights / (EPS + weights.sum(axis=0)) * mix

    return mask


def binary_mask(mix: Complexes, stems: Complexes) -> Complexes:
    """The ideal binary mask: X [C, F, N], Y [S, C, F, N] -> estimates [S, C, F, N]."""
    return (np.abs(stems) / (EPS + np.abs(mix)) > 0.5) * mix


class Wiener:
    """The multichannel Wiener filter: let it `learn` from all frames of all stems; then it is a Mask."""

    def __init__(self) -> None:
        self._spatial: Complexes | None = None  # sums, then R, [S, F, C, C]
        self._ready = False

    def learn(self, stems: Complexes) -> None:
        """Take in the next frames of the stems [S, C, F, N] for R.

        R_j is the mean over frames of y y^H / P_j, with P_j first taken as the mean of |y|^2 over channels.
        """
        y = np.moveaxis(stems, 1, -1)  # [S, F, N, C]
        power = (np.abs(y) ** 2).mean(axis=-1)
        found: Complexes = np.einsum("sfnc,sfnd->sfcd", y / (EPS + power[..., None]), y.conj())
        self._spatial = found if self._spatial is None else self._spatial + found

    def __call__(self, mix: Complexes, stems: Complexes) -> Complexes:
        spatial = self._finished()
        channels = len(mix)
        y, x = np.moveaxis(stems, 1, -1), np.moveaxis(mix, 0, -1)  # [S, F, N, C], [F, N, C]
        # The power that explains y best under R_j: y^H R_j^-1 y / C.
        power = np.einsum("sfnc,sfcd,sfnd->sfn", y.conj(), np.linalg.inv(spatial), y, optimize=True).real
        power = power.clip(min=0) / channels
        covariance = np.einsum("sfn,sfcd->fncd", power, spatial)  # of the mix, by the model
        # Its inverse is relative to its level, so that quiet bins are filtered like loud ones.
        level = np.trace(covariance, axis1=-2, axis2=-1).real / channels
        level = np.where(level > 0, level, 1)[..., None, None]
        inverse = _inverse(covariance / level + SPATIAL_EPS * np.eye(channels))
        whitened = (inverse @ (x / level[..., 0])[..., None])[..., 0]  # [F, N, C]
        return np.einsum("sfn,sfcd,fnd->scfn", power, spatial, whitened, optimize=True)

    def _finished(self) -> Complexes:
        """R [S, F, C, C], of trace C."""
        spatial = self._spatial
        assert spatial is not None, "learn first"
        if not self._ready:
            channels = spatial.shape[-1]
            trace = np.trace(spatial, axis1=-2, axis2=-1).real[..., None, None]
            eye = np.eye(channels, dtype=np.complex128)
            scaled = np.where(trace > 0, spatial * channels / np.where(trace > 0, trace, 1), eye)
            spatial = self._spatial = scaled + SPATIAL_EPS * eye
            self._ready = True
        return spatial


def _inverse(matrices: Complexes) -> Complexes:
    """The inverses of many Hermitian matrices [..., C, C].

    For one and two channels they come from the formula, which is many times faster.
    """
    if matrices.shape[-1] == 1:
        return 1 / matrices
    if matrices.shape[-1] > 2:
        return np.linalg.inv(matrices)
    a, b, c, d = (matrices[..., i, j] for i in (0, 1) for j in (0, 1))
    inverse = np.empty_like(matrices)
    inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 0], inverse[..., 1, 1] = d, -b, -c, a
    return inverse / (a * d - b * c)[..., None, None]


ORACLES = ("irm1", "irm2", "ibm", "mwf")


def make_mask(name: str) -> Mask:
    """The mask of that name in ORACLES. A `mwf` (Wiener) has to `learn` before it is used."""
    masks: dict[str, Callable[[], Mask]] = {
        "irm1": lambda: ratio_mask(1),
        "irm2": lambda: ratio_mask(2),
        "ibm": lambda: binary_mask,
        "mwf": Wiener,
    }
    return masks[name]()


def learn(mask: Wiener, blocks: Iterable[NDArray]) -> None:
    """Let a Wiener filter learn from [S, C, T] blocks of all stems: a first pass over the track."""
    transform, seen = Stft(), False
    for block in blocks:
        mask.learn(transform.process(block))
        seen = True
    if seen:
        mask.learn(transform.flush())


def masked(mask: Mask, blocks: Iterable[NDArray], samples: int) -> Iterator[Floats]:
    """Estimate the stems by a mask: [1 + S, C, T] blocks in, [S, C, T'] blocks out, `samples` in all.

    blocks: the mix, then its stems.
    """
    transform, back, left = Stft(), Istft(), samples

    def specs() -> Iterator[Complexes]:
        seen = False
        for block in blocks:
            yield transform.process(block)
            seen = True
        if seen:
            yield transform.flush()

    for spec in specs():
        wave = back.process(mask(spec[0], spec[1:]))[..., :left]
        left -= wave.shape[-1]
        yield wave
