"""Pictures of scores: boxes for models side by side, lines for a sweep. Numbers in, a PNG out.

Knows nothing of models or of where the numbers come from. matplotlib is imported only when something is drawn.
Its Figure objects are used directly, which needs no global state and no window and works in any thread. Both
functions raise DeviceError where matplotlib is missing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES_A_GROUP = 1.9  # the width of a group of boxes
DPI = 150
TITLE_POINTS, TITLE_CHARACTERS = 11, 11  # the size of the title; how many of its characters fit into an inch
LOGARITHMIC = 10  # an axis is logarithmic if the largest value is more than so many times the smallest


def box_plot(path: Path, title: str, label: str, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw a group of boxes for each stem, with a box for each model.

    A box spans the quartiles, its line is the median, its whiskers reach 1.5 boxes; every track is also a dot.
    title: above the picture. label: of the vertical axis. scores: {model: {stem: a value for each track}}.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    stems = sorted({stem for each in scores.values() for stem in each})
    width = 0.8 / max(len(scores), 1)
    figure = Figure(figsize=(3 + INCHES_A_GROUP * max(len(stems), 1), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for m, (model, each) in enumerate(scores.items()):
        colour = f"C{m % 10}"
        at = [s + (m - (len(scores) - 1) / 2) * width for s in range(len(stems))]
        values = [[value for value in each.get(stem, ()) if math.isfinite(value)] for stem in stems]
        boxes = axes.boxplot(
            values,
            positions=at,
            widths=0.85 * width,
            patch_artist=True,
            manage_ticks=False,
            showfliers=False,
            medianprops={"color": "black"},
            boxprops={"facecolor": colour, "alpha": 0.5},
        )
        boxes["boxes"][0].set_label(model)
        for x, each_stem in zip(at, values, strict=True):
            axes.plot([x] * len(each_stem), each_stem, ".", color=colour, markersize=3)
    axes.set_xticks(range(len(stems)), stems)
    _finish(figure, axes, path, title, label)


def line_plot(
    path: Path,
    title: str,
    label: str,
    option: str,
    scores: Mapping[str, Mapping[str, float]],
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw a line for each model of a sweep over the values of an option.

    Values that are numbers are placed by their size, on a logarithmic axis if they reach over more than a
    factor of ten; words are placed side by side. title: above the picture. label, option: of the vertical and
    the horizontal axis. scores: {line: {the option's value as text: score}}. levels: {name: score} of models
    without the option, drawn as dashed lines from side to side.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    words = list(dict.fromkeys(word for each in scores.values() for word in each))
    numeric = all(_is_number(word) for word in words)
    places = [float(word) if numeric else k for k, word in enumerate(words)]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, each in scores.items():
        points = [(places[words.index(word)], value) for word, value in each.items()]
        points = sorted(point for point in points if math.isfinite(point[1]))
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", label=name)
    for name, value in (levels or {}).items():
        if math.isfinite(value):
            (colour,) = axes.plot([], [], "--", label=name)  # takes the next colour
            axes.axhline(value, linestyle="--", color=colour.get_color())
    if numeric and 0 < LOGARITHMIC * min(places) < max(places):
        axes.set_xscale("log")
    axes.set_xticks(places, words)  # after the scale, which has ticks of its own
    axes.set_xticks([], minor=True)
    axes.set_xlabel(option)
    _finish(figure, axes, path, title, label)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _finish(figure: Figure, axes: Axes, path: Path, title: str, label: str) -> None:
    """Add title, label, grid and legend, and write the picture."""
    characters = int(TITLE_CHARACTERS * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, characters), fontsize=TITLE_POINTS, parse_math=False)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right lower")  # the title is above
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
