"""Carries out the tasks of an evaluation: one after another here, or several at once in other processes.

Knows the evaluator; nothing of what a task is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from sepcli.engine.device import tune_process
from sepcli.evaluation.evaluator import EvaluationListener, Evaluator, Task
from sepcli.evaluation.rows import Row
from sepcli.system.processes import in_processes

_evaluator: Evaluator | None = None  # of a worker process


def carry_out(
    evaluator: Evaluator, tasks: Sequence[Task], jobs: int, listener: EvaluationListener
) -> Iterator[Row]:
    """The tasks' rows, in the order in which they get done. jobs: tracks at a time, each in a process."""
    jobs = min(jobs, len(tasks))
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        begin = partial(_begin, evaluator.without_models(), threads)
        yield from in_processes(_row, tasks, jobs, begin=begin)
        return
    for task in tasks:
        yield evaluator.row(task, lambda done, total, at=task: listener.progress(at.run, at.track, done, total))


def _begin(evaluator: Evaluator, threads: int) -> None:
    """In a new process, before its first task. threads: of torch, so that the processes share the cores."""
    global _evaluator
    tune_process()
    torch.set_num_threads(threads)
    _evaluator = evaluator


def _row(task: Task) -> Row:
    assert _evaluator is not None
    return _evaluator.row(task)
