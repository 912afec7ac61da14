"""The tracks of an evaluation in several processes, each with models of its own.

Knows workshop.py as something that turns a task into a row. Processes are spawned, so that this
works with CUDA and on every system; they end with this one, whatever ends it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from sepcli.errors import DeviceError

if TYPE_CHECKING:
    from sepcli.evaluation.rows import Row
    from sepcli.evaluation.workshop import Task, Workshop

_workshop: Workshop | None = None  # of a worker process


def in_processes(workshop: Workshop, tasks: Sequence[Task], jobs: int) -> Iterator[Row]:
    """The tasks' rows, in the order in which they get done. What a task raises ends all.

    DeviceError where a process dies, as it does when the system ends it for its memory.
    """
    before = set(multiprocessing.active_children())
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (workshop, threads))
    try:
        waiting: set[Future[Row]] = {pool.submit(_row, task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise DeviceError("A process of --jobs ended unexpectedly; memory may have run out.",
                          remedy="Use fewer --jobs.", code="out_of_memory") from error
    finally:  # finished, failed, interrupted or given up half-way
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()


def _begin(workshop: Workshop, threads: int) -> None:
    """In a new process: Ctrl-C is the parent's to handle, and without a parent there is nothing to do."""
    global _workshop
    import torch

    from sepcli.device import tune_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    tune_process()
    torch.set_num_threads(threads)
    _workshop = workshop


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _row(task: Task) -> Row:
    assert _workshop is not None
    return _workshop.row(task)
