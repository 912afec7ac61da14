"""Rows of several models and runs, grouped, and what is written of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sepcli.errors import InputError, OutputError
from sepcli.evaluation import comparison
from sepcli.evaluation.comparison import compare
from sepcli.evaluation.rows import Row
from sepcli.metrics.summary import MEAN


def row(model="m", track="a", value=1.0, *, run=None, seed=0, status="done", **swept):
    stems = {"vocals": {"usdr": value, "sdr": value}} if status != "failed" else {}
    error = InputError("Broken.") if status == "failed" else None
    return Row(model, run or model, seed, swept, track, status, stems=stems, error=error)


def test_models_and_swept_options_are_groups_and_seeds_and_files_runs():
    rows = [
        row("m", "a", 1, overlap="0"),
        row("m", "b", 2, overlap="0"),
        row("m", "a", 5, overlap="0.5"),
        row("r,s", "a", 1, run="r"),
        row("r,s", "a", 3, run="s"),
        row("n", "a", 0),
        row("n", "a", 2, seed=1),
    ]
    groups = compare(rows, ["mdx"])
    assert [group.label for group in groups] == ["m overlap=0", "m overlap=0.5", "r,s", "n"]
    assert [len(group.scores) for group in groups] == [1, 1, 2, 2]
    values = [group.line("usdr", MEAN).mean for group in groups]
    assert [value.value for value in values] == [1.5, 5, 2, 1]
    assert [value.std for value in values] == [None, None, pytest.approx(2**0.5), pytest.approx(2**0.5)]


def test_failed_rows_do_not_count():
    rows = [row("m", "a", 1), row("m", "b", status="failed"), row("n", "a", status="failed")]
    groups = compare(rows, ["mdx"])
    assert [group.model for group in groups] == ["m"]
    assert groups[0].line("usdr", MEAN).stems["vocals"].tracks == 1


def test_json_names_the_metric_in_full():
    (fields,) = comparison.as_json(compare([row()], ["mdx"]))
    assert fields == {
        "summary": "mdx",
        "model": "m",
        "swept": {},
        "options": {},
        "runs": 1,
        "metric": "uSDR (MDX 2021, whole track)",
        "statistic": MEAN,
        "unit": "dB",
        "stems": {"vocals": {"value": 1, "ci95": None, "std": None, "tracks": 1}},
        "mean_over_stems": {"value": 1, "ci95": None, "std": None, "tracks": 1},
    }


def test_the_options_that_all_runs_used_are_in_the_summary():
    rows = [
        replace(row(seed=seed), settings={"options": {"steps": 4, "sigma_max": 0.01 * seed}}) for seed in (1, 2)
    ]
    (fields,) = comparison.as_json(compare(rows, ["mdx"]))
    assert fields["options"] == {"steps": 4} and fields["runs"] == 2


def names(paths):
    return [path.name for path in paths]


def test_one_model_has_a_summary_several_have_boxes_and_a_sweep_has_lines(tmp_path):
    one = [row("m", "a", 1), row("m", "b", 2)]
    assert names(comparison.write(tmp_path, compare(one, ["mdx"]), ["mdx"])) == ["summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text())[0]["mean_over_stems"]["value"] == 1.5
    several = [*one, row("n", "a", 3)]
    written = comparison.write(tmp_path, compare(several, ["mdx", "musdb"]), ["mdx", "musdb"])
    assert names(written) == ["summary.json", "boxes-usdr.png", "boxes-sdr.png"]
    sweep = [row("m", "a", value, **{"a/b": text}) for text, value in {"1": 2.0, "2": 3.0}.items()]
    written = comparison.write(tmp_path, compare(sweep, ["mdx"]), ["mdx"])
    assert names(written) == ["summary.json", "sweep-a-b-usdr.png"] and all(path.exists() for path in written)


def test_a_sweep_is_a_line_for_each_model_and_setting_of_the_other_options(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        comparison.plots, "line_plot", lambda path, title, label, option, *lines: drawn.update({option: lines})
    )
    monkeypatch.setattr(comparison.plots, "box_plot", lambda *arguments: None)
    rows = [row("m", "a", 10 * x + y, x=str(x), y=str(y)) for x in (1, 2) for y in (3, 4)]
    rows += [row("mixture", "a", 7), row("det", "a", 9, x="1"), row("det", "a", 11, x="2")]  # no y
    comparison.write(tmp_path, compare(rows, ["mdx"]), ["mdx"])
    assert drawn["x"] == (
        {"m y=3": {"1": 13, "2": 23}, "m y=4": {"1": 14, "2": 24}, "det": {"1": 9, "2": 11}},
        {"mixture": 7},
    )
    assert drawn["y"] == (
        {"m x=1": {"3": 13, "4": 14}, "m x=2": {"3": 23, "4": 24}},
        {"mixture": 7, "det x=1": 9, "det x=2": 11},
    )


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        comparison.write(tmp_path / "out", [], ["mdx"])
