"""What is done with each track: skipped, separated, replaced or refused; and which stems are left to make.

Nothing is done twice. What sepcli made from the same input may be replaced, as long as nobody has touched it
since; no other file ever is, without force. Knows the manifest and what stems depend on; no audio and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sepcli.batch.lines import InputId, QueryId, Record
from sepcli.batch.manifest import Manifest, Standing, settings_hash
from sepcli.batch.names import Named, Stems, Track
from sepcli.batch.outputs import DEFAULT_TEMPLATE
from sepcli.batch.request import Batch, Request
from sepcli.engine import ENGINE_VERSION
from sepcli.errors import InputError, UsageError, parameter
from sepcli.sound.formats import FORMATS
from sepcli.sound.submix import Submix
from sepcli.system.files import content_sha256
from sepcli.weights.entries import Entry
from sepcli.weights.modelspec import ModelSpec

SEPARATE, REPLACE, SKIP, REFUSE = "separate", "replace", "skip", "refuse"
OLD_TEMPLATE = "{track}/{stem}.{ext}"  # the default before each model had a folder
_NO_SETTINGS = ("engine", "template")  # the template was one up to version 0 of the engine
_IMPLIED = {"model": ("weights", "networks")}  # a setting -> those that differ with it
_THERE, _IN_PART = "there already", "there in part, and is made as a whole"
# Settings that differ also where other stems were asked for.
_BY_STEMS = ("stems", "submixes", "weights", "networks", "queries")


@dataclass(frozen=True)
class Fingerprint:
    """Everything that the samples of stems depend on, except what is in the input."""

    settings: str  # settings_hash of `made_with`
    made_with: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)  # stem -> hash of what its samples depend on


_NO_PARTS: Mapping[str, Path] = MappingProxyType({})  # one for all decisions


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a track."""

    track: Track
    action: str  # SEPARATE, REPLACE, SKIP or REFUSE
    why: str = ""  # of a refusal: the file in the way, as a sentence begins; else what stands, after "was"
    replaced: tuple[str, ...] = ()  # the stems whose files are replaced
    stems: Stems | None = None  # what is left to make; None: all of the run's
    parts: Mapping[str, Path] = field(
        default_factory=lambda: _NO_PARTS
    )  # files by which submixes can be made, no model
    kept: tuple[str, ...] = ()  # stems that stand, and stay
    changed: tuple[Path, ...] = ()  # files that somebody has changed, and that stay
    input: InputId | None = None  # of a track that is skipped


def fingerprint(named: Named, weights: Sequence[str], precision: str) -> Fingerprint:
    """The fingerprint of a run.

    weights: the SHA-256 of each file that the wanted stems need. precision: "float32", "bfloat16" or "float16",
    as it is used. The template is no part of it: it says where the files are, not how they are made.
    """
    batch, stems = named.batch, named.stems
    request, settings = batch.request, batch.request.settings
    spec = asdict(batch.spec)
    del spec["rest"], spec["skip_silent"]  # they don't change what is in a file
    if not batch.spec.video:
        del spec["video"]  # as in manifests from before there were videos
    common: dict[str, Any] = {
        "engine": ENGINE_VERSION,
        "model": batch.model.name,
        **_together(batch.model),
        "overlap": settings.overlap,
        "segment": settings.segment,
        "shifts": settings.shifts,
        "seed": settings.seed,
        "options": dict(request.options),
        "precision": precision,
        "start": request.start,
        "duration": request.seconds,
        "preview": request.preview,
        "audio_track": request.audio_track,
        **spec,
    }
    made_with = {**common, **_network(batch, stems.targets, weights, stems.targets), "stems": list(stems.files)}
    if batch.queries:  # their names; what is in them stands beside the settings, as for an input
        made_with["queries"] = [query.name for query in batch.queries]
    if stems.submixes:
        made_with["submixes"] = {submix.name: submix.gains for submix in stems.submixes}
    if batch.spec.sum == "exact":  # then each file depends on all others that add up with it
        rest = Submix.without("", stems.written).gains
        common["stems"] = [*stems.written, *(each.name for each in stems.submixes if each.gains == rest)]

    def of(*made: str) -> dict[str, Any]:
        examples = {query.name: query.sha256 for query in batch.queries if query.name in made}
        return {**common, **_network(batch, made, weights, stems.targets), "of": made, "queries": examples}

    files = {stem: settings_hash(of(stem)) for stem in stems.targets}
    for submix in stems.submixes:
        files[submix.name] = settings_hash({**of(*sorted(submix.stems)), "submix": submix.gains})
    if stems.pack is not None:
        made_with["stems"] = list(stems.sounds)
        tracks = {**of(*stems.targets), "tracks": stems.pack.names, "submixes": made_with["submixes"]}
        files = {stem: settings_hash(tracks) for stem in stems.files}
    return Fingerprint(settings_hash(made_with), made_with, files)


def _together(model: ModelSpec) -> dict[str, Any]:
    """How several models become one; nothing for one model, and for what the catalogue knows (`_network`)."""
    if model.entry is not None:
        return {"blend": model.entry.blend} if model.entry.parts else {}
    if model.steps:
        return {"chain": [[of, _together(step)] for of, step in model.steps]}
    return {"blend": [model.blend, *(weight for _, weight in model.parts)]} if model.parts else {}


def _network(batch: Batch, stems: Sequence[str], weights: Sequence[str], of: Sequence[str]) -> dict[str, Any]:
    """The weights and networks that these stems need. weights: the hashes of those that `of` needs."""
    if batch.entry is None:
        return {"weights": list(weights), "networks": None}
    members = batch.entry.members_for(stems)
    described = {
        "segment": batch.entry.segment,
        "members": [[member.arch, dict(member.config), member.weights] for member in members],
        **_models(batch.entry, stems),
    }
    networks = settings_hash(described)
    known = batch.entry.members_for(of)
    if len(known) != len(weights):  # nothing is known of them
        return {"weights": list(weights), "networks": networks}
    needed = [digest for member, digest in zip(known, weights, strict=True) if member in members]
    return {"weights": needed, "networks": networks}


def _models(entry: Entry, stems: Sequence[str]) -> dict[str, Any]:
    """How the models of which an entry is made come together for these stems; nothing for one model."""

    def one(model: Entry, own: Sequence[str]) -> list[Any]:
        several = [{**_models(model, own), "way": model.blend}] if model.models else []
        return [model.family, model.segment, *several]

    if entry.chain:
        return {"chain": [[*one(step.entry, own), step.of] for step, own, _ in entry.steps_for(stems)]}
    if entry.parts:
        parts = entry.parts_for(stems)
        return {"blend": [[*one(part.entry, own), part.weights, own] for part, own in parts]}
    return {}


def decide(named: Named, tracks: Iterable[Track], prints: Fingerprint, manifest: Manifest) -> list[Decision]:
    """Decide about each track by what stands in the output folder now."""
    return [decide_track(track, named, prints, manifest) for track in tracks]


def decide_track(
    track: Track, named: Named, prints: Fingerprint, manifest: Manifest, *, keep: bool = True
) -> Decision:
    """Decide about one track by what stands in the output folder now.

    keep: whether stems that stand as this run would make them may stay while others are made.
    """
    if track.file is None and track.source.remote is None:
        return Decision(track, SEPARATE)  # a pipe that nothing has been read from: a dry run
    request = named.batch.request
    there = {stem: path for stem, path in track.outputs.items() if manifest.there(path)}
    found = {stem: manifest.standing(path) for stem, path in there.items()}
    if named.batch.spec.skip_silent:  # what was left out as silent stands without a file
        found |= {
            stem: manifest.standing(path)
            for stem, path in track.outputs.items()
            if stem not in there and manifest.is_left_out(path)
        }
    parts_may_stand = (
        request.resume
        and request.remote is None  # files that are elsewhere are not read again
        and named.stems.pack is None
        and any(
            all(manifest.may_have(prints.files[stem], track.size) for stem in submix.stems)
            for submix in named.stems.submixes
        )
    )
    identity = _identity(track, manifest) if found or parts_may_stand else None
    equal = {
        stem: standing
        for stem, standing in found.items()
        if standing is not None and identity is not None and _is_equal(stem, standing, identity, prints)
    }
    if len(equal) == len(track.outputs) and len({each.record.gain for each in equal.values()}) == 1:
        afresh = request.force or not request.resume
        # What another process of the same command has made meanwhile is not made again.
        if not afresh or all(each.record.recent for each in equal.values()):
            return Decision(track, SKIP, changed=_changed(track, equal), input=identity)
    if request.force:
        return Decision(track, REPLACE if there else SEPARATE, why=_THERE, replaced=tuple(there))
    left, parts, kept = None, _NO_PARTS, {}
    if keep and request.resume and identity is not None and named.batch.spec.sum != "exact":
        # Levels between stems are those of the mix, so what was lowered stands for nothing new.
        kept = {stem: standing for stem, standing in equal.items() if standing.record.gain == 1}
        left = named.stems.without_files(kept)
        spec = named.batch.spec
        exact = FORMATS[spec.format].lossless and not spec.video and request.remote is None
        parts = _parts(left, identity, prints, manifest) if exact else {}
    replaced = tuple(stem for stem in there if stem not in kept)
    whys = []
    for stem in replaced:
        standing = found[stem]
        if reason := _why_not_ours(track, standing, identity, named):
            return Decision(track, REFUSE, why=f"'{request.shown(there[stem])}' {reason}")
        assert standing is not None
        whys.append(_why_replaced(standing, identity, prints, stem in equal) if request.resume else _THERE)
    return Decision(
        track,
        REPLACE if replaced else SEPARATE,
        why=next((why for why in whys if why != _IN_PART), whys[0] if whys else ""),
        replaced=replaced,
        stems=left if kept or parts else None,
        parts=parts,
        kept=tuple(kept),
        changed=_changed(track, kept),
    )


def refuse(decisions: Sequence[Decision]) -> None:
    """Raises UsageError if a file stands in the way of this run that must not be replaced."""
    refused = [decision for decision in decisions if decision.action == REFUSE]
    if refused:
        more = f"; so do outputs of {len(refused) - 1} more" if len(refused) > 1 else ""
        raise in_the_way(f"{refused[0].why}{more}. Nothing was separated")


def in_the_way(why: str) -> UsageError:
    """The error of a refusal. why: a sentence without its full stop."""
    return UsageError(
        f"{why}.",
        remedy=f"Choose another folder with {parameter('out')}, other names with "
        f"{parameter('template')}, or replace them with {parameter('force', True)}.",
        code="exists",
    )


def notices(decisions: Sequence[Decision], manifest: Manifest, request: Request) -> list[str]:
    """Sentences about what is replaced, and why; what is kept; and stems that stand where nobody looks now."""
    said = []
    replacing = [decision for decision in decisions if decision.action == REPLACE]
    for why in dict.fromkeys(decision.why for decision in replacing):
        same = [decision for decision in replacing if decision.why == why]
        said.append(f"{_count(same, 'was', 'tracks were')} {why}: {_replaced(same)}.")
    if kept := [decision for decision in decisions if decision.kept and decision.action in (SEPARATE, REPLACE)]:
        stems = dict.fromkeys(stem for decision in kept for stem in decision.kept)
        said.append(
            f"{_count(kept, 'has', 'tracks have')} {', '.join(stems)} already, made with these "
            "settings: only what is missing is made."
        )
    if changed := [path for decision in decisions for path in decision.changed]:
        one = len(changed) == 1
        first = request.shown(changed[0])
        which = f"'{first}' was" if one else f"'{first}' and {len(changed) - 1} more were"
        said.append(
            f"{which} changed after sepcli made {'it' if one else 'them'}, and will stay so; with "
            f"{parameter('force', True)} all is made again."
        )
    if (old := _old_layout(decisions, manifest, request)) is not None:
        said.append(old)
    return said


def _count(decisions: Sequence[Decision], one: str, several: str) -> str:
    """The track by its name, or how many there are, with the verb."""
    if len(decisions) == 1:
        return f"{decisions[0].track.source.name} {one}"
    return f"{len(decisions)} {several}"


def _replaced(decisions: Sequence[Decision]) -> str:
    """The stems that are replaced, with their verb."""
    stems = dict.fromkeys(stem for decision in decisions for stem in decision.replaced)
    return f"{', '.join(stems)} {'is' if len(stems) == len(decisions) == 1 else 'are'} replaced"


def _old_layout(decisions: Sequence[Decision], manifest: Manifest, request: Request) -> str | None:
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
        f"'{request.where}' stay there; {parameter('template', OLD_TEMPLATE)} goes on using these names."
    )


def _in_old_layout(path: Path, manifest: Manifest) -> bool:
    """Whether the stem stands, and is recorded, without its first folder."""
    _, *rest = path.relative_to(manifest.folder).parts
    old = manifest.folder.joinpath(*rest)
    return len(rest) > 1 and manifest.record_of(old) is not None and manifest.there(old)


def identify(track: Track, manifest: Manifest, sha256: str | None = None) -> InputId:
    """Identify the track's input by its content. What came through a pipe has no date.

    sha256: of what is at an address, where somebody has read it already. OSError where it can't be read.
    """
    if (remote := track.source.remote) is not None:

        def hashed() -> str:
            return sha256 or (remote.sha256() if track.file is None else content_sha256(track.file))

        return manifest.identify_as(remote.url, remote.size, remote.stamp, hashed)
    assert track.file is not None, "copy a pipe to a file first"
    if not track.source.once:
        return manifest.identify(track.file)
    return InputId(track.source.name, track.file.stat().st_size, 0, content_sha256(track.file))


def query_ids(named: Named) -> dict[str, QueryId]:
    """The identity of each query, by the stem that it asks for."""
    return {query.name: query.identity for query in named.batch.queries}


# --- what stands ---


def _identity(track: Track, manifest: Manifest) -> InputId | None:
    """The input by its content; None where it can't be read: it fails with its reason when its turn comes.

    It is hashed at most once, and not at all while its size and date are as recorded.
    """
    try:
        return identify(track, manifest)
    except (OSError, InputError):
        return None


def _is_equal(stem: str, standing: Standing, identity: InputId, prints: Fingerprint) -> bool:
    """Whether the file is, or was before somebody changed it, what this run would make."""
    return standing.output.made == prints.files[stem] and standing.record.input.sha256 == identity.sha256


def _changed(track: Track, standing: Mapping[str, Standing]) -> tuple[Path, ...]:
    """The files of another size than recorded. (A copied folder has other dates.)"""
    return tuple(track.outputs[stem] for stem, each in standing.items() if not each.same_size)


def _parts(left: Stems, identity: InputId, prints: Fingerprint, manifest: Manifest) -> dict[str, Path]:
    """The files of all stems that submixes need, if these alone are left to make and the files stand.

    A gain above 1 would bring out what a file has lost by rounding.
    """
    gains = [gain for submix in left.submixes for gain in submix.stems.values()]
    if left.written or max(map(abs, gains), default=0.0) > 1:
        return {}
    parts = {stem: manifest.made(prints.files[stem], identity.sha256) for stem in left.targets}
    found = {stem: path for stem, path in parts.items() if path is not None}
    return found if len(found) == len(parts) else {}


def parts_stand(decision: Decision, identity: InputId, prints: Fingerprint, manifest: Manifest) -> bool:
    """Whether the files of which submixes were made are still what they were."""
    manifest.refresh()
    return all(
        manifest.made(prints.files[stem], identity.sha256) == path for stem, path in decision.parts.items()
    )


def _why_not_ours(track: Track, standing: Standing | None, identity: InputId | None, named: Named) -> str:
    """Why a file that is there must stay; "" where this run may replace it."""
    if standing is None:
        return "exists, and sepcli did not make it"
    record = standing.record
    same_file = not track.source.once and record.input.path == track.source.absolute
    if not same_file and (identity is None or record.input.sha256 != identity.sha256):
        return f"was made from another input ('{record.input.path}')"
    for stem, ours in query_ids(named).items():
        theirs = record.queries.get(stem)
        if theirs is not None and ours.path != theirs.path and ours.sha256 != theirs.sha256:
            return f"was made with another query '{stem}' ('{theirs.path}')"
    if not standing.untouched:
        return "was changed after sepcli made it"
    return ""


def _why_replaced(standing: Standing, identity: InputId | None, prints: Fingerprint, equal: bool) -> str:
    """Why a file of ours is replaced, to follow "song.wav was"."""
    record = standing.record
    if equal:
        return _IN_PART if record.gain == 1 else "lowered together with other stems"
    if identity is None or record.input.sha256 != identity.sha256:
        return "separated from an earlier version of its input"
    if not record.made_with:
        return "separated with settings that the manifest does not name"
    if _engine(record) != ENGINE_VERSION:
        return "separated by another version of the engine, which may have given other samples"
    differing = _differing(record, prints)
    return f"separated with other settings ({', '.join(differing)})" if differing else "separated differently"


def _differing(record: Record, prints: Fingerprint) -> list[str]:
    """The settings that differ, leaving out those that follow from others."""
    ours = json.loads(json.dumps(prints.made_with, default=str))  # as it comes back from JSON
    both = dict.fromkeys([*ours, *record.made_with])
    names = [name for name in both if name not in _NO_SETTINGS and ours.get(name) != record.made_with.get(name)]
    for first, others in _IMPLIED.items():
        if first in names:
            names = [name for name in names if name not in others]
    own = [name for name in names if name not in _BY_STEMS]
    return own or names


def _engine(record: Record) -> int:
    """The version of the engine that made it; 0 for a manifest that says none."""
    return record.made_with.get("engine", 0)
