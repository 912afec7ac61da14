"""Pictures of scores: boxes for models side by side, lines for a sweep. Numbers in, a PNG out.

Knows nothing of models or where the numbers come from. matplotlib is imported here and only when drawing,
through its Figure objects: no global state, no window, any thread.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from sepcli.errors import require

INCHES_A_GROUP = 1.9  # of a box plot's width
DPI = 150
TITLE_POINTS, TITLE_CHARACTERS = 11, 11  # the latter an inch
LOGARITHMIC = 10  # from this ratio of the largest to the smallest on, an axis is logarithmic


def box_plot(path: Path, title: str, label: str, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """scores: {model: {stem: a value a track}}. A group of boxes for each stem, a box in it for each model.

    A box spans the quartiles, its line is the median, its whiskers reach 1.5 boxes; every track is a dot too.
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
    """scores: {line: {the option's value as text: dB}}. Numbers stand where they belong, words side by side.

    Numbers that reach over more than a factor of ten have a logarithmic axis. levels: {name: dB} of what has no
    such option, dashed from side to side.
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
            (colour,) = axes.plot([], [], "--", label=name)  # the next one
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


def _finish(figure, axes, path: Path, title: str, label: str) -> None:
    characters = int(TITLE_CHARACTERS * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, characters), fontsize=TITLE_POINTS, parse_math=False)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right lower")  # the title is above
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
