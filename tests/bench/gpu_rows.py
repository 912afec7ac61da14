"""What the parts of a day on a GPU are made of: rows that are measured one by one, each written as it comes.

A part is a record of its own, gpu_day-PART-CARD.json. Its rows are plain JSON in `runs`; its figures follow
from whichever rows there are. A row that is there is not measured again: a part goes on where it was cut off.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcli.errors import first_line
from tests.bench import results
from tests.bench.results import Figure, Record

Runs = Mapping[str, Any]  # {row: what it has measured}
TIME, FAILED, LEFT_OUT = "the time was up", "failed: ", "left out: "  # why a row is missing


class LeftOut(Exception):
    """A row that can't be measured here, and why."""


@dataclass(frozen=True)
class Day:
    """Where everything happens. On a CPU it is a dry run: networks and audio are tiny."""

    device: str  # "cuda" or "cpu"
    card: str  # what its maker calls it; of a dry run, that it is one
    work: Path  # of audio, weights and stems
    folder: Path  # of results
    msst: Path | None = None  # the folder of its environment's programs

    @property
    def dry(self) -> bool:
        """Whether there is no GPU."""
        return self.device == "cpu"

    @property
    def threads(self) -> int:
        """Of the CPU."""
        return 1 if self.dry else 4

    @property
    def precisions(self) -> tuple[str, str]:
        """The whole and the usual reduced one."""
        return "float32", "bfloat16" if self.dry else "float16"

    def seconds(self, usual: float) -> float:
        """Of audio."""
        return 1.5 if self.dry else usual


@dataclass(frozen=True)
class Part:
    """A question to a card. rows: {name: what measures it}, in the order of their worth."""

    name: str
    most: float  # seconds that it may take
    rows: Callable[[Day], Mapping[str, Callable[[], Any]]]
    figures: Callable[[Runs], list[Figure]]
    settings: Callable[[Day], dict[str, Any]]

    def file(self, day: Day) -> Path:
        """Where its record is."""
        card = re.sub(r"\W+", "-", day.card.lower()).strip("-")
        return day.folder / f"gpu_day-{self.name}-{card}.json"

    def measured(self, day: Day) -> dict[str, Any]:
        """The rows that are there."""
        file = self.file(day)
        return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else {}

    def missing(self, day: Day) -> dict[str, str]:
        """The rows that are not, each with the reason."""
        file, there = self.file(day), self.measured(day)
        told = json.loads(file.read_text(encoding="utf-8"))["not_measured"] if file.exists() else {}
        return {row: told.get(row, TIME) for row in self.rows(day) if row not in there}

    def fill(self, day: Day, *, again: bool = True) -> None:
        """Measure the rows that are missing, up to the first one that fails.

        After that a GPU may refuse whatever the process asks for, so the next rows are for another process.
        again: also the rows that have failed before.
        """
        rows, found, why = self.rows(day), self.measured(day), {}
        if not again:
            why = {row: reason for row, reason in self.missing(day).items() if reason != TIME}
        for row, measure in rows.items():
            if row in found or row in why:
                continue
            print(f"{self.name}: {row}", file=sys.stderr, flush=True)
            failed = False
            try:
                found[row] = {**measure(), "commit": results.commit()}
            except LeftOut as reason:
                why[row] = f"{LEFT_OUT}{reason}"
            except Exception as error:  # noqa: BLE001  (the time is short, and the next one may do)
                traceback.print_exc()
                why[row], failed = f"{FAILED}{type(error).__name__}: {first_line(error)[:200]}", True
            runs = {name: found[name] for name in rows if name in found}
            missing = {name: why.get(name, TIME) for name in rows if name not in found}
            settings = self.settings(day) | _commits(runs)
            record = Record(f"gpu_day-{self.name}", settings, self.figures(runs), runs, missing, day.card)
            record.write(self.file(day).stem, day.folder)
            if failed:
                return


def _commits(runs: Runs) -> dict[str, str]:
    """A setting where the rows are of several commits."""
    commits = {row: run["commit"] for row, run in runs.items()}
    if len(set(commits.values())) < 2:
        return {}
    return {"commits": ", ".join(f"{row}: {commit}" for row, commit in commits.items())}
