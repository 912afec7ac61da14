"""The questions of a listening test, as a configuration of webMUSHRA (Schoeffler et al. 2018), in YAML.

Knows the questions and the names of stimuli; no models, so the file can't tell which stimulus is whose. For
each excerpt and question there is a page ("likert_multi_stimulus"), with the mixture to compare with and all
stimuli, in an order that webMUSHRA draws for each listener and page. The excerpts come in a random order, too.
The questions of one excerpt keep their order, and there is no way back:

    intelligibility first, before the words are known; then isolation; then the quality of the wanted stem

That order is the one of LDM-dmx (2025, section IV-C). As in ITU-T P.835 a listener judges one aspect at a time,
on a scale of 1 to 5 whose steps have words; the words are ours.

The format follows doc/experimenter.md and the example configurations of webMUSHRA 1.4. Its parser reads plain
YAML only, so every text is a quoted line of its own. It sends the answers unescaped: an & in the name of a
listener would end them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PAGE = "likert_multi_stimulus"
AUDIO = "configs/resources"  # of webMUSHRA; below it a folder with the test's name
MIXTURE = "mixture"
LISTENER = "listener"  # the name of the field in which listeners name themselves


@dataclass(frozen=True)
class Question:
    """A question about each stimulus."""

    name: str
    title: str
    text: str  # with {stem} for the wanted stem
    labels: tuple[str, str, str, str, str]  # the words for the answers 1 to 5


QUESTIONS = (
    Question(
        "intelligibility",
        "Intelligibility",
        "How much of the words in the {stem} can you understand?",
        ("nothing", "single words", "about half", "nearly all", "every word"),
    ),
    Question(
        "isolation",
        "Isolation",
        "How much do you hear of everything else that is in the mixture?",
        ("far too much", "a lot", "some", "a trace", "nothing"),
    ),
    Question(
        "quality",
        "Signal quality",
        "Listen to the {stem} only, whatever else you hear. How damaged is their sound?",
        ("extremely", "badly", "clearly", "slightly", "not at all"),
    ),
)
SCALE = (1, 5)


def trial(item: str, question: Question) -> str:
    """The id of a page, in the configuration and in the results."""
    return f"{item}_{question.name}"


def configuration(test: str, stem: str, items: Mapping[str, Sequence[str]]) -> str:
    """The text of the configuration. test: its id. items: {item: names of its stimuli}."""
    return (
        "\n".join(
            [
                *_head(test),
                *_welcome(test, stem, next(iter(items))),
                "    -",
                "        - random",
                *(line for item, stimuli in items.items() for line in _item(test, stem, item, stimuli)),
                *_finish(),
            ]
        )
        + "\n"
    )


def _head(test: str) -> Iterator[str]:
    yield f"testname: {_quoted('Listening test')}"
    yield f"testId: {_quoted(test)}"
    yield "bufferSize: 2048"
    yield "stopOnErrors: true"
    yield "showButtonPreviousPage: false"
    yield "remoteService: service/write.php"
    yield "pages:"


def _welcome(test: str, stem: str, item: str) -> Iterator[str]:
    """The first page: what to do, and a sound to set the volume by."""
    asked = "".join(f"<li><b>{each.title}</b>: {_asked(each, stem)}</li>" for each in QUESTIONS)
    yield "    - type: generic"
    yield "      id: welcome"
    yield f"      name: {_quoted('Welcome')}"
    yield "      content: " + _quoted(
        f"<p>You will hear excerpts of music, and several attempts to take the {html.escape(stem)} out of each."
        f" Of every attempt you are asked, one page after another:</p><ol>{asked}</ol>"
        "<p>Judge what is asked on a page, nothing else. Answers go from 1, the worst, to 5, the best; you may "
        "give the same answer twice. You can't go back to an earlier page.</p>"
        f"<p>Please use headphones, and set the volume with this sound:</p>{_player(test, item)}"
    )


def _item(test: str, stem: str, item: str, stimuli: Sequence[str]) -> Iterator[str]:
    """The pages of one excerpt."""
    yield "        -"
    inside = " " * 12
    for question in QUESTIONS:
        yield f"{inside}- type: {PAGE}"
        yield f"{inside}  id: {_quoted(trial(item, question))}"
        yield f"{inside}  name: {_quoted(question.title)}"
        yield f"{inside}  content: " + _quoted(
            f"<b>{_asked(question, stem)}</b><br/>The mixture:<br/>{_player(test, item)}"
        )
        yield f"{inside}  mustRate: true"
        yield f"{inside}  mustPlayback: processUpdate"  # no answer to what was not begun
        yield f"{inside}  stimuli:"
        for name in stimuli:
            yield f"{inside}    {name}: {_quoted(f'{AUDIO}/{test}/{item}/{name}.wav')}"
        yield f"{inside}  response:"
        for value, label in enumerate(question.labels, 1):
            yield f"{inside}    - value: {value}"
            yield f"{inside}      label: {_quoted(f'{value}<br/>{label}')}"


def _finish() -> Iterator[str]:
    yield "    - type: finish"
    yield f"      name: {_quoted('Thank you')}"
    yield "      content: " + _quoted("<p>Give yourself a name or a number, and send your answers.</p>")
    yield f"      popupContent: {_quoted('Your answers were sent. Thank you!')}"
    yield "      showResults: false"
    yield "      writeResults: true"
    yield "      questionnaire:"
    yield "          - type: text"
    yield f"            label: {_quoted('Name or number (letters and digits only)')}"
    yield f"            name: {LISTENER}"


def _asked(question: Question, stem: str) -> str:
    return question.text.format(stem=html.escape(stem))


def _player(test: str, item: str) -> str:
    """The mixture in the browser's own player, because these pages of webMUSHRA have no reference."""
    return f"<audio controls src='{AUDIO}/{test}/{item}/{MIXTURE}.wav'></audio>"


def _quoted(text: str) -> str:
    """A YAML scalar on one line: JSON's strings are YAML's."""
    return json.dumps(text, ensure_ascii=False)
