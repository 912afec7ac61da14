"""What the rows of an evaluation say: models side by side, in lines for tables, in JSON and in pictures.

Knows rows and the protocols' summaries; no models, no terminal. Runs of one model (seeds, or several files)
with the same swept options are one group: their mean and deviation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcli.errors import Notice, from_os, missing
from sepcli.evaluation.rows import Row, line_as_json, scores_of
from sepcli.metrics import plots
from sepcli.metrics.summary import PROTOCOLS, Line, Scores, defined, metric, summarize

SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class Group:
    """The runs of one model with one set of swept options."""

    model: str
    swept: Mapping[str, str]
    scores: Sequence[Scores]  # one for each run
    lines: Sequence[Line]  # their summary
    options: Mapping[str, Any]  # of the model, where all runs have the same

    @property
    def label(self) -> str:
        """The model's name with its swept options, for tables and pictures."""
        return " ".join([self.model, *(f"{option}={value}" for option, value in self.swept.items())])

    def line(self, metric_key: str, statistic: str) -> Line | None:
        """The line of the summary for that metric and statistic; None where there is none."""
        for each in self.lines:
            if (each.metric, each.statistic) == (metric_key, statistic):
                return each
        return None


def compare(rows: Iterable[Row], protocols: Sequence[str]) -> list[Group]:
    """A group for each model and set of swept options, in the order of the rows. Failed rows don't count."""
    runs: dict[tuple[str, tuple[tuple[str, str], ...]], dict[tuple[str, int], list[Row]]] = {}
    for row in rows:
        group = runs.setdefault((row.model, tuple(row.swept.items())), {})
        group.setdefault((row.run, row.seed), []).append(row)
    groups = []
    for (model, swept), each in runs.items():
        scores = [scores_of(own) for own in each.values()]
        scores = [own for own in scores if own]
        if scores:
            options = _shared([row.settings.get("options", {}) for own in each.values() for row in own])
            groups.append(Group(model, dict(swept), scores, summarize(scores, protocols), options))
    return groups


def _shared(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = options
    return {
        name: value
        for name, value in first.items()
        if all(name in each and each[name] == value for each in others)
    }


def as_json(groups: Sequence[Group], *, zero_mean: bool = False) -> Iterator[dict[str, Any]]:
    """The summary for JSON: an object for each line of each group."""
    for group in groups:
        for line in group.lines:
            yield line_as_json(
                line, group.model, group.swept, group.options, len(group.scores), zero_mean=zero_mean
            )


def write(
    folder: Path,
    groups: Sequence[Group],
    protocols: Sequence[str],
    *,
    zero_mean: bool = False,
    notice: Notice = lambda text: None,
) -> list[Path]:
    """Write the summary, and pictures where there is something to compare; their paths. OutputError.

    Several models are drawn as boxes over tracks. A sweep is drawn as the mean over the stems against each
    swept option: a line for each model and setting of the other options, and a dashed level for a model that
    lacks the option. Every metric that was asked for is drawn, by the protocol's first statistic. Without
    matplotlib there are no pictures, and `notice` is told so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        summary = folder / SUMMARY_NAME
        text = json.dumps([*as_json(groups, zero_mean=zero_mean)], indent=1)
        summary.write_text(text + "\n", encoding="utf-8")
        if _nothing_to_draw(groups):
            return [summary]
        if lacking := missing("matplotlib"):
            notice(f"Pictures are left out: {lacking}")
            return [summary]
        return [summary, *_draw(folder, groups, protocols, zero_mean)]
    except OSError as error:
        raise from_os(error, folder) from error


def _nothing_to_draw(groups: Sequence[Group]) -> bool:
    """Whether there is one model only, and no sweep."""
    return len({group.model for group in groups}) < 2 and not any(group.swept for group in groups)


def _draw(folder: Path, groups: Sequence[Group], protocols: Sequence[str], zero_mean: bool) -> Iterator[Path]:
    options = list(dict.fromkeys(option for group in groups for option in group.swept))
    asked = [
        (key, PROTOCOLS[protocol].statistics[0])
        for protocol in protocols
        for key in PROTOCOLS[protocol].metrics
    ]
    for key, statistic in asked:
        if not any(group.line(key, statistic) for group in groups):
            continue
        name, unit = metric(key, zero_mean=zero_mean).name, metric(key).unit
        if len({group.model for group in groups}) > 1:
            path = folder / f"boxes-{key}.png"
            boxes = {group.label: _over_tracks(group, key) for group in groups}
            plots.box_plot(path, f"{name}, each track", unit, boxes)
            yield path
        for option in options:
            path = folder / f"sweep-{_plain(option)}-{key}.png"
            lines, levels = _sweep(groups, option, key, statistic)
            plots.line_plot(path, f"{name}, {statistic}, mean over stems", unit, option, lines, levels)
            yield path


def _over_tracks(group: Group, key: str) -> dict[str, list[float]]:
    stems = sorted({stem for run in group.scores for track in run.values() for stem in track})
    return {
        stem: [value for run in group.scores for value in defined(run, stem, key).values()] for stem in stems
    }


def _sweep(
    groups: Sequence[Group], option: str, key: str, statistic: str
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """({line: {the option's value: dB}}, {name: dB} of the groups that lack the option)."""
    lines: dict[str, dict[str, float]] = {}
    levels: dict[str, float] = {}
    for group in groups:
        line = group.line(key, statistic)
        value = math.nan if line is None else line.mean.value
        if option in group.swept:
            others = [f"{name}={text}" for name, text in group.swept.items() if name != option]
            lines.setdefault(" ".join([group.model, *others]), {})[group.swept[option]] = value
        else:
            levels[group.label] = value
    return lines, levels


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
