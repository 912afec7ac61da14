"""How surprising it is to be right so often by guessing: the exact binomial test. Knows counts only."""

from __future__ import annotations

import math


def p_value(right: int, trials: int) -> float:
    """The probability of at least `right` right answers in `trials` where each is right by chance 1/2.

    One-sided and exact: the sum of binomial coefficients over 2 ** trials, in whole numbers until the division.
    """
    ways = math.comb(trials, right)
    total = 0
    for k in range(right, trials + 1):
        total += ways
        ways = ways * (trials - k) // (k + 1)  # from "k of trials" to one more
    return total / 2**trials
