"""What stems are called, and which ones several models make together. Names only; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

# What models call the stem that holds everything else.
EVERYTHING_ELSE = ("other", "instrumental", "accompaniment", "no_vocals", "background", "rest")

# A stem -> the one that is the mix minus it, whichever model made that.
COMPLEMENTS = {"instrumental": "vocals", "vocals": "instrumental"}

# How a stem is made of those of several models (engine.combine).
BLENDS = tuple(f"{kind}_{domain}" for domain in ("wave", "fft") for kind in ("avg", "median", "min", "max"))
WEIGHTED = ("avg_wave", "avg_fft")  # those that take weights


def leaves(first: Sequence[str], later: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """The stems that a chain leaves in the end, in order.

    first: those of its first step. later: of each other step the stem that it takes, and those it makes.
    """
    names = list(first)
    for taken, made in later:
        at = names.index(taken)
        names[at : at + 1] = made
    return names


def all_of(models: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The stems that models side by side have together, in the order in which they come."""
    return tuple(dict.fromkeys(name for names in models for name in names))


def gives(own: Sequence[str], stem: str) -> str:
    """Out of which of a model's `own` stems it gives `stem`: itself, its complement, or "" for none."""
    complement = COMPLEMENTS.get(stem, "")
    return stem if stem in own else complement if complement in own else ""
