"""The settings of a training run: a frozen dataclass for each TOML table, presets, overrides, and checks.

Knows no network and reads no data. An unknown key is always an error, which names similar keys: a typing error
must not cost a night.

    preset TOML  ->  merged with a file of the user's, then with KEY=VALUE overrides  ->  TrainConfig
"""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from sepcli.data.mixing import DataSource
from sepcli.errors import UsageError, did_you_mean, from_os, require
from sepcli.nn.losses import Term
from sepcli.system.tables import TableError, read_table


@dataclass(frozen=True)
class ModelTable:
    """[model]: which network, in the words of weights.toml."""

    family: str = ""
    arch: str = ""
    config: dict[str, Any] = field(default_factory=dict)  # differences from the Config's defaults
    base: str | None = None  # the model whose weights its frozen part gets; `train --base`
    teacher: str | None = None  # the model that a student begins as; `distill --teacher`


@dataclass(frozen=True)
class DataTable:
    """[data]: the music to learn from. Sample rate and channels follow from the network."""

    train: tuple[DataSource, ...] = ()  # [[data.train]]; `train --data`
    valid: tuple[DataSource, ...] = ()  # [[data.valid]]; `train --valid`
    holdout: float = 0.1  # share of the training tracks kept for validation where `valid` is empty
    segment: float = 6.0  # seconds of one example
    # Share of examples that are one window of one track, with stems that it lacks from others; in the rest each
    # stem is from another track.
    aligned: float = 0.5
    skip_silent: float = 0.0  # share of silent windows that are drawn again
    examples: int = 0  # number of different examples, which come again and again; 0 = new ones for ever


@dataclass(frozen=True)
class LossTable:
    """[loss]: how far an estimate is from its reference, and how much each stem counts."""

    terms: tuple[Term, ...] = (Term(),)
    source_weights: dict[str, float] = field(default_factory=dict)  # {stem: weight}; 1 for others


@dataclass(frozen=True)
class OptimGroup:
    """[[optim.groups]]: parameters of the network with settings of their own."""

    match: str = ""  # parameters whose name contains this
    lr: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimTable:
    """[optim]: the optimiser, and how its learning rate moves."""

    name: str = "adamw"  # adam | adamw | radam
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0 = no limit
    accumulate: int = 1  # a batch is computed in so many parts: the same gradient, less memory
    groups: tuple[OptimGroup, ...] = ()
    # Batch norms keep their mean and variance: for a trained network that goes on in small batches.
    keep_statistics: bool = False
    schedule: str = "constant"  # constant | cosine | plateau
    warmup_steps: int = 0
    final: float = 0.0  # cosine: the last learning rate, as a share of lr
    factor: float = 0.5  # plateau: by which the learning rate is multiplied after `patience`
    patience: int = 5  # plateau: validations without a better score


@dataclass(frozen=True)
class EmaTable:
    """[ema]: moving averages of the weights. The best weights in validation, raw or averaged, are kept."""

    steps: tuple[float, ...] = ()  # decays of averages that are updated after each step
    epochs: tuple[float, ...] = ()  # decays of averages that are updated after each epoch


@dataclass(frozen=True)
class ValidMetric:
    """What a validation measures."""

    name: str
    unit: str
    sign: int  # -1 for an error: a run's scores are minus that, so that a higher score is always better
    digits: int  # shown after the point


VALID_METRICS = {
    "usdr": ValidMetric("uSDR", "dB", 1, 2),
    "l1": ValidMetric("L1", "", -1, 5),  # the waveform's mean absolute error
    # For networks that draw a stem anew: its waveform differs from the reference, its spectrum need not.
    "lsd": ValidMetric("LSD", "", -1, 3),
}


@dataclass(frozen=True)
class RunTable:
    """[run]: how long the run is, and how it computes."""

    seed: int = 0
    batch_size: int = 8  # examples a step, over all processes
    steps_per_epoch: int = 500  # an epoch ends with a validation
    max_steps: int = 100_000
    max_minutes: float = 0.0  # of training time, over all sessions; 0 = no limit
    precision: str = "float32"  # float32 | bfloat16 | float16, of the network's products (autocast)
    workers: int = 2  # processes that read data; 0 = the training process itself
    save_minutes: float = 5.0  # between two saved states
    max_bad_steps: int = 20  # non-finite losses in a row before the run stops
    valid_metric: str = "usdr"  # which of VALID_METRICS chooses the best weights
    valid_seconds: float = 0.0  # of each validation track; 0 = all of it
    log_steps: int = 50  # between two lines of metrics.jsonl
    store: str = "float32"  # float32 | float16: the type of the weights in model.safetensors


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. UsageError where one can't be."""

    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    augment: tuple[dict[str, Any], ...] = ()  # [[augment]]: kind = "Gain", and its fields; in this order
    loss: LossTable = LossTable()
    optim: OptimTable = OptimTable()
    ema: EmaTable = EmaTable()
    run: RunTable = RunTable()
    objective: str = "separation"  # what is learnt; a family may have more
    objective_options: dict[str, Any] = field(default_factory=dict)
    about: str = ""  # one sentence: what is trained, and where these values are from

    def __post_init__(self) -> None:
        _one_of("optim.name", self.optim.name, ("adam", "adamw", "radam"))
        _one_of("optim.schedule", self.optim.schedule, ("constant", "cosine", "plateau"))
        _one_of("run.precision", self.run.precision, ("float32", "bfloat16", "float16"))
        _one_of("run.valid_metric", self.run.valid_metric, tuple(VALID_METRICS))
        _one_of("run.store", self.run.store, ("float32", "float16"))
        for name, value, least in (
            ("data.segment", self.data.segment, 0.01),
            ("optim.lr", self.optim.lr, 0.0),
            ("optim.accumulate", self.optim.accumulate, 1),
            ("run.batch_size", self.run.batch_size, 1),
            ("run.steps_per_epoch", self.run.steps_per_epoch, 1),
            ("run.max_steps", self.run.max_steps, 1),
            ("run.max_minutes", self.run.max_minutes, 0),
            ("run.workers", self.run.workers, 0),
            ("run.max_bad_steps", self.run.max_bad_steps, 1),
        ):
            if value < least:
                raise UsageError(f"{name} is {value}, but must be {least} or more.", remedy=f"Correct {name}.")
        for name, decay in [(f"ema.{k}", d) for k in ("steps", "epochs") for d in getattr(self.ema, k)]:
            if not 0 < decay < 1:
                raise UsageError(
                    f"{name} has {decay}, but a decay lies between 0 and 1.", remedy=f"Correct {name}."
                )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is '{value}', but can be {', '.join(allowed)}.", remedy=f"Correct {name}.")


# --- from TOML ---------------------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """The names of the presets inside the package, sorted."""
    folder = resources.files("sepcli.training") / "presets"
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """A preset by its name, or a TOML file by its path, as nested tables. UsageError where it can't be read.

    A preset with a `base` holds only the difference from that other preset or file.
    """
    return _read_preset(name, ())


def _read_preset(name: str, above: tuple[str, ...]) -> dict[str, Any]:
    """above: the presets that build on this one, the outermost first."""
    path = Path(name)
    if name.endswith(".toml") and path.exists():
        file = path
    elif name in preset_names():
        file = resources.files("sepcli.training") / "presets" / f"{name}.toml"
    else:
        raise UsageError(
            f"There is no preset '{name}'. {did_you_mean(name, preset_names())}".rstrip(),
            remedy=f"The presets are {', '.join(preset_names())}; or name a TOML file.",
        )
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os(error, name, reading=UsageError) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"The preset '{name}' is not TOML: {error}.", remedy="Correct the file.") from None
    base, chain = tables.pop("base", None), (*above, name)
    if base is None:
        return tables
    if not isinstance(base, str):
        raise UsageError(f"base is {base!r} in the preset '{name}', but must be text.", remedy="Correct base.")
    if base in chain:
        circle = " -> ".join([*chain[chain.index(base) :], base])
        raise UsageError(f"A preset can't build on itself: base leads {circle}.", remedy="Correct base.")
    return merge(_read_preset(base, chain), tables)


def merge(tables: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`tables` with the values of `over`, table by table; lists are replaced as a whole."""
    merged = dict(tables)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """ "optim.lr=1e-3" -> {"optim": {"lr": 0.001}}; values as in TOML, other words as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"'{text}' is not of the form KEY=VALUE.", remedy="For example optim.lr=1e-3.")
    parsed: Any = value
    with contextlib.suppress(tomllib.TOMLDecodeError):
        parsed = tomllib.loads(f"value = {value}")["value"]
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return parsed


def make_train_config(tables: Mapping[str, Any]) -> TrainConfig:
    """Nested tables -> TrainConfig. UsageError for an unknown key (it names similar ones) or a wrong type."""
    try:
        return read_table(TrainConfig, tables)
    except TableError as error:
        raise UsageError(str(error), remedy=error.remedy or f"Correct {error.path}.") from None


def to_toml(tables: Mapping[str, Any]) -> str:
    """Tables as TOML. DeviceError where the package that writes it is missing."""
    require("tomli_w")
    import tomli_w

    return tomli_w.dumps(tables)


def as_tables(config: Any) -> Any:
    """Every field of a config as TOML can hold it; None is left out."""
    if dataclasses.is_dataclass(config):
        values = {f.name: as_tables(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {name: value for name, value in values.items() if value is not None}
    if isinstance(config, Mapping):
        return {key: as_tables(value) for key, value in config.items() if value is not None}
    if isinstance(config, (list, tuple)):
        return [as_tables(value) for value in config]
    return config if isinstance(config, (bool, int, float, str, type(None))) else str(config)
