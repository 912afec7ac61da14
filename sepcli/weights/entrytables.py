"""The tables of a catalogue as they are written, key by key: an entry of networks, or of several models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sepcli.stems import BLENDS
from sepcli.weights.filetables import FileTable


@dataclass(frozen=True)
class MemberTable:
    """[[name.members]]: one network of several. arch and config: the entry's, unless they stand here."""

    file: str  # its key in `files`
    arch: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] | None = None


@dataclass(frozen=True)
class MixerTable:
    """`mixer` of an entry with members: a matrix over their stems and the mix."""

    file: str  # its key in `files`
    stems: tuple[str, ...] = ()  # their order in the matrix, where it is another than that of `sources`


@dataclass(frozen=True)
class ScoreTable:
    """[[name.scores]]"""

    metric: str
    set: str
    by: str
    value: float | None = None
    stems: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class CompositeTable:
    """[name] of several models. What is not said here follows from them."""

    task: str = ""
    purpose: str = ""
    run: bool = False
    license: str = ""
    license_note: str = ""
    paper: str = ""
    origin: str = ""
    training_data: str = ""
    limits: str = ""
    half_note: str = ""
    scores: tuple[ScoreTable, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepTable:
    """An item of `chain`: a model above it, and the stem that it takes apart."""

    model: str
    of: str = ""
    stems: tuple[str, ...] = ()  # only these of its stems
    names: dict[str, str] = field(default_factory=dict)  # what some of them are called in the chain


@dataclass(frozen=True)
class ChainTable(CompositeTable):
    """[name] with `chain`: models one after another."""

    chain: tuple[StepTable, ...] = ()
    sources: tuple[str, ...] = ()  # all stems that are left, in another order than the steps'


@dataclass(frozen=True)
class PartTable:
    """An item of `models`: a model above it, and its weight in each stem."""

    model: str
    weight: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)  # of stems that have another


@dataclass(frozen=True)
class BlendTable(CompositeTable):
    """[name] with `models`: models side by side, whose stems are blended."""

    models: tuple[PartTable, ...] = ()
    blend: str = BLENDS[0]


@dataclass(frozen=True)
class EntryTable:
    """[name]: one model."""

    family: str
    sources: tuple[str, ...]
    samplerate: int  # Hz
    channels: int
    files: dict[str, FileTable]
    arch: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    counterpart: str = ""
    task: str = "separation"
    purpose: str = ""
    cost: float | None = None  # GFLOP for a second of audio
    listed: int | None = None
    run: bool = False
    members: tuple[MemberTable, ...] = ()
    mixer: MixerTable | None = None
    joined: bool = False  # `files` are the parts of one network
    segment: Any = None  # seconds, or a fraction in quotes
    min_query: float | None = None  # seconds
    half: bool = False
    half_note: str = ""
    license: str = "unspecified"
    license_note: str = ""
    paper: str = ""
    origin: str = ""
    training_data: str = ""
    limits: str = ""
    scores: tuple[ScoreTable, ...] = ()
    published_overlap: float | None = None
    aliases: tuple[str, ...] = ()
