"""What people call stems: in any case, and by a musician's words for the voice and for what is left without it.

Knows names only. A stem that the model has under that very name comes first; else

    acapella                       the vocals
    instrumental, accompaniment    the model's own stem of that kind, or the mix minus the vocals
    karaoke                        the mix minus the lead voice; the instrumental where there is no lead
    no_STEM                        the mix minus STEM

A stem's file is called as the stem is, that of a mix minus stems as it was asked for. Submixes of the user's
own (submixes.py) are made of the same words, and their names are words too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sepcli.batch.outputs import legal_name, name_key
from sepcli.batch.submixes import MIX, parse_terms
from sepcli.errors import UsageError, parameter
from sepcli.sound.submix import Submix
from sepcli.weights.download import cost_text
from sepcli.weights.entries import Catalog

# Words are written as `_folded` gives them. The first in a line is the usual one.
VOICE = ("vocals", "vocal", "voice")
LEAD = ("lead", "lead_vocals", "lead_vocal")
ACAPELLA = ("acapella", "acappella", "a_cappella", "a_capella")
INSTRUMENTAL = ("instrumental", "accompaniment", "no_vocals", "instrum")
KARAOKE = "karaoke"
REMAINDER = "other"  # in a model of the voice and one more stem, that is the instrumental

NONE: Mapping[str, Sequence[str]] = MappingProxyType({})
WORDS = (ACAPELLA[0], *INSTRUMENTAL[:2], KARAOKE)  # for the shell to complete


@dataclass(frozen=True)
class Meaning:
    """The words for stems as a model's stems, and the submixes."""

    # What the model has to make, in the order asked; unknown words as they are; () = all.
    targets: tuple[str, ...]
    submixes: tuple[Submix, ...] = ()  # a mix minus a stem that was asked for by a word, then the user's own
    hidden: tuple[str, ...] = ()  # targets that nobody asked for: submixes need them, and they are not written
    notices: tuple[str, ...] = ()  # what the words were taken for


def meaning(
    words: Sequence[str],
    sources: Sequence[str],
    more: Mapping[str, Sequence[str]] = NONE,
    *,
    rest: bool,
    others: Sequence[str] = (),
    submixes: Sequence[tuple[str, str]] = (),
    model: str,
    catalog: Catalog | None = None,
) -> Meaning:
    """What the words mean for a model of these sources.

    more: stems that it gives on request, each with those in it (stems.chained).
    rest: whether the rest of all is wanted too. others: stems besides, of queries. submixes: the user's own, as
    (name, sum) pairs. model: its name in errors. catalog: where stems are looked for that it lacks.
    UsageError for a word that needs a stem which the model lacks, for a rest that is none, and for submixes
    that can't be read, lack a stem or have a name that is taken.
    """
    all_sources, sources = sources, (*sources, *more)
    own = [name for name, _ in submixes]
    stems: list[str] = []
    notices: list[str] = []
    found: dict[str, str] = {}  # a word for a mix minus a stem -> that stem
    for word in words:
        if word in own:
            continue
        stem = stem_of(word, sources)
        lacking = None if stem is not None else rest_of(word, sources)
        if stem is not None:
            stems.append(stem)
            if _folded(stem) != _folded(word):
                notices.append(f"{word} means the stem {stem} here.")
        elif lacking is not None:
            found.setdefault(word, lacking)
        elif (need := _needed(word)) is not None:
            raise _lacks_voice(word, need, sources, model)
        else:
            stems.append(word)
    if rest:
        _check_rest(found, stems, others, more, only=bool(words))
    made: dict[str, Submix] = {}  # by the stem that they are without
    for word, stem in found.items():
        submix = Submix.without(_folded(word), [stem])
        if stem in made:  # asked for in other words before
            continue
        made[stem] = submix
        notices.append(
            f"{word} means the mix minus {stem} here; its file is called {submix.name}."
            + (f" The rest of it is {stem}." if rest and stem not in stems else "")
        )
    asked = [*stems, *made] if rest else stems
    _check_names(own, [*sources, *others], [submix.name for submix in made.values()])
    sums = (
        *made.values(),
        *(_submix(name, text, sources, others, model, catalog) for name, text in submixes),
    )
    needed = [stem for submix in sums for stem in submix.stems if stem not in others]
    if not words and not others:
        if all(stem in all_sources for stem in needed):
            return Meaning((), sums, notices=tuple(notices))
        asked = [*all_sources]
    targets = tuple(dict.fromkeys([*asked, *needed]))
    hidden = tuple(stem for stem in targets if stem not in asked)
    return Meaning(targets, sums, hidden, tuple(notices))


def _check_rest(
    found: Mapping[str, str],
    stems: Sequence[str],
    others: Sequence[str],
    more: Mapping[str, Sequence[str]],
    *,
    only: bool,
) -> None:
    """UsageError where the rest would not be one: files that are no stems can't have any.

    found: words for a mix minus a stem, and that stem. more: the stems in others. only:
    whether only some stems are asked for.
    """
    if len(set(found.values())) > 1:
        raise UsageError(
            f"{' and '.join(found)} are the mix minus different stems ({', '.join(found.values())}), so there "
            "is no one rest of them.",
            remedy=f"Leave out {parameter('rest')} and {parameter('sum')}, or ask for them in two runs.",
            code="two_rests",
        )
    for word, stem in found.items():
        if beside := [*(other for other in stems if other != stem), *others]:
            raise UsageError(
                f"{word} is the mix minus {stem}, so the files would not add up to the mix with "
                f"{', '.join(beside)} among them.",
                remedy=f"Leave out {parameter('rest')} and {parameter('sum')}, or "
                f"{parameter('targets', beside[0])}.",
                code="two_rests",
            )
    for stem in stems:
        if inside := [other for other in stems if other in more.get(stem, ())]:
            raise UsageError(
                f"{inside[0]} is a part of {stem}, so the files would not add up to the mix.",
                remedy=f"Leave out {parameter('rest')} and {parameter('sum')}, or ask for one of them only.",
                code="two_rests",
            )
    if only and not (found or stems or others):
        raise UsageError(
            "The rest is the mix minus the stems that are asked for, and here are only submixes.",
            remedy=f"Leave out {parameter('rest')} and {parameter('sum')}, or ask for a stem too.",
            code="two_rests",
        )


def _check_names(names: Sequence[str], stems: Sequence[str], made: Sequence[str]) -> None:
    """UsageError for the name of a submix that no file can have, or that something else has.

    stems: of the model and of queries. made: mixes minus a stem, which words have asked for.
    """
    seen = {name_key(MIX): "is the word for the input"}
    seen |= {name_key(stem): "is a stem already" for stem in stems}
    seen |= {name_key(name): "is asked for as a word already" for name in made}
    for name in names:
        known = f"Stems here: {', '.join(stems) or 'none'}."
        if name != legal_name(name) or not name:
            raise UsageError(
                f"A submix is called '{name}', which can't be the name of a file on every system.",
                remedy='Give it a name without / \\ : * ? " < > |, and without a dot or space at the end, in '
                f"{parameter('submixes')}.",
                code="submix_name",
            )
        if (why := seen.get(name_key(name))) is not None:
            raise UsageError(
                f"A submix is called '{name}', which {why}. {known}",
                remedy=f"Give it another name in {parameter('submixes')}.",
                code="equal_names",
            )
        seen[name_key(name)] = "is the name of another submix"


def _submix(
    name: str, text: str, sources: Sequence[str], others: Sequence[str], model: str, catalog: Catalog | None
) -> Submix:
    """A submix by its sum as it is written. UsageError for words that are no stems here."""
    mix, gains = 0.0, dict[str, float]()
    words = [*others, *sources, MIX, *ACAPELLA, *INSTRUMENTAL, KARAOKE, *(f"no_{stem}" for stem in sources)]
    for word, gain in parse_terms(name, text, words):
        stem = word if word in others else stem_of(word, sources)
        if stem is None and _folded(word) == MIX:
            mix += gain
        elif stem is not None:
            gains[stem] = gains.get(stem, 0.0) + gain
        elif (lacking := rest_of(word, sources)) is not None:
            mix += gain
            gains[lacking] = gains.get(lacking, 0.0) - gain
        elif (need := _needed(word)) is not None:
            raise _lacks_voice(word, need, sources, model)
        else:
            raise unknown_stem(word, (*others, *sources), model, catalog)
    gains = {stem: gain for stem, gain in gains.items() if gain}
    if not gains:
        raise UsageError(
            f"The submix '{name}' has no stem in it that counts.",
            remedy=f"Add one of {', '.join([*others, *sources])} to it, or leave it out.",
            code="submix",
        )
    return Submix(name, mix, gains)


def unknown_stem(stem: str, sources: Sequence[str], model: str, catalog: Catalog | None) -> UsageError:
    """The error of a stem that the model lacks. catalog: where models that have it are looked for."""
    others = [
        f"{entry.name} ({cost_text(entry, [stem])})" for entry in (catalog.having(stem) if catalog else ())
    ]
    return UsageError(
        f"The model '{model}' has no stem '{stem}'; it has {', '.join(sources) or 'none of its own'}.",
        remedy=f"Choose among these, or a model that has it with {parameter('model')}: {', '.join(others)}."
        if others
        else "Choose among these; no model in the catalogue has that stem.",
        code="unknown_stem",
    )


def _lacks_voice(word: str, need: str, sources: Sequence[str], model: str) -> UsageError:
    """The error of a musician's word for a model without a voice. need: what the word is of the vocals."""
    return UsageError(
        f"'{word}' needs a model with the stem {VOICE[0]}: it is {need}. The model '{model}' has "
        f"{', '.join(sources) or 'no stems of its own'}.",
        remedy=f"Choose another one with {parameter('model')}; `sepcli models list --target "
        f"{VOICE[0]}` shows them.",
        code="unknown_stem",
    )


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
