"""What a run will do, decided before it does anything: which stems, which files, what is skipped or refused.

Knows the catalogue, names and the manifest; loads no torch and opens no audio but that of queries, so a
mistake on the command line is answered at once.

    arguments -> queries, inputs -> part of the shard -> output paths -> collisions -> skip | separate | refuse

Two facts may be missing at first, and are given later: the stems of a model outside the catalogue
(`name_outputs`), and the hashes of its weights (`decide`).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepcli.batch.inputs import Originals, Shard, Source, find_inputs
from sepcli.batch.manifest import InputId, Manifest, QueryId, Record, content_sha256, settings_hash
from sepcli.batch.outputs import (
    DEFAULT_TEMPLATE,
    check_template,
    collision_key,
    folds_case,
    name_limit,
    output_path,
    rest_name,
)
from sepcli.batch.queries import Query, check_length, needs_one, read_queries, refuse_overwriting, takes_none
from sepcli.errors import SepcliError, UsageError
from sepcli.weights import download
from sepcli.weights.entries import Catalog, Entry
from sepcli.weights.modelspec import ModelSpec, read_model

if TYPE_CHECKING:
    from sepcli.batch.outputspec import OutputSpec


ROUNDS = 4  # of telling inputs apart, each of which may run into names of others


@dataclass(frozen=True)
class Request:
    """All that a run is asked for, but its inputs. Numbers are checked; paths and names are not."""

    model: str  # a spec: name, path, NAME=FILE or hf://...
    out: Path
    spec: OutputSpec  # formats, levels, rest
    targets: tuple[str, ...] = ()  # () = every stem, or none but the queries' where there are any
    queries: tuple[str, ...] = ()  # "[NAME=]FILE", one stem each
    template: str = DEFAULT_TEMPLATE
    start: float = 0.0  # seconds into each input
    duration: float | None = None  # seconds; None = to the end
    overlap: float = 0.25
    segment: float | None = None  # seconds
    shifts: int = 0
    seed: int = 0
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)  # `-O key=value`
    resume: bool = True
    force: bool = False
    shard: Shard | None = None

    def __post_init__(self) -> None:
        for option, value, allowed, fine in (
            ("--overlap", self.overlap, "0 or more and less than 1", 0 <= self.overlap < 1),
            ("--segment", self.segment, "a number of seconds", self.segment is None or self.segment > 0),
            ("--shifts", self.shifts, "0 or more", self.shifts >= 0),
            ("--batch-size", self.batch_size, "1 or more", self.batch_size is None or self.batch_size >= 1),
            ("--start", self.start, "0 or more", self.start >= 0),
            ("--duration", self.duration, "more than 0", self.duration is None or self.duration > 0),
        ):
            if not fine:
                raise UsageError(
                    f"{option} is {value}, but must be {allowed}.", remedy="Leave it out, or change it."
                )
        self.spec.validate()


@dataclass
class Track:
    """One input and where its stems go."""

    source: Source
    file: Path | None = None  # where to read it: a copy of what came through a pipe; None before that is made
    outputs: dict[str, Path] = field(default_factory=dict)  # by stem; empty while the stems are unknown
    skip: bool = False  # its outputs stand, made from this input with these settings
    refused: str = ""  # why they can't be written
    replaces: bool = False  # files of an earlier run

    def __post_init__(self) -> None:
        if not self.source.once:
            self.file = self.source.path

    @property
    def action(self) -> str:
        return "refuse" if self.refused else "skip" if self.skip else "replace" if self.replaces else "separate"

    def identify(self, manifest: Manifest) -> InputId:
        """Its input by content; OSError if it can't be read. What came through a pipe has no date."""
        assert self.file is not None, "copy a pipe to a file first"
        if not self.source.once:
            return manifest.identify(self.file)
        return InputId(self.source.name, self.file.stat().st_size, 0, content_sha256(self.file))


@dataclass
class Plan:
    """The run, so far as it is known. `tracks` in the order given; `failures` are (input, why)."""

    request: Request
    catalog: Catalog
    model: ModelSpec
    all_tracks: list[Track]  # of every shard: names depend on all of them, so that shards agree
    tracks: list[Track]  # of this shard
    failures: list[tuple[str, SepcliError]]
    notices: list[str]
    queries: tuple[Query, ...] = ()
    stems: tuple[str, ...] = ()  # to be written: the model's in its order, those of queries, the rest
    settings: str = ""  # settings_hash, once `decide` was called
    made_with: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The stems that the model is to make: its own in their order, then those of queries."""
        return self.stems[:-1] if self.request.spec.rest else self.stems

    @property
    def named(self) -> tuple[str, ...]:
        """Those of them that the model knows by name; () too where the queries alone are wanted."""
        return self.targets[: len(self.targets) - len(self.queries)]

    @property
    def entry(self) -> Entry | None:
        """The catalogue's, where the model is one of its own."""
        return self.model.entry

    # --- names ---

    def name_outputs(self, sources: Sequence[str]) -> None:
        """Give every track its paths, for a model of these stems.

        UsageError for a stem the model lacks or for no stem at all, a template that can't do, two inputs that
        land on one path, or an output that is an input.
        """
        request = self.request
        if not sources and not self.queries:
            raise needs_one(self.model.name)
        unknown = [target for target in request.targets if target not in sources]
        if unknown:
            raise self._unknown_stem(unknown[0], sources)
        asked = (*request.targets, *(query.name for query in self.queries))
        named = tuple(source for source in sources if not asked or source in request.targets)
        rest = (rest_name(asked),) if request.spec.rest else ()
        self.stems = (*named, *asked[len(request.targets) :], *rest)
        check_template(request.template, self.stems)
        self._limit = name_limit(request.out)
        fold = folds_case(request.out)
        templates = {id(track): request.template for track in self.all_tracks}
        for _ in range(ROUNDS):
            places: dict[str, list[Track]] = defaultdict(list)
            for track in self.all_tracks:
                track.outputs = self._paths(track, templates[id(track)])
                for path in track.outputs.values():
                    places[collision_key(path, fold=fold)].append(track)
            groups = {tuple(map(id, group)): group for group in places.values() if len(group) > 1}
            if not groups:
                break
            for group in groups.values():
                template, added = self._tell_apart(group, fold)
                if all(templates[id(track)] == template for track in group):
                    raise self._collision(group)
                templates.update({id(track): template for track in group})
                self._note(
                    f"{' and '.join(track.source.name for track in group)} would get the same names; "
                    f"{added} in theirs tells them apart."
                )
        else:  # told apart from each other, yet every time the same as yet another
            raise self._collision(group)
        self._guard_inputs()

    def _paths(self, track: Track, template: str) -> dict[str, Path]:
        source, request = track.source, self.request
        values = {
            "track": source.track,
            "ext": request.spec.format,
            "model": self.model.name,
            "parent": source.parent,
            "trackext": source.suffix,
        }
        return {
            stem: output_path(
                request.out,
                template,
                {**values, "stem": stem},
                below=source.relative.parent,
                limit=self._limit,
                notice=self._note,
            )
            for stem in self.stems
        }

    def _note(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def _tell_apart(self, group: Sequence[Track], fold: bool) -> tuple[str, str]:
        """A template under which the group's paths differ, and what it has more."""
        for fields in (("{parent}",), ("{trackext}",), ("{parent}", "{trackext}")):
            template = _with_fields(self.request.template, fields)
            keys = {
                collision_key(path, fold=fold)
                for track in group
                for path in self._paths(track, template).values()
            }
            if len(keys) == len(group) * len(self.stems):
                return template, " and ".join(fields)
        raise self._collision(group)

    def _collision(self, group: Sequence[Track]) -> UsageError:
        first, second = (track.source.name for track in group[:2])
        return UsageError(
            f"'{first}' and '{second}' would both be written to '{next(iter(group[0].outputs.values()))}'.",
            remedy="Separate them in two runs with different -o, or change --template.",
            code="collision",
        )

    def _guard_inputs(self) -> None:
        refuse_overwriting(self.queries, (path for track in self.all_tracks for path in track.outputs.values()))
        originals = Originals([track.source for track in self.all_tracks])
        for track in self.all_tracks:
            for path in track.outputs.values():
                if (source := originals.at(path)) is not None:
                    raise UsageError(
                        f"The output '{path}' is the input '{source.name}'.",
                        remedy="Choose another folder with -o, or another --template; an input is "
                        "never overwritten.",
                        code="input_is_output",
                    )

    def _unknown_stem(self, stem: str, sources: Sequence[str]) -> UsageError:
        others = [f"{entry.name} ({_download_text(entry, [stem])})" for entry in self.catalog.having(stem)]
        return UsageError(
            f"The model '{self.model.name}' has no stem '{stem}'; it has "
            f"{', '.join(sources) or 'none of its own'}.",
            remedy=f"Choose among these, or a model that has it with -m: {', '.join(others)}."
            if others
            else "Choose among these; no model in the catalogue has that stem.",
            code="unknown_stem",
        )

    # --- skip, separate or refuse ---

    def weights_needed(self) -> list[str] | None:
        """What identifies the weights of the wanted stems, without a download; None if that can't be known."""
        if self.entry is None:
            return None
        members = self.entry.members_for(self.targets)
        if self.model.file is not None:  # in place of the entry's own
            return [download.file_sha256(self.model.file)] * len(members)
        hashes = []
        for member in members:
            cached = download.cached(member.file)
            if member.file.sha256:
                hashes.append(member.file.sha256)
            elif cached is not None:
                hashes.append(download.file_sha256(cached))
            else:
                return None
        return hashes

    def weights_used(self, hashes: Sequence[str]) -> list[str]:
        """The same for a model that is loaded: a catalogue's own hash stands for whichever source was used."""
        if self.entry is None or self.model.file is not None:
            return list(hashes)
        members = self.entry.members_for(self.targets)
        return [member.file.sha256 or digest for member, digest in zip(members, hashes, strict=True)]

    @property
    def query_ids(self) -> dict[str, QueryId]:
        """The examples by stem, as the manifest knows them."""
        return {query.name: query.identity for query in self.queries}

    def decide(self, weights: Sequence[str], precision: str) -> None:
        """Fill in every track's action. weights: from one of the two above; precision: the one used."""
        request, entry = self.request, self.entry
        networks = None
        if entry is not None:
            networks = settings_hash(
                {
                    "segment": entry.segment,
                    "members": [
                        [member.arch, dict(member.config), member.weights]
                        for member in entry.members_for(self.targets)
                    ],
                }
            )
        self.made_with = {
            "model": self.model.name,
            "weights": list(weights),
            "networks": networks,
            "stems": list(self.stems),
            "overlap": request.overlap,
            "segment": request.segment,
            "shifts": request.shifts,
            "seed": request.seed,
            "options": dict(request.options),
            "precision": precision,
            "start": request.start,
            "duration": request.duration,
            "template": request.template,
            **asdict(request.spec),
        }
        if self.queries:  # their names; what is in them stands beside the settings, as for an input
            self.made_with["queries"] = [query.name for query in self.queries]
        self.settings = settings_hash(self.made_with)
        manifest = Manifest(request.out)
        for track in self.tracks:
            self.decide_track(track, manifest)

    def decide_track(self, track: Track, manifest: Manifest) -> None:
        """The rule of the output folder: nothing is done twice, and nothing that is not ours is replaced."""
        track.skip, track.refused, track.replaces = False, "", False
        if track.file is None:
            return  # a pipe that nothing has been read from: a dry run
        there = [path for path in track.outputs.values() if os.path.lexists(path)]
        if not there:
            return
        records = [manifest.record_of(path) for path in there]
        if self._stands(track, records, manifest):
            track.skip = self.request.resume
        if track.skip or self.request.force:
            track.replaces = not track.skip
            return
        for path, record in zip(there, records, strict=True):
            if reason := self._why_not_ours(track, record, manifest):
                track.refused = f"'{path}' {reason}"
                return
        track.replaces = True

    def _stands(self, track: Track, records: Sequence[Record | None], manifest: Manifest) -> bool:
        record = records[0]
        if record is None or record.settings != self.settings or not manifest.stands(record):
            return False
        if {output.path for output in record.outputs} != set(map(manifest.relative, track.outputs.values())):
            return False
        if any(
            record.queries.get(query.name) is None or record.queries[query.name].sha256 != query.sha256
            for query in self.queries
        ):  # none is missing on our side: their names are settings
            return False
        return self._same_input(track, record, manifest)

    def _same_input(self, track: Track, record: Record, manifest: Manifest) -> bool:
        """By content: hashed at most once, and not at all while size and date are as recorded."""
        try:
            return track.identify(manifest).sha256 == record.input.sha256
        except OSError:
            return False  # it fails with its reason when its turn comes

    def _why_not_ours(self, track: Track, record: Record | None, manifest: Manifest) -> str:
        """Why a file that is there must stay; "" where this very run may replace it."""
        if record is None:
            return "exists, and sepcli did not make it"
        if record.settings != self.settings:
            differing = [
                name
                for name, value in _plain(self.made_with).items()
                if record.made_with and record.made_with.get(name) != value
            ]
            return f"was made with other settings ({', '.join(differing) or 'by a run that was killed'})"
        same_file = not track.source.once and record.input.path == os.path.realpath(track.source.name)
        if not same_file and not self._same_input(track, record, manifest):
            return f"was made from another input ('{record.input.path}')"
        for stem, ours in self.query_ids.items():
            theirs = record.queries.get(stem)
            if theirs is not None and ours.path != theirs.path and ours.sha256 != theirs.sha256:
                return f"was made with another query '{stem}' ('{theirs.path}')"
        return ""

    @property
    def refusals(self) -> list[Track]:
        return [track for track in self.tracks if track.refused]

    def refuse(self) -> None:
        """UsageError if anything in the way of this run has to stay."""
        refused = self.refusals
        if refused:
            more = f"; so do outputs of {len(refused) - 1} more" if len(refused) > 1 else ""
            raise UsageError(
                f"{refused[0].refused}{more}. Nothing was separated.",
                remedy="Choose another folder with -o, keep both with {model} in --template, or replace them "
                "with --force.",
                code="exists",
            )


def make_plan(request: Request, arguments: Sequence[str], catalog: Catalog, suffixes: Iterable[str]) -> Plan:
    """The plan as far as it goes without the model's file; named already for a model of the catalogue."""
    from sepcli.sound.encode import check_format

    check_format(request.spec.format, bitrate=request.spec.bitrate)
    model = read_model(request.model, catalog)
    entry = model.entry
    if request.spec.sum == "exact" and (request.targets or request.queries) and not request.spec.rest:
        request = replace(request, spec=replace(request.spec, rest=True))
    queries = _queries(request, entry, catalog)
    found = find_inputs(arguments, request.out, frozenset(suffixes))
    shard = request.shard
    all_tracks = [Track(source) for source in found.sources]
    tracks = [track for track in all_tracks if shard is None or shard.has(str(track.source.relative))]
    failures = [failure for failure in found.failures if shard is None or shard.has(failure[0])]
    notices = [*(warning for query in queries for warning in query.warnings), *found.notices]
    plan = Plan(request, catalog, model, all_tracks, tracks, failures, notices, queries)
    if entry is not None:
        plan.name_outputs(entry.sources)
    return plan


def _queries(request: Request, entry: Entry | None, catalog: Catalog) -> tuple[Query, ...]:
    """Read and checked; against the model as far as the catalogue knows it."""
    if request.queries and entry is not None and entry.min_query is None:
        others = [f"{other.name} ({_download_text(other, ())})" for other in catalog.taking_queries()]
        raise takes_none(entry.name, entry.sources, others)
    queries = read_queries(request.queries, request.targets, rest=request.spec.rest)
    if entry is not None and entry.min_query is not None:
        for query in queries:
            check_length(query, entry.min_query, entry.name)
    return queries


def _with_fields(template: str, fields: Sequence[str]) -> str:
    """`template` with {parent} as a folder before the track's name and {trackext} as its suffix."""
    before = "{parent}/" if "{parent}" in fields else ""
    if "{track}" in template:
        after = ".{trackext}" if "{trackext}" in fields else ""
        return template.replace("{track}", before + "{track}" + after, 1)
    return before + ("{trackext}/" if "{trackext}" in fields else "") + template


def _download_text(entry: Entry, targets: Sequence[str]) -> str:
    """What a model costs to try: "84 MB", or "on this machine"."""
    files = entry.files_for(targets)
    missing = [file for file in files if not download.is_cached(file)]
    if not missing:
        return "on this machine"
    sizes = [file.about_bytes for file in missing]
    if any(size is None for size in sizes):
        return "unknown size"
    return f"{sum(size for size in sizes if size is not None) / 1e6:.0f} MB"


def _plain(value: Any) -> Any:
    """As it comes back from JSON, to compare with what was recorded."""
    return json.loads(json.dumps(value, default=str))
