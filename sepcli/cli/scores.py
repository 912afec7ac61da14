"""The tables of `sepcli evaluate`: one a metric, models below each other, stems side by side.

Knows groups and lines of comparison.py. On a terminal rich draws them; into a pipe go aligned columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sepcli.cli import console
from sepcli.comparison import Group
from sepcli.metrics.summary import PROTOCOLS, Line, Value, metric

UNDEFINED = "-"


def print_tables(groups: Sequence[Group], protocols: Sequence[str], *, zero_mean: bool = False) -> None:
    """On standard output. Every table is headed by the metric's full name and by how tracks are averaged."""
    for protocol in protocols:
        for statistic in PROTOCOLS[protocol].statistics:
            for key in PROTOCOLS[protocol].metrics:
                lines = {group.label: line for group in groups if (line := group.line(key, statistic))}
                if lines:
                    several = any(line.mean.std is not None for line in lines.values())
                    title = f"{metric(key, zero_mean=zero_mean).name}, {statistic}, dB"
                    _print_table(title + (", mean +- deviation over runs" if several else ""), lines)


def _print_table(title: str, lines: dict[str, Line]) -> None:
    stems = sorted({stem for line in lines.values() for stem in line.stems})
    head = ["MODEL", *stems, "MEAN OF STEMS"]
    rows = []
    for label, line in lines.items():
        cells = [_text(line.stems[stem]) if stem in line.stems else "" for stem in stems]
        rows.append([label, *cells, _text(line.mean)])
    counts = {tuple(line.stems[stem].tracks if stem in line.stems else 0 for stem in stems)
              for line in lines.values()}
    if len(counts) == 1:
        rows.append(["tracks scored", *(str(count) for count in counts.pop()), ""])
    else:  # they differ from model to model
        for row, line in zip(list(rows), lines.values(), strict=True):
            for k, stem in enumerate(stems, 1):
                row[k] += f" ({line.stems[stem].tracks})" if stem in line.stems else ""
        title += " (tracks scored)"
    if console.out().is_terminal:
        _draw(title, head, rows)
    else:
        _write(title, head, rows)


def _text(value: Value) -> str:
    if math.isnan(value.value):
        return UNDEFINED
    text = f"{value.value:.2f}"
    return text if value.std is None or math.isnan(value.std) else f"{text} +- {value.std:.2f}"


def _draw(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for k, name in enumerate(head):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row, style="dim" if row[0] == "tracks scored" else None)
    console.out().print(table)


def _write(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    console.out().print(title, soft_wrap=True)
    for row in [head, *rows]:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:<{widths[0]}}"
        console.out().print("  ".join(cells).rstrip(), soft_wrap=True)
    console.out().print()
