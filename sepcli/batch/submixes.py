"""How a submix is written: `practice=vocals*-12dB+bass+drums`. Knows syntax only, no model.

    NAME=SUM    SUM: terms, joined by + or -; the first may have a sign too
    term        WORD, WORD*0.5 or WORD*-12dB; WORD is a stem, or `mix`, the input

Spaces count for nothing. Words may hold - and + themselves: of the words that are known, the longest is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sepcli.errors import UsageError, parameter

MIX = "mix"  # the word for the input
MAX_GAIN = 1000.0  # 60 dB
_FACTOR = re.compile(r"\s*\*\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(dB\b)?", re.IGNORECASE)
_SIGN = re.compile(r"\s*([+-])\s*")
_REMEDY = (
    "Write NAME=SUM: stems and mix, joined by + and -, each with a gain if need be, such as no_drums=mix-drums "
    "or practice=vocals*-12dB+bass+drums*0.5."
)


def parse_submixes(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Split each "NAME=SUM" of a command line."""
    pairs = []
    for text in texts:
        name, equals, terms = text.partition("=")
        if not equals:
            raise _syntax(f"{parameter('submixes', text)} has no name.")
        pairs.append((name.strip(), terms))
    return tuple(pairs)


def parse_terms(name: str, text: str, words: Iterable[str]) -> list[tuple[str, float]]:
    """The sum of the submix `name` as (word, gain) pairs. words: those that are known, whatever their case.

    A word that is none of these comes back as it is written. UsageError for what is no sum.
    """
    known = sorted(words, key=len, reverse=True)
    pairs = []
    at, sign = 0, _SIGN.match(text)
    while not pairs or sign is not None:
        factor = -1.0 if sign is not None and sign[1] == "-" else 1.0
        at = at if sign is None else sign.end()
        at += len(text[at:]) - len(text[at:].lstrip())
        word = _word(text[at:], known)
        if not word:
            raise _syntax(f"The submix '{name}' has no stem {_place(text, at)}.")
        at += len(word)
        if (gain := _FACTOR.match(text, at)) is not None:
            factor *= _gain(name, gain)
            at = gain.end()
        pairs.append((word, factor))
        sign = _SIGN.match(text, at)
    if text[at:].strip():
        raise _syntax(f"The submix '{name}' can't be read {_place(text, at)}.")
    return pairs


def _word(text: str, known: Sequence[str]) -> str:
    """The word that the text begins with, as it is written; "" where there is none."""
    for word in known:
        begun = text[: len(word)]
        if begun.casefold() == word.casefold() and re.match(r"\s*([+*-]|$)", text[len(word) :]):
            return begun
    found = re.match(r"[^\s+*-]+", text)
    return found[0] if found else ""


def _gain(name: str, match: re.Match[str]) -> float:
    """The factor that is written behind a word."""
    number = float(match[1])
    limit = 60.0 if match[2] else MAX_GAIN
    if number > limit or (not match[2] and number < -limit):
        raise UsageError(
            f"The submix '{name}' has the gain {match[1]}{match[2] or ''}; the most is {MAX_GAIN:g}, or 60 dB.",
            remedy="Give a smaller one.",
            code="submix",
        )
    return 10 ** (max(number, -10_000.0) / 20) if match[2] else number


def _place(text: str, at: int) -> str:
    rest = text[at:].strip()
    return f"at '{rest}'" if rest else "at its end"


def _syntax(message: str) -> UsageError:
    return UsageError(message, remedy=_REMEDY, code="submix")
