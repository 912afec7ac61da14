"""Several models of a catalogue as one entry: one after another, or side by side.

What such an entry does not say of itself follows from its models. Knows entries and names; ValueError says what
can't be, as the end of a sentence about the key at fault: the caller knows where that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sepcli.stems import BLENDS, WEIGHTED, all_of, chained, gives
from sepcli.weights.entries import Entry, Part, Step

_UNKNOWN = Entry.license  # where nobody states one, the others don't count


def side_by_side(
    name: str, models: Sequence[tuple[Entry, Mapping[str, float]]], method: str, **said: Any
) -> Entry:
    """Models whose stems are blended by one of stems.BLENDS.

    models: each with its weights by stem; a stem that is not named there has the weight that "" has, or 1. A
    model that can't give a stem is left out for it. said: fields of Entry that are known better than they
    follow.
    ValueError for a model that can't be among others, and for weights that mean nothing.
    """
    entries = [entry for entry, _ in models]
    for entry in entries:
        if entry.min_query is not None:
            raise ValueError(f"'{entry.name}' takes queries, and can't be one of several models")
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("one model is named twice")
    sources = all_of([entry.sources for entry in entries])
    rows = blend_weights(
        sources, [entry.sources for entry in entries], [weights for _, weights in models], method
    )
    parts = tuple(Part(entry, row) for entry, row in zip(entries, rows, strict=True))
    return Entry(**{**_following(name, entries, sources), "parts": parts, "blend": method, **said})


def blend_weights(
    sources: Sequence[str], models: Sequence[Sequence[str]], weights: Sequence[Mapping[str, float]], method: str
) -> list[tuple[float, ...]]:
    """For each model a weight for each of the sources; 0 where it can't give it.

    models: the stems of each. weights: as for `side_by_side`. ValueError for weights that mean nothing.
    """
    if method not in BLENDS:
        raise ValueError(f"'{method}' is no way to blend; there are {', '.join(BLENDS)}")
    rows = []
    for own, named in zip(models, weights, strict=True):
        unknown = [stem for stem in named if stem and not (stem in sources and gives(own, stem))]
        if unknown:
            raise ValueError(f"'{unknown[0]}' has a weight in a model that gives {', '.join(own)}")
        if any(weight < 0 or weight == float("inf") or weight != weight for weight in named.values()):
            raise ValueError("a weight is below 0 or no number")
        plain = named.get("", 1.0)
        rows.append(tuple(named.get(stem, plain) if gives(own, stem) else 0.0 for stem in sources))
    if method not in WEIGHTED and any(weight not in (0, 1) for row in rows for weight in row):
        raise ValueError(f"weights have no meaning with {method}; only {' and '.join(WEIGHTED)} take them")
    for stem, column in zip(sources, zip(*rows, strict=True), strict=True):
        if not any(column):
            raise ValueError(f"no model counts for '{stem}'")
    return rows


def one_after_another(name: str, steps: Sequence[Step], sources: Sequence[str] = (), **said: Any) -> Entry:
    """Models of which each takes a stem of those before it apart.

    steps: their names may differ in the end (stems.chained). sources: all stems that are left, in another
    order than the steps'. said: as for `side_by_side`.
    ValueError for a model that can't be in a chain, and for a stem that is not there.
    """
    for step in steps:
        if step.entry.min_query is not None:
            raise ValueError(f"'{step.entry.name}' takes queries, and can't be one of several models")
    first, *later = steps
    stems = chained(first.named, [(step.of, step.named) for step in later])
    if sources and sorted(sources) != sorted(stems.left):
        raise ValueError(f"the stems that are left are {', '.join(stems.left)}, not {', '.join(sources)}")
    chain = tuple(
        replace(step, of=taken, names=names)
        for step, taken, names in zip(steps, ("", *stems.taken), stems.made, strict=True)
    )
    fields = _following(name, [step.entry for step in steps], sources or stems.left, "chain")
    return Entry(**{**fields, "chain": chain, "more": dict(stems.more), **said})


def _following(
    name: str, entries: Sequence[Entry], sources: Sequence[str], task: str = "separation"
) -> dict[str, Any]:
    """The fields of an entry of several models that follow from theirs. task: where theirs differ."""
    licences = dict.fromkeys(entry.license for entry in entries)
    costs, tasks = [entry.cost for entry in entries], {entry.task for entry in entries}
    return {
        "name": name,
        "family": "",
        "sources": tuple(sources),
        "members": tuple(member for entry in entries for member in entry.members),
        "task": tasks.pop() if len(tasks) == 1 else task,
        "cost": None if None in costs else sum(cost or 0 for cost in costs),
        "run": all(entry.run for entry in entries),
        # The highest: no model loses a sound.
        "samplerate": max(entry.samplerate for entry in entries),
        "channels": max(entry.channels for entry in entries),
        "half": all(entry.half for entry in entries),
        "license": _UNKNOWN if _UNKNOWN in licences else "; ".join(licences),
    }
