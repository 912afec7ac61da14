"""What must survive a kill -9: one file, replaced as a whole, from which a run goes on to the bit.

Knows how tensors and generators are stored; nothing of what they are for.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch

from sepcli.errors import ModelError, OutputError, first_line
from sepcli.system.files import atomic_write


def random_state() -> dict[str, Any]:
    """Every generator that a network may draw from in this process: torch's, CUDA's, Python's."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": repr(random.getstate())}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    import ast

    torch.set_rng_state(state["torch"])
    random.setstate(ast.literal_eval(state["python"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """At every moment the old file or the new one stands, and has reached the disk."""
    try:
        with atomic_write(path) as beside, open(beside, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer on a full disk
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OutputError(
            f"The state of the run can't be written to '{path}': {reason}.",
            remedy="Make room and run the same command again: it goes on from the last state.",
        ) from error


def load_state(path: Path) -> dict[str, Any]:
    """What save_state wrote; nothing in the file is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"The state of the run '{path}' can't be read: {first_line(error)}.",
            remedy="Remove it to begin anew, or train from its model with --init.",
        ) from error
