"""Train a model into a folder: what `sepcli train` does, without its display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sepcli.data.mixing import batches_from
from sepcli.engine.device import choose_device, has_bfloat16
from sepcli.errors import Notice, UsageError, missing, parameter, require
from sepcli.training.beginning import begin
from sepcli.training.config import TrainConfig
from sepcli.training.distributed import Team, join_team
from sepcli.training.loop import Best, Trainer, fit
from sepcli.training.run import RunFolder
from sepcli.training.setup import make_batches, make_network, make_objective, make_validation, split


@dataclass(frozen=True)
class Trained:
    """How a run ended."""

    path: Path
    steps: int
    seconds: float  # of training, over all sessions
    bad_steps: int
    best: Best | None


def train(
    config: TrainConfig,
    folder: Path,
    *,
    init: str | None = None,
    device: str = "auto",
    notice: Notice = lambda text: None,
    watch: Callable[[RunFolder, int], None] = lambda run, steps: None,
) -> Trained:
    """Train as long as the settings say; if the folder has a state of this run, go on from it.

    init: a model whose weights to begin with; read only at the very beginning. device: as for `separate`.
    notice: called with sentences for the user. watch: called once before the first step, with the run folder
    (to set its callbacks) and the number of steps done before. Under torchrun this is one of several processes.
    UsageError for settings that are not possible; OutputError where the folder can't be written; ModelError
    where the loss stays infinite.
    """
    if not config.data.train:
        raise UsageError(
            "There is nothing to train on.", remedy=f"Name a folder of stems with {parameter('data')}."
        )
    require("tomli_w")  # the run's config.toml
    place = choose_device(device).torch
    team = join_team(place.type)
    if place.type == "cuda" and team.world > 1:
        place = torch.device("cuda", team.local_rank)
    try:
        return _train(config, folder, init, place, team, notice, watch)
    finally:
        team.leave()


def _train(
    config: TrainConfig,
    folder: Path,
    init: str | None,
    place: torch.device,
    team: Team,
    notice: Notice,
    watch: Callable[[RunFolder, int], None],
) -> Trained:
    """One process of `team`. A function of its own: what it made is gone when the team is left."""
    run: RunFolder | None = None
    try:
        torch.manual_seed(config.run.seed)  # the same fresh weights in every process
        begun = (folder / "state.pt").exists()
        network = make_network(config.model)
        begin(network, config.model, init, notice, going_on=begun)
        objective = make_objective(config, network.model)
        alone = network.model.sources if objective.alone else ()
        train_sources, tracks = split(config, alone)
        config = replace(config, data=replace(config.data, train=tuple(train_sources)))
        batches = make_batches(config, network.model, train_sources, team, objective)
        validate = make_validation(tracks, config, network.model, place)
        for text in (*batches.problems, *network.model.notices(place)):
            notice(text)
        if config.run.precision == "bfloat16" and place.type == "cpu" and not has_bfloat16(place):
            faster = parameter("precision", "float32")
            notice(f"This processor has no products in bfloat16: {faster} is several times as fast.")
        if validate is None:
            notice("There is nothing to validate on, so the last weights are kept, not the best.")
        model = network.model.to(place)
        torch.manual_seed(config.run.seed + team.rank)  # dropout and the like differ between processes
        trainer = Trainer(model, objective, config, place, team)
        run = RunFolder(folder, config, network)
        state = run.open() if team.leads else None
        state = team.from_leader(state)
        if state is not None:
            trainer.load_state_dict(state)
            run.go_on(state)
        if team.leads:
            if lacking := missing("matplotlib"):
                notice(f"The curves are not drawn: {lacking}")
            watch(run, trainer.steps)
        fit(trainer, lambda start, stop: batches_from(batches, start, stop, config.run.workers), validate, run)
        if team.leads:
            run.draw()
        return Trained(folder, trainer.steps, trainer.seconds, trainer.bad_steps, trainer.best)
    finally:
        if run is not None:
            run.close()
