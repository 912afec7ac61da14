"""How much memory this machine still has."""

from __future__ import annotations

from pathlib import Path

_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # of a container, version 2


def free_memory() -> int | None:
    """The bytes that processes can still have without swapping; None where nothing tells (macOS, Windows)."""
    try:
        lines = _MACHINE.read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    try:
        most, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # "max": no limit
        return free
    return most - used if free is None else min(free, most - used)
