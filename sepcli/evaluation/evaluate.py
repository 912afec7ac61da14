"""Models and tracks in, scores out: every run of every model on every track, once.

Knows requests, runs and rows; metrics/summary.py takes the averages.

    models x seeds x sweep -> runs;  run x track -> Row (or kept in rows.jsonl);  rows -> summary

All models are loaded once before anything is computed, so that a mistake in the last one shows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sepcli.batch.manifest import settings_hash
from sepcli.data.layouts import Problem, StemTrack, find_tracks
from sepcli.engine.device import tune_process
from sepcli.errors import InputError, SepcliError, UsageError, missing, require
from sepcli.evaluation.evaluator import EvaluationListener, Evaluator, Task
from sepcli.evaluation.rows import Row, RowFile
from sepcli.evaluation.runs import EvaluationRequest, expand
from sepcli.evaluation.workers import carry_out


def evaluate(request: EvaluationRequest, listener: EvaluationListener | None = None) -> Iterator[Row]:
    """Evaluate: yields a Row for every run and track, as each gets done.

    A track that fails has its error in its row. A SepcliError that is raised ends the whole evaluation. Models,
    device, data and folder are checked before the first track.
    """
    listener = listener or EvaluationListener()
    request = request.narrowed()
    if request.voices:
        require("librosa")
        if lacking := missing("pesq"):
            listener.notice(f"PESQ is left out: {lacking}")
    tune_process()
    expanded = expand(request)
    tracks, broken = find_material(request, listener)
    kept = RowFile(request.out) if request.out is not None else None
    evaluator = Evaluator(request, frozenset(stem for track in tracks for stem in track.stems))
    prepared = [evaluator.prepare(run, listener) for run in evaluator.fitted(expanded, listener)]
    listener.planned(prepared, tracks)
    tasks = []
    for each in prepared:
        for track in tracks:
            names = each.scored(track)
            if not names:
                continue
            blank = Row(
                each.run.model,
                each.run.spec,
                each.run.seed,
                dict(each.run.swept),
                track.name,
                "done",
                row_key(each.identity, track, names),
                settings=each.identity,
            )
            known = kept.find(blank.key) if kept is not None and request.resume else None
            if known is not None:
                yield replace(blank, status="kept", **known)
            elif track.name in broken:
                yield replace(blank, status="failed", error=broken[track.name])
            else:
                tasks.append(Task(each.run, track, tuple(names), blank))
    for row in carry_out(evaluator, tasks, request.jobs, listener):
        if kept is not None and row.status == "done":
            kept.add(row)
        yield row


def find_material(
    request: EvaluationRequest, listener: EvaluationListener
) -> tuple[list[StemTrack], dict[str, SepcliError]]:
    """The tracks that can be separated, and {track: its error} of tracks with a file that can't be read.

    InputError where no track is left; UsageError for a stem that no track has.
    """
    problems: list[Problem] = []
    found = find_tracks(request.data, request.layout, problems=problems)
    broken: dict[str, SepcliError] = {
        problem.track: InputError(str(problem), remedy="Replace or remove that file.", code="broken")
        for problem in problems
    }
    tracks = [track for track in found if len(track.stems) > 1 or track.mixture is not None]
    if not tracks:
        raise InputError(
            f"The tracks in '{request.data}' have one stem each and no mixture: there is nothing to separate.",
            remedy="Name a folder of tracks with several stems.",
            code="no_tracks",
        )
    if len(tracks) < len(found):
        listener.notice(f"{len(found) - len(tracks)} tracks of a single stem without a mixture are left out.")
    if unknown := {*request.targets, *request.voices} - {stem for track in tracks for stem in track.stems}:
        there = sorted({stem for track in tracks for stem in track.stems})
        raise UsageError(
            f"No track has the stem {', '.join(sorted(unknown))}; there are {', '.join(there)}.",
            remedy="Choose among these.",
            code="unknown_stem",
        )
    for name, problem in broken.items():
        if name not in {track.name for track in tracks}:
            listener.notice(f"{name} is left out: {problem.message}")
    return tracks, broken


def row_key(identity: Mapping[str, Any], track: StemTrack, names: Sequence[str]) -> str:
    """A hash of all that a row depends on: the run, the stems that are scored, the files by size and date."""
    files = {}
    for name, path in {**track.stems, **({"": track.mixture} if track.mixture else {})}.items():
        status = path.stat()
        files[name] = (path.name, status.st_size, status.st_mtime_ns)
    return settings_hash({**identity, "track": track.name, "files": files, "stems": list(names)})
