"""Feed a target with damaged files, in processes with limits on memory and time, and collect what goes wrong.

Linux only: the limit is on the address space, above what a process has when it begins.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
BATCH = 1000  # inputs of one process
MEMORY = 512 << 20  # bytes of address space above what the process has when it begins
SECONDS = 10.0  # for one input


@dataclass
class Report:
    """What came of it. findings: (number of the input, what went wrong)."""

    inputs: int = 0
    read: int = 0  # as if they were intact
    rejected: int = 0  # with a SepcliError
    findings: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0  # seconds of one input
    memory: int = 0  # bytes of resident memory that a process gained at most
    seconds: float = 0.0


def input_of(target: str, seed: int, number: int) -> bytes:
    """Input `number` of a run with this seed."""
    return mutated(TARGETS[target].intact(), Random(f"{seed} {number}"))


def fuzz(
    target: str,
    count: int,
    seed: int,
    *,
    first: int = 0,
    batch: int = BATCH,
    memory: int = MEMORY,
    seconds: float = SECONDS,
) -> Report:
    """Feed inputs `first` to `first + count` of the seed. A process that dies is a finding; another goes on."""
    report, began = Report(), time.monotonic()
    at, end = first, first + count
    while at < end:
        size = min(batch, end - at)
        with tempfile.NamedTemporaryFile() as mark, tempfile.TemporaryFile("w+") as errors:
            command = [sys.executable, "-m", "tests.fuzz", target, "--worker", mark.name, "--seed", str(seed)]
            command += ["--first", str(at), "--count", str(size)]
            command += ["--memory", str(memory), "--seconds", str(seconds)]
            # One heap: a thread with its own reserves 64 MB of addresses, and how many have one is luck.
            threads = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **threads}
            worker = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT)
            for line in worker.stdout.splitlines():
                _take(report, json.loads(line))
            reached = int(Path(mark.name).read_text() or -1)
            errors.seek(0)
            said = errors.read()
        if worker.returncode == 0:
            at += size
            continue
        if reached < at:
            raise RuntimeError(f"The worker did not start: {said}")
        why = "took too long" if "Timeout (" in said else f"ended the process ({worker.returncode})"
        last = next((line.strip() for line in said.splitlines() if line.startswith("  File")), "")
        report.findings.append((reached, f"{why} {last}".strip()))
        report.inputs += 1
        at = reached + 1
    report.seconds = time.monotonic() - began
    return report


def _take(report: Report, said: dict[str, Any]) -> None:
    report.inputs += 1
    report.read += said["what"] == "read"
    report.rejected += said["what"] == "rejected"
    if said["what"] not in ("read", "rejected"):
        report.findings.append((said["number"], said["what"]))
    report.slowest = max(report.slowest, said["seconds"])
    report.memory = max(report.memory, said["memory"])


# --- in the worker ---


def work(target: str, seed: int, first: int, count: int, mark: str, memory: int, seconds: float) -> None:
    """Feed the inputs, and print a line of JSON about each; the number of the current one stands in `mark`."""
    import resource

    from sepcli.errors import SepcliError

    read, intact = TARGETS[target].read, TARGETS[target].intact()
    for data in intact if target != "misbehaving" else []:
        read(data)  # imports what is needed; intact files must be read, too
    size, before = _status("VmSize"), _status("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(mark, "wb", buffering=0) as at:
        for number in range(first, first + count):
            os.pwrite(at.fileno(), f"{number:20}".encode(), 0)
            data = mutated(intact, Random(f"{seed} {number}"))
            faulthandler.dump_traceback_later(seconds, exit=True)
            began = time.monotonic()
            try:
                read(data)
                what = "read"
            except SepcliError as error:
                what = "ran out of memory in silence" if _of_memory(error) else "rejected"
            except Exception as error:  # noqa: BLE001  (that is what is looked for)
                what = f"{type(error).__name__}: {error}"[:200]
            took = time.monotonic() - began
            faulthandler.cancel_dump_traceback_later()
            gained = max(0, _status("VmHWM") - before)
            sys.stdout.write(
                json.dumps({"number": number, "what": what, "seconds": round(took, 4), "memory": gained}) + "\n"
            )
            sys.stdout.flush()


def _of_memory(error: BaseException | None) -> bool:
    """Whether an allocation that failed is behind this error."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(name: str) -> int:
    """Bytes of memory of this process, as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
