"""From settings to the parts of a run: the network, its data, its objective, its validation.

Knows how the parts fit together; trains nothing and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sepcli.data.augment import from_config
from sepcli.data.layouts import StemTrack, find_tracks
from sepcli.data.mixing import Batches, DataSource
from sepcli.engine.separator import Separator
from sepcli.errors import UsageError, parameter
from sepcli.evaluation.validation import mean_scores
from sepcli.models.config import make_config
from sepcli.models.family import Arch, get_family
from sepcli.models.objective import Objective
from sepcli.nn.losses import Criterion
from sepcli.training.config import VALID_METRICS, ModelTable, TrainConfig
from sepcli.training.distributed import Team
from sepcli.training.objectives import choose_objective


@dataclass(frozen=True)
class Network:
    """The network that is trained, and what its checkpoint is to say of it."""

    model: Separator
    arch: Arch
    config: Any


def make_network(table: ModelTable) -> Network:
    """A network with fresh weights. UsageError where the settings name none, or one that can't be built."""
    if not table.family or not table.arch:
        raise UsageError(
            "[model] names no family and arch.",
            remedy=f"Choose a preset ({parameter('preset')}), or set model.family.",
        )
    family = get_family(table.family)
    if table.arch not in family.archs:
        raise UsageError(
            f"The family '{table.family}' has no network '{table.arch}'.",
            remedy=f"It has {', '.join(family.archs)}.",
        )
    arch = family.archs[table.arch]
    unknown = sorted(set(table.config) - {field.name for field in fields(arch.config)})
    if unknown:
        raise UsageError(
            f"{arch.name} has no setting {', '.join(unknown)} in [model.config].",
            remedy=f"It has {', '.join(field.name for field in fields(arch.config))}.",
        )
    config = make_config(arch, table.config)
    try:
        model = arch.build(config)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{arch.name} can't be built from [model.config]: {error}.", remedy="Correct it."
        ) from None
    return Network(model, arch, config)


def example_samples(model: Separator, seconds: float, margin: int = 0) -> int:
    """Samples of a training example: as many as the settings ask for and the network's segment allows.

    margin: samples that the objective wants in addition, at each end.
    """
    segment = model.segment
    if segment.exact:
        assert segment.samples is not None
        return segment.samples + 2 * margin
    samples = round(seconds * model.samplerate)
    return max(segment.multiple, samples // segment.multiple * segment.multiple) + 2 * margin


def make_batches(
    config: TrainConfig, model: Separator, train: Sequence[DataSource], team: Team, objective: Objective
) -> Batches:
    """The batches of this process, as the settings, the network and its objective want them."""
    return Batches(
        train,
        sources=model.sources,
        samplerate=model.samplerate,
        channels=model.channels,
        samples=example_samples(model, config.data.segment, objective.margin),
        batch_size=config.run.batch_size,
        seed=config.run.seed,
        aligned=config.data.aligned,
        skip_silent=config.data.skip_silent,
        rest=objective.rest,
        examples=config.data.examples,
        augment=[augmentation(table) for table in config.augment],
        rank=team.rank,
        world=team.world,
        steps_per_epoch=config.run.steps_per_epoch,
    )


def augmentation(table: Mapping[str, Any]) -> Any:
    """The augmentation that one table [[augment]] describes."""
    if "kind" not in table:
        raise UsageError("A table [[augment]] has no kind.", remedy='For example kind = "Gain".')
    return from_config(table["kind"], {name: value for name, value in table.items() if name != "kind"})


def make_objective(config: TrainConfig, model: Separator) -> Objective:
    """The objective that the settings name, with weights of stems in the network's order."""
    unknown = sorted(set(config.loss.source_weights) - set(model.sources))
    if unknown:
        raise UsageError(
            f"[loss.source_weights] names {', '.join(unknown)}, which the network does not make.",
            remedy=f"Its sources are {', '.join(model.sources)}.",
        )
    weights = [config.loss.source_weights.get(name, 1.0) for name in model.sources]
    criterion = Criterion(config.loss.terms, weights)
    return choose_objective(
        config.objective, config.objective_options, get_family(config.model.family), model, criterion
    )


# --- validation --------------------------------------------------------------------------------------------


def split(config: TrainConfig, alone: Sequence[str] = ()) -> tuple[list[DataSource], list[StemTrack]]:
    """The data to train on, and the tracks to validate on.

    alone: stems that are all there is in a mix (`Objective.alone`): validation tracks then have no others, and
    no mixture but their sum.

    Without validation data a share of the training tracks is held out: the tracks whose names have the smallest
    hashes, so that they are the same on every machine and in every session. Tracks that lack a source are used
    too: each source is scored on the tracks that have it.
    """
    if config.data.valid:
        return list(config.data.train), [
            track for source in config.data.valid for track in _tracks(source, alone)
        ]
    train, valid = [], []
    for source in config.data.train:
        tracks = [track for track in _tracks(source, alone) if alone or len(track.stems) > 1 or track.mixture]
        count = min(len(tracks) - 1, round(config.data.holdout * len(tracks))) if len(tracks) > 1 else 0
        count = max(count, 1) if config.data.holdout > 0 and len(tracks) >= 5 else max(count, 0)
        held = sorted(tracks, key=lambda track: hashlib.sha256(track.name.encode()).digest())[:count]
        valid += held
        train.append(replace(source, exclude=(*source.exclude, *(track.name for track in held))))
    return train, valid


def _tracks(source: DataSource, alone: Sequence[str]) -> list[StemTrack]:
    """The tracks of a data source, with the stems that it allows, under the names that it gives them."""
    found = []
    for track in find_tracks(source.path, source.layout):
        named = [
            (source.rename.get(name, name), path)
            for name, path in track.stems.items()
            if not source.stems or name in source.stems
        ]
        names = [name for name, _ in named]
        # Stems that are added up under one name can't be scored: a track's stem is one file.
        stems = {name: path for name, path in named if names.count(name) == 1}
        if alone:
            stems = {name: path for name, path in stems.items() if name in alone}
            track = replace(track, mixture=None)
        if stems and track.name not in source.exclude:
            found.append(replace(track, stems=stems))
    return found


def make_validation(
    tracks: Sequence[StemTrack], config: TrainConfig, model: Separator, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """A function: model -> {source: score, "score": mean of the sources that count in the loss}.

    None where no track has a stem of the network's. Higher is better: where run.valid_metric measures an error,
    the scores are minus that error.
    """
    if not any(set(track.stems) & set(model.sources) for track in tracks):
        return None
    weighted = [name for name in model.sources if config.loss.source_weights.get(name, 1.0) > 0]
    limit = config.run.valid_seconds or None

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Separator)
        metric = config.run.valid_metric
        scores = mean_scores(network, tracks, device, torch.float32, limit, metric=metric)
        scores = {name: VALID_METRICS[metric].sign * value for name, value in scores.items()}
        counted = [scores[name] for name in weighted if name in scores]
        return {**scores, "score": float(np.mean(counted or [0.0]))}

    return validate
