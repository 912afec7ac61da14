"""The results of a script, with all that is needed to judge them, as JSON for docs/benchmarks_page.py."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import sepcli

FOLDER = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str = ""
    target: str = ""  # "<= 0.8" or ">= 40": what must be reached
    aim: str = ""  # the same: what we hope to reach


@dataclass(frozen=True)
class Record:
    bench: str  # which script
    settings: dict[str, Any]
    figures: list[Figure]
    runs: dict[str, Any] = field(default_factory=dict)  # every single measurement
    not_measured: dict[str, str] = field(default_factory=dict)  # {figure: why not}
    device: str = ""  # of a GPU

    def write(self, name: str = "", folder: Path = FOLDER) -> Path:
        content = {
            "bench": self.bench,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "commit": commit(),
            "machine": machine() | ({"device": self.device} if self.device else {}),
            "versions": versions(),
            "settings": self.settings,
            "figures": [
                {key: value for key, value in asdict(figure).items() if value != ""} for figure in self.figures
            ],
            "not_measured": self.not_measured,
            "runs": self.runs,
        }
        for figure in content["figures"]:
            figure["value"] = float(f"{figure['value']:.4g}")
        folder.mkdir(exist_ok=True)
        path = folder / f"{name or self.bench}.json"
        unfinished = path.with_suffix(".part")  # a script may be ended at any time
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def machine() -> dict[str, Any]:
    """The name of this machine's processor."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (
                line.partition(":")[2].strip()
                for line in info.read_text().splitlines()
                if line.startswith("model name")
            ),
            cpu,
        )
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sepcli": sepcli.__version__}
    for package in ("torch", "demucs"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout, with a + if files were changed; $BENCH_COMMIT if there is no git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    if "BENCH_COMMIT" in os.environ:
        return os.environ["BENCH_COMMIT"]
    try:
        changed = git("diff", "--name-only", "HEAD", "sepcli")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="", help="of the result's file, where it is not the script's")
    parser.add_argument("--work", type=Path, help="keep audio, weights and stems in this folder")
    return parser


@contextmanager
def workplace(chosen: Path | None) -> Iterator[Path]:
    """Yields that folder, or a temporary one that is removed afterwards."""
    if chosen:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="sepcli-bench-") as folder:
        yield Path(folder)


def finish(record: Record, name: str) -> None:
    path = record.write(name)
    for figure in record.figures:
        wanted = f"   (target {figure.target})" if figure.target else ""
        print(f"{figure.name}: {figure.value:.4g} {figure.unit}{wanted}")
    for what, why in record.not_measured.items():
        print(f"not measured: {what}: {why}")
    print(f"{path.relative_to(ROOT)}: now run python docs/generate.py")
