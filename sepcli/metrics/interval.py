"""How sure a mean over tracks is: half of its 95 % confidence interval by Student's t.

Knows tracks by name and their values; no metrics. The tracks are taken for a sample of all music of their kind,
and for independent. With the weights w_i of the tracks (all 1, or their numbers of windows) a mean is

    m = sum w_i x_i / W,  W = sum w_i;     its variance   n / (n - 1) sum (w_i (x_i - m) / W)^2

for n tracks, which is s^2 / n where all weights are equal (the ratio estimator of sampling theory: Cochran
1977, "Sampling Techniques", chapter 6). For a mean over several stems what a track contributes to each is
summed before it is squared, so that stems of one track, good or bad together, don't pass for independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SHARE = 0.95

Column = Mapping[str, tuple[float, float]]  # track -> (value, weight)


def half_width(columns: Sequence[Column]) -> float:
    """Half the interval of the mean over `columns` (stems) of their weighted means over tracks.

    NaN where a column has fewer than two tracks, or a value is infinite.
    """
    share: dict[str, float] = {}  # of the mean's error, by track
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
    """Between minus and plus this lies `share` of Student's distribution of that many degrees of freedom."""
    low, high = 0.0, math.pi / 2  # of the angle, in which the distribution is a finite sum
    for _ in range(60):  # halvings: all digits there are
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < share else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The share between -t and t, t = sqrt(freedom) tan(angle) (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total, k = 0.0, 2 if freedom % 2 else 1
    while k <= freedom - 1:
        total += term
        term *= cosine**2 * k / (k + 1)
        k += 2
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
