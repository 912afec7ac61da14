"""The answers of a listening test: read, assigned to the models by the key, and averaged.

Knows the key and the file that webMUSHRA's PHP service writes for its pages (lms.csv); no sounds and no models.
A line of that file is an answer:

    session_test_id, what listeners were asked about themselves, trial_id, stimuli_rating, stimuli, rating_time

There is no id of a listener in it. Somebody who answers a page twice is taken for two listeners. So a listener
is told by two things: what was said about oneself, and how many earlier answers of the same kind there are to
that page and stimulus.

The interval of a mean is over listeners (metrics/interval.py): the mean of each listener over the excerpts is a
value, weighed by the number of answers. It says how much the mean would change with other listeners, for these
excerpts.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepcli.errors import InputError, from_os
from sepcli.evaluation.listening.key import Key
from sepcli.evaluation.listening.webmushra import QUESTIONS, SCALE, trial
from sepcli.metrics.interval import half_width

TEST, TRIAL, RATING, STIMULUS, TIME = "session_test_id", "trial_id", "stimuli_rating", "stimuli", "rating_time"
NO_ANSWER = "NA"


@dataclass(frozen=True)
class Opinion:
    """One answer."""

    listener: tuple[object, ...]  # what tells one listener from another
    item: str
    model: str
    question: str
    score: int


@dataclass(frozen=True)
class Mean:
    """A mean over answers."""

    value: float
    interval: float  # half of the 95 % interval; NaN for one listener
    answers: int


@dataclass(frozen=True)
class Opinions:
    """All answers of a test."""

    opinions: Sequence[Opinion]
    foreign: int  # answers on pages that are not the test's own; they are left out

    @property
    def listeners(self) -> int:
        """How many listeners there were."""
        return len({each.listener for each in self.opinions})

    @property
    def items(self) -> int:
        """How many excerpts got an answer."""
        return len({each.item for each in self.opinions})

    def mean(self, model: str, question: str) -> Mean:
        """The mean over all answers to a question about a model; NaN where there is none."""
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
    """Read the answers of a test. InputError, naming the line, for what can't be an answer of it."""
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
    """The score of an answer; None where nothing was chosen."""
    if text == NO_ANSWER:
        return None
    low, high = SCALE
    if not (text.isdecimal() and low <= int(text) <= high):
        raise _wrong(
            path, number, f"'{text}' is no answer from {low} to {high}", "Restore the file that was written."
        )
    return int(text)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of the file: (the line's number, {column: value})."""
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
        raise from_os(error, path, reading=InputError) from None
    except csv.Error as error:
        raise InputError(
            f"'{path}' is no CSV file: {error}.",
            code="not_results",
            remedy="Name lms.csv, which webMUSHRA writes below its folder results.",
        ) from None


def _wrong(path: Path, number: int, fact: str, remedy: str) -> InputError:
    return InputError(f"Line {number} of '{path}' can't be used: {fact}.", remedy=remedy, code="not_results")
