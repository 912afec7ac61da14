"""What listeners said in a listening test, given back to the models by the key, and its means.

Knows the key and the file that webMUSHRA's PHP service writes for its pages (lms.csv); no sounds and no models.
A line of that file is an answer:

    session_test_id, whatever listeners were asked of themselves, trial_id, stimuli_rating, stimuli, rating_time

There is no id of a listener in it. Who answers a page twice is taken for two listeners, so a listener is what
was said of oneself and how often that page and stimulus have come with it before.

The interval of a mean is over listeners (metrics/interval.py): each one's mean over excerpts is a value,
weighed by the number of answers. It says how far the mean would change with other listeners, for these
excerpts.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepcli.errors import InputError
from sepcli.evaluation.listening.key import Key
from sepcli.evaluation.listening.webmushra import QUESTIONS, SCALE, trial
from sepcli.metrics.interval import half_width

TEST, TRIAL, RATING, STIMULUS, TIME = "session_test_id", "trial_id", "stimuli_rating", "stimuli", "rating_time"
NO_ANSWER = "NA"


@dataclass(frozen=True)
class Opinion:
    """One answer. listener: whatever tells one from another."""

    listener: tuple[object, ...]
    item: str
    model: str
    question: str
    score: int


@dataclass(frozen=True)
class Mean:
    """interval: half of the 95 % one; NaN for one listener."""

    value: float
    interval: float
    answers: int


@dataclass(frozen=True)
class Opinions:
    """foreign: answers on pages that are not the test's own."""

    opinions: Sequence[Opinion]
    foreign: int

    @property
    def listeners(self) -> int:
        return len({each.listener for each in self.opinions})

    @property
    def items(self) -> int:
        return len({each.item for each in self.opinions})

    def mean(self, model: str, question: str) -> Mean:
        """Over all answers; NaN where there is none."""
        scores: dict[tuple[object, ...], list[int]] = {}
        for each in self.opinions:
            if (each.model, each.question) == (model, question):
                scores.setdefault(each.listener, []).append(each.score)
        answers = sum(len(each) for each in scores.values())
        if not answers:
            return Mean(math.nan, math.nan, 0)
        total = sum(sum(each) for each in scores.values())
        column = {str(who): (sum(each) / len(each), float(len(each))) for who, each in scores.items()}
        return Mean(total / answers, half_width([column]), answers)


def read_opinions(path: Path, key: Key) -> Opinions:
    """InputError, with the line, for what can't be an answer of this test."""
    pages = {trial(item, question): (item, question.name) for item in key.items for question in QUESTIONS}
    opinions: list[Opinion] = []
    seen: Counter[tuple[object, ...]] = Counter()
    foreign = 0
    for number, row in _rows(path):
        if row[TEST] != key.test:
            raise _wrong(
                path,
                number,
                f"it is of the test '{row[TEST]}', but the key of '{key.test}'",
                "Name the folder of the test that was heard.",
            )
        if row[TRIAL] not in pages:
            foreign += 1
            continue
        item, question = pages[row[TRIAL]]
        model = key.items[item].stimuli.get(row[STIMULUS])
        if model is None:
            raise _wrong(path, number, f"{item} has no '{row[STIMULUS]}'", "Restore the file that was written.")
        said = tuple(value for name, value in row.items() if name not in (TEST, TRIAL, RATING, STIMULUS, TIME))
        seen[said, row[TRIAL], row[STIMULUS]] += 1
        score = _score(path, number, row[RATING].strip())
        if score is not None:
            who = (*said, seen[said, row[TRIAL], row[STIMULUS]])
            opinions.append(Opinion(who, item, model, question, score))
    if not opinions:
        raise InputError(
            f"'{path}' has no answers of this listening test.",
            code="no_answers",
            remedy="Wait until somebody has sent some, or name another file.",
        )
    return Opinions(opinions, foreign)


def _score(path: Path, number: int, text: str) -> int | None:
    """None: nothing was chosen."""
    if text == NO_ANSWER:
        return None
    low, high = SCALE
    if not (text.isdecimal() and low <= int(text) <= high):
        raise _wrong(
            path, number, f"'{text}' is no answer from {low} to {high}", "Restore the file that was written."
        )
    return int(text)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(the line's number, {column: value})."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            if not {TEST, TRIAL, RATING, STIMULUS} <= set(head):
                raise InputError(
                    f"'{path}' is not the file of results: it lacks columns such as {TRIAL} and {RATING}.",
                    remedy="Name lms.csv, which webMUSHRA writes below its folder results.",
                    code="not_results",
                )
            for row in lines:
                if not row:
                    continue
                if len(row) != len(head):
                    raise _wrong(
                        path,
                        lines.line_num,
                        f"it has {len(row)} values, but the head {len(head)}",
                        "Restore the file that was written.",
                    )
                yield lines.line_num, dict(zip(head, row, strict=True))
    except OSError as error:
        raise InputError(
            f"'{path}' can't be read: {error.strerror}.",
            code="unreadable",
            remedy="Name lms.csv, which webMUSHRA writes below its folder results.",
        ) from None
    except csv.Error as error:
        raise InputError(
            f"'{path}' is no CSV file: {error}.",
            code="not_results",
            remedy="Name lms.csv, which webMUSHRA writes below its folder results.",
        ) from None


def _wrong(path: Path, number: int, fact: str, remedy: str) -> InputError:
    return InputError(f"Line {number} of '{path}' can't be used: {fact}.", remedy=remedy, code="not_results")
