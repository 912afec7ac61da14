"""SI-SDR improvement over the mix in windows of 4 s, as MSDM and DiCoSe evaluate Slakh2100.

Knows nothing of models or files: [S, C, T] blocks in, decibels of windows out. A track is cut into whole
chunks; an incomplete chunk at its end is dropped. Windows begin every 2 s, within a stretch that none of them
leaves:

    track     |-----------|-----------|-----------|--      chunks of 262144 samples at 22050 Hz, 11.9 s
    MSDM      |---|---|---|---|---|---|---|---|---|        windows over all chunks as one stretch,
                |---|---|---|---|---|---|---|---|-|        each overlapping the next by half
    DiCoSe    |---|---|---|---|---|-  |---|-- ...          windows within each chunk

A window counts if two stems or more are active in it; then every stem is scored, silent ones too. For DiCoSe
two must also be active over the whole chunk. A stem of N samples is active if |s|_2 / N >= 1.5e-5: the norm
divided by N, not by its root, so the level of the threshold rises with the root of N.

    a = (<h, s> + e) / (|s|^2 + e),   SI-SDR(h, s) = 10 log10((|a s|^2 + e) / (|a s - h|^2 + e)),   e = 1e-8

and the improvement is SI-SDR(h, s) - SI-SDR(x, s), with the mix x. The signals' means are not removed. Products
are means over channels, so that a track of two equal channels scores like one channel. (Mariani et al. 2024,
"Multi-Source Diffusion Models for Simultaneous Music Generation and Separation"; Karchkhadze et al. 2024,
DiCoSe; in detail as their programs do it.)

Sums are kept for the pieces between all places where a window of either protocol may begin or end. All are
float64.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Span = tuple[int, int]  # (first sample, the sample after the last)

EPSILON = 1e-8
ACTIVITY = 1.5e-5  # |s|_2 / N from which on s is active
LEAST_ACTIVE = 2  # stems
CHUNK_SAMPLES, CHUNK_RATE = 262144, 22050
HOP_SECONDS = 2  # a window is two of these

_SE, _EE, _SD, _DD = range(4)  # sums of scored stems: s with e = h - s, e with itself; s with d = x - s, d


@dataclass(frozen=True)
class WindowRule:
    """Which windows a protocol scores."""

    metric: str  # the key of its score in summary.METRICS
    count: str  # the key of the number of windows there
    chunkwise: bool  # windows lie within chunks, and only within chunks with enough active stems

    def stretches(self, samples: int, chunk: int) -> list[Span]:
        """The stretches that windows lie within."""
        whole = samples // chunk
        if self.chunkwise:
            return [(k * chunk, (k + 1) * chunk) for k in range(whole)]
        return [(0, whole * chunk)]


@dataclass(frozen=True)
class Windows:
    """The N windows of a track that count, and their scores."""

    spans: list[Span]
    si_sdri: Floats  # [S, N] dB


class WindowSums:
    """Sums over a track: `add` blocks of any length, then ask for the windows of a rule.

    scored: how many stems have an estimate. samplerate: Hz; windows and chunks last equally long at every rate.
    """

    def __init__(self, scored: int, channels: int, samplerate: int):
        self.scored, self.channels = scored, channels
        self.hop = HOP_SECONDS * samplerate
        self.chunk = (CHUNK_SAMPLES * samplerate + CHUNK_RATE // 2) // CHUNK_RATE
        self.samples = 0
        self._ends: list[int] = []  # of the pieces
        self._energies: list[Floats] = []  # [A] of each piece, of all references
        self._products: list[Floats] = []  # [R, S] of each piece
        self._end = self._next_cut(0)
        self._open: tuple[Floats, Floats] | None = None

    def add(self, references: ArrayLike, estimates: ArrayLike, mix: ArrayLike) -> None:
        """Add a block: references [A, C, T], the scored stems first; estimates [S, C, T]; the mix [C, T]."""
        s, h, x = (np.asarray(each, np.float64) for each in (references, estimates, mix))
        assert s.shape[1:] == h.shape[1:] == x.shape and len(h) == self.scored, (s.shape, h.shape, x.shape)
        at, count = 0, x.shape[-1]
        while at < count:
            end = min(count, at + self._end - self.samples)
            self._gather(s[..., at:end], h[..., at:end], x[..., at:end])
            self.samples += end - at
            at = end
            if self.samples == self._end:
                self._close()

    def windows(self, rule: WindowRule) -> Windows:
        """The windows that count, in order, with their scores."""
        spans = [
            span
            for stretch in rule.stretches(self.samples, self.chunk)
            if not rule.chunkwise or self._counts(stretch)
            for span in self._within(stretch)
            if self._counts(span)
        ]
        scores = [self._improvement(span) for span in spans]
        return Windows(spans, np.stack(scores, axis=1) if scores else np.empty((self.scored, 0)))

    # --- gathering ---

    def _next_cut(self, at: int) -> int:
        """The first place after `at` where a window of any rule may begin or end."""
        chunk = at // self.chunk * self.chunk
        within = chunk + ((at - chunk) // self.hop + 1) * self.hop
        return min((at // self.hop + 1) * self.hop, within, chunk + self.chunk)

    def _gather(self, s: Floats, h: Floats, x: Floats) -> None:
        energies = np.einsum("act,act->a", s, s)
        s = s[: self.scored]
        e, d = h - s, x - s
        products = np.stack([np.einsum("sct,sct->s", a, b) for a, b in ((s, e), (e, e), (s, d), (d, d))])
        if self._open is not None:
            energies, products = energies + self._open[0], products + self._open[1]
        self._open = energies, products

    def _close(self) -> None:
        assert self._open is not None
        self._ends.append(self.samples)
        self._energies.append(self._open[0] / self.channels)
        self._products.append(self._open[1] / self.channels)
        self._open, self._end = None, self._next_cut(self.samples)

    # --- asking ---

    def _within(self, stretch: Span) -> Iterator[Span]:
        """The windows of a stretch: ceil((L - hop) / hop) for L samples; the last may be cut short."""
        begin, end = stretch
        for at in range(begin, end - self.hop, self.hop):
            yield at, min(at + 2 * self.hop, end)

    def _pieces(self, span: Span) -> slice:
        first = 0 if span[0] == 0 else bisect_left(self._ends, span[0]) + 1
        return slice(first, bisect_left(self._ends, span[1]) + 1)

    def _counts(self, span: Span) -> bool:
        norms = np.sqrt(np.sum(self._energies[self._pieces(span)], axis=0))
        return int((norms / (span[1] - span[0]) >= ACTIVITY).sum()) >= LEAST_ACTIVE

    def _improvement(self, span: Span) -> Floats:
        """[S] dB."""
        pieces = self._pieces(span)
        ss = np.sum(self._energies[pieces], axis=0)[: self.scored]
        total = np.sum(self._products[pieces], axis=0)
        return _si_sdr(ss, total[_SE], total[_EE]) - _si_sdr(ss, total[_SD], total[_DD])


def _si_sdr(ss: Floats, se: Floats, ee: Floats) -> Floats:
    """The SI-SDR in dB from |s|^2, <s, e> and |e|^2 with h = s + e. With a = 1 + g, a s - h is g s - e."""
    g = se / (ss + EPSILON)
    residual = np.maximum(g**2 * ss - 2 * g * se + ee, 0)
    return 10 * np.log10(((1 + g) ** 2 * ss + EPSILON) / (residual + EPSILON))


MSDM = WindowRule("si_sdri_msdm", "windows_msdm", chunkwise=False)
DICOSE = WindowRule("si_sdri_dicose", "windows_dicose", chunkwise=True)
RULES = (MSDM, DICOSE)
