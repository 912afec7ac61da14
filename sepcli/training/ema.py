"""Moving averages of a network's weights.

Knows tensors by name; nothing of files. Bias-corrected: an average of n values weighs them 1, d, d^2, ...,
normalised to 1. So a young average is the plain mean, and is not pulled towards the first weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """One exponential moving average of all parameters and buffers. decay: d of the formula above."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.count = 0.0  # 1 + d + d^2 + ...: the weight of all values seen so far
        self.values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """v <- v + (w - v) / count, with count <- d * count + 1."""
        self.count = self.decay * self.count + 1
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, 1 / self.count)
            else:
                self.values[name].copy_(tensor)

    @contextmanager
    def worn_by(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model has the averaged weights instead of its own."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.values)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "count": self.count, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["decay"] == self.decay
        self.count = state["count"]
        for name, tensor in state["values"].items():
            self.values[name].copy_(tensor)


class Averages:
    """The averages of a run by name ("ema_0.9999", "ema_epoch_0.9"), updated after each step or each epoch."""

    def __init__(self, model: nn.Module, steps: tuple[float, ...], epochs: tuple[float, ...]):
        self.steps = {f"ema_{decay:g}": Average(model, decay) for decay in steps}
        self.epochs = {f"ema_epoch_{decay:g}": Average(model, decay) for decay in epochs}

    def after_step(self, model: nn.Module) -> None:
        for average in self.steps.values():
            average.update(model)

    def after_epoch(self, model: nn.Module) -> None:
        for average in self.epochs.values():
            average.update(model)

    def items(self) -> Iterator[tuple[str, Average]]:
        """(name, average) of all that were updated at least once."""
        for name, average in {**self.steps, **self.epochs}.items():
            if average.count:
                yield name, average

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: average.state_dict() for name, average in {**self.steps, **self.epochs}.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, average in {**self.steps, **self.epochs}.items():
            average.load_state_dict(state[name])
