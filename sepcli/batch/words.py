"""What people call stems: in any case, and by a musician's words for the voice and for what is left without it.

Knows names only. A stem that the model has under that very name comes first; else

    acapella                       the vocals
    instrumental, accompaniment    the model's own stem of that kind, or the mix minus the vocals
    karaoke                        the mix minus the lead voice; the instrumental where there is no lead
    no_STEM                        the mix minus STEM

A stem's file is called as the stem is, that of a mix minus stems as it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sepcli.errors import UsageError, parameter

if TYPE_CHECKING:
    from sepcli.batch.names import Stems

# Words are written as `_folded` gives them. The first in a line is the usual one.
VOICE = ("vocals", "vocal", "voice")
LEAD = ("lead", "lead_vocals", "lead_vocal")
ACAPELLA = ("acapella", "acappella", "a_cappella", "a_capella")
INSTRUMENTAL = ("instrumental", "accompaniment", "no_vocals", "instrum")
KARAOKE = "karaoke"
REMAINDER = "other"  # in a model of the voice and one more stem, that is the instrumental

WORDS = (ACAPELLA[0], *INSTRUMENTAL[:2], KARAOKE)  # for the shell to complete


@dataclass(frozen=True)
class Residual:
    """A mix minus stems that was asked for by a word."""

    name: str  # of its file
    subtracted: tuple[str, ...]  # the stems that it is without
    hidden: tuple[str, ...]  # those of them that nobody asked for: they are made and not written

    def added_to(self, stems: Stems) -> Stems:
        """The stems of a run, with this as their residual."""
        return replace(stems, residual=self.name, subtracted=self.subtracted, hidden=self.hidden)


@dataclass(frozen=True)
class Meaning:
    """The words for stems as a model's stems."""

    targets: tuple[str, ...]  # what the model has to make, in the order asked; unknown words as they are
    residual: Residual | None = None
    notices: tuple[str, ...] = ()  # what the words were taken for


def meaning(
    words: Sequence[str], sources: Sequence[str], *, rest: bool, others: Sequence[str] = (), model: str
) -> Meaning:
    """What the words mean for a model of these sources.

    rest: whether the rest of all is wanted too. others: stems besides, of queries. model: its name in errors.
    UsageError for a word that needs a stem which the model lacks, and for two different residuals.
    """
    stems: list[str] = []
    notices: list[str] = []
    found: dict[str, str] = {}  # a word for a mix minus a stem -> that stem
    for word in words:
        stem = stem_of(word, sources)
        lacking = None if stem is not None else rest_of(word, sources)
        if stem is not None:
            stems.append(stem)
            if _folded(stem) != _folded(word):
                notices.append(f"{word} means the stem {stem} here.")
        elif lacking is not None:
            found[word] = lacking
        elif (need := _needed(word)) is not None:
            raise UsageError(
                f"'{word}' needs a model with the stem {VOICE[0]}: it is {need}. The model '{model}' has "
                f"{', '.join(sources) or 'no stems of its own'}.",
                remedy=f"Choose another one with {parameter('model')}; `sepcli models list --target "
                f"{VOICE[0]}` shows them.",
                code="unknown_stem",
            )
        else:
            stems.append(word)
    stems = list(dict.fromkeys(stems))
    if not found:
        return Meaning(tuple(stems), notices=tuple(notices))
    if len(set(found.values())) > 1:
        raise UsageError(
            f"{' and '.join(found)} are the mix minus different stems ({', '.join(found.values())}), and a run "
            "writes one of these.",
            remedy="Ask for them in two runs.",
            code="two_rests",
        )
    word, stem = next(iter(found.items()))
    if rest and (more := [*(other for other in stems if other != stem), *others]):
        raise UsageError(
            f"{word} is the mix minus {stem}, so the files would not add up to the mix with {', '.join(more)} "
            "among them.",
            remedy=f"Leave out {parameter('rest')} and {parameter('sum')}, or {parameter('targets', more[0])}.",
            code="two_rests",
        )
    hidden = () if rest or stem in stems else (stem,)
    name = _folded(word)
    notices.append(
        f"{word} means the mix minus {stem} here; its file is called {name}."
        + (f" The rest of it is {stem}." if rest and stem not in stems else "")
    )
    targets = tuple(dict.fromkeys([*stems, stem]))
    return Meaning(targets, Residual(name, (stem,), hidden), tuple(notices))


def stem_of(word: str, sources: Sequence[str]) -> str | None:
    """The stem of a model that the word means; None where it means none, or the mix minus one."""
    if word in sources:
        return word
    named = [source for source in sources if _folded(source) == _folded(word)]
    if named:
        return named[0] if len(named) == 1 else None
    voice = _first(VOICE, sources)
    if _folded(word) in ACAPELLA:
        return voice
    if _folded(word) in INSTRUMENTAL or (_folded(word) == KARAOKE and _first(LEAD, sources) is None):
        of_two = _first((REMAINDER,), sources) if voice is not None and len(sources) == 2 else None
        return _first(INSTRUMENTAL, sources) or of_two
    return None


def rest_of(word: str, sources: Sequence[str]) -> str | None:
    """The stem of a model without which the mix is what the word means; None where it means no such thing."""
    if stem_of(word, sources) is not None:
        return None
    folded = _folded(word)
    if folded == KARAOKE and (lead := _first(LEAD, sources)) is not None:
        return lead
    if folded == KARAOKE or folded in INSTRUMENTAL:
        return _first(VOICE, sources)
    return stem_of(folded.removeprefix("no_"), sources) if folded.startswith("no_") else None


def _needed(word: str) -> str | None:
    """What a word would be if the model had vocals; None for words that are no musician's."""
    if _folded(word) in ACAPELLA:
        return "another word for them"
    if _folded(word) in INSTRUMENTAL or _folded(word) == KARAOKE:
        return "the mix minus them"
    return None


def _first(names: Sequence[str], sources: Sequence[str]) -> str | None:
    """The first of the names that is a source, as the model writes it."""
    written = {_folded(source): source for source in reversed(sources)}
    return next((written[name] for name in names if name in written), None)


def _folded(word: str) -> str:
    """Equal for words that differ in case, or in how they join their parts."""
    return re.sub(r"[-\s]+", "_", word.strip().casefold())
