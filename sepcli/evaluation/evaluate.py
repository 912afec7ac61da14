"""Models and tracks in, scores out: every run of every model on every track, once.

Knows which runs a request stands for, what a row depends on, and how to share tracks among processes; one
track's work is scoring.py's, what is averaged metrics/summary.py's.

    models x seeds x sweep -> runs;  run x track -> Row (kept, if rows.jsonl has it);   rows -> summary

All models are loaded once before anything is computed, so that a mistake in the last one shows at once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sepcli import loading
from sepcli.catalog import load_catalog
from sepcli.data.layouts import Problem, Track, find_tracks
from sepcli.device import choose_device, choose_precision, is_out_of_memory, tune_process
from sepcli.errors import DeviceError, InputError, SepcliError, UsageError
from sepcli.evaluation.rows import DIGITS, Row, RowFile
from sepcli.evaluation.scoring import PSEUDO_MODELS, Estimator, Material, Model, score
from sepcli.manifest import settings_hash
from sepcli.metrics.summary import PROTOCOLS
from sepcli.metrics.voice import has_pesq, require_pitch
from sepcli.metrics.windows import RULES, WindowRule
from sepcli.pipeline import Engine, Progress, Settings

METRICS_VERSION = 1  # of what rows mean: another number, and none of an earlier evaluation is kept
PUBLISHED_OVERLAP = None  # the catalogue's `published_overlap`, else the default
DEFAULT_OVERLAP = 0.25
VOICES = ("vocals",)
SWEPT_SETTINGS = {"overlap": float, "segment": float, "shifts": int}  # beside the model's own options


@dataclass(frozen=True)
class Request:
    """What to evaluate. models: specs as for `separate --model`, pseudo-models, or several runs "A,B,C"."""

    models: tuple[str, ...]
    data: Path
    layout: str = "auto"
    targets: tuple[str, ...] = ()  # only these stems; () = all that a model has
    protocols: tuple[str, ...] = ()  # of summary.PROTOCOLS, where they want more than what is always computed
    extra: bool = False  # ISR, SIR and SAR too
    zero_mean: bool = False  # of the SI-SDRs
    duration: float | None = None  # seconds of each track's beginning
    device: str = "auto"
    precision: str = "auto"
    overlap: float | None = PUBLISHED_OVERLAP
    segment: float | None = None  # seconds
    shifts: int = 0
    batch_size: int | None = None
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, str] = field(default_factory=dict)  # `-O key=value`
    sweeps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jobs: int = 1
    out: Path | None = None  # where rows are kept
    resume: bool = True  # whether those that stand there are good enough
    catalogs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.duration is not None and self.duration <= 0:
            raise UsageError(f"--duration is {self.duration:g}, but must be more than 0.",
                             remedy="Leave it out, or give seconds.")

    @property
    def windows(self) -> tuple[WindowRule, ...]:
        """All rules if a protocol wants one, as they cost next to nothing; so its rows serve the other, too."""
        return RULES if any(PROTOCOLS[name].windows for name in self.protocols) else ()

    @property
    def voices(self) -> tuple[str, ...]:
        """The stems that a protocol measures as voices: those named as targets, else the vocals."""
        asked = any(PROTOCOLS[name].voice for name in self.protocols)
        return (self.targets or VOICES) if asked else ()

    def narrowed(self) -> Request:
        """Without the work on stems that no protocol asks for."""
        only = self.protocols and all(PROTOCOLS[name].voice for name in self.protocols)
        return replace(self, targets=self.voices) if only else self


@dataclass(frozen=True)
class Run:
    """One model with one seed and one set of options. model: the group that it is a run of.

    options: of the model itself, as given with -O. swept: what varies, settings of the engine among it.
    """

    model: str
    spec: str
    seed: int = 0
    swept: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @property
    def group(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Runs that are averaged share it."""
        return self.model, self.swept

    def __str__(self) -> str:
        words = [self.spec, *(f"{key}={value}" for key, value in self.swept)]
        return " ".join(words) + (f" seed {self.seed}" if self.seed else "")


@dataclass(frozen=True)
class Prepared:
    """A run whose model has been looked at. identity: what its scores depend on, but for the track."""

    run: Run
    sources: tuple[str, ...] | None  # None: all that a track has
    identity: Mapping[str, Any]
    targets: tuple[str, ...] = ()  # that the user wants; () = all
    silent: frozenset[str] = frozenset()  # stems that every track has, if need be as silence

    def scored(self, track: Track) -> list[str]:
        """The stems that this track has, the model makes and the user wants."""
        there = self.silent.union(track.stems)
        made = sorted(there) if self.sources is None else self.sources
        return [name for name in made if name in there and (not self.targets or name in self.targets)]


class Listener:
    """Hears what happens, in order; this one does nothing."""

    def notice(self, text: str) -> None:
        """A sentence the user should see."""

    def downloading(self, name: str) -> AbstractContextManager[Callable[[int, int | None], None] | None]:
        """Around the loading of a model; gives the callback(bytes done, in all or None)."""
        return nullcontext()

    def planned(self, runs: Sequence[Prepared], tracks: Sequence[Track]) -> None:
        """What will be done."""

    def progress(self, run: Run, track: Track, done: float, total: float | None) -> None:
        """Audio seconds of a track; only where one process does all."""


def expand(request: Request) -> list[Run]:
    """The runs that a request stands for; pseudo-models have one each. UsageError for what can't be."""
    runs = []
    for text in dict.fromkeys(request.models):
        specs = [text] if Path(text).exists() else [spec for spec in text.split(",") if spec]
        for spec in specs:
            if spec in PSEUDO_MODELS:
                runs.append(Run(text, spec))
                continue
            if spec.startswith("oracle:"):
                raise UsageError(f"There is no oracle '{spec}'; there are "
                                 f"{', '.join(name for name in PSEUDO_MODELS if name.startswith('oracle:'))}.",
                                 remedy="Choose one of these.", code="unknown_model")
            for values in itertools.product(*request.sweeps.values()):
                swept = tuple(zip(request.sweeps, values, strict=True))
                runs += [Run(text, spec, seed, swept, tuple(request.options.items())) for seed in request.seeds]
    if not runs:
        raise UsageError("No model is named.", remedy="Give one with --model.")
    return runs


def evaluate(request: Request, listener: Listener | None = None) -> Iterator[Row]:
    """A Row for every run and track, as they get done. A SepcliError out of it is the whole evaluation's.

    What can be known before the first track is checked before it: models, device, data, folder.
    """
    listener = listener or Listener()
    request = request.narrowed()
    if request.voices:
        require_pitch()
        if not has_pesq():
            listener.notice("PESQ is left out: the package is not installed (pip install 'sepcli[pesq]').")
    tune_process()
    expanded = expand(request)
    tracks, broken = find_material(request, listener)
    kept = RowFile(request.out) if request.out is not None else None
    workshop = Workshop(request, frozenset(stem for track in tracks for stem in track.stems))
    prepared = [workshop.prepare(run, listener) for run in workshop.fitted(expanded, listener)]
    listener.planned(prepared, tracks)
    tasks = []
    for each in prepared:
        for track in tracks:
            names = each.scored(track)
            if not names:
                continue
            blank = Row(each.run.model, each.run.spec, each.run.seed, dict(each.run.swept), track.name, "done",
                        row_key(each.identity, track, names), settings=each.identity)
            known = kept.find(blank.key) if kept is not None and request.resume else None
            if known is not None:
                yield replace(blank, status="kept", **known)
            elif track.name in broken:
                yield replace(blank, status="failed", error=broken[track.name])
            else:
                tasks.append(Task(each.run, track, tuple(names), blank))
    for row in workshop.carry_out(tasks, listener):
        if kept is not None and row.status == "done":
            kept.add(row)
        yield row


def find_material(request: Request, listener: Listener) -> tuple[list[Track], dict[str, SepcliError]]:
    """The tracks that can be taken apart, and why some of them can't be read.

    InputError where there are none.
    """
    problems: list[Problem] = []
    found = find_tracks(request.data, request.layout, problems=problems)
    broken: dict[str, SepcliError] = {
        problem.track: InputError(str(problem), remedy="Replace or remove that file.", code="broken")
        for problem in problems}
    tracks = [track for track in found if len(track.stems) > 1 or track.mixture is not None]
    if not tracks:
        raise InputError(
            f"The tracks in '{request.data}' have one stem each and no mixture: there is nothing to separate.",
            remedy="Name a folder of tracks with several stems.", code="no_tracks")
    if len(tracks) < len(found):
        listener.notice(f"{len(found) - len(tracks)} tracks of a single stem without a mixture are left out.")
    if unknown := {*request.targets, *request.voices} - {stem for track in tracks for stem in track.stems}:
        there = sorted({stem for track in tracks for stem in track.stems})
        raise UsageError(f"No track has the stem {', '.join(sorted(unknown))}; there are {', '.join(there)}.",
                         remedy="Choose among these.", code="unknown_stem")
    for name, problem in broken.items():
        if name not in {track.name for track in tracks}:
            listener.notice(f"{name} is left out: {problem.message}")
    return tracks, broken


def row_key(identity: Mapping[str, Any], track: Track, names: Sequence[str]) -> str:
    """A hash of what a row depends on: the run, the stems that are scored, the files by size and date."""
    files = {}
    for name, path in {**track.stems, **({"": track.mixture} if track.mixture else {})}.items():
        status = path.stat()
        files[name] = (path.name, status.st_size, status.st_mtime_ns)
    return settings_hash({**identity, "track": track.name, "files": files, "stems": list(names)})


@dataclass(frozen=True)
class Task:
    run: Run
    track: Track
    names: tuple[str, ...]
    blank: Row


class Workshop:
    """Makes estimators of runs and rows of tasks, in this process or in others. there: stems of any track."""

    def __init__(self, request: Request, there: frozenset[str]):
        self.request, self.there = request, there
        # Protocols of windows count a stem that a track lacks as silence.
        self.silent = there if request.windows else frozenset()
        self._loaded: tuple[Any, loading.Loaded] | None = None  # one that no engine has had yet
        self._ready: tuple[Run, Estimator] | None = None

    # --- models ---

    def fitted(self, runs: Sequence[Run], listener: Listener) -> list[Run]:
        """The runs, each with only those options that its model has; those that become the same are one.

        An option that no model has stays: loading refuses it and says what there is.
        """
        wanted = {name for run in runs for name, _ in [*run.options, *run.swept] if name not in SWEPT_SETTINGS}
        specs = dict.fromkeys(run.spec for run in runs if run.spec not in PSEUDO_MODELS)
        if not wanted or len(specs) < 2:
            return list(runs)
        has = {spec: wanted & {*self._load(Run(spec, spec), listener).model.used()} for spec in specs}
        nobodys = wanted.difference(*has.values())

        def kept(run: Run, options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
            allowed = {*SWEPT_SETTINGS, *nobodys, *has.get(run.spec, ())}
            return tuple((name, text) for name, text in options if name in allowed)

        return list(dict.fromkeys(
            replace(run, options=kept(run, run.options), swept=kept(run, run.swept)) for run in runs))

    def prepare(self, run: Run, listener: Listener) -> Prepared:
        """Load the run's model, once, to learn what it makes and what it is."""
        request = self.request
        how: dict[str, Any] = {"version": METRICS_VERSION, "extra": request.extra,
                               "zero_mean": request.zero_mean, "duration": request.duration}
        if request.windows:
            how["windows"] = True
        if request.voices:
            how["voices"] = {"of": list(request.voices), "pesq": has_pesq()}
        if run.spec in PSEUDO_MODELS:
            return Prepared(run, None, {"model": run.spec, **how}, request.targets, self.silent)
        loaded = self._load(run, listener)
        sources = self._wanted(loaded)
        device = choose_device(request.device)
        settings = self._settings(run, loaded)
        identity = {
            "model": loaded.name, "weights": list(loaded.hashes),
            # With those that follow from others, as the model says; what it doesn't tell is as it was given.
            "options": {**self._options(run), **loaded.model.used()},
            "overlap": settings.overlap, "segment": settings.segment, "shifts": settings.shifts,
            "seed": run.seed, "device": device.torch.type,
            "precision": choose_precision(request.precision, device.torch, loaded.model.half).name, **how}
        return Prepared(run, sources, identity, request.targets, self.silent)

    def estimator(self, run: Run) -> Estimator:
        """The run's, made ready; that of the last run is kept."""
        if run.spec in PSEUDO_MODELS:
            return PSEUDO_MODELS[run.spec]
        if self._ready is None or self._ready[0] != run:
            self._ready = None  # its memory first
            loaded = self._load(run, Listener())
            self._loaded = None
            device = choose_device(self.request.device).torch
            model = loaded.model.select(self._wanted(loaded))
            dtype = choose_precision(self.request.precision, device, model.half).dtype
            self._ready = run, Model(Engine(model, self._settings(run, loaded), device, dtype))
        return self._ready[1]

    def _load(self, run: Run, listener: Listener) -> loading.Loaded:
        options = self._options(run)
        wanted = (run.spec, tuple(options.items()))
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            with listener.downloading(run.spec) as progress:
                loaded = loading.load_model(
                    run.spec, catalog=load_catalog(self.request.catalogs), options=options, progress=progress,
                    notice=listener.notice)
            self._loaded = wanted, loaded
        return self._loaded[1]

    def _wanted(self, loaded: loading.Loaded) -> tuple[str, ...]:
        """The model's stems that some track has and the user wants: no work is done for others."""
        there = self.there.intersection(self.request.targets or self.there)
        wanted = tuple(name for name in loaded.model.sources if name in there)
        if not wanted:
            raise UsageError(
                f"'{loaded.name}' makes {', '.join(loaded.model.sources)}; wanted are "
                f"{', '.join(sorted(there))}.", remedy="Choose other data, another model or other targets.",
                code="unknown_stem")
        return wanted

    def _options(self, run: Run) -> dict[str, str]:
        swept = {key: value for key, value in run.swept if key not in SWEPT_SETTINGS}
        return {**dict(run.options), **swept}

    def _settings(self, run: Run, loaded: loading.Loaded) -> Settings:
        request = self.request
        values: dict[str, Any] = {"overlap": request.overlap, "segment": request.segment,
                                  "shifts": request.shifts}
        for key, text in run.swept:
            if key in SWEPT_SETTINGS:
                values[key] = _parse(key, text)
        if values["overlap"] is PUBLISHED_OVERLAP:
            published = loaded.entry.published_overlap if loaded.entry else None
            values["overlap"] = DEFAULT_OVERLAP if published is None else published
        return Settings(**values, seed=run.seed, batch_size=request.batch_size)

    # --- tracks ---

    def carry_out(self, tasks: Sequence[Task], listener: Listener) -> Iterator[Row]:
        """The tasks' rows, as they get done."""
        jobs = min(self.request.jobs, len(tasks))
        if jobs > 1:
            from sepcli.evaluation.workers import in_processes

            self._loaded = None
            yield from in_processes(Workshop(self.request, self.there), tasks, jobs)
            return
        for task in tasks:
            yield self.row(task, lambda done, total, at=task: listener.progress(at.run, at.track, done, total))

    def row(self, task: Task, progress: Progress | None = None) -> Row:
        """Whatever happens to one track is in its row; only an exhausted device is the run's failure."""
        began = time.perf_counter()
        try:
            request = self.request
            material = Material(task.track, request.duration, self.silent)
            found = score(material, self.estimator(task.run), task.names, extra=request.extra,
                          zero_mean=request.zero_mean, windows=request.windows, voices=request.voices,
                          pesq=has_pesq(), progress=progress)
        except InputError as error:
            return replace(task.blank, status="failed", error=error)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, SepcliError) or not is_out_of_memory(error):
                raise
            raise DeviceError("Memory ran out.", code="out_of_memory",
                              remedy="Use a smaller --batch-size or --segment, or fewer --jobs.") from error
        stems = {stem: {key: round(value, DIGITS) if math.isfinite(value) else value
                        for key, value in scores.items()} for stem, scores in found.stems.items()}
        return replace(task.blank, stems=stems, frames=found.frames, silent_frames=found.silent_frames,
                       audio_seconds=material.seconds, seconds=time.perf_counter() - began)


def _parse(key: str, text: str) -> float | int:
    try:
        return SWEPT_SETTINGS[key](text)
    except ValueError:
        raise UsageError(f"--sweep {key}: '{text}' is not a number that {key} can be.",
                         remedy=f"Give numbers, as in --sweep {key}=0,1.") from None
