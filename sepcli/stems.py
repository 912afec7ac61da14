"""What stems are called, and which ones several models make together. Names only; loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

# What models call the stem that holds everything else.
EVERYTHING_ELSE = ("other", "instrumental", "accompaniment", "no_vocals", "background", "rest")

# A stem -> the one that is the mix minus it, whichever model made that.
COMPLEMENTS = {"instrumental": "vocals", "vocals": "instrumental"}

# How a stem is made of those of several models (engine.combine).
BLENDS = tuple(f"{kind}_{domain}" for domain in ("wave", "fft") for kind in ("avg", "median", "min", "max"))
WEIGHTED = ("avg_wave", "avg_fft")  # those that take weights


@dataclass(frozen=True)
class Chained:
    """The stems of a chain."""

    made: tuple[tuple[str, ...], ...]  # of each step: what its stems are called in the chain
    taken: tuple[str, ...]  # the stem that each step after the first takes
    left: tuple[str, ...]  # that are there in the end, in order
    more: Mapping[str, tuple[str, ...]]  # those that are given on request: that, and all stems in them


def chained(first: Sequence[str], later: Sequence[tuple[str, Sequence[str]]]) -> Chained:
    """The stems of a chain, and what they are called.

    first: those of its first step. later: of each other step the stem that it takes (case does not count), and
    those it makes.

    A step's stems replace the one that it takes. One whose name another stem has, or had, is called as the one
    it is taken from, too: "vocals-drums". On request there are the stems that steps take, and what a step
    leaves of one, "vocals-rest": that minus the step's stems.
    ValueError for a stem that is not there.
    """
    left, made, takes = list(first), [tuple(first)], list[str]()
    parts = dict[str, tuple[str, ...]]()  # a stem that was taken -> the names of those made of it
    for asked, stems in later:
        taken = asked if asked in left else _alike(asked, left) or asked
        if taken not in left:
            gone = (
                f"'{taken}' was taken apart before" if taken in parts else f"there is no stem '{taken}' by then"
            )
            raise ValueError(f"{gone}; there are {', '.join(left)}")
        at = left.index(taken)
        others = {*left, *parts}.difference([taken])
        names = []
        for stem in stems:
            while stem in others:
                stem = f"{taken}-{stem}"
            names.append(stem)
            others.add(stem)
        left[at : at + 1] = names
        made.append(tuple(names))
        takes.append(taken)
        parts[taken] = (*names, left_of(taken))
    return Chained(tuple(made), tuple(takes), tuple(left), _on_request(left, parts))


def _alike(name: str, names: Sequence[str]) -> str | None:
    """The first that differs in case only."""
    return next((each for each in names if each.casefold() == name.casefold()), None)


def left_of(stem: str) -> str:
    """What a step of a chain leaves of the stem that it takes apart."""
    return f"{stem}-rest"


def needed_of(made: Sequence[str], taken: str, needed: Collection[str]) -> tuple[list[str], set[str]]:
    """What a step of a chain has to make, and what those before it have to.

    made: what its stems are called. taken: the stem it takes; "" for the first step. needed: the stems that
    are needed of it and of those before it.
    """
    rest = left_of(taken) if taken else ""
    own = [stem for stem in made if stem in needed or rest in needed]
    return own, {*needed}.difference(own, [rest]).union([taken] if taken and own else [])


def _on_request(left: Sequence[str], parts: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Each stem that is not `left`, and all stems in it. A name that one of those left has is theirs."""
    more = dict[str, tuple[str, ...]]()
    for taken, names in reversed(list(parts.items())):
        inner = [name for each in names for name in (each, *more.get(each, ()))]
        for name, within in ((names[-1], ()), (taken, tuple(dict.fromkeys(inner)))):
            if name not in left:
                more[name] = within
    return dict(reversed(list(more.items())))


def all_of(models: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The stems that models side by side have together, in the order in which they come."""
    return tuple(dict.fromkeys(name for names in models for name in names))


def gives(own: Sequence[str], stem: str) -> str:
    """Out of which of a model's `own` stems it gives `stem`: itself, its complement, or "" for none."""
    complement = COMPLEMENTS.get(stem, "")
    return stem if stem in own else complement if complement in own else ""
