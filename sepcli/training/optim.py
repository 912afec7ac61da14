"""The optimiser of a run, and how its learning rate moves.

Knows names of parameters and numbers; no data, no files.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sepcli.errors import UsageError
from sepcli.training.config import OptimTable

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


def make_optimiser(model: nn.Module, table: OptimTable) -> torch.optim.Optimizer:
    """An optimiser of all parameters that need gradients.

    A parameter is in the first group whose `match` is a part of its name. UsageError for a group that matches
    none: a typing error would otherwise go unnoticed.
    """
    rest = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]] = []
    for group in table.groups:
        mine = {name: p for name, p in rest.items() if group.match in name}
        if not mine:
            raise UsageError(
                f"[[optim.groups]] match = '{group.match}' matches no parameter.",
                remedy=f"Names begin with {', '.join(sorted({n.split('.')[0] for n in rest}))}.",
            )
        settings = {"lr": group.lr, "weight_decay": group.weight_decay}
        groups.append({"params": list(mine.values()), **{k: v for k, v in settings.items() if v is not None}})
        rest = {name: p for name, p in rest.items() if name not in mine}
    groups.insert(0, {"params": list(rest.values())})
    groups = [group for group in groups if group["params"]]
    optimiser = _OPTIMISERS[table.name](groups, lr=table.lr, betas=table.betas, weight_decay=table.weight_decay)
    for group in optimiser.param_groups:
        group["base_lr"] = group["lr"]
    return optimiser


class Schedule:
    """The factor of the learning rates, step by step: a warmup, then constant, a cosine, or plateaus."""

    def __init__(self, table: OptimTable):
        self.table = table
        self.best: float | None = None
        self.waited = 0  # validations since the best
        self.plateau = 1.0

    def scale(self, step: int, done: float) -> float:
        """The factor of a step. step: counted from 0. done: share of the run that is done, 0 to 1."""
        warm = min(1.0, (step + 1) / self.table.warmup_steps) if self.table.warmup_steps else 1.0
        if self.table.schedule == "cosine":
            cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            return warm * (self.table.final + (1 - self.table.final) * cosine)
        return warm * self.plateau

    def validated(self, score: float) -> None:
        """Take note of a validation. score: higher is better."""
        if self.best is None or score > self.best:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        if self.table.schedule == "plateau" and self.waited > self.table.patience:
            self.plateau *= self.table.factor
            self.waited = 0

    def apply(self, optimiser: torch.optim.Optimizer, step: int, done: float) -> float:
        """Set the learning rates of all groups for a step, and return the first group's, for the log."""
        scale = self.scale(step, done)
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * scale
        return optimiser.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "plateau": self.plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.plateau = state["best"], state["waited"], state["plateau"]
