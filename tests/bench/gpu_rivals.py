"""On a GPU, what others judge: the tests marked gpu, demucs 4.1.0 and msst 0.1.0.

Programs are compared after loading, array in and array out, the first pass not counted; and demucs also as a
user starts it. The stems of both show how well float32 and reduced precision agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.bench import peers, programs, sound
from tests.bench.gpu_rows import Day, LeftOut, Part, Runs
from tests.bench.inprocess import measure, ours, theirs
from tests.bench.programs import DEMUCS_FLOAT, SEPCLI_FLOAT
from tests.bench.results import Figure
from tests.bench.weights import Weights, make

Rows = Mapping[str, Callable[[], Any]]
SONG, SHORT = 240.0, 60.0  # seconds
RUNS = 2  # after one that is not counted
TESTS = programs.ROOT / "tests"


# --- the tests ---


def _files() -> list[Path]:
    """The files with tests that need a GPU."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]


def _tested(file: Path, marked: str, report: Path) -> dict[str, Any]:
    """{outcome: how many}, and what went wrong by the name of each test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked]
    command += [f"--junitxml={report}", str(file)]
    done = subprocess.run(command, cwd=programs.ROOT, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(f"pytest wrote no report: {(done.stdout + done.stderr).strip()[-200:]}")
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "wrong": {}}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        wrong = next((one for one in case if one.tag in ("failure", "error")), None)
        if wrong is not None:
            found["failed"] += 1
            found["wrong"][f"{case.get('classname')}.{case.get('name')}"] = (wrong.get("message") or "")[:300]
        else:
            found["skipped" if any(one.tag == "skipped" for one in case) else "passed"] += 1
    return found


def _test_rows(day: Day) -> Rows:
    # None of these runs on a CPU.
    files = [TESTS / "test_device.py"] if day.dry else _files()
    marked = "not slow and not gpu and not network" if day.dry else "gpu"
    return {file.name: lambda file=file: _tested(file, marked, day.work / f"{file.stem}.xml") for file in files}


def _test_figures(runs: Runs) -> list[Figure]:
    return [
        Figure(f"{file}: {outcome}", float(run[outcome]), "", "<= 0" if outcome == "failed" else "")
        for file, run in runs.items()
        for outcome in ("passed", "failed", "skipped")
    ]


TESTED = Part(
    "tests",
    170,
    _test_rows,
    _test_figures,
    lambda day: {"tests": "some that need no GPU" if day.dry else "those marked gpu"},
)


# --- htdemucs and demucs ---


@cache
def _weights(day: Day) -> Weights:
    return make("tiny" if day.dry else "htdemucs", day.work / "weights")


@cache
def _track(day: Day, seconds: float) -> Path:
    (day.work / "in").mkdir(parents=True, exist_ok=True)
    return sound.music(day.work / "in" / f"track-{seconds:g}.wav", seconds)


def _song_rows(day: Day) -> Rows:
    seconds, (_, reduced) = day.seconds(SONG), day.precisions

    def alone(program: Callable[[Weights], list[str]], precision: str = "float32") -> dict[str, Any]:
        return measure(
            program(_weights(day)),
            _track(day, seconds),
            device=day.device,
            precision=precision,
            runs=RUNS,
            threads=day.threads,
        )

    def started() -> dict[str, Any]:
        track, weights, out = _track(day, seconds), _weights(day), day.work / "out"
        commands = {"demucs": programs.demucs(track, weights, out / "demucs", "-d", day.device, *DEMUCS_FLOAT)}
        for precision in day.precisions:
            where = ("--device", day.device, "--precision", precision)
            commands[precision] = programs.sepcli(track, weights, out / precision, *where, *SEPCLI_FLOAT)
        costs = {name: programs.run(command, day.threads) for name, command in commands.items()}
        for precision in day.precisions:
            assert json.loads(costs[precision].output)["precision"] == precision
        return {
            **{name: cost.as_json() for name, cost in costs.items()},
            "snr": {
                "float32 against demucs": sound.worst_snr(out / "float32", out / "demucs"),
                f"{reduced} against float32": sound.worst_snr(out / reduced, out / "float32"),
            },
        }

    return {
        "demucs": lambda: alone(theirs),
        f"sepcli, {reduced}": lambda: alone(ours, reduced),
        "sepcli, float32": lambda: alone(ours),
        "programs": started,
    }


def _song_figures(runs: Runs) -> list[Figure]:
    alone = {row: run for row, run in runs.items() if row != "programs"}
    figures = _alone(alone)
    if "demucs" in alone:
        for row, run in alone.items():
            if row != "demucs":
                ratio = min(alone["demucs"]["seconds"]) / min(run["seconds"])
                bound = {"aim": ">= 5"} if "float32" in row else {"target": ">= 5"}
                figures.append(Figure(f"separation alone, speed over demucs, {row}", ratio, "x", **bound))
    for name, run in runs.get("programs", {}).items():
        if name == "snr":
            for what, value in run.items():
                target = "" if "demucs" in what else ">= 40"
                figures.append(Figure(f"SNR of {what}, worst stem", value, "dB", target))
        elif name != "commit":
            program = name if name == "demucs" else f"sepcli, {name}"
            figures.append(Figure(f"whole program, {program}", run["wall"], "s"))
    return figures


def _alone(runs: Runs) -> list[Figure]:
    figures = []
    for row, run in runs.items():
        batch = f" (batch {run['batch']})" if row.startswith("sepcli") else ""
        figures.append(Figure(f"separation alone, {row}{batch}", min(run["seconds"]), "s"))
        if run["peak"]:
            figures.append(Figure(f"device memory, {row}", run["peak"] / 1e6, "MB"))
    return figures


HTDEMUCS = Part(
    "htdemucs",
    130,
    _song_rows,
    _song_figures,
    lambda day: {
        "audio": f"{day.seconds(SONG):g} s of stereo music at 44.1 kHz",
        "network": "tiny" if day.dry else "htdemucs, random weights",
        "runs": f"best of {RUNS} after one that is not counted; whole programs: one",
    },
)


# --- a RoFormer and msst ---


def _network(day: Day) -> peers.Network:
    if not day.dry:
        return peers.NETWORKS["bs-256x12"]
    narrow = peers.NETWORKS["narrow"]
    return replace(narrow, config={**narrow.config, "depth": 1, "chunk": 44_032})


@cache
def _prepared(day: Day) -> Path:
    folder = day.work / "roformer"
    folder.mkdir(parents=True, exist_ok=True)
    peers.prepare(folder, _network(day))
    return folder


def _roformer_rows(day: Day) -> Rows:
    seconds, (_, reduced), network = day.seconds(SHORT), day.precisions, _network(day)
    how: dict[str, Any] = {"device": day.device, "runs": RUNS, "threads": day.threads}

    def mine(precision: str, overlap: float) -> dict[str, Any]:
        checkpoint = _prepared(day) / f"{network.name}{network.suffix}"
        catalog = str(_prepared(day) / "catalog.toml")
        how_exactly = how | {"precision": precision, "overlap": overlap, "SEPCLI_CATALOG": catalog}
        return measure(["sepcli", f"bench={checkpoint}"], _track(day, seconds), **how_exactly)

    def other() -> dict[str, Any]:
        if day.msst is None:
            raise LeftOut("--msst names its environment")
        file = _prepared(day) / network.name
        program = ["msst", network.kind, str(file.with_suffix(".yaml")), str(file.with_suffix(network.suffix))]
        return measure(program, _track(day, seconds), python=str(day.msst / "python"), **how)

    return {
        f"sepcli, {reduced}, overlap of a half": lambda: mine(reduced, peers.OVERLAP),
        "msst": other,
        "sepcli, float32, overlap of a half": lambda: mine("float32", peers.OVERLAP),
        f"sepcli, {reduced}": lambda: mine(reduced, 0.25),
    }


def _roformer_figures(runs: Runs) -> list[Figure]:
    figures = _alone(runs)
    if "msst" in runs:
        for row, run in runs.items():
            if row != "msst":
                ratio = min(runs["msst"]["seconds"]) / min(run["seconds"])
                equal = "half" in row and "float32" not in row
                bound = {"target": ">= 1.5"} if equal else {}
                figures.append(Figure(f"separation alone, speed over msst, {row}", ratio, "x", **bound))
    return figures


ROFORMER = Part(
    "bs-roformer",
    110,
    _roformer_rows,
    _roformer_figures,
    lambda day: {
        "audio": f"{day.seconds(SHORT):g} s of stereo music at 44.1 kHz",
        "network": "tiny" if day.dry else "BS-RoFormer 256x12, one stem, random weights",
        "msst": "as by default: autocast to float16 on a GPU, one chunk a call, overlap of a half",
        "runs": f"best of {RUNS} after one that is not counted",
    },
)
