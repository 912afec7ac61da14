"""Work in several processes: items go in, results come out as they are done. No process outlives this one.

Knows nothing of the work. Processes are spawned, not forked, so that CUDA works in them, on every system.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from typing import TypeVar

from sepcli.errors import DeviceError, Spelling, parameter, spell, spelling
from sepcli.system import HANGUP

Item = TypeVar("Item")
Result = TypeVar("Result")

JOIN_SECONDS = 10.0  # how long processes that were told to end are waited for


def in_processes(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    jobs: int,
    *,
    begin: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """The results of work(item), in the order in which they are done. An exception of `work` ends them all.

    jobs: the number of processes. work, begin: functions that can be pickled. begin: called first in each
    process. Items are taken only when they are needed, two for each process. Closing the iterator ends the
    processes, and waits for their end. DeviceError where a process dies, as when the system takes its memory.
    """
    _start_tracker()
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (begin, spelling()))
    left = iter(items)

    def hand_out(count: int) -> set[Future[Result]]:
        taken = list(islice(left, count))
        with starting():  # the pool starts a process when an item finds none idle
            return {pool.submit(work, item) for item in taken}

    try:
        waiting = hand_out(2 * jobs)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            waiting |= hand_out(len(done))
        pool.shutdown()
    except BrokenProcessPool as error:
        raise DeviceError(
            f"A process of {parameter('jobs')} ended unexpectedly; memory may have run out.",
            remedy=f"Use fewer {parameter('jobs')}.",
            code="out_of_memory",
        ) from error
    finally:  # finished, failed, interrupted or given up half-way
        pool.shutdown(wait=False, cancel_futures=True)
        ours = set(multiprocessing.active_children()) - before
        for process in ours:
            process.terminate()
        # Not join(): while the pool's own thread waits for the same process, join can return before its end.
        deadline = time.monotonic() + JOIN_SECONDS
        while any(process.is_alive() for process in ours) and time.monotonic() < deadline:
            time.sleep(0.01)


@contextmanager
def starting() -> Iterator[None]:
    """For the time in which processes are started: Ctrl-C and SIGHUP are held back, from them for good.

    A new process inherits that, so no signal meets it while it still imports. Here they arrive afterwards.
    """
    if sys.platform == "win32":
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _start_tracker() -> None:
    """Start Python's helper of spawned processes such that a closed terminal leaves it alone."""
    if HANGUP is None or threading.current_thread() is not threading.main_thread():
        return
    former = signal.signal(HANGUP, signal.SIG_IGN)  # which it inherits
    try:
        resource_tracker.ensure_running()
    finally:
        signal.signal(HANGUP, former)


def _begin(begin: Callable[[], object] | None, rule: Spelling) -> None:
    """Prepare a new process: only the parent handles Ctrl-C and SIGHUP, and it ends when the parent is gone."""
    spell(rule)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _leave_with_parent() -> None:
    """Wait for the parent's end, then end this process at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
