"""The state of a run in one file. A run that was killed goes on from it, and ends with the same weights.

Knows how tensors and random generators are stored; nothing of what they are for.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch

from sepcli.errors import ModelError, OutputError, SepcliError, first_line, from_os, parameter
from sepcli.system.files import atomic_write


def random_state() -> dict[str, Any]:
    """The state of every random generator that a network may draw from here: torch's, CUDA's, Python's."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": repr(random.getstate())}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators back to what `random_state` gave."""
    import ast

    torch.set_rng_state(state["torch"])
    random.setstate(ast.literal_eval(state["python"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state. At every moment the old file or the new one is there, whole and on the disk.

    OutputError where it can't be written.
    """
    try:
        with atomic_write(path) as beside, open(beside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer on a full disk
        raise cant_write(path, error) from error


def cant_write(path: Path, error: Exception) -> SepcliError:
    """The error of a file of a run that could not be written: what was saved before is still there."""
    problem = from_os(error, path) if isinstance(error, OSError) else None
    if problem is not None and problem.code != "disk_full":
        return problem
    return OutputError(
        problem.message if problem else f"'{path}' can't be written: {first_line(error)}.",
        remedy="Make room and run the same command again: it goes on from the last state.",
        code=problem.code if problem else None,
    )


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Nothing in the file is executed. ModelError where it can't be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"The state of the run '{path}' can't be read: {first_line(error)}.",
            remedy=f"Remove it to begin anew, or begin with the run's model ({parameter('init')}).",
        ) from error
