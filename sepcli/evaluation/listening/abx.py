"""Blind comparisons (ABX): which models are compared, and what the answers of listeners come to.

Knows the key and the files that the page of player/abx.py saves; no sounds. A file is one session of one
listener, as JSON: the trials in the order in which they were heard, each with the sounds that were A, B and X,
and the answer. The page knows no models: which ones were compared is found here, with the key.

For a pair of models the test asks how often X was told right, over all excerpts and sessions. Whoever hears no
difference is right with probability 1/2, independently in each trial, since X is drawn anew. So the number of
right answers has a binomial distribution, for one listener and for many together, and the test is exact.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sepcli.errors import InputError, from_os
from sepcli.evaluation.listening.key import Key
from sepcli.metrics.binomial import p_value
from sepcli.player.abx import Pair

ANCHORS = ("mixture", "silence")  # ends of a scale, which everybody tells from the rest
_KIND, _VERSION = "sepcli-abx", 1  # of the files


def model_pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    """The models that are compared: each with each. Anchors only where there is no other pair."""
    named = [model for model in models if model not in ANCHORS]
    return list(combinations(named if len(named) > 1 else models, 2))


def stimulus_pairs(key: Key) -> list[Pair]:
    """For each pair of models its trials, one for each excerpt, by the names of the stimuli."""
    called = {name: {model: each for each, model in item.stimuli.items()} for name, item in key.items.items()}

    def trial(item: str, pair: tuple[str, str]) -> tuple[str, str, str]:
        one, other = sorted(called[item][model] for model in pair)  # their order says nothing
        return item, one, other

    return [[trial(item, pair) for item in called] for pair in model_pairs(list(key.models))]


@dataclass(frozen=True)
class Trial:
    """One answer."""

    item: str
    models: frozenset[str]  # two
    right: bool
    note: str


@dataclass(frozen=True)
class Session:
    """The answers of one listener."""

    id: str
    listener: str  # as the listener said; may be ""
    trials: Sequence[Trial]


@dataclass(frozen=True)
class Told:
    """How often X was told right, for two models."""

    models: tuple[str, str]
    right: int
    trials: int
    sessions: int

    @property
    def p(self) -> float:
        """The probability of so many right answers, or more, by guessing."""
        return p_value(self.right, self.trials)


@dataclass(frozen=True)
class Comparisons:
    """All answers of a test. repeated: files with the beginning of a session that another file has, too."""

    sessions: Sequence[Session]
    repeated: int

    def told(self, models: tuple[str, str]) -> Told:
        """The answers for two models, of all sessions."""
        of = [[trial for trial in session.trials if trial.models == set(models)] for session in self.sessions]
        answers = [trial for trials in of for trial in trials]
        right = sum(trial.right for trial in answers)
        return Told(models, right, len(answers), sum(bool(trials) for trials in of))


def is_answers(path: Path) -> bool:
    """Whether a path is for `read_comparisons`: a folder, or a file that begins as JSON does."""
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return path.is_dir() or path.suffix.lower() == ".json"


def read_comparisons(paths: Sequence[Path], key: Key) -> Comparisons:
    """Read the files of a test's sessions; a folder stands for all .json in it.

    InputError for a file that is none of this test, or not as the page saved it.
    """
    found: dict[str, tuple[Path, Session]] = {}
    repeated = 0
    for path in _files(paths):
        session = _session(path, key)
        if session.id in found:  # saved in the middle, and again
            repeated += 1
            (_, shorter), (where, longer) = sorted(
                [found[session.id], (path, session)], key=lambda each: len(each[1].trials)
            )
            if list(longer.trials[: len(shorter.trials)]) != list(shorter.trials):
                raise _wrong(path, f"the same session in '{found[session.id][0]}' has other answers")
            found[session.id] = (where, longer)
        else:
            found[session.id] = (path, session)
    if not any(session.trials for _, session in found.values()):
        raise InputError(
            f"'{paths[0]}' has no answers of this listening test.",
            code="no_answers",
            remedy="Wait until somebody has sent some, or name another file.",
        )
    return Comparisons([session for _, session in found.values()], repeated)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.glob("*.json"))
        else:
            yield path


def _session(path: Path, key: Key) -> Session:
    """One file. InputError."""
    said = _saved(path)
    if said.get("test") != key.test:
        raise _wrong(
            path,
            f"it is of the test '{said.get('test')}', but the key of '{key.test}'",
            "Name the folder of the test that was heard.",
        )
    if said.get("version") != _VERSION:
        raise _wrong(path, f"its version is {said.get('version')}, but {_VERSION} is known", "Update sepcli.")
    check = said.pop("check", None)
    # As JavaScript writes it, the check has been made of the same text.
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    if check != f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}":
        raise _wrong(path, "it was changed after the page had saved it")
    try:
        trials = [_trial(each, key) for each in said["trials"]]
        return Session(str(said["session"]), str(said["listener"]), trials)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _wrong(path, "its answers are not about the sounds of this test") from None


def _saved(path: Path) -> dict[str, Any]:
    """The object in a file that the page saved."""
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise from_os(error, path, reading=InputError) from None
    except (ValueError, RecursionError):  # no JSON, or brackets without end
        said = None
    if not isinstance(said, dict) or said.get("kind") != _KIND:
        raise _wrong(path, "it is not what the page of blind comparisons saves")
    return said


def _trial(said: Mapping[str, Any], key: Key) -> Trial:
    """One answer. KeyError, ValueError and the like for what can't be one."""
    stimuli = key.items[said["item"]].stimuli
    models = frozenset((stimuli[said["a"]], stimuli[said["b"]]))
    chosen = {"A": said["a"], "B": said["b"]}[said["answer"]]
    if len(models) != 2 or said["x"] not in (said["a"], said["b"]):
        raise ValueError
    return Trial(said["item"], models, chosen == said["x"], str(said["note"]))


def _wrong(path: Path, fact: str, remedy: str = "Use the file as the page saved it.") -> InputError:
    return InputError(f"'{path}' can't be used: {fact}.", remedy=remedy, code="not_results")
