"""What is to be evaluated: a request, and the runs of models that it stands for. Opens no file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepcli.errors import UsageError, parameter
from sepcli.evaluation.scoring import PSEUDO_MODELS
from sepcli.metrics.summary import PROTOCOLS
from sepcli.metrics.windows import RULES, WindowRule

PUBLISHED_OVERLAP = None  # an overlap that is taken from the catalogue's `published_overlap`, else the default
VOICES = ("vocals",)  # the stems that are measured as voices where no target is named


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate, and how. UsageError for a duration that can't be."""

    models: tuple[str, ...]  # as for `separate`, or pseudo-models; "A,B,C" are several runs of one model
    data: Path  # the folder of tracks
    layout: str = "auto"  # of data (data/layouts.py)
    targets: tuple[str, ...] = ()  # only these stems; () = all that a model has
    protocols: tuple[
        str, ...
    ] = ()  # names in summary.PROTOCOLS; they matter here where they need extra metrics
    extra: bool = False  # ISR, SIR and SAR too
    zero_mean: bool = False  # remove each signal's mean before an SI-SDR
    duration: float | None = None  # seconds from each track's beginning; None: all of it
    device: str = "auto"
    precision: str = "auto"
    overlap: float | None = PUBLISHED_OVERLAP
    segment: float | None = None  # seconds
    shifts: int = 0
    batch_size: int | None = None
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, str] = field(default_factory=dict)  # `-O key=value`
    sweeps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {option: its values}: a run for each
    jobs: int = 1  # tracks at a time, each in a process
    out: Path | None = None  # the folder in which rows are kept
    resume: bool = True  # use the rows that are there already
    catalogs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.duration is not None and self.duration <= 0:
            raise UsageError(
                f"{parameter('duration', f'{self.duration:g}')} must be more than 0.",
                remedy="Leave it out, or give seconds.",
            )

    @property
    def windows(self) -> tuple[WindowRule, ...]:
        """The rules of windows to score by. All of them if a protocol wants one.

        They cost next to nothing, and the rows then serve the other protocol, too.
        """
        return RULES if any(PROTOCOLS[name].windows for name in self.protocols) else ()

    @property
    def voices(self) -> tuple[str, ...]:
        """The stems that a protocol measures as voices: the targets where some are named, else the vocals."""
        asked = any(PROTOCOLS[name].voice for name in self.protocols)
        return (self.targets or VOICES) if asked else ()

    def narrowed(self) -> EvaluationRequest:
        """The request without the work on stems that no protocol asks for."""
        only = self.protocols and all(PROTOCOLS[name].voice for name in self.protocols)
        return replace(self, targets=self.voices) if only else self


@dataclass(frozen=True)
class Run:
    """One model with one seed and one set of options."""

    model: str  # the group it belongs to: the name in the request, which may stand for several runs
    spec: str  # the model itself
    seed: int = 0
    swept: tuple[tuple[str, str], ...] = ()  # (option, value) of a sweep, also settings of the engine
    options: tuple[tuple[str, str], ...] = ()  # (option, value) of the model itself, the same in all runs

    @property
    def group(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What tells the groups apart: runs of one group are averaged."""
        return self.model, self.swept

    def __str__(self) -> str:
        words = [self.spec, *(f"{key}={value}" for key, value in self.swept)]
        return " ".join(words) + (f" seed {self.seed}" if self.seed else "")


def expand(request: EvaluationRequest) -> list[Run]:
    """The runs that a request stands for; a pseudo-model has one run. UsageError for an unknown oracle."""
    runs = []
    for text in dict.fromkeys(request.models):
        specs = [text] if Path(text).exists() else [spec for spec in text.split(",") if spec]
        for spec in specs:
            if spec in PSEUDO_MODELS:
                runs.append(Run(text, spec))
                continue
            if spec.startswith("oracle:"):
                raise UsageError(
                    f"There is no oracle '{spec}'; there are "
                    f"{', '.join(name for name in PSEUDO_MODELS if name.startswith('oracle:'))}.",
                    remedy="Choose one of these.",
                    code="unknown_model",
                )
            for values in itertools.product(*request.sweeps.values()):
                swept = tuple(zip(request.sweeps, values, strict=True))
                runs += [Run(text, spec, seed, swept, tuple(request.options.items())) for seed in request.seeds]
    if not runs:
        raise UsageError("No model is named.", remedy=f"Give one with {parameter('models')}.")
    return runs
