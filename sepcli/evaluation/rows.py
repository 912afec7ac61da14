"""Scores of tracks as rows: in JSON, in a CSV file, and in `rows.jsonl`, from which a later run goes on.

Knows no models and computes nothing. Lines are only ever appended to `rows.jsonl`, one for each track, so a
kill leaves at most one torn last line, which is ignored. A row is found by its key, a hash of all that its
scores depend on.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepcli.errors import SepcliError, from_os, parameter
from sepcli.metrics.summary import Line, Value, metric

ROWS_NAME = "rows.jsonl"
DIGITS = 6  # after the decimal point, in files


@dataclass(frozen=True)
class Row:
    """The scores of one track in one run of a model."""

    model: str  # as the user named it; with commas where it has several runs
    run: str  # the run of that model
    seed: int
    swept: Mapping[str, str]  # the options of a sweep
    track: str
    status: str  # "done", "kept" (from an earlier evaluation) or "failed"
    key: str = ""
    stems: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {stem: {metric: value}}
    frames: int = 0  # how many museval's metrics have
    silent_frames: int = 0  # how many of these are undefined
    audio_seconds: float = 0.0  # the length of the audio
    seconds: float = 0.0  # that the computation took
    settings: Mapping[str, Any] = field(default_factory=dict)  # what the scores depend on (evaluator.Prepared)
    error: SepcliError | None = None

    def as_json(self) -> dict[str, Any]:
        """The row for JSON, with the same keys always. NaN is null, infinity is a word (see `number`)."""
        error = self.error and {
            "code": self.error.code,
            "message": self.error.message,
            "remedy": self.error.remedy,
        }
        return {
            "track": self.track, "model": self.model, "run": self.run, "seed": self.seed,
            "swept": dict(self.swept), "status": self.status, "error": error,
            "stems": {stem: {key: number(value) for key, value in scores.items()}
                      for stem, scores in self.stems.items()},
            "frames": self.frames, "silent_frames": self.silent_frames,
            "audio_seconds": round(self.audio_seconds, 3), "seconds": round(self.seconds, 3),
            "settings": dict(self.settings), "key": self.key,
        }  # fmt: skip


def number(value: float) -> float | str | None:
    """A value for JSON, which has no NaN (it becomes null) and no infinity ("Infinity", "-Infinity")."""
    if math.isnan(value):
        return None
    return round(value, DIGITS) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _value(value: Any) -> float:
    """The reverse of `number`."""
    return math.nan if value is None else float(value)


class RowFile:
    """The file of rows in a folder. OutputError where it can't be read or written."""

    def __init__(self, folder: Path):
        self.path = folder / ROWS_NAME
        self._scores: dict[str, Mapping[str, Any]] = {}  # by key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
            with open(self.path, "ab"):
                pass
        except OSError as error:
            raise from_os(error, self.path) from error
        for line in lines:
            try:
                row = json.loads(line)
                self._scores[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill

    def find(self, key: str) -> dict[str, Any] | None:
        """{stems, frames, silent_frames, audio_seconds, seconds} of the row with that key, if there is one."""
        row = self._scores.get(key)
        if row is None:
            return None
        stems = {
            stem: {name: _value(value) for name, value in scores.items()}
            for stem, scores in row["stems"].items()
        }
        return {"stems": stems} | {
            name: row[name] for name in ("frames", "silent_frames", "audio_seconds", "seconds")
        }

    def add(self, row: Row) -> None:
        """Append a row. What a kill left of the last line gets an end first."""
        line = json.dumps(row.as_json(), allow_nan=False).encode() + b"\n"
        try:
            with open(self.path, "a+b") as file:
                if file.tell() and not self._ends_whole(file):
                    line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise from_os(error, self.path) from error

    @staticmethod
    def _ends_whole(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def write_csv(path: Path, rows: Iterable[Row], *, zero_mean: bool = False) -> None:
    """Write a line for each track and stem; a cell is empty where a metric is undefined. OutputError."""
    done = [row for row in rows if row.status != "failed"]
    keys = list(dict.fromkeys(key for row in done for scores in row.stems.values() for key in scores))
    swept = list(dict.fromkeys(option for row in done for option in row.swept))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(
                [
                    "model",
                    "run",
                    "seed",
                    *swept,
                    "track",
                    "stem",
                    *(metric(key, zero_mean=zero_mean).column for key in keys),
                ]
            )
            for row in done:
                for stem, scores in row.stems.items():
                    cells = [number(scores.get(key, math.nan)) for key in keys]
                    options = [row.swept.get(option, "") for option in swept]
                    table.writerow(
                        [
                            row.model,
                            row.run,
                            row.seed,
                            *options,
                            row.track,
                            stem,
                            *("" if cell is None else cell for cell in cells),
                        ]
                    )
    except OSError as error:
        refused = from_os(error, path)
        refused.remedy = f"Name another file with {parameter('csv')}."
        raise refused from error


def line_as_json(
    line: Line,
    model: str,
    swept: Mapping[str, str],
    options: Mapping[str, Any],
    runs: int,
    *,
    zero_mean: bool = False,
) -> dict[str, Any]:
    """A line of a summary for JSON: {"summary": protocol, "metric": full name, "statistic", "stems", ...}.

    options: of the model, as it used them. In the values, ci95 is half of the 95 % confidence interval over
    tracks, std the standard deviation over runs.
    """

    def value(each: Value) -> dict[str, Any]:
        return {
            "value": number(each.value),
            "ci95": None if each.interval is None else number(each.interval),
            "std": None if each.std is None else number(each.std),
            "tracks": each.tracks,
        }

    return {
        "summary": line.protocol, "model": model, "swept": dict(swept), "options": dict(options), "runs": runs,
        "metric": metric(line.metric, zero_mean=zero_mean).name, "statistic": line.statistic,
        "unit": metric(line.metric).unit,
        "stems": {stem: value(each) for stem, each in line.stems.items()}, "mean_over_stems": value(line.mean),
    }  # fmt: skip


def scores_of(rows: Sequence[Row]) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """{track: {stem: {metric: value}}} of the rows of one run, without those that failed."""
    return {row.track: row.stems for row in rows if row.status != "failed"}
