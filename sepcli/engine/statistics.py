"""The level and length of a track, found by going once through it, for models that want it standardised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stats:
    """What going once through a track has found: its level and length.

    mean, scale: [G], of the mean over channels; scale is the standard deviation. frames: samples. members:
    where several models run, what each of them finds at its own rate and in its own channels; None: it needs
    nothing.
    """

    mean: Tensor
    scale: Tensor
    frames: int
    members: tuple[Stats | None, ...] = ()


class Measuring(Protocol):
    """Takes a track block by block, [G, C, T], and has its statistics in the end."""

    def add(self, block: Tensor) -> None:
        """The next block."""
        ...

    def stats(self) -> Stats:
        """Of all blocks; there are no more."""
        ...


class Meter:
    """The statistics of one track for one model.

    Sums are in float64 and relative to the first block's mean, so that neither a long track nor an offset
    costs digits.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._origin: Tensor | None = None
        self._total = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, block: Tensor) -> None:
        """See Measuring."""
        mono = block.double().mean(dim=1)  # [G, T]
        if self._origin is None:
            self._origin = mono.mean(dim=-1)
        mono = mono - self._origin[:, None]
        self._frames += mono.shape[-1]
        self._total = self._total + mono.sum(dim=-1)
        self._squares = self._squares + mono.square().sum(dim=-1)

    def stats(self) -> Stats:
        """See Measuring."""
        frames = self._frames
        if self._origin is None:
            return Stats(torch.zeros(1), torch.ones(1), 0)
        # Unbiased, as published; one sample has no deviation rather than an undefined one.
        variance = (self._squares - self._total.square() / frames) / max(frames - 1, 1)
        # The published floor keeps silence silent instead of dividing by 0.
        scale = variance.clamp(min=0).sqrt() + 1e-8
        return Stats((self._origin + self._total / frames).float(), scale.float(), frames)


def measure(blocks: Iterable[Tensor], meter: Measuring | None = None) -> Stats:
    """[G, C, T] blocks -> statistics of the track. meter: of an engine, where several models run."""
    meter = Meter() if meter is None else meter
    for block in blocks:
        meter.add(block)
    return meter.stats()
