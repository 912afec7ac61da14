"""The pictures: PNGs that show what they are given, drawn without pyplot."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sepcli.metrics import plots


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is saved."""
    figures = []
    finish = plots._finish

    def keep(figure, axes, *rest):
        figures.append(axes)
        finish(figure, axes, *rest)

    monkeypatch.setattr(plots, "_finish", keep)
    return figures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_boxes_stand_by_stem_and_model(tmp_path, drawn):
    scores = {"one": {"vocals": [1.0, 2.0, 3.0], "bass": [0.0]}, "two": {"vocals": [4.0, math.nan, math.inf]}}
    plots.box_plot(tmp_path / "new" / "boxes.png", "uSDR", "dB", scores)
    (axes,) = drawn
    assert is_png(tmp_path / "new" / "boxes.png")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["bass", "vocals"]
    assert axes.get_legend_handles_labels()[1] == ["one", "two"] and axes.figure.get_suptitle() == "uSDR"
    dots = {
        (round(float(x), 3), float(y))
        for line in axes.lines
        if line.get_marker() == "."
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert dots == {(0.8, 1.0), (0.8, 2.0), (0.8, 3.0), (-0.2, 0.0), (1.2, 4.0)}


def test_a_sweep_puts_numbers_where_they_belong_and_words_in_order(tmp_path, drawn):
    lines = {"m": {"0.5": 2.0, "0": 1.0}, "n": {"0": math.nan}}
    plots.line_plot(tmp_path / "a.png", "t", "dB", "overlap", lines)
    plots.line_plot(tmp_path / "b.png", "t", "dB", "solver", {"m": {"heun": 2.0, "euler": 1.0}})
    numbers, words = drawn
    assert numbers.lines[0].get_xydata().tolist() == [[0, 1], [0.5, 2]] and numbers.get_xlabel() == "overlap"
    assert [label.get_text() for label in words.get_xticklabels()] == ["heun", "euler"]
    assert [label.get_text() for label in numbers.get_xticklabels()] == ["0.5", "0"]
    assert words.lines[0].get_xydata().tolist() == [[0, 2], [1, 1]]


def test_levels_are_dashed_and_wide_ranges_logarithmic(tmp_path, drawn):
    lines = {"student steps=1": {"0.003": 20.0, "0.3": 21.0, "0.03": 22.0}}
    plots.line_plot(tmp_path / "a.png", "t", "dB", "sigma_max", lines, {"det": 19.5, "undefined": math.nan})
    plots.line_plot(tmp_path / "b.png", "t", "dB", "steps", {"m": {"1": 1.0, "10": 2.0}})
    plots.line_plot(tmp_path / "c.png", "t", "dB", "overlap", {"m": {"0": 1.0, "0.5": 2.0}})
    wide, _narrow, _zero = drawn
    assert [axes.get_xscale() for axes in drawn] == ["log", "linear", "linear"]
    assert wide.get_legend_handles_labels()[1] == ["student steps=1", "det"]
    (level,) = [line for line in wide.lines if set(line.get_ydata()) == {19.5}]
    assert level.get_linestyle() == "--" and list(level.get_xdata()) == [0, 1]  # of the whole width
    assert [label.get_text() for label in wide.get_xticklabels()] == ["0.003", "0.3", "0.03"]
    assert wide.lines[0].get_linestyle() == "-" and list(wide.lines[0].get_xdata()) == [0.003, 0.03, 0.3]


def test_a_long_title_is_broken_to_fit_the_picture(tmp_path, drawn):
    title = "SI-SDRi over the mix (4 s windows, DiCoSe's choice), mean over all windows, mean over stems"
    plots.line_plot(tmp_path / "a.png", title, "dB", "steps", {"a model with a rather long name": {"1": 1.0}})
    (axes,) = drawn
    figure = axes.figure
    assert figure.get_suptitle().replace("\n", " ") == title
    assert figure._suptitle.get_window_extent().width < figure.get_figwidth() * plots.DPI


@pytest.mark.slow
def test_matplotlib_is_imported_only_for_drawing_and_pyplot_never(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sepcli.metrics import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plots.line_plot(Path({str(tmp_path / 'a.png')!r}), '', '', '', {{'m': {{'1': 2.0}}}})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_a_home_folder_matplotlib_has_a_temporary_one(tmp_path):
    """Where HOME is not set and the system's list of users has no entry either."""
    code = (
        "from pathlib import Path\n"
        "try:\n"
        "    import pwd\n"
        "    pwd.getpwuid = {}.__getitem__  # KeyError, as for a user id that the system does not know\n"
        "except ImportError: pass\n"
        "from sepcli.metrics import plots\n"
        "plots.line_plot(Path('a.png'), '', '', '', {'m': {'1': 2.0}})\n"
        "import matplotlib; print(matplotlib.get_configdir())\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    homes = ("HOME", "USERPROFILE", "HOMEPATH", "HOMEDRIVE", "MPLCONFIGDIR")
    env = {name: value for name, value in os.environ.items() if name not in homes}
    env |= {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    env |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert Path(done.stdout.strip()).parent == temporary and (tmp_path / "a.png").exists()
    assert not list(temporary.iterdir())  # it is removed at the end
