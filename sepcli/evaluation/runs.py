"""What is to be evaluated: a request, and the runs of models that it stands for. Opens nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepcli.errors import UsageError
from sepcli.evaluation.scoring import PSEUDO_MODELS
from sepcli.metrics.summary import PROTOCOLS
from sepcli.metrics.windows import RULES, WindowRule

PUBLISHED_OVERLAP = None  # the catalogue's `published_overlap`, else the default
VOICES = ("vocals",)


@dataclass(frozen=True)
class EvaluationRequest:
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
            raise UsageError(
                f"--duration is {self.duration:g}, but must be more than 0.",
                remedy="Leave it out, or give seconds.",
            )

    @property
    def windows(self) -> tuple[WindowRule, ...]:
        """All rules if a protocol wants one, as they cost next to nothing; so its rows serve the other, too."""
        return RULES if any(PROTOCOLS[name].windows for name in self.protocols) else ()

    @property
    def voices(self) -> tuple[str, ...]:
        """The stems that a protocol measures as voices: those named as targets, else the vocals."""
        asked = any(PROTOCOLS[name].voice for name in self.protocols)
        return (self.targets or VOICES) if asked else ()

    def narrowed(self) -> EvaluationRequest:
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


def expand(request: EvaluationRequest) -> list[Run]:
    """The runs that a request stands for; pseudo-models have one each. UsageError for what can't be."""
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
        raise UsageError("No model is named.", remedy="Give one with --model.")
    return runs
