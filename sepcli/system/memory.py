"""How much memory this machine still has, and how much this process has had."""

from __future__ import annotations

from pathlib import Path

_MACHINE = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
_GROUP = Path("/sys/fs/cgroup")  # of a container, version 2


def free_memory() -> int | None:
    """The bytes that processes can still have without swapping; None where nothing tells (macOS, Windows)."""
    try:
        lines = _MACHINE.read_text().splitlines()
    except OSError:
        return None
    free = _field(lines, "MemAvailable")
    try:
        most, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # "max": no limit
        return free
    return most - used if free is None else min(free, most - used)


def own_memory() -> int | None:
    """The most bytes that this process has had for itself; None where nothing tells (macOS, Windows).

    Pages of files that it has mapped are not counted: processes share them.
    """
    try:
        lines = _PROCESS.read_text().splitlines()
    except OSError:
        return None
    most, shared = _field(lines, "VmHWM"), _field(lines, "RssFile")
    return None if most is None else most - (shared or 0)


def _field(lines: list[str], name: str) -> int | None:
    """In bytes, from a line like "MemAvailable:   1234 kB"."""
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
