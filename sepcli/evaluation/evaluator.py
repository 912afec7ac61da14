"""The evaluator: loads the model of a run, and computes the row of a run and a track.

Knows on what the scores of a run depend. How one track is scored is in scoring.py; which tasks there are is
decided by evaluate.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sepcli import loading
from sepcli.data.layouts import StemTrack
from sepcli.engine import ENGINE_VERSION
from sepcli.engine.device import choose_device, choose_precision, told_of_memory
from sepcli.engine.pipeline import Engine, Progress
from sepcli.engine.settings import Settings
from sepcli.errors import InputError, UsageError, missing, parameter
from sepcli.evaluation.rows import DIGITS, Row
from sepcli.evaluation.runs import PUBLISHED_OVERLAP, EvaluationRequest, Run
from sepcli.evaluation.scoring import PSEUDO_MODELS, Estimator, Material, Model, score
from sepcli.weights.catalog import load_catalog

METRICS_VERSION = 2  # raised when scores change their meaning: no row of an earlier version is used again
DEFAULT_OVERLAP = 0.25
SWEPT_SETTINGS = {"overlap": float, "segment": float, "shifts": int}  # of the engine; others are the model's


@dataclass(frozen=True)
class Prepared:
    """A run whose model was loaded once, so that it is known what it makes."""

    run: Run
    sources: tuple[str, ...] | None  # the stems it makes; None: all that a track has
    identity: Mapping[str, Any]  # all that its scores depend on, except the track
    targets: tuple[str, ...] = ()  # the stems that the user wants; () = all
    silent: frozenset[str] = frozenset()  # stems that every track has, as silence where it has no file

    def scored(self, track: StemTrack) -> list[str]:
        """The stems that are scored: the track has them, the model makes them and the user wants them."""
        there = self.silent.union(track.stems)
        made = sorted(there) if self.sources is None else self.sources
        return [name for name in made if name in there and (not self.targets or name in self.targets)]


class EvaluationListener:
    """Is told what happens in an evaluation, in order. This one does nothing; a display overrides it."""

    def notice(self, text: str) -> None:
        """A sentence that the user should see."""

    def downloading(self, name: str) -> AbstractContextManager[Callable[[int, int | None], None] | None]:
        """A context around the loading of a model. It gives a callback: (bytes done, bytes in all or None)."""
        return nullcontext()

    def planned(self, runs: Sequence[Prepared], tracks: Sequence[StemTrack]) -> None:
        """Called once, before the first track, with all runs and tracks."""

    def progress(self, run: Run, track: StemTrack, done: float, total: float | None) -> None:
        """Audio seconds of a track that are done. Called only where one process does all the work."""


@dataclass(frozen=True)
class Task:
    """A run and a track whose row is to be computed."""

    run: Run
    track: StemTrack
    names: tuple[str, ...]  # the stems to score
    blank: Row  # the row without its scores


class Evaluator:
    """Loads models and computes rows. It can be sent to another process (see `without_models`).

    stems: the names of all stems that at least one track has.
    """

    def __init__(self, request: EvaluationRequest, stems: frozenset[str]):
        self.request, self.stems = request, stems
        # The protocols of windows count a stem that a track lacks as silence.
        self.silent = stems if request.windows else frozenset()
        self._loaded: tuple[Any, loading.Loaded] | None = None  # the last model, until an engine takes it
        self._ready: tuple[Run, Estimator] | None = None  # the last run, ready to estimate

    # --- models ---

    def fitted(self, runs: Sequence[Run], listener: EvaluationListener) -> list[Run]:
        """The runs, each with only the options that its model has. Runs that become equal are one.

        An option that no model has stays where it is: loading refuses it and names the options that there are.
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

        return list(
            dict.fromkeys(
                replace(run, options=kept(run, run.options), swept=kept(run, run.swept)) for run in runs
            )
        )

    def prepare(self, run: Run, listener: EvaluationListener) -> Prepared:
        """Load the run's model, once, to learn which stems it makes and what its scores depend on."""
        request = self.request
        how: dict[str, Any] = {
            "version": METRICS_VERSION,
            "extra": request.extra,
            "zero_mean": request.zero_mean,
            "duration": request.duration,
        }
        if request.windows:
            how["windows"] = True
        if request.voices:
            how["voices"] = {"of": list(request.voices), "pesq": missing("pesq") is None}
        if run.spec in PSEUDO_MODELS:
            return Prepared(run, None, {"model": run.spec, **how}, request.targets, self.silent)
        loaded = self._load(run, listener)
        sources = self._wanted(loaded)
        device = choose_device(request.device)
        settings = self._settings(run, loaded)
        identity = {
            "model": loaded.name,
            "engine": ENGINE_VERSION,
            "weights": list(loaded.hashes),
            # The options as given, then what the model says that it uses: some follow from others.
            "options": {**self._options(run), **loaded.model.used()},
            "overlap": settings.overlap,
            "segment": settings.segment,
            "shifts": settings.shifts,
            "seed": run.seed,
            "device": device.type,
            "precision": choose_precision(request.precision, device, loaded.model.half).name,
            **how,
        }
        return Prepared(run, sources, identity, request.targets, self.silent)

    def estimator(self, run: Run) -> Estimator:
        """What makes the run's estimates, ready to work. Only the last run's estimator is kept in memory."""
        if run.spec in PSEUDO_MODELS:
            return PSEUDO_MODELS[run.spec]
        if self._ready is None or self._ready[0] != run:
            self._ready = None  # frees its memory before the next model is loaded
            loaded = self._load(run, EvaluationListener())
            self._loaded = None
            device = choose_device(self.request.device)
            model = loaded.model.select(self._wanted(loaded))
            dtype = choose_precision(self.request.precision, device, model.half).dtype
            self._ready = run, Model(Engine(model, self._settings(run, loaded), device.torch, dtype))
        return self._ready[1]

    def without_models(self) -> Evaluator:
        """A copy without any model, to be sent to another process; this one forgets its models, too."""
        self._loaded = self._ready = None
        return Evaluator(self.request, self.stems)

    def _load(self, run: Run, listener: EvaluationListener) -> loading.Loaded:
        options = self._options(run)
        wanted = (run.spec, tuple(options.items()))
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            with listener.downloading(run.spec) as progress:
                loaded = loading.load_model(
                    run.spec,
                    catalog=load_catalog(self.request.catalogs),
                    options=options,
                    progress=progress,
                    notice=listener.notice,
                )
            self._loaded = wanted, loaded
        return self._loaded[1]

    def _wanted(self, loaded: loading.Loaded) -> tuple[str, ...]:
        """The model's stems that some track has and the user wants: no work is done for others."""
        asked = self.stems.intersection(self.request.targets or self.stems)
        wanted = tuple(name for name in loaded.model.sources if name in asked)
        if not wanted:
            raise UsageError(
                f"'{loaded.name}' makes {', '.join(loaded.model.sources)}; wanted are "
                f"{', '.join(sorted(asked))}.",
                remedy="Choose other data, another model or other targets.",
                code="unknown_stem",
            )
        return wanted

    def _options(self, run: Run) -> dict[str, str]:
        swept = {key: value for key, value in run.swept if key not in SWEPT_SETTINGS}
        return {**dict(run.options), **swept}

    def _settings(self, run: Run, loaded: loading.Loaded) -> Settings:
        request = self.request
        values: dict[str, Any] = {
            "overlap": request.overlap,
            "segment": request.segment,
            "shifts": request.shifts,
        }
        for key, text in run.swept:
            if key in SWEPT_SETTINGS:
                values[key] = _parse(key, text)
        if values["overlap"] is PUBLISHED_OVERLAP:
            published = loaded.entry.published_overlap if loaded.entry else None
            values["overlap"] = DEFAULT_OVERLAP if published is None else published
        return Settings(**values, seed=run.seed, batch_size=request.batch_size)

    # --- tracks ---

    def row(self, task: Task, progress: Progress | None = None) -> Row:
        """The row of a task. What is wrong with a track is in its row; only exhausted memory is raised."""
        began = time.perf_counter()
        try:
            request = self.request
            material = Material(task.track, request.duration, self.silent)
            with told_of_memory(_less_memory()):
                found = score(
                    material,
                    self.estimator(task.run),
                    task.names,
                    extra=request.extra,
                    zero_mean=request.zero_mean,
                    windows=request.windows,
                    voices=request.voices,
                    pesq=missing("pesq") is None,
                    progress=progress,
                )
        except InputError as error:
            return replace(task.blank, status="failed", error=error)
        stems = {
            stem: {
                key: round(value, DIGITS) if math.isfinite(value) else value for key, value in scores.items()
            }
            for stem, scores in found.stems.items()
        }
        return replace(
            task.blank,
            stems=stems,
            frames=found.frames,
            silent_frames=found.silent_frames,
            audio_seconds=material.seconds,
            seconds=time.perf_counter() - began,
        )


def _less_memory() -> str:
    return f"Use a smaller {parameter('batch_size')} or {parameter('segment')}, or fewer {parameter('jobs')}."


def _parse(key: str, text: str) -> float | int:
    """The value of a swept setting of the engine."""
    try:
        return SWEPT_SETTINGS[key](text)
    except ValueError:
        raise UsageError(
            f"{parameter('sweeps')} {key}: '{text}' is not a number that {key} can be.",
            remedy="Give numbers, such as 0 and 1.",
        ) from None
