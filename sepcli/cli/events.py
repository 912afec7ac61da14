"""The events of `--progress json`, and of `--json` of `train` and `distill`: JSON lines on standard error.

What is written here is all that programs may rely on. docs/events_page.py makes docs/events.schema.json and the
table of docs/cli.md of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypedDict


class Notice(TypedDict):
    """A sentence for people."""

    event: Literal["notice"]
    message: str


class Download(TypedDict):
    """Weights are being downloaded; a smaller `done` than before begins the next file."""

    event: Literal["download"]
    what: Annotated[str, "for people"]
    done: Annotated[int, "bytes"]
    total: Annotated[int | None, "bytes; null while unknown"]


class Start(TypedDict):
    """The run begins: everything that was asked for is possible."""

    event: Literal["start"]
    model: Annotated[str, "its name"]
    stems: Annotated[list[str], "the files of a track: stems, then submixes; empty while unknown"]
    license: Annotated[str | None, "of the weights; null for a file of one's own"]
    device: Annotated[str, "such as cpu or cuda:0"]
    device_reason: Annotated[str, "why that one, for people"]
    precision: Annotated[str, "float32, bfloat16 or float16"]
    precision_reason: Annotated[str, "why that one, for people"]


class Watching(TypedDict):
    """With `--watch`: everything in the folders has had its turn, and the run waits for more; each time."""

    event: Literal["watching"]
    folders: Annotated[list[str], "the inputs, as given"]


class TrackStarted(TypedDict):
    """A track begins."""

    event: Literal["track"]
    input: Annotated[str, "its path as found"]
    number: Annotated[int, "1 for the first that is separated"]
    count: Annotated[int, "how many there are"]


class Progress(TypedDict):
    """How far the track is, about twice a second."""

    event: Literal["progress"]
    input: Annotated[str, "its path as found"]
    done_seconds: Annotated[float, "seconds of audio"]
    total_seconds: Annotated[float | None, "seconds of audio; null while unknown"]
    realtime: Annotated[float, "seconds of audio in one second"]
    left_seconds: Annotated[float | None, "seconds until its end; null while unknown"]


class TrackEnded(TypedDict):
    """A track has ended, or needed nothing. `--json` has all about it."""

    event: Literal["result"]
    input: Annotated[str, "its path as found"]
    status: Literal["done", "damaged", "skipped", "failed"]


class Summary(TypedDict):
    """The last event of a run that came to its tracks."""

    event: Literal["summary"]
    done: Annotated[int, "tracks"]
    damaged: Annotated[int, "tracks"]
    skipped: Annotated[int, "tracks"]
    failed: Annotated[int, "tracks"]
    not_done: Annotated[int, "tracks that the run did not come to"]
    audio_seconds: Annotated[float, "seconds of audio that were separated"]
    seconds: Annotated[float, "seconds that this took"]
    realtime: Annotated[float | None, "the one by the other; null where nothing was separated"]
    out: Annotated[str, "the output folder, or -"]


class Error(TypedDict):
    """The whole run fails; the same three keys as in `--json`."""

    event: Literal["error"]
    code: Annotated[str, "a stable word"]
    message: str
    remedy: Annotated[str, "the next step"]


class Step(TypedDict):
    """A step of training now and then; more keys with the loss and its parts, smoothed."""

    event: Literal["step"]
    step: Annotated[int, "its number"]
    lr: Annotated[float, "the learning rate"]
    seconds: Annotated[float, "seconds of training so far"]


class Best(TypedDict):
    """The best validation so far."""

    score: float
    weights: Annotated[str, "raw, or the name of an average"]
    step: int


class Validation(TypedDict):
    """Training has been validated."""

    event: Literal["validation"]
    step: Annotated[int, "its number"]
    scores: Annotated[
        Mapping[str, Mapping[str, float]], "of raw and averaged weights, by stem; higher is better"
    ]
    best: Best


# In the order in which they are documented. Of a step, every other key is a number.
Event = (
    Notice
    | Download
    | Start
    | Watching
    | TrackStarted
    | Progress
    | TrackEnded
    | Summary
    | Error
    | Step
    | Validation
)
MORE_NUMBERS = (Step,)
