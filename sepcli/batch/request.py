"""What a run is asked for, and the same with everything looked up that can be known before any work.

    arguments -> Request;   Request, inputs, catalogue -> Batch

Loads no torch, and opens no audio but the queries', so a mistake on the command line is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.batch.inputs import Shard, Source, find_inputs
from sepcli.batch.outputs import DEFAULT_TEMPLATE
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.queries import Query, check_length, check_names, read_queries, takes_none
from sepcli.batch.words import Meaning, meaning
from sepcli.engine.settings import Settings
from sepcli.errors import SepcliError, UsageError, parameter
from sepcli.sound.submix import Submix
from sepcli.weights.download import cost_text
from sepcli.weights.entries import Catalog, Entry
from sepcli.weights.modelspec import ModelSpec, read_model

if TYPE_CHECKING:
    from sepcli.batch.remote import RemoteOut

PREVIEW_SECONDS = 30.0


@dataclass(frozen=True)
class Request:
    """Everything a run is asked for, but its inputs. Numbers are checked; paths and names are not."""

    model: str  # a spec: name, path, NAME=FILE or hf://..., or several with + between them
    out: Path
    spec: OutputSpec = field(default_factory=OutputSpec)  # formats, levels, residual
    settings: Settings = field(default_factory=Settings)  # how tracks are cut
    targets: tuple[str, ...] = ()  # () = every stem, or none but the queries' where there are any
    queries: tuple[str, ...] = ()  # "[NAME=]FILE", one stem each
    submixes: tuple[tuple[str, str], ...] = ()  # (name, sum of stems): files besides
    template: str = DEFAULT_TEMPLATE
    start: float = 0.0  # seconds into each input
    duration: float | None = None  # seconds; None = to the end
    preview: bool = False  # only the loudest part of that duration, as a track of its own
    audio_track: str | None = None  # of files with several: number, language or title; None = their default
    device: str = "auto"
    threads: int | None = None  # of a worker on a CPU; None: here as torch has them, on a cluster as it is cut
    ray: str | None = (
        None  # a cluster on which the tracks are separated: "local", "auto" or HOST:PORT; None: here
    )
    precision: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)  # the model's own
    resume: bool = True
    force: bool = False
    strict: bool = False  # a damaged input is a failure
    shard: Shard | None = None
    player: bool = False  # a page beside each track's stems, which plays them
    config: str | None = None  # the YAML of the training toolkit for a checkpoint: a path or hf://...
    blend: str = ""  # how the stems of several models become one; "": their mean, or as the catalogue says
    then: tuple[str, ...] = ()  # "STEM: MODEL": models after it, of which each takes a stem apart
    stdout: int | None = None  # a descriptor that takes the one stem of the one input; `out` is then temporary
    remote: RemoteOut | None = None  # the output folder at an address; `out` is then its `path`

    @property
    def where(self) -> str:
        """The output folder as the user knows it."""
        return str(self.out) if self.remote is None else self.remote.url

    def shown(self, output: Path) -> str:
        """An output as the user knows it."""
        return os.fspath(output) if self.remote is None else self.remote.shown(output)

    @property
    def work(self) -> Path:
        """The folder in which the work folder is made."""
        return self.out if self.remote is None else self.remote.work

    @property
    def stream(self) -> int | None:
        """The descriptor, where the stem may go into it before all of the input is known to be good."""
        return None if self.strict else self.stdout

    def __post_init__(self) -> None:
        for name, value, allowed, fine in (
            ("start", self.start, "0 or more", self.start >= 0),
            ("duration", self.duration, "more than 0", self.duration is None or self.duration > 0),
            ("threads", self.threads, "1 or more", self.threads is None or self.threads >= 1),
        ):
            if not fine:
                raise UsageError(
                    f"{parameter(name)} is {value}, but must be {allowed}.",
                    remedy="Leave it out, or change it.",
                )
        if self.preview and self.start:
            raise UsageError(
                f"{parameter('preview', True)} finds the loudest part, so {parameter('start')} has no place.",
                remedy=f"Leave one of them out; {parameter('duration')} says how long the part is.",
            )
        if self.spec.video and (self.start or self.seconds is not None):
            raise UsageError(
                f"{parameter('video', True)} copies the whole picture: a part of it could begin at a key frame "
                "only, and not where the sound does.",
                remedy=f"Leave out {parameter('start')}, {parameter('duration')} and {parameter('preview')}, "
                "or cut the video first.",
                code="video",
            )
        if self.remote is not None and self.player:
            raise UsageError(
                f"{parameter('player', True)} writes a page beside stems on a disk, and "
                f"{self.remote.url} is an address.",
                remedy=f"Leave it out, or choose a folder with {parameter('out')}.",
            )
        self.spec.validate()
        if self.player and self.spec.packs:
            raise UsageError(
                f"The player's page needs a file for each stem, and {parameter('format', self.spec.format)} "
                "writes one for all of them.",
                remedy=f"Leave out {parameter('player')}, or choose another {parameter('format')}.",
            )

    @property
    def seconds(self) -> float | None:
        """How much of each input is separated; None = to the end."""
        return PREVIEW_SECONDS if self.preview and self.duration is None else self.duration


def output_spec(spec: OutputSpec, *, some: bool) -> OutputSpec:
    """`spec` with the residual where it is needed: some stems alone have no exact sum, and no stem file."""
    return replace(spec, rest=spec.rest or (spec.sums and some))


@dataclass(frozen=True)
class Batch:
    """A request with its model, queries and inputs looked up.

    Failures are inputs too: one result each, and the others go on.
    """

    request: Request
    catalog: Catalog
    model: ModelSpec
    queries: tuple[Query, ...]
    everything: tuple[Source, ...]  # the inputs of every shard: names depend on all, so that shards agree
    sources: tuple[Source, ...]  # the inputs of this shard, in the order given
    failures: tuple[tuple[str, SepcliError], ...]  # (argument, why) of this shard
    notices: tuple[str, ...]  # sentences the user should see
    spec: OutputSpec
    submixes: tuple[Submix, ...] = ()  # once the stems are known; also what words like instrumental mean
    hidden: tuple[str, ...] = ()  # targets that only submixes need

    @property
    def entry(self) -> Entry | None:
        """The catalogue's entry, where the model is one of its own."""
        return self.model.entry


def look_up(request: Request, arguments: Sequence[str], catalog: Catalog, suffixes: Collection[str]) -> Batch:
    """Find what the request names. arguments: files, folders, or - for standard input.

    suffixes: of the files that a folder is searched for, in lower case with the dot. UsageError, ModelError,
    OutputError for what can't be; a single input that can't be read is a failure of the batch instead.
    """
    from sepcli.sound.writers import check_format

    check_format(request.spec.sound, bitrate=request.spec.bitrate)
    model = read_model(request.model, catalog, blend=request.blend, then=request.then)
    spec = output_spec(request.spec, some=bool(request.targets or request.queries))
    queries = _queries(request, spec, model.entry, catalog)
    if request.remote is None:
        found = find_inputs(arguments, request.out, frozenset(suffixes))
    else:
        found = find_inputs(arguments, None, frozenset(suffixes), remote=request.remote.storage)
    shard = request.shard
    batch = Batch(
        request=request,
        catalog=catalog,
        model=model,
        queries=queries,
        everything=tuple(found.sources),
        sources=tuple(s for s in found.sources if shard is None or shard.has(s.below)),
        failures=tuple(failure for failure in found.failures if shard is None or shard.has(failure[0])),
        notices=(*(warning for query in queries for warning in query.warnings), *found.notices),
        spec=spec,
    )
    return batch if model.entry is None else understand(batch, model.entry.sources, model.entry.more)


def understand(batch: Batch, sources: Sequence[str], more: Mapping[str, Sequence[str]]) -> Batch:
    """The batch with the user's words for stems replaced by those of a model that has `sources`.

    more: what it gives on request (stems.chained).
    For a model of the catalogue `look_up` has done it. UsageError for a word that means nothing there.
    """
    asked = [query.name for query in batch.queries]
    meant = meaning(
        batch.request.targets,
        sources,
        more,
        rest=batch.spec.rest,
        others=asked,
        submixes=batch.request.submixes,
        model=batch.model.name,
        catalog=batch.catalog,
    )
    check_understood(asked, meant, rest=batch.spec.rest)
    return replace(
        batch,
        request=replace(batch.request, targets=meant.targets),
        submixes=meant.submixes,
        hidden=meant.hidden,
        notices=(*batch.notices, *meant.notices),
    )


def check_understood(queries: Sequence[str], meant: Meaning, *, rest: bool) -> None:
    """UsageError where a query has the name of another file."""
    others = [submix.name for submix in meant.submixes]
    check_names(queries, [*meant.targets, *others], rest=rest and not others)


def _queries(request: Request, spec: OutputSpec, entry: Entry | None, catalog: Catalog) -> tuple[Query, ...]:
    """Read and checked; against the model as far as the catalogue knows it."""
    if request.queries and entry is not None and entry.min_query is None:
        others = [f"{other.name} ({cost_text(other)})" for other in catalog.taking_queries()]
        raise takes_none(entry.name, entry.sources, others)
    queries = read_queries(request.queries, request.targets, rest=spec.rest)
    if entry is not None and entry.min_query is not None:
        for query in queries:
            check_length(query, entry.min_query, entry.name)
    return queries
