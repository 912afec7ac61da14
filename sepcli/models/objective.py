"""What training asks of a network at each step: objective(model, batch) -> Loss. The base of every objective.

Knows the contract of separators; nothing of optimisers, data sets, files or families. What an objective needs
from the run that uses it, it declares here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import UsageError
from sepcli.nn.losses import Criterion, Loss

REST = "rest"  # what a mix has besides the stem of a network that makes one only


class Examples(Protocol):
    """What an objective reads of a batch."""

    @property
    def stems(self) -> Tensor:
        """[B, S, C, T + 2 margin] float32; the mix is their sum. With `rest`, S is one more."""
        ...


class Objective:
    """What is learnt. A subclass has `__call__`; whatever else it does not set has no effect.

    A family makes its own from (model, criterion, **options), see `Family.objectives`. Settings of one kind of
    network are checked there; the run's device is not known yet.
    """

    margin: int = 0  # samples of music that it wants before and after each training example
    rest: str | None = None  # name of one more source, the last of `stems`: all that the network does not make
    alone: bool = False  # True: the network's own stems are all that is in a mix, also in validation

    def __call__(self, model: Any, batch: Examples) -> Loss:
        """The loss of one batch. model: the network that it was made for, on the device of the batch."""
        raise NotImplementedError

    def after_step(self, model: Any) -> None:
        """Called after each update of the weights, not after a step that was skipped."""

    def state_dict(self) -> dict[str, Any]:
        """What it keeps from step to step, as torch.save stores it; part of the run's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave, in a run that goes on."""
        assert not state, "an objective that keeps something loads it too"


def rest_of(model: Separator) -> str | None:
    """The `rest` of an objective that mixes the network's own stems: one stem alone would be its own mix."""
    return REST if len(model.sources) == 1 else None


def check_word(name: str, value: str, *allowed: str) -> None:
    """Refuses an option of an objective that is none of the allowed words: UsageError."""
    if value not in allowed:
        raise UsageError(
            f"objective_options.{name} is '{value}', but can be {' or '.join(allowed)}.",
            remedy=f"Correct objective_options.{name}.",
        )


def check_trains(objective: str, model: Separator, *allowed: type) -> None:
    """Refuses a network that the objective of this name can't train: UsageError."""
    if not isinstance(model, allowed):
        raise UsageError(
            f"The objective '{objective}' does not train a {type(model).__name__}.",
            remedy=f"It trains {', '.join(kind.__name__ for kind in allowed)}.",
        )


def check_on_magnitudes(criterion: Criterion) -> None:
    """Refuses a loss with a term that can't compare magnitudes: UsageError."""
    if any(term.kind not in ("l1", "mse") or term.on != "wave" for term in criterion.terms):
        raise UsageError(
            "The loss is on the networks' magnitudes, but one of its terms is made for waveforms.",
            remedy='Use terms of kind "l1" or "mse" as they are, or the objective "separation".',
        )
