"""The tracks of an evaluation in several processes, each with a workshop of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sepcli.system.processes import in_processes

if TYPE_CHECKING:
    from sepcli.evaluation.rows import Row
    from sepcli.evaluation.workshop import Task, Workshop

_workshop: Workshop | None = None  # of a worker process


def rows(workshop: Workshop, tasks: Sequence[Task], jobs: int) -> Iterator[Row]:
    """The tasks' rows, in the order in which they get done; see in_processes."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return in_processes(_row, tasks, jobs, begin=partial(_begin, workshop, threads))


def _begin(workshop: Workshop, threads: int) -> None:
    global _workshop
    import torch

    from sepcli.engine.device import tune_process

    tune_process()
    torch.set_num_threads(threads)
    _workshop = workshop


def _row(task: Task) -> Row:
    assert _workshop is not None
    return _workshop.row(task)
