"""What several models make of one stem, as one: sample by sample, or bin by bin of their spectra.

    [M, ..., T] estimates of one stem by M models -> [..., T]

The ways are those of audio-separator's `--ensemble_algorithm`, under its names, and give its numbers. Knows
tensors only. Streams: what comes out depends on the samples, not on the blocks they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NFFT, HOP = 2048, 1024  # of the ways that end in _fft: a periodic Hann window, frames centred on their samples


def mean(estimates: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted mean. weights: M factors, > 0 in sum."""
    total = estimates[0] * weights[0]
    for estimate, weight in zip(estimates[1:], weights[1:], strict=True):
        total = total + estimate * weight
    return total / sum(weights)


def median(estimates: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """The median; of an even number the mean of the two in the middle; of complex values part by part."""
    if estimates.is_complex():
        return torch.view_as_complex(median(torch.view_as_real(estimates)).contiguous())
    ordered, middle = estimates.sort(0).values, len(estimates)
    return (ordered[(middle - 1) // 2] + ordered[middle // 2]) / 2


def smallest(estimates: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """The one with the smallest absolute value; of equal ones the first."""
    best = estimates[0]
    for other in estimates[1:]:
        best = torch.where(other.abs() < best.abs(), other, best)
    return best


def largest(estimates: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """The one with the largest absolute value; of equal ones the first."""
    best = estimates[0]
    for other in estimates[1:]:
        best = torch.where(other.abs() > best.abs(), other, best)
    return best


_KINDS: dict[str, Callable[[Tensor, Sequence[float]], Tensor]] = {
    "avg": mean,
    "median": median,
    "min": smallest,
    "max": largest,
}


class Combiner:
    """One stem of M models on its way to be one.

    method: one of stems.BLENDS. weights: M factors, of the means.
    """

    def __init__(self, method: str, weights: Sequence[float]):
        kind, _, domain = method.partition("_")
        self._weights = weights
        self._combine = _KINDS[kind]
        # One alone stays as it is, to the bit.
        self._spectra = _Spectra(self._of) if domain == "fft" and len(weights) > 1 else None

    def process(self, estimates: Tensor) -> Tensor:
        """[M, ..., T] -> [..., T'], the samples that are final; with spectra T' differs from T."""
        return self._of(estimates) if self._spectra is None else self._spectra.process(estimates)

    def flush(self) -> Tensor | None:
        """The last samples, so that as many have come out as went in; None for none."""
        return None if self._spectra is None else self._spectra.flush()

    def _of(self, estimates: Tensor) -> Tensor:
        return estimates[0] if len(estimates) == 1 else self._combine(estimates, self._weights)


class _Spectra:
    """Short-time spectra of M estimates, made one bin by bin, and back by overlap-add.

    The track lies between half a window of silence at its beginning and a whole one at its end. So every
    sample is in two frames. (audio-separator ends with half a window: its last samples are in one frame, and
    are divided by a window that ends at nearly 0.)
    """

    def __init__(self, combine: Callable[[Tensor], Tensor]):
        self._combine = combine
        self._window = torch.hann_window(NFFT)
        self._waiting: Tensor | None = None  # [M, ..., n], from where the next frame begins
        self._sum: Tensor | None = None  # [..., NFFT - HOP] of frames so far, behind what is final
        self._before = NFFT // 2  # samples of silence that are still to be dropped
        self._fed = self._given = 0

    def process(self, estimates: Tensor) -> Tensor:
        """[M, ..., T] -> [..., T']"""
        self._fed += estimates.shape[-1]
        return self._feed(estimates)

    def flush(self) -> Tensor | None:
        """See Combiner."""
        if self._waiting is None:
            return None
        missing = self._fed - self._given
        return self._feed(self._waiting.new_zeros(*self._waiting.shape[:-1], NFFT))[..., :missing]

    def _feed(self, estimates: Tensor) -> Tensor:
        if self._waiting is None:
            self._waiting = estimates.new_zeros(*estimates.shape[:-1], NFFT // 2)
            self._sum = estimates.new_zeros(*estimates.shape[1:-1], NFFT - HOP)
        joined = torch.cat([self._waiting, estimates], dim=-1)
        frames = max(0, (joined.shape[-1] - NFFT) // HOP + 1)
        self._waiting = joined[..., frames * HOP :]
        if not frames:
            return estimates.new_zeros(*estimates.shape[1:-1], 0)
        cut = joined[..., : (frames - 1) * HOP + NFFT].unfold(-1, NFFT, HOP)  # [M, ..., N, NFFT]
        spectrum = self._combine(torch.fft.rfft(cut * self._window))
        made = torch.fft.irfft(spectrum, n=NFFT) * self._window  # [..., N, NFFT]
        assert self._sum is not None
        # Two frames reach a sample: the first half of one, and the second half of the one before it.
        firsts, seconds = made[..., :HOP], made[..., HOP:]
        before = torch.cat([self._sum[..., None, :], seconds[..., :-1, :]], dim=-2)
        self._sum = seconds[..., -1, :]
        squares = self._window.square()
        final = ((firsts + before) / (squares[:HOP] + squares[HOP:])).flatten(-2)
        drop = min(self._before, final.shape[-1])
        self._before -= drop
        final = final[..., drop:]
        self._given += final.shape[-1]
        return final
