"""The models of a catalogue as frozen entries, and the questions one asks of them.

Which models have this stem? Which files does that need? How is each file checked? Knows nothing of TOML, neural
networks, caches or downloads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from sepcli.errors import ModelError, did_you_mean
from sepcli.stems import gives, needed_of

CHECKS = ("full", "sha1", "md5", "prefix", "size", "none")  # the strictest first

# What a model is for. A model of another task than these can't be found by --task.
TASKS = {
    "separation": "a mix into its instruments and voices",
    "karaoke": "the lead voice from everything else, backing voices included",
    "voices": "voices from each other",
    "drumkit": "a drum stem into its parts: kick, snare, ...",
    "dereverb": "a dry sound from its reverberation and echo",
    "denoise": "a sound from noise and bleed",
    "crowd": "music from an audience",
    "breath": "a voice from its breaths",
    "speech": "speech, music and effects from each other",
    "stereo": "what both channels have in common from what differs",
    "codec": "no separation: latents and back",
    "chain": "a mix in several steps, by models one after another",
}


@dataclass(frozen=True)
class WeightFile:
    """One file of weights and where it comes from: a hub repository, a URL, or the package itself."""

    name: str  # its key in `files`
    repo: str | None = None  # hub repository, "owner/name"
    revision: str | None = None  # full commit, 40 hex digits; never a branch
    path: str | None = None  # inside the repository
    url: str | None = None
    package: str | None = None  # inside the sepcli package folder
    bytes: int | None = None
    sha256: str | None = None  # 64 hex digits
    sha256_prefix: str | None = None  # first 8 or more digits, as in the name of an official `.th`
    git_sha1: str | None = None  # id of the git blob, 40 hex digits
    sha1: str | None = None  # of the content, 40 hex digits
    md5: str | None = None  # of the content, 32 hex digits
    member: str | None = None  # of an archive: where in it the checkpoint is; None: it has only one
    member_sha256: tuple[tuple[str, str], ...] = ()  # of files in an archive: (path, 64 hex digits)
    mirrors: tuple[WeightFile, ...] = ()  # the same file in other places, tried in order after this one failed
    fallback: WeightFile | None = None  # the same weights in another file, tried last

    @property
    def check(self) -> str:
        """How much of the content is known before the download: one of CHECKS."""
        if self.sha256 or self.git_sha1 or self.member_sha256:
            return "full"
        for kind in ("sha1", "md5"):
            if getattr(self, kind):
                return kind
        if self.sha256_prefix:
            return "prefix"
        return "size" if self.bytes is not None else "none"

    @property
    def filename(self) -> str:
        """The file's name without folders, as its source calls it."""
        url = (self.url or "").partition("?")[0].removesuffix("/content")  # of Zenodo's records
        return (self.path or self.package or url).rsplit("/", 1)[-1]

    @property
    def source(self) -> str:
        """Its source as it is printed: hf://owner/name@revision/path, the URL, or package:path."""
        if self.repo:
            return f"hf://{self.repo}@{self.revision}/{self.path}"
        return self.url or f"package:{self.package}"

    @property
    def sources(self) -> tuple[WeightFile, ...]:
        """All places to get its weights from: itself, its mirrors, its fallback and the mirrors of that."""
        return (self, *self.mirrors, *(self.fallback.sources if self.fallback is not None else ()))

    @property
    def about_bytes(self) -> int | None:
        """Its size in bytes, or its fallback's, which holds the same weights; None if neither is known."""
        if self.bytes is None and self.fallback is not None:
            return self.fallback.bytes
        return self.bytes


@dataclass(frozen=True)
class Member:
    """One network of an entry, and its weight in the sum for each of the entry's sources; or a part of its one
    network, where the entry is `joined`."""

    file: WeightFile
    arch: str
    config: Mapping[str, Any]  # the differences from the defaults of the original constructor
    weights: tuple[float, ...] | None = None  # one for each source of the entry; None = 1 for all


@dataclass(frozen=True)
class Mixer:
    """A matrix behind the members, which mixes their stems and the mix anew (engine.mixer).

    file: holds the matrix, [S C, (S + 1) C]: a row for each channel of each of the S stems, in the order of
    `stems`; its columns are the same, then the channels of the mix.
    """

    file: WeightFile
    stems: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One measured figure of quality, and who measured it."""

    metric: str
    set: str  # the data it was measured on
    value: float | None  # over all stems, in dB unless the metric says otherwise; None: only `stems` are known
    by: str  # "published" or "ours"
    stems: Mapping[str, float]  # the figure of each stem, where known
    note: str = ""

    def of(self, stem: str) -> float | None:
        """The figure of one stem; None where it is not known."""
        return self.stems.get(stem)


@dataclass(frozen=True)
class Step:
    """One model of a chain of models, and the stem that it takes apart."""

    entry: Entry
    of: str = ""  # a stem of an earlier step; "" for the first, which takes the mix
    stems: tuple[str, ...] = ()  # those of its stems that are wanted; () = all
    names: tuple[str, ...] = ()  # what these are called in the chain; () = as its model calls them

    @property
    def made(self) -> tuple[str, ...]:
        """The stems that it gives, by its model's names."""
        return self.stems or self.entry.sources

    @property
    def named(self) -> tuple[str, ...]:
        """The stems that it gives, by their names in the chain."""
        return self.names or self.made


def weighted(stems: Sequence[str], weights: Sequence[float]) -> str:
    """Stems with their weights, as people read them: "drums, bass x 2". A weight of 0 leaves a stem out."""
    pairs = zip(stems, weights, strict=False)
    return ", ".join(stem if weight == 1 else f"{stem} x {weight:g}" for stem, weight in pairs if weight)


@dataclass(frozen=True)
class Part:
    """One of several models side by side, with a weight for each stem that they have together.

    0: that stem is not taken from it.
    """

    entry: Entry
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue. A text is "" where nothing is known."""

    name: str
    family: str
    sources: tuple[str, ...]  # all stems, the counterpart last
    samplerate: int  # Hz
    channels: int
    members: tuple[Member, ...]  # of several models together: those of all
    joined: bool = False  # its members are the parts of one network, each under the name of its file
    chain: tuple[Step, ...] = ()  # models one after another, in place of networks of its own
    # Stems that are given only where they are asked for, each with the stems that are parts of it.
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()  # models side by side, likewise
    blend: str = ""  # how the stems of those become one: one of stems.BLENDS
    mixer: Mixer | None = None  # what is behind the members
    counterpart: str = ""  # of a network of one stem: the name of the mix minus that stem
    task: str = "separation"  # one of TASKS
    purpose: str = ""  # what it is for, in one line
    cost: float | None = None  # GFLOP for a second of audio, without overlap
    listed: int | None = None  # in how many of six public catalogues it stands
    run: bool = False  # whether we have run it on the published weights
    segment: float | Fraction | None = None  # seconds; takes the place of the members' own
    min_query: float | None = None  # seconds of the shortest example; None: takes no audio queries
    half: bool = False  # reduced precision was measured, and is harmless
    half_note: str = ""
    license: str = "unspecified"  # of the weights
    license_note: str = ""
    paper: str = ""
    origin: str = ""  # repository@commit of the reference code
    training_data: str = ""
    limits: str = ""
    scores: tuple[Score, ...] = ()
    published_overlap: float | None = None  # the paper's, where it is not 0.25; a share of a segment
    aliases: tuple[str, ...] = ()  # more names, by which it is found too
    catalog_path: Path = Path()

    def members_for(self, targets: Collection[str] | None = None) -> tuple[Member, ...]:
        """The members that the stems in `targets` need; all of them for None."""
        if targets is None or self.counterpart in targets or self.mixer is not None:
            return self.members
        if self.chain:
            needed = self.steps_for(targets)
            return tuple(member for step, own, _ in needed for member in step.entry.members_for(own))
        if self.parts:
            shared = self.parts_for(targets)
            return tuple(member for part, stems in shared for member in part.entry.members_for(stems))
        wanted = [index for index, source in enumerate(self.own_sources) if source in targets]
        return tuple(
            member
            for member in self.members
            if member.weights is None or any(member.weights[index] for index in wanted)
        )

    def steps_for(self, targets: Collection[str]) -> list[tuple[Step, tuple[str, ...], tuple[str, ...]]]:
        """The steps of a chain that the stems in `targets` need, each with its stems that are needed.

        Those twice: by the names that its model has for them, and by their names in the chain.
        """
        needed, found = set(targets), []
        for step in reversed(self.chain):
            names, needed = needed_of(step.named, step.of, needed)
            if names:
                own = tuple(step.made[step.named.index(name)] for name in names)
                found.insert(0, (step, own, tuple(names)))
        return found

    def parts_for(self, targets: Collection[str]) -> list[tuple[Part, tuple[str, ...]]]:
        """The models side by side that the stems in `targets` need, each with its own stems that are needed."""
        found = []
        for part in self.parts:
            counting = [stem for stem, weight in zip(self.sources, part.weights, strict=True) if weight > 0]
            needed = [gives(part.entry.sources, stem) for stem in counting if stem in targets]
            if needed:
                found.append((part, tuple(dict.fromkeys(needed))))
        return found

    @property
    def models(self) -> tuple[Entry, ...]:
        """The models that it is made of, one after another or side by side; () for a model of its own."""
        return tuple(each.entry for each in (*self.chain, *self.parts))

    def files_for(self, targets: Collection[str] | None = None) -> tuple[WeightFile, ...]:
        """The files that the stems in `targets` need, each once, in order; all files for None."""
        files: dict[str, WeightFile] = {}
        for member in self.members_for(targets):
            files.setdefault(member.file.source, member.file)  # several networks may lie in one archive
        if self.mixer is not None:
            files.setdefault(self.mixer.file.source, self.mixer.file)
        return tuple(files.values())

    @property
    def own_sources(self) -> tuple[str, ...]:
        """The stems that its networks make: all but the counterpart."""
        return self.sources[:-1] if self.counterpart else self.sources

    @property
    def stems_text(self) -> str:
        """Its stems as a text: "drums, bass"; "(queries)" where it separates a sound by an example of it."""
        return ", ".join([*self.sources, *(["(queries)"] if self.min_query is not None else [])])

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """All its files, each once, in order."""
        return self.files_for(None)

    @property
    def size(self) -> int | None:
        """The bytes of all its files; None if the size of one is unknown."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def check(self) -> str:
        """The weakest check among its files."""
        return max((file.check for file in self.files), key=CHECKS.index)


class Catalog(Mapping[str, Entry]):
    """Entries by name, in the order of their catalogues. An alias is found but not counted; names go first.

    files: the entries of each catalogue by name; the last one that has a name wins.
    """

    def __init__(self, *files: Mapping[str, Entry]):
        self._file_of = {name: file for file in files for name in file}

    def __getitem__(self, name: str) -> Entry:
        file = self._file_of.get(name)
        return self._aliases[name] if file is None else file[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    @cached_property
    def _aliases(self) -> dict[str, Entry]:
        return {alias: entry for entry in self.values() for alias in entry.aliases}

    def having(self, stem: str) -> list[Entry]:
        """The models that have this stem."""
        return [entry for entry in self.values() if stem in entry.sources]

    def taking_queries(self) -> list[Entry]:
        """The models that separate a sound by an example of it."""
        return [entry for entry in self.values() if entry.min_query is not None]

    def find(self, name: str) -> Entry:
        """The entry called `name`; ModelError names those with a similar name."""
        if name in self:
            return self[name]
        guess = did_you_mean(name, [*self, *self._aliases])
        raise ModelError(
            f"There is no model '{name}' in the catalogue.",
            remedy=f"{guess} `sepcli models list` shows all of them.".lstrip(),
            code="unknown_model",
        )
