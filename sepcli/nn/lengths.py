"""How long signals are where layers make them shorter. Knows no network."""

from __future__ import annotations

from torch import Tensor


def centred(x: Tensor, length: int) -> Tensor:
    """The middle `length` samples of [..., T]; of an odd excess, one more is cut on the right."""
    start = (x.shape[-1] - length) // 2
    return x[..., start : start + length]
