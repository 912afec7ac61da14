"""What is done with each track: skipped, separated, replaced or refused.

Nothing is done twice, and no file is replaced that sepcli did not make with these settings from this input.
Knows the manifest and what stems depend on; no audio and no model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepcli.batch.manifest import InputId, Manifest, QueryId, Record, settings_hash
from sepcli.batch.names import Named, Track
from sepcli.batch.outputs import DEFAULT_TEMPLATE
from sepcli.batch.request import Request
from sepcli.engine import ENGINE_VERSION
from sepcli.errors import UsageError, parameter
from sepcli.system.files import content_sha256

SEPARATE, REPLACE, SKIP, REFUSE = "separate", "replace", "skip", "refuse"
OLD_TEMPLATE = "{track}/{stem}.{ext}"  # the default before each model had a folder
_NO_SETTINGS = ("engine", "template")  # the template was one up to version 0 of the engine


@dataclass(frozen=True)
class Fingerprint:
    """Everything that the samples of a stem depend on, except what is in the input and in the queries."""

    settings: str  # settings_hash of `made_with`
    made_with: Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What is to be done with a track."""

    track: Track
    action: str  # SEPARATE, REPLACE, SKIP or REFUSE
    why: str = ""  # for a refusal: the file in the way, as the beginning of a sentence
    other_engine: bool = False  # its files are replaced because another version of the engine made them
    input: InputId | None = None  # of a track that is skipped


def fingerprint(named: Named, weights: Sequence[str], precision: str) -> Fingerprint:
    """The fingerprint of a run.

    weights: the SHA-256 of each file that the wanted stems need. precision: "float32", "bfloat16" or "float16",
    as it is used. The template is no part of it: it says where the files are, not how they are made.
    """
    batch = named.batch
    request, entry, settings = batch.request, batch.entry, batch.request.settings
    networks = None
    if entry is not None:
        networks = settings_hash(
            {
                "segment": entry.segment,
                "members": [
                    [member.arch, dict(member.config), member.weights]
                    for member in entry.members_for(named.stems.targets)
                ],
            }
        )
    made_with: dict[str, Any] = {
        "engine": ENGINE_VERSION,
        "model": batch.model.name,
        "weights": list(weights),
        "networks": networks,
        "stems": list(named.stems.files),
        "overlap": settings.overlap,
        "segment": settings.segment,
        "shifts": settings.shifts,
        "seed": settings.seed,
        "options": dict(request.options),
        "precision": precision,
        "start": request.start,
        "duration": request.duration,
        "audio_track": request.audio_track,
        **asdict(batch.spec),
    }
    if batch.queries:  # their names; what is in them stands beside the settings, as for an input
        made_with["queries"] = [query.name for query in batch.queries]
    return Fingerprint(settings_hash(made_with), made_with)


def decide(named: Named, tracks: Iterable[Track], prints: Fingerprint, manifest: Manifest) -> list[Decision]:
    """Decide about each track by what stands in the output folder now."""
    return [decide_track(track, named, prints, manifest) for track in tracks]


def decide_track(track: Track, named: Named, prints: Fingerprint, manifest: Manifest) -> Decision:
    """Decide about one track by what stands in the output folder now."""
    if track.file is None:
        return Decision(track, SEPARATE)  # a pipe that nothing has been read from: a dry run
    there = [path for path in track.outputs.values() if os.path.lexists(path)]
    if not there:
        return Decision(track, SEPARATE)
    request = named.batch.request
    records = [manifest.record_of(path) for path in there]
    stands = _stands(track, records[0], named, prints, manifest)
    if stands is not None and request.resume:
        return Decision(track, SKIP, input=stands)
    if request.force:
        return Decision(track, REPLACE)
    other_engine = False
    for path, record in zip(there, records, strict=True):
        if reason := _why_not_ours(track, record, named, prints, manifest):
            return Decision(track, REFUSE, why=f"'{path}' {reason}")
        other_engine = other_engine or (record is not None and _engine(record) != ENGINE_VERSION)
    return Decision(track, REPLACE, other_engine=other_engine)


def refuse(decisions: Sequence[Decision]) -> None:
    """Raises UsageError if a file stands in the way of this run that must not be replaced."""
    refused = [decision for decision in decisions if decision.action == REFUSE]
    if refused:
        more = f"; so do outputs of {len(refused) - 1} more" if len(refused) > 1 else ""
        raise UsageError(
            f"{refused[0].why}{more}. Nothing was separated.",
            remedy=f"Choose another folder with {parameter('out')}, other names with "
            f"{parameter('template')}, or replace them with {parameter('force')}.",
            code="exists",
        )


def other_engine_notice(decisions: Sequence[Decision]) -> str | None:
    """A sentence about the tracks that are made again because of the engine's version; None for no track."""
    count = sum(decision.other_engine for decision in decisions)
    if not count:
        return None
    tracks = "1 track was" if count == 1 else f"{count} tracks were"
    return (
        f"{tracks} separated by another version of the engine, which may have given other samples: the stems "
        "are made again and replaced."
    )


def old_layout_notice(decisions: Sequence[Decision], manifest: Manifest, request: Request) -> str | None:
    """A sentence about stems of tracks to be separated that stand without the model's folder; None for none.

    That was the default template of the first versions. A track that is skipped is not looked at, so this is
    said once.
    """
    if request.template != DEFAULT_TEMPLATE:
        return None
    paths = (path for each in decisions if each.action != SKIP for path in each.track.outputs.values())
    if not any(_in_old_layout(path, manifest) for path in paths):
        return None
    return (
        f"Stems now have a folder for each model, MODEL/TRACK. Those that stand as TRACK/STEM in "
        f"'{request.out}' stay there; {parameter('template', OLD_TEMPLATE)} goes on using these names."
    )


def _in_old_layout(path: Path, manifest: Manifest) -> bool:
    """Whether the stem stands, and is recorded, without its first folder."""
    _, *rest = path.relative_to(manifest.folder).parts
    old = manifest.folder.joinpath(*rest)
    return len(rest) > 1 and manifest.record_of(old) is not None and old.exists()


def identify(track: Track, manifest: Manifest) -> InputId:
    """Identify the track's input by its content. What came through a pipe has no date.

    OSError where it can't be read.
    """
    assert track.file is not None, "copy a pipe to a file first"
    if not track.source.once:
        return manifest.identify(track.file)
    return InputId(track.source.name, track.file.stat().st_size, 0, content_sha256(track.file))


def query_ids(named: Named) -> dict[str, QueryId]:
    """The identity of each query, by the stem that it asks for."""
    return {query.name: query.identity for query in named.batch.queries}


# --- what stands ---


def _stands(
    track: Track, record: Record | None, named: Named, prints: Fingerprint, manifest: Manifest
) -> InputId | None:
    """The input, where all files of the track stand as this run would make them; else None."""
    if record is None or record.settings != prints.settings or not manifest.stands(record):
        return None
    if {output.path for output in record.outputs} != set(map(manifest.relative, track.outputs.values())):
        return None
    for query in named.batch.queries:  # none is missing on our side: their names are settings
        theirs = record.queries.get(query.name)
        if theirs is None or theirs.sha256 != query.sha256:
            return None
    return _same_input(track, record, manifest)


def _same_input(track: Track, record: Record, manifest: Manifest) -> InputId | None:
    """The input, if the record is of the same content; else None.

    It is hashed at most once, and not at all while its size and date are as recorded.
    """
    try:
        found = identify(track, manifest)
    except OSError:
        return None  # it fails with its reason when its turn comes
    return found if found.sha256 == record.input.sha256 else None


def _why_not_ours(
    track: Track, record: Record | None, named: Named, prints: Fingerprint, manifest: Manifest
) -> str:
    """Why a file that is there must stay; "" where this very run may replace it."""
    if record is None:
        return "exists, and sepcli did not make it"
    if record.settings != prints.settings and (differing := _differing(record, prints)) is not None:
        return f"was made with other settings ({differing})"
    same_file = not track.source.once and record.input.path == os.path.realpath(track.source.name)
    if not same_file and _same_input(track, record, manifest) is None:
        return f"was made from another input ('{record.input.path}')"
    for stem, ours in query_ids(named).items():
        theirs = record.queries.get(stem)
        if theirs is not None and ours.path != theirs.path and ours.sha256 != theirs.sha256:
            return f"was made with another query '{stem}' ('{theirs.path}')"
    return ""


def _differing(record: Record, prints: Fingerprint) -> str | None:
    """The settings that differ, as text; None where it is nothing but the engine's version."""
    if not record.made_with:
        return "by a run that was killed"
    ours = json.loads(json.dumps(prints.made_with, default=str))  # as it comes back from JSON
    both = dict.fromkeys([*ours, *record.made_with])
    names = [name for name in both if name not in _NO_SETTINGS and ours.get(name) != record.made_with.get(name)]
    return ", ".join(names) or None


def _engine(record: Record) -> int:
    """The version of the engine that made it; 0 for a manifest that says none."""
    return record.made_with.get("engine", 0)
