"""Which model of the catalogue for what: groups, scores that may be compared, and a few to recommend.

Entries in, entries out. Knows no files, networks or machines.

A figure of quality says something only beside figures of the same metric on the same data. So every comparison
here has one Yardstick, and a model without a figure of it has none at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sepcli.weights.entries import TASKS, Entry, Score

# Of these licences as stated, the terms allow commercial use (some with duties, such as to name the author).
COMMERCIAL = ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-3.0")
COMMERCIAL += ("cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0")

# Names of sets, the `set` of a score, that are no yardstick like others.
OWN_SET = "the author's own set"  # every author has another: never compared
# Some of its songs are in the training data of some models: it decides only where nothing else is known.
SEEN_SET = "museval medians over MUSDB songs, by audio-separator"


@dataclass(frozen=True)
class Yardstick:
    """What figures of one column have in common. stem: None for the mean over all stems."""

    metric: str
    set: str
    stem: str | None

    def figure(self, entry: Entry) -> float | None:
        """The model's figure, ours before a published one; None if there is none."""
        fitting = [score for score in entry.scores if (score.metric, score.set) == (self.metric, self.set)]
        fitting.sort(key=lambda score: score.by != "ours")
        return next((figure for score in fitting if (figure := _of(score, self.stem)) is not None), None)

    @property
    def text(self) -> str:
        """ "SDR of vocals on Multisong" """
        return f"{self.metric}{f' of {self.stem}' if self.stem else ''} on {self.set}"


def _of(score: Score, stem: str | None) -> float | None:
    return score.value if stem is None else score.of(stem)


def yardsticks(entries: Iterable[Entry], stem: str | None) -> list[Yardstick]:
    """What these models can be compared by, the one that decides first; of most sets only the commonest."""
    found = Counter(
        (score.metric, score.set)
        for entry in entries
        for score in entry.scores
        if score.set != OWN_SET and _of(score, stem) is not None
    )
    common = [each for each, _ in found.most_common() if each[1] != SEEN_SET][:1]
    return [Yardstick(*each, stem) for each in [*common, *(each for each in found if each[1] == SEEN_SET)]]


def yardstick(entries: Iterable[Entry], stem: str | None) -> Yardstick | None:
    """The yardstick of a column of figures; None if no figures can be compared."""
    return next(iter(yardsticks(entries, stem)), None)


@dataclass(frozen=True)
class Group:
    """Models of one task that make the same stems."""

    task: str  # of TASKS
    stems: tuple[str, ...]
    entries: tuple[Entry, ...]
    yardstick: Yardstick | None

    @property
    def title(self) -> str:
        """ "karaoke: lead, karaoke" """
        return f"{self.task}: {self.entries[0].stems_text}"


def grouped(entries: Iterable[Entry], sort: str | None = None, stem: str | None = None) -> list[Group]:
    """The models by task and stems: tasks in the order of TASKS, stems and models in the catalogue's.

    Up to two stems are told apart by the first, which the network was trained on. stem: whose figures to show;
    None: those of the first of two stems, or of the mean of more. sort: "score" (the best first), "size" or
    "cost".
    """
    found: dict[tuple[str, frozenset[str], str, bool], list[Entry]] = {}
    for entry in entries:
        first = entry.sources[0] if len(entry.sources) <= 2 and entry.sources else ""
        kind = entry.task, frozenset(entry.sources), first, entry.min_query is not None
        found.setdefault(kind, []).append(entry)
    groups = []
    for (task, _, first, _), members in sorted(found.items(), key=lambda item: list(TASKS).index(item[0][0])):
        measure = yardstick(members, stem if stem in members[0].sources else first or None)
        groups.append(Group(task, members[0].sources, tuple(_sorted(members, sort, measure)), measure))
    return groups


def _sorted(entries: Sequence[Entry], sort: str | None, measure: Yardstick | None) -> list[Entry]:
    """Those for which the value is not known come last."""
    keys: dict[str, Callable[[Entry], float | None]] = {
        "score": lambda entry: None if measure is None else _negative(measure.figure(entry)),
        "size": about_size,
        "cost": lambda entry: entry.cost,
    }
    return list(entries) if sort is None else sorted(entries, key=lambda entry: _last(keys[sort](entry)))


def _negative(figure: float | None) -> float | None:
    return None if figure is None else -figure


def _last(value: float | None) -> tuple[bool, float]:
    """A key for sorting in which None is the largest."""
    return value is None, value or 0


def about_size(entry: Entry) -> int | None:
    """The bytes of all files, of a fallback where a file's own are not known; None if one stays unknown."""
    sizes = [file.about_bytes for file in entry.files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def has_license(entry: Entry, license: str) -> bool:
    """Whether the licence of the weights is this one, or begins with it: "cc-by"."""
    return entry.license.casefold().startswith(license.casefold())


def is_commercial(entry: Entry) -> bool:
    """Whether the licence as stated allows commercial use."""
    return entry.license.casefold() in COMMERCIAL


def matches(entry: Entry, text: str) -> bool:
    """Whether every word of the text stands somewhere in the entry, in any case."""
    facts = [entry.name, *entry.aliases, entry.task, entry.purpose, *entry.sources, entry.family, entry.license]
    facts += [entry.paper, entry.origin, entry.training_data, entry.limits]
    facts += [member.arch for member in entry.members] + [file.filename for file in entry.files]
    whole = "\n".join(facts).casefold()
    return all(word in whole for word in text.casefold().split())


def ranked(entries: Sequence[Entry], measures: Sequence[Yardstick]) -> list[Entry]:
    """The models, the best by the first yardstick first.

    Those without a figure of it follow, by the next one; then those that most public catalogues list first.
    """

    def key(entry: Entry) -> tuple[list[tuple[bool, float]], int]:
        return [_last(_negative(measure.figure(entry))) for measure in measures], -(entry.listed or 0)

    return sorted(entries, key=key)
