"""The lines of a manifest: what each says, and how it is written.

Knows JSON's values and no files. There are five kinds:

    {"kind": "settings", settings, made_with}      what a hash of settings stands for, before its first use
    {"kind": "claim", outputs, by}                 a run works on these outputs; `by` is its work folder's name
    {"kind": "begin", outputs, settings, input}    complete files are about to get these final names
    {"kind": "done",  outputs, settings, input}    they stand, with these sizes
    {"kind": "input", input}                       an input that is known by its content has a new date

"begin" and "done" have `queries` besides, where a stem was asked for by an example: queries are inputs too. In
older manifests, and where each line is a file of its own (batch/remote.py), they have `made_with` themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

# What a line raises that is damaged, or of another program.
BROKEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class InputId:
    """An input as it was when it was separated. path: absolute; "-" for standard input; an address."""

    path: str
    size: int  # bytes
    mtime_ns: int  # at an address its stamp (system/remote.py)
    sha256: str


@dataclass(frozen=True, slots=True)
class QueryId:
    """An example of a sound as it was when a stem was asked for by it."""

    path: str  # absolute
    sha256: str


@dataclass(frozen=True, slots=True)
class Output:
    """One file that a track has been separated into."""

    stem: str
    path: str  # below the output folder, with forward slashes
    bytes: int | None = None  # None while it is only planned
    mtime_ns: int | None = None  # its date; None where it was not noted
    made: str = ""  # settings_hash of all that its samples depend on, but for the input
    levels: Mapping[str, Any] | None = (
        None  # of the stem, or of each track by name, as in JSON; None: not noted
    )
    left_out: bool = False  # the stem is silent, and has no file


@dataclass(frozen=True, slots=True)
class Record:
    """The files of one track, what they were made from, and with which settings."""

    done: bool
    settings: str  # settings_hash
    input: InputId
    outputs: tuple[Output, ...]
    made_with: Mapping[str, Any] = field(default_factory=dict)  # the settings themselves, to name differences
    queries: Mapping[str, QueryId] = field(default_factory=dict)  # by stem
    gain: float = 1.0  # common to its files
    recent: bool = field(default=False, compare=False)  # written down since this manifest was opened


@dataclass(frozen=True, slots=True)
class Claim:
    """A line that says who works on some outputs. by: the run; "" for nobody."""

    outputs: tuple[str, ...]
    by: str


@dataclass(frozen=True, slots=True)
class Settings:
    """A line that says what a settings hash stands for."""

    settings: str
    made_with: Mapping[str, Any]


def meant(
    line: Mapping[str, Any], made_with: dict[str, Mapping[str, Any]], recent: bool
) -> Settings | Claim | InputId | Record:
    """What a parsed line says. One of BROKEN for none of ours.

    made_with: settings by their hash: a record has the same object as all others of its hash, and what only it
    tells is added.
    """
    kind = line["kind"]
    if kind == "settings":
        return Settings(line["settings"], dict(line["made_with"]))
    if kind == "claim":
        return Claim(tuple(line["outputs"]), line["by"])
    identity = InputId(**line["input"])
    if kind == "input":
        return identity
    if kind not in ("begin", "done"):
        raise ValueError(kind)
    outputs = tuple(Output(**output) for output in line["outputs"])
    settings = made_with.get(line["settings"], {})
    if not settings and "made_with" in line:
        settings = made_with[line["settings"]] = line["made_with"]
    queries = {stem: QueryId(**query) for stem, query in line.get("queries", {}).items()}
    gain = line.get("gain", 1.0)
    return Record(kind == "done", line["settings"], identity, outputs, settings, queries, gain, recent)


def settings_line(hashed: str, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Before the first line that has this hash."""
    return {"kind": "settings", "settings": hashed, "made_with": made_with}


def claim_line(outputs: Collection[str], by: str) -> dict[str, Any]:
    """by: the run; "" for nobody."""
    return {"kind": "claim", "outputs": outputs, "by": by}


def input_line(identity: InputId) -> dict[str, Any]:
    """An input has another date, and the same content."""
    return {"kind": "input", "input": _as_json(identity)}


def record_line(record: Record, about: Mapping[str, Any]) -> dict[str, Any]:
    """about: more facts for a human reader, such as seconds."""
    line = {
        "kind": "done" if record.done else "begin",
        "settings": record.settings,
        "input": _as_json(record.input),
        "outputs": [_as_json(output) for output in record.outputs],
        "made_with": record.made_with,
        "gain": record.gain,
        **about,
    }
    if record.queries:
        line["queries"] = {stem: _as_json(query) for stem, query in record.queries.items()}
    return line


def _as_json(values: InputId | QueryId | Output) -> dict[str, Any]:
    """The fields that differ from their defaults, as they are; `asdict` would copy what is in them."""
    named = ((each, getattr(values, each.name)) for each in fields(values))
    return {each.name: value for each, value in named if value != each.default}
