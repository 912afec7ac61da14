"""Signal-to-distortion ratios of whole tracks, from sums that are gathered block by block.

Knows nothing of models or files: [S, C, T] blocks of references and estimates in, decibels out. s is a
reference, h the estimate of it, e = h - s the error. Every ratio here follows from a few sums over frames of a
second (and over the incomplete frame at the end), so that memory holds only a few numbers for each second:

    frames   |----1----|----2----|----3----|--rest
    museval   sdr(1)    sdr(2)    sdr(3)    -          SDR of BSS Eval v4: one for each frame, the rest dropped
    uSDR      sum       sum       sum       sum        one ratio for the track
    SI-SDR    sum       sum       sum       sum        the same, blind to a gain on the estimate

All sums are float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

USDR_DELTA = 1e-7  # as the Music Demixing Challenge 2021 added to both energies
FRAME_SECONDS = 1.0  # of museval v4 by its defaults

# The rows of the sums of a frame, [R, S]; the sums of single channels follow.
_SS, _EE, _SE, _HH, _LOUD_S, _LOUD_H, _FIRST_CHANNEL = range(7)


class Sums:
    """Sums over a track of S stems with C channels: `add` blocks of any length, then ask for the ratios.

    frame: samples of a frame; museval takes one second.
    """

    def __init__(self, stems: int, channels: int, frame: int):
        assert frame >= 1, frame
        self.stems, self.channels, self.frame = stems, channels, frame
        self.samples = 0
        self._closed: list[Floats] = []  # [R, S] of each complete frame
        self._open = np.zeros((_FIRST_CHANNEL + 2 * channels, stems))  # [R, S] of the last, incomplete one

    def add(self, references: ArrayLike, estimates: ArrayLike) -> None:
        """Add the next block of references and estimates, [S, C, T] each."""
        s, h = np.asarray(references, np.float64), np.asarray(estimates, np.float64)
        assert s.shape == h.shape and s.shape[:2] == (self.stems, self.channels), (s.shape, h.shape)
        at, count = 0, s.shape[-1]
        while at < count:
            end = min(count, at + self.frame - self.samples % self.frame)
            self._open += self._sums(s[..., at:end], h[..., at:end])
            self.samples += end - at
            at = end
            if self.samples % self.frame == 0:
                self._closed.append(self._open)
                self._open = np.zeros_like(self._open)

    def _sums(self, s: Floats, h: Floats) -> Floats:
        """[S, C, n] of one frame -> the rows of sums [R, S]."""
        e = h - s
        rows = np.empty_like(self._open)
        for row, (a, b) in {_SS: (s, s), _EE: (e, e), _SE: (s, e), _HH: (h, h)}.items():
            rows[row] = np.einsum("sct,sct->s", a, b)
        # museval calls a frame silent where the *sum of the channels* is 0 throughout: L = -R is silence to it.
        for row, signal in ((_LOUD_S, s), (_LOUD_H, h)):
            rows[row] = (signal.sum(axis=1) != 0).any(axis=-1)
        rows[_FIRST_CHANNEL:] = np.concatenate([s.sum(axis=-1), h.sum(axis=-1)], axis=1).T
        return rows

    def museval_sdr(self) -> Floats:
        """[S, N] dB: the SDR of BSS Eval v4 in each of the N complete frames.

        10 log10(sum s^2 / sum (h - s)^2), +inf where the error is 0. In "images" mode museval's three error
        terms add up to h - s, whatever its filters are, so none are needed. A frame is NaN for all stems where
        any reference or estimate is silent. A stem whose reference is silent throughout, which museval refuses,
        is NaN and does not make the other stems NaN. A track shorter than a frame is one frame.
        """
        frames = self._frames()
        ss, ee = frames[_SS], frames[_EE]
        with np.errstate(divide="ignore", invalid="ignore"):
            sdr = np.where(ee == 0, np.inf, 10 * np.log10(ss / ee))
        sdr[:, self.silent_frames()] = np.nan
        sdr[~self._heard(frames)] = np.nan
        return sdr

    def usdr(self) -> Floats:
        """[S] dB: uSDR of the Music Demixing Challenge, over the whole track and all channels.

        10 log10((sum s^2 + d) / (sum (s - h)^2 + d)) with d = 1e-7.
        """
        total = self._total()
        return 10 * np.log10((total[_SS] + USDR_DELTA) / (total[_EE] + USDR_DELTA))

    def si_sdr(self, *, zero_mean: bool = False) -> Floats:
        """[S] dB: scale-invariant SDR (Le Roux et al. 2019), one gain for all channels of the whole track.

        a = <h, s> / <s, s>; 10 log10(|a s|^2 / |a s - h|^2). zero_mean: each channel's mean is removed from s
        and h first. NaN where the reference or the estimate is silent. Values beyond about 150 dB are rounding.
        """
        total, channels = self._total(), self.channels
        ss, ee, se, hh = total[_SS], total[_EE], total[_SE], total[_HH]
        if zero_mean and self.samples:
            sum_s = total[_FIRST_CHANNEL : _FIRST_CHANNEL + channels]  # [C, S]
            sum_h = total[_FIRST_CHANNEL + channels :]
            sum_e = sum_h - sum_s
            ss, hh = _less(ss, sum_s, sum_s, self.samples), _less(hh, sum_h, sum_h, self.samples)
            ee, se = _less(ee, sum_e, sum_e, self.samples), se - (sum_s * sum_e).sum(axis=0) / self.samples
        with np.errstate(divide="ignore", invalid="ignore"):
            # h = s + e, so a = 1 + <s, e> / <s, s>; and h and e have the same part orthogonal to s, so no
            # digits are lost where the error is small.
            a = 1 + se / ss
            residual = np.maximum(ee - se**2 / ss, 0)
            si_sdr = np.where(residual == 0, np.inf, 10 * np.log10(a**2 * ss / residual))
        si_sdr[(ss == 0) | (hh == 0)] = np.nan
        return si_sdr

    def silent_frames(self) -> NDArray[np.bool_]:
        """[N] frames: True where museval's metrics are undefined."""
        frames = self._frames()
        silent = (frames[_LOUD_S] == 0) | (frames[_LOUD_H] == 0)
        return silent[self._heard(frames)].any(axis=0)

    def present(self) -> NDArray[np.bool_]:
        """[S]: whether the reference has any sound at all. Where it has none, there is nothing to score."""
        return self._total()[_SS] > 0

    @staticmethod
    def _heard(frames: Floats) -> NDArray[np.bool_]:
        """[S]: whether museval hears the reference in any frame."""
        return (frames[_LOUD_S] != 0).any(axis=-1)

    def _frames(self) -> Floats:
        """The sums of the complete frames [R, S, N]. A track shorter than a frame is one frame."""
        if 0 < self.samples < self.frame:
            return self._open[..., None]
        return np.stack(self._closed, axis=-1) if self._closed else np.empty((*self._open.shape, 0))

    def _total(self) -> Floats:
        """The sums of the whole track [R, S]."""
        return np.sum([self._open, *self._closed], axis=0)


def _less(energy: Floats, a: Floats, b: Floats, samples: int) -> Floats:
    """An energy [S] without the part of the means, never below 0. a, b: sums [C, S] over samples."""
    return np.maximum(energy - (a * b).sum(axis=0) / samples, 0)


def frame_samples(samplerate: int, seconds: float = FRAME_SECONDS) -> int:
    """How many samples a frame has at that rate (Hz), rounded down as museval does it."""
    return int(seconds * samplerate)
