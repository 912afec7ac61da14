"""A Ray cluster: connected with, or started, and what its nodes have room for.

Knows Ray, and nothing of tracks or models; what runs on the nodes is actor.py's.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sepcli.errors import DeviceError, UsageError, first_line, parameter

LOCAL = "local"  # a cluster of this machine, for this run only
REACH_SECONDS = 10.0  # for the cluster to answer
_STORE_BYTES = 100 << 20  # of shared memory, which Ray wants, and which Works hardly use
_NICENESS = "RAY_worker_niceness"  # as Ray spells it


@dataclass(frozen=True)
class Node:
    """A node that is alive, and what of it Ray may hand out."""

    id: str
    cores: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0  # bytes; 0 where it is not told

    def room(self, on_gpu: bool, threads: int, memory: int) -> int:
        """How many workers of so many threads and bytes it can have, if nothing else runs there.

        memory: 0 where nobody knows. One is tried even where it is said to need more than there is.
        """
        room = int(self.cores) // threads
        if on_gpu:
            room = min(room, int(self.gpus))
        if memory and self.memory:
            room = min(room, max(1, int(self.memory // memory)))
        return room


def nodes() -> list[Node]:
    """Those of the cluster that are alive."""
    import ray

    found = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Node(id, *(float(has.get(kind, 0)) for kind in ("CPU", "GPU", "memory"))) for id, has in found]


def room(nodes: Sequence[Node], on_gpu: bool, threads: int, memory: int = 0) -> int:
    """How many workers they can have together."""
    return sum(node.room(on_gpu, threads, memory) for node in nodes)


def check(address: str, device: str) -> None:
    """UsageError for what can't be a cluster, or a device of its nodes."""
    if address not in (LOCAL, "auto") and not re.fullmatch(r"[^/\s]+:\d+", address):
        raise UsageError(
            f"{parameter('ray', address)}: this is no Ray cluster; it is local, auto or HOST:PORT.",
            remedy="Give the address that `ray start --head` printed, on a machine that is one of its nodes.",
        )
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"{parameter('device', device)} has no place on a cluster, where Ray gives each worker its GPU.",
            remedy=f"The choices are auto, cpu and cuda with {parameter('ray')}.",
        )


def connect(address: str) -> Any:
    """Connect with the cluster, or start one: the module ray. DeviceError where that fails.

    Ray replaces handlers of signals, which stay ours: a run ends as any other.
    """
    import ray
    import ray.exceptions

    # It prints what it hears of dying nodes on standard output, among the objects of --json. We say it too.
    with suppress(ImportError, AttributeError):
        import ray._private.worker as printing

        printing.print_to_stdstream = lambda *_, **__: None

    own: dict[str, Any] = {}
    if ":" in address:
        _reach(address)  # Ray would try for minutes
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run
        os.environ.setdefault(_NICENESS, "0")  # 15 otherwise: far slower on a busy machine than without Ray
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:
        ray.shutdown()
        raise _unreachable(address, error) from error
    finally:
        if in_main:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ray


def _reach(address: str) -> None:
    """DeviceError where nobody answers there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> DeviceError:
    which = {LOCAL: "Ray can't be started here", "auto": "There is no Ray cluster on this machine"}
    return DeviceError(
        f"{which.get(address, f'The Ray cluster {address} can not be reached')}: {first_line(error)}.",
        remedy="See `ray status` on this machine, which has to be a node of the cluster: `ray start --head` "
        "begins one, `ray start --address HOST:PORT` joins it. If it asks for a token: RAY_AUTH_MODE=token.",
        code="cluster",
    )
