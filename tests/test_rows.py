"""Rows on disk and in JSON: nothing is lost, torn lines don't matter, undefined values are null."""

from __future__ import annotations

import csv
import json
import math

import pytest

from sepcli.errors import InputError, OutputError
from sepcli.evaluation.rows import Row, RowFile, number, scores_of, write_csv

STEMS = {"vocals": {"sdr": 1.25, "usdr": -2.5}, "bass": {"sdr": math.nan, "usdr": math.inf}}


def row(track="a", key="k", **more):
    return Row("m", "m", 0, {}, track, "done", key, STEMS, 60, 4, 60.5, 2.0, **more)


def same(a, b):
    return json.dumps(a) == json.dumps(b)  # NaN equals NaN here


def test_json_has_null_for_undefined_and_a_word_for_infinity():
    text = json.dumps(row().as_json(), allow_nan=False)
    assert json.loads(text)["stems"] == {
        "vocals": {"sdr": 1.25, "usdr": -2.5},
        "bass": {"sdr": None, "usdr": "Infinity"},
    }
    assert number(-math.inf) == "-Infinity" and number(1.23456789) == 1.234568
    failed = Row("m", "m", 0, {}, "a", "failed", error=InputError("It is broken.", code="broken"))
    assert failed.as_json()["error"] == {"code": "broken", "message": "It is broken.", "remedy": ""}
    assert failed.as_json().keys() == row().as_json().keys()


def test_rows_are_found_again_by_their_key(tmp_path):
    file = RowFile(tmp_path / "new")
    file.add(row(key="k1"))
    file.add(row("b", key="k2"))
    again = RowFile(tmp_path / "new")
    found = again.find("k2")
    assert same(found.pop("stems"), STEMS)
    assert found == {"frames": 60, "silent_frames": 4, "audio_seconds": 60.5, "seconds": 2.0}
    assert again.find("k3") is None


def test_a_line_torn_by_a_kill_is_ignored_and_does_not_tear_the_next(tmp_path):
    file = RowFile(tmp_path)
    file.add(row(key="k1"))
    file.add(row(key="k2"))
    file.path.write_bytes(file.path.read_bytes()[:-20])
    torn = RowFile(tmp_path)
    assert torn.find("k1") and torn.find("k2") is None
    torn.add(row(key="k3"))
    whole = RowFile(tmp_path)
    assert whole.find("k1") and whole.find("k3") and whole.find("k2") is None


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "rows").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        RowFile(tmp_path / "rows")
    with pytest.raises(OutputError, match="can't be written"):
        write_csv(tmp_path / "rows" / "x.csv", [row()])


def test_csv_has_a_line_a_track_and_stem(tmp_path):
    stems = {"vocals": {"sdr": 2.0, "usdr": 3.0, "sir": 4.0}}
    swept = Row("m", "m", 1, {"steps": "4"}, "b", "kept", "k", stems)
    failed = Row("m", "m", 0, {}, "c", "failed", error=InputError("Broken."))
    write_csv(tmp_path / "new" / "x.csv", [row(), swept, failed])
    lines = list(csv.reader((tmp_path / "new" / "x.csv").open()))
    assert lines == [
        ["model", "run", "seed", "steps", "track", "stem", "museval_sdr_db", "usdr_db", "museval_sir_db"],
        ["m", "m", "0", "", "a", "vocals", "1.25", "-2.5", ""],
        ["m", "m", "0", "", "a", "bass", "", "Infinity", ""],
        ["m", "m", "1", "4", "b", "vocals", "2.0", "3.0", "4.0"],
    ]


def test_failed_rows_have_no_scores():
    assert list(scores_of([row(), Row("m", "m", 0, {}, "c", "failed")])) == ["a"]
