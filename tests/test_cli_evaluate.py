"""`sepcli evaluate` as a user meets it: tables, JSON, files, exit codes, mistakes."""

from __future__ import annotations

import csv
import json
import re
import sys

import numpy as np
import pytest
import soundfile

from sepcli import loading
from sepcli.cli import console
from sepcli.cli.app import main
from sepcli.cli.evaluate import parse_overlap, parse_seeds, parse_sweeps
from sepcli.errors import UsageError
from tests import fake_model
from tests.needs import need
from tests.tracks import RATE, make_track

REAL_LOAD = loading.load_model
FOUR = {"drums": 0.2, "bass": 0.1, "other": 0.1, "vocals": 0.1}


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load_model", fake_model.load_model)
    monkeypatch.setenv("SEPCLI_CATALOG", str(fake_model.catalog_file(tmp_path)))
    monkeypatch.delenv("SEPCLI_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    make_track(tmp_path / "data", "a", FOUR)
    make_track(tmp_path / "data", "b", {"drums": 0.1, "vocals": 0.3}, seed=1)


def evaluate(capfd, *arguments):
    """(exit code, standard output, standard error)."""
    code = main(["evaluate", "--data", "data", *arguments])
    return code, *capfd.readouterr()


def test_a_table_for_each_metric_by_its_full_name_on_standard_output(capfd):
    code, out, err = evaluate(capfd, "-m", "fake", "-m", "mixture")
    assert code == 0
    titles = [line for line in out.splitlines() if "dB" in line]
    assert titles == [
        "museval v4 SDR (median of 1 s frames), median over tracks, dB",
        "museval v4 SDR (median of 1 s frames), mean over tracks, dB, ± 95 % interval",
        "uSDR (MDX 2021, whole track), mean over tracks, dB, ± 95 % interval",
    ]
    table = out.split("uSDR")[1].splitlines()[1:5]
    assert table[0].split() == ["MODEL", "bass", "drums", "other", "vocals", "MEAN", "OF", "STEMS"]
    assert table[1].startswith("fake ") and table[2].startswith("mixture ")
    assert table[3].split() == ["tracks", "scored", "1", "2", "1", "2"]
    values = [float(word) for word in re.sub(r"± \S+", "", table[2]).split()[1:]]
    assert values[-1] == pytest.approx(sum(values[:-1]) / 4, abs=0.011)
    assert table[2].count("±") == 2  # bass, other and so the mean have but one track
    assert "fake: drums, bass, other, vocals; overlap 0.25, cpu, float32" in err
    assert "2 tracks, 0:05 of audio." in err and "[4/4] mixture: b: " in err


def test_stems_that_models_lack_are_empty_and_counts_stand_beside_values_where_they_differ(capfd):
    _, out, _ = evaluate(capfd, "-m", "fake", "-m", "vox", "--protocol", "mdx")
    title = "uSDR (MDX 2021, whole track), mean over tracks, dB, ± 95 % interval (tracks scored)"
    assert out.startswith(title + "\n")
    row = out.splitlines()[3]
    assert re.fullmatch(r"vox +-?\d+\.\d\d ± \d+\.\d\d \(2\) +-?\d+\.\d\d ± \d+\.\d\d", row)


def test_json_gives_rows_then_the_summary(capfd):
    code, out, _ = evaluate(capfd, "-m", "mixture", "--protocol", "mdx", "--json")
    objects = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [each.get("track") for each in objects] == ["a", "b", None]
    assert objects[0]["status"] == "done" and objects[0]["stems"]["bass"]["usdr"] < 0
    summary = objects[-1]
    assert summary["metric"] == "uSDR (MDX 2021, whole track)" and summary["statistic"] == "mean over tracks"
    drums = [each["stems"]["drums"]["usdr"] for each in objects[:2]]
    mean = pytest.approx(sum(drums) / 2, abs=1e-5)
    half = pytest.approx(12.706205 * abs(drums[0] - drums[1]) / 2, abs=1e-4)
    assert summary["stems"]["drums"] == {"value": mean, "ci95": half, "std": None, "tracks": 2}


def test_undefined_values_are_dashes_and_null(capfd):
    _, out, err = evaluate(capfd, "-m", "silence", "--protocol", "musdb")
    assert out.splitlines()[2].split() == ["silence", "-", "-", "-", "-", "-"]
    assert "museval v4: 4 of 4 frames are left out" in err
    _, out, _ = evaluate(capfd, "-m", "silence", "--protocol", "musdb", "--json")
    assert json.loads(out.splitlines()[-1])["mean_over_stems"]["value"] is None


@pytest.mark.slow
def test_csv_and_folder(capfd, tmp_path):
    arguments = [
        "-m",
        "fake",
        "-m",
        "mixture",
        "--csv",
        "new/rows.csv",
        "-o",
        "out",
        "--metrics",
        "sir",
        "-t",
        "drums",
        "--duration",
        "1",
    ]
    code, out, err = evaluate(capfd, *arguments)
    assert code == 0 and "In out: rows.jsonl, summary.json, boxes-sdr.png, boxes-isr.png," in err
    assert "museval v4 SIR (median of 1 s frames), median over tracks, dB" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "rows.jsonl",
        "summary.json",
        *(f"boxes-{key}.png" for key in ("sdr", "isr", "sir", "sar", "usdr")),
    }
    lines = list(csv.DictReader((tmp_path / "new" / "rows.csv").open()))
    assert [(line["model"], line["track"], line["stem"]) for line in lines] == [
        ("fake", "a", "drums"),
        ("fake", "b", "drums"),
        ("mixture", "a", "drums"),
        ("mixture", "b", "drums"),
    ]
    assert {"museval_sdr_db", "usdr_db", "si_sdr_db", "museval_sar_db"} < lines[0].keys()
    again = evaluate(capfd, *arguments)
    assert again[1] == out and "[1/4] fake: a: computed before" in again[2]


@pytest.mark.slow
def test_seeds_and_sweeps(capfd, tmp_path):
    code, out, _ = evaluate(
        capfd,
        "-m",
        "fake",
        "--seeds",
        "0,1",
        "--shifts",
        "1",
        "--sweep",
        "overlap=0,0.5",
        "-o",
        "out",
        "--protocol",
        "sisdr",
    )
    assert code == 0
    assert "SI-SDR (whole track, means kept), mean over tracks, dB, mean ± deviation over runs" in out
    assert re.search(r"^fake overlap=0 .*\d+\.\d\d ± \d+\.\d\d", out, re.M)
    assert re.search(r"^fake overlap=0\.5 ", out, re.M)
    assert (tmp_path / "out" / "sweep-overlap-si_sdr.png").exists()


@pytest.mark.slow
def test_protocols_of_windows(capfd, tmp_path):
    """Track b lacks bass and other, which are silence there; and resuming with the other one costs nothing."""
    for name in "ab":
        make_track(tmp_path / "long", name, FOUR if name == "a" else {"drums": 0.1, "vocals": 0.3}, seconds=13)
    make_track(tmp_path / "long", "c", FOUR)  # shorter than a chunk
    arguments = ["-m", "mixture", "-m", "vox", "--data", "long", "-o", "out", "--protocol"]
    code, out, err = evaluate(capfd, *arguments, "msdm")
    assert code == 0 and "msdm: 10 windows in 3 tracks; 1 without any." in err
    table = out.splitlines()
    assert table[0] == (
        "SI-SDRi over the mix (4 s windows, MSDM's choice), mean over all windows, dB, "
        "± 95 % interval (tracks scored)"
    )
    assert table[2].split() == ["mixture", *["0.00", "±", "0.00", "(2)"] * 4, "0.00", "±", "0.00"]
    assert table[3].startswith("vox ") and "(2)" in table[3]
    code, out, err = evaluate(capfd, *arguments, "dicose", "--protocol", "mdx", "--csv", "rows.csv")
    assert code == 0 and err.count("computed before") == 6 and "dicose: 10 windows in 3 tracks" in err
    assert "uSDR" in out and (tmp_path / "out" / "boxes-si_sdri_dicose.png").exists()
    line = next(
        line
        for line in csv.DictReader((tmp_path / "rows.csv").open())
        if (line["track"], line["stem"]) == ("b", "bass")
    )
    assert (line["windows_dicose"], line["usdr_db"]) == ("5.0", "") and float(line["si_sdri_dicose_db"]) == 0


def voiced_track(folder, name, **silent):
    """A tone as vocals, noise as drums; vocals=0 for a track that nobody sings on."""
    place = make_track(folder, name, {"drums": 0.02}, mixture=False, channels=1, seconds=4)
    t = np.arange(4 * RATE) / RATE
    tone = 0.1 * sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 10)) * silent.get("vocals", 1)
    soundfile.write(place / "vocals.wav", tone, RATE, "FLOAT")


@pytest.mark.slow
def test_voices_have_one_table(capfd, tmp_path):
    need("librosa", "pesq")
    voiced_track(tmp_path / "songs", "a")
    voiced_track(tmp_path / "songs", "b", vocals=0)
    arguments = ["-m", "mixture", "-m", "oracle:irm1", "--data", "songs", "--protocol", "ldm", "-o", "out"]
    code, out, err = evaluate(capfd, *arguments)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "ldm: voiced frames of vocals, mean over tracks"
    heads = re.split(r"  +", lines[1])
    assert heads == ["MODEL", "LSD", "Mel-MAE (dB)", "log-F0 RMSE", "PESQ", "computing (s/s)"]
    mixture, oracle = ([float(word) for word in line.split()[1:]] for line in lines[2:4])
    assert oracle[0] < mixture[0] and oracle[1] < mixture[1] and oracle[3] > mixture[3]
    assert lines[4].split() == ["tracks", "scored", "1", "1", "1", "1", "1"]
    assert "Voiced: 0:04 of audio; 1 of 2 stems have no voiced frame and are left out." in err
    assert (tmp_path / "out" / "boxes-lsd.png").exists()
    code, out, _ = evaluate(capfd, *arguments, "--json", "--csv", "rows.csv")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0]["stems"].keys() == {"vocals"} and rows[1]["stems"]["vocals"]["lsd"] is None
    assert rows[1]["status"] == "kept" and rows[1]["stems"]["vocals"]["voiced"] == 0
    assert {row["metric"]: row["unit"] for row in rows if "summary" in row}[
        "PESQ (P.862.2 wide band, pieces of 10 s)"
    ] == "MOS-LQO"
    assert {"lsd", "mel_mae_db", "log_f0_rmse", "pesq_wb", "voiced_s"} < next(
        csv.DictReader((tmp_path / "rows.csv").open())
    ).keys()


@pytest.mark.slow
def test_voices_beside_other_protocols_and_without_their_packages(capfd, tmp_path, monkeypatch):
    need("librosa")
    voiced_track(tmp_path / "songs", "a")
    monkeypatch.setitem(sys.modules, "pesq", None)
    arguments = ["-m", "mixture", "--data", "songs", "--protocol", "mdx", "--protocol", "ldm"]
    code, out, err = evaluate(capfd, *arguments)
    assert code == 0 and "drums" in out and "ldm: voiced frames of vocals" in out and "PESQ" not in out
    assert "PESQ is left out: pesq is not installed" in err and "pip install 'sepcli[pesq]'" in err
    code, _, err = evaluate(capfd, *arguments, "-t", "drums")  # as the user says
    assert code == 0 and "1 of 1 stems have no voiced frame" in err
    monkeypatch.setitem(sys.modules, "librosa", None)
    code, _, err = evaluate(capfd, *arguments)
    assert code == 4 and "librosa is not installed" in err and "pip install 'sepcli[voice]'" in err


def test_data_without_vocals_have_no_voice(capfd, tmp_path):
    need("librosa")
    make_track(tmp_path / "songs", "a", {"drums": 0.1, "bass": 0.1})
    for more in ([], ["--protocol", "mdx"]):
        code, _, err = evaluate(capfd, "-m", "mixture", "--data", "songs", "--protocol", "ldm", *more)
        assert code == 2 and "No track has the stem vocals; there are bass, drums." in err


def test_zero_mean_is_said(capfd):
    _, out, _ = evaluate(capfd, "-m", "mixture", "--protocol", "sisdr", "--zero-mean")
    assert "SI-SDR (whole track, means removed)" in out and "means kept" not in out


def test_a_terminal_gets_tables_with_lines(capfd, monkeypatch):
    monkeypatch.setattr(type(console.out()), "is_terminal", True)
    _, out, _ = evaluate(capfd, "-m", "mixture", "--protocol", "mdx", "-q")
    assert "uSDR (MDX 2021, whole track), mean over tracks, dB" in out and "┃" in out


def test_quiet_leaves_results_only(capfd):
    code, out, err = evaluate(capfd, "-m", "mixture", "-q", "--protocol", "mdx")
    assert code == 0 and not err and out.startswith("uSDR")


def test_a_track_that_fails_is_said_and_the_rest_is_summed_up(capfd, tmp_path):
    (tmp_path / "data" / "a" / "bass.wav").write_bytes(b"x")
    code, out, err = evaluate(capfd, "-m", "mixture", "--protocol", "mdx")
    assert code == 1 and re.search(r"\[1/2\] mixture: a: failed: .*bass\.wav", err)
    assert out.splitlines()[-2].split() == ["tracks", "scored", "1", "1"]
    code, out, _ = evaluate(capfd, "-m", "mixture", "--protocol", "mdx", "--json")
    assert code == 1 and json.loads(out.splitlines()[0])["error"]["code"] == "broken"


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["-m", "nothing"], 3, "nothing"),
    (["-m", "oracle:x"], 2, "oracle:irm1"),
    (["-m", "mixture", "--data", "nowhere"], 1, "does not exist"),
    (["-m", "mixture", "--metrics", "pesq"], 2, "isr, sir, sar"),
    (["-m", "mixture", "--layout", "other"], 2, "layout"),
    (["-m", "mixture", "--protocol", "other"], 2, "other"),
    (["-m", "fake", "--device", "tpu"], 2, "tpu"),
    (["-m", "fake", "--device", "cuda:9"], 4, "cuda:9"),
    (["-m", "fake", "--overlap", "1"], 2, "--overlap 1"),
    (["-m", "fake", "--duration", "0"], 2, "more than 0"),
    (["-m", "fake", "--sweep", "overlap=0,1"], 2, "less than 1"),
    (["-m", "fake", "--segment", "-1"], 2, "--segment"),
    (["-m", "fake", "--sweep", "overlap"], 2, "OPTION=A,B,C"),
    (["-m", "mixture", "-o", "fake-catalog.toml"], 5, "can't be written"),
    ([], 2, "--model"),
])  # fmt: skip
def test_mistakes(capfd, monkeypatch, arguments, code, words):
    if arguments[1:2] == ["nothing"]:
        monkeypatch.setattr(loading, "load_model", REAL_LOAD)
    got, _, err = evaluate(capfd, *arguments)
    assert got == code and words in err and "Traceback" not in err


def test_values():
    assert parse_overlap("published") is None and parse_overlap("0.5") == 0.5
    assert parse_seeds("3") == (3,) and parse_seeds("0, 1,1") == (0, 1)
    assert parse_sweeps(["overlap=0,0.5", "steps= 4"]) == {"overlap": ("0", "0.5"), "steps": ("4",)}
    for wrong in (
        lambda: parse_overlap("x"),
        lambda: parse_seeds("1,x"),
        lambda: parse_seeds(""),
        lambda: parse_sweeps(["=1"]),
        lambda: parse_sweeps(["a="]),
        lambda: parse_sweeps(["seed=1"]),
        lambda: parse_sweeps(["a=1", "a=2"]),
    ):
        with pytest.raises(UsageError):
            wrong()
