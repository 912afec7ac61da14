"""Training in one process or several: which one this is, and what all of them do together.

Knows torch.distributed and its environment variables (set by torchrun), nothing of training. With one process
nothing is initialised, and every function costs nothing.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

PATIENCE = timedelta(hours=6)  # rank 0 validates while the others wait


@dataclass(frozen=True)
class Team:
    """All processes of one run. rank: this process's number; 0 leads: it validates, saves and prints."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # number on this machine: its CUDA device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, wrapped so that its backward pass averages gradients over all processes."""
        if self.world == 1:
            return model
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=False)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes; a NaN in one process is a NaN in all."""
        if self.world > 1:
            distributed.all_reduce(values)
            values = values / self.world
        return values

    def gather(self, thing: Any) -> list[Any]:
        """The things of all processes, in order of rank."""
        if self.world == 1:
            return [thing]
        things: list[Any] = [None] * self.world
        distributed.all_gather_object(things, thing)
        return things

    def from_leader(self, thing: Any) -> Any:
        """The thing of process 0, in all processes."""
        if self.world == 1:
            return thing
        box = [thing]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def leave(self) -> None:
        """End what `join_team` began. Called where nothing is left that `wrap` made: outside its function.

        The group must be gone then, and its threads with it. They need the interpreter's lock for every tensor
        that they let go, and one that asks for it while the interpreter ends aborts the process (SIGABRT,
        "terminate called without an active exception"). What `wrap` made keeps the group.
        """
        if self.world == 1:
            return
        problem = sys.exc_info()[1]
        while problem is not None:  # a traceback keeps the variables of the functions that were left
            traceback.clear_frames(problem.__traceback__)
            problem = problem.__context__
        with suppress(Exception):
            distributed.destroy_process_group()
        gc.collect()  # what only keeps itself


def join_team(device_kind: str) -> Team:
    """The team that torchrun's environment variables describe; without them, this process alone.

    device_kind: with "cuda" processes talk by NCCL, else by gloo.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Team()
    if device_kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # where NCCL puts what is exchanged
    # DistributedDataParallel imports these functions. Their defaults are the group that there is by then, and
    # they would keep it; before it is begun there is none.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if device_kind == "cuda" else "gloo", timeout=PATIENCE)
    return Team(distributed.get_rank(), world, int(os.environ.get("LOCAL_RANK", "0")))
