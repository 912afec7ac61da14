"""The two programs as a user starts them, and the time and memory of a process from its start to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.weights import Weights

ROOT = Path(__file__).parents[2]
SEPCLI = [sys.executable, "-m", "sepcli"]
DEMUCS = [sys.executable, "-m", "demucs"]

# A process begins with its parent's peak memory in ru_maxrss (exec hands it on), so a parent with torch in it
# would hide what is measured. This one is a bare interpreter of some 10 MB.
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[2], sys.argv[2:]), 0)
with open(sys.argv[1], "w") as file:
    json.dump({"wall": time.perf_counter() - start, "cpu": usage.ru_utime + usage.ru_stime,
               "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
               "code": os.waitstatus_to_exitcode(status)}, file)
"""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one process."""

    wall: float  # s
    cpu: float  # s, over all its threads
    peak: int  # bytes of resident memory at most
    output: str = ""  # on standard output

    def as_json(self) -> dict[str, float]:
        return {key: round(value, 3) for key, value in asdict(self).items() if key != "output"}


def run(command: Sequence[str], threads: int, **environment: str) -> Cost:
    """Run a command to its end. RuntimeError if it fails."""
    counts = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], str(threads))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(paths), **environment}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cost.json"
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report)]
        done = subprocess.run([*launcher, *command], env=env, capture_output=True, text=True)
        cost = json.loads(report.read_text()) if report.exists() else {"code": done.returncode}
    if cost.pop("code"):
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return Cost(**cost, output=done.stdout)


def interleaved(commands: Mapping[str, Sequence[str]], runs: int, threads: int) -> dict[str, list[Cost]]:
    """Run each command `runs` times, in turns, so that a slow phase of the machine slows all of them down."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(runs):
        for name, command in commands.items():
            cost = run(command, threads)
            costs[name].append(cost)
            print(
                f"{number + 1}/{runs} {name}: {cost.cpu:.2f} s CPU, {cost.wall:.2f} s, "
                f"{cost.peak / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    return costs


def sepcli(track: Path, weights: Weights, out: Path, *options: str) -> list[str]:
    """`sepcli separate` with its defaults; finished tracks are not skipped. JSON on standard output."""
    command = [*SEPCLI, "separate", str(track), "--model", weights.model, "--out", str(out)]
    return [*command, "--json", "--no-resume", "--force", *options]


def demucs(track: Path, weights: Weights, out: Path, *options: str) -> list[str]:
    """`demucs` with its defaults, but without the random shift."""
    command = [*DEMUCS, str(track), "-n", weights.name, "--repo", str(weights.repo), "-o", str(out)]
    return [*command, "--shifts", "0", *options]


# Float stems, unscaled, so that they can be compared.
SEPCLI_FLOAT = ("--bit-depth", "32f", "--clip", "none")
DEMUCS_FLOAT = ("--float32", "--clip-mode", "none")


def shown(command: Sequence[str], work: Path) -> str:
    """A command line without this machine's paths."""
    text = " ".join(command).replace(f"{work}{os.sep}", "")
    return text.replace(" ".join(SEPCLI), "sepcli").replace(" ".join(DEMUCS), "demucs")
