"""How sure a mean over tracks is: half of its 95 % confidence interval by Student's t.

Knows tracks by name and their values; no metrics. The tracks are taken for an independent sample of all music
of their kind. With the weights w_i of the tracks (all 1, or their numbers of windows) a mean is

    m = sum w_i x_i / W,  W = sum w_i;     its variance   n / (n - 1) sum (w_i (x_i - m) / W)^2

for n tracks, which is s^2 / n where all weights are equal (the ratio estimator of sampling theory: Cochran
1977, "Sampling Techniques", chapter 6). For a mean over several stems, the contributions of a track to all of
them are summed before they are squared, because the stems of one track are good or bad together and not
independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SHARE = 0.95

Column = Mapping[str, tuple[float, float]]  # {track: (value, weight)}


def half_width(columns: Sequence[Column]) -> float:
    """Half the interval of a mean over stems of weighted means over tracks. columns: one for each stem.

    NaN where a column has fewer than two tracks, or a value is infinite.
    """
    share: dict[str, float] = {}  # {track: its part of the mean's error}
    for column in columns:
        total = sum(weight for _, weight in column.values())
        if len(column) < 2 or not total or not all(math.isfinite(value) for value, _ in column.values()):
            return math.nan
        mean = sum(value * weight for value, weight in column.values()) / total
        for track, (value, weight) in column.items():
            share[track] = share.get(track, 0.0) + weight * (value - mean) / total / len(columns)
    n = len(share)
    if n < 2:
        return math.nan
    return student_t(n - 1) * math.sqrt(n / (n - 1) * sum(part**2 for part in share.values()))


def student_t(freedom: int, share: float = SHARE) -> float:
    """t, such that `share` of Student's distribution with so many degrees of freedom lies between -t and t.

    With t = sqrt(freedom) tan(angle) the distribution is a finite sum (`_within`), which is inverted by halving
    an interval: exact to all digits, for any number of tracks.
    """
    low, high = 0.0, math.pi / 2  # of the angle
    for _ in range(60):  # more halvings than a double has bits
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < share else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The share of the distribution between -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total, k = 0.0, 2 if freedom % 2 else 1
    while k <= freedom - 1:
        total += term
        term *= cosine**2 * k / (k + 1)
        k += 2
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
