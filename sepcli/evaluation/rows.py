"""Scores of tracks as rows: in JSON, in a CSV file, and in a file of lines that a later run goes on from.

Knows no models and computes nothing. `rows.jsonl` is only ever appended to, a line a track, so a kill leaves at
most one torn last line, which is ignored. A row is known by its key, a hash of all that its scores depend on.
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

from sepcli.errors import OutputError, SepcliError
from sepcli.metrics.summary import Line, metric

ROWS_NAME = "rows.jsonl"
DIGITS = 6  # after the point, in files


@dataclass(frozen=True)
class Row:
    """One track under one run of a model."""

    model: str  # as the user named it; with commas where it has several runs
    run: str  # which of them
    seed: int
    swept: Mapping[str, str]  # the options of a sweep
    track: str
    status: str  # "done", "kept" (from an earlier evaluation) or "failed"
    key: str = ""
    stems: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {stem: {metric: dB}}
    frames: int = 0  # of museval's metrics
    silent_frames: int = 0  # of these, undefined
    audio_seconds: float = 0.0
    seconds: float = 0.0  # that it took
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: SepcliError | None = None

    def as_json(self) -> dict[str, Any]:
        """The same keys always; NaN is null, infinity the word."""
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
    """A decibel in JSON, which has neither NaN (null) nor infinity ("Infinity", "-Infinity")."""
    if math.isnan(value):
        return None
    return round(value, DIGITS) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _decibel(value: Any) -> float:
    return math.nan if value is None else float(value)


class RowFile:
    """The rows that stand in a folder. OutputError where it can't be read or written."""

    def __init__(self, folder: Path):
        self.path = folder / ROWS_NAME
        self._scores: dict[str, Mapping[str, Any]] = {}  # by key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
            with open(self.path, "ab"):
                pass
        except OSError as error:
            raise self._failed(error) from error
        for line in lines:
            try:
                row = json.loads(line)
                self._scores[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill

    def find(self, key: str) -> dict[str, Any] | None:
        """{stems, frames, silent_frames, audio_seconds, seconds} of a row, as Row takes them."""
        row = self._scores.get(key)
        if row is None:
            return None
        stems = {
            stem: {name: _decibel(value) for name, value in scores.items()}
            for stem, scores in row["stems"].items()
        }
        return {"stems": stems} | {
            name: row[name] for name in ("frames", "silent_frames", "audio_seconds", "seconds")
        }

    def add(self, row: Row) -> None:
        line = json.dumps(row.as_json(), allow_nan=False).encode() + b"\n"
        try:
            with open(self.path, "a+b") as file:
                if file.tell() and not self._ends_whole(file):
                    line = b"\n" + line
                file.write(line)
        except OSError as error:
            raise self._failed(error) from error

    @staticmethod
    def _ends_whole(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"'{self.path}' can't be written: {error.strerror}.",
            code="not_writable",
            remedy="Choose another folder with -o.",
        )


def write_csv(path: Path, rows: Iterable[Row], *, zero_mean: bool = False) -> None:
    """A line for each track and stem; empty where a metric is undefined. OutputError if it can't be written."""
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
        raise OutputError(
            f"'{path}' can't be written: {error.strerror}.",
            code="not_writable",
            remedy="Name another file with --csv.",
        ) from error


def line_as_json(
    line: Line,
    model: str,
    swept: Mapping[str, str],
    options: Mapping[str, Any],
    runs: int,
    *,
    zero_mean: bool = False,
) -> dict[str, Any]:
    """A line of a summary: {"summary": protocol, "metric": in full, "statistic", "stems", "mean", ...}.

    options: of the model, as it used them. ci95 is half of the 95 % confidence interval over tracks, std the
    deviation over runs.
    """

    def value(each) -> dict[str, Any]:
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
    """{track: {stem: {metric: dB}}} of one run's rows that have scores."""
    return {row.track: row.stems for row in rows if row.status != "failed"}
