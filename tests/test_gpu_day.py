"""The script for a day on a GPU: what it keeps when it is ended, and every part of it on a CPU."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sepcli.engine import stage
from tests.bench import gpu_day, results
from tests.bench.gpu_rivals import TESTED
from tests.bench.gpu_rows import LEFT_OUT, TIME, Day, LeftOut, Part
from tests.bench.results import Figure
from tests.needs import found


@pytest.fixture
def day(tmp_path) -> Day:
    return Day("cpu", "Some GPU (80 GB)", tmp_path, tmp_path / "results")


@pytest.fixture
def page(monkeypatch):
    """The page of the records in a folder."""
    monkeypatch.syspath_prepend(str(results.ROOT / "docs"))
    module = importlib.import_module("benchmarks_page")

    def render(folder: Path) -> str:
        monkeypatch.setattr(module, "RESULTS", folder)
        return module.benchmarks()

    return render


class Toy:
    """A part of three rows; `calls` are those that were measured, and a row in `answers` does that instead."""

    def __init__(self):
        self.calls: list[str] = []
        self.answers = {}
        self.part = Part("toy", 10, self.rows, self.figures, lambda day: {"seconds": day.seconds(60)})

    def rows(self, day):
        return {row: lambda row=row: self.measure(row) for row in ("first", "second", "third")}

    def measure(self, row):
        self.calls.append(row)
        if row in self.answers:
            raise self.answers[row]
        return {"value": len(row)}

    @staticmethod
    def figures(runs):
        return [Figure(f"length of {row}", run["value"]) for row, run in runs.items()]


def test_each_row_is_written_as_it_comes_and_measured_once(day):
    """Ended in the middle of the second row, the first one stands; the next run does the other two."""
    toy = Toy()
    toy.answers["second"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        toy.part.fill(day)
    assert toy.part.file(day) == day.folder / "gpu_day-toy-some-gpu-80-gb.json"
    record = json.loads(toy.part.file(day).read_text())
    assert record["machine"]["device"] == "Some GPU (80 GB)" and record["settings"] == {"seconds": 1.5}
    assert record["figures"] == [{"name": "length of first", "value": 5}]
    assert toy.part.missing(day) == {"second": TIME, "third": TIME}
    toy.answers.clear()
    toy.part.fill(day)
    assert toy.calls == ["first", "second", "second", "third"] and not toy.part.missing(day)
    toy.part.fill(replace(day, card="another"))
    assert toy.calls[4:] == ["first", "second", "third"], "each card has rows of its own"
    assert [file.name for file in day.folder.iterdir() if file.suffix != ".json"] == []


def test_a_row_that_fails_is_named_and_tried_again(day, capsys, page):
    """It ends its process, which a GPU may not want any more; another one goes on behind it."""
    toy = Toy()
    toy.answers |= {"first": RuntimeError("no luck\nat all"), "third": LeftOut("there is none")}
    failed = {"first": "failed: RuntimeError: no luck"}
    toy.part.fill(day)
    assert toy.part.missing(day) == {**failed, "second": TIME, "third": TIME}
    assert "at all" in capsys.readouterr().err
    toy.part.fill(day, again=False)
    assert toy.part.missing(day) == {**failed, "third": f"{LEFT_OUT}there is none"}
    assert toy.calls == ["first", "second", "third"]
    text = page(day.folder)
    assert "**Some GPU (80 GB)**" in text and "| length of second | 6 |" in text
    assert "- first: failed: RuntimeError: no luck\n" in text and "no GPU was had" not in text
    toy.answers.clear()
    toy.part.fill(day)
    assert not toy.part.missing(day)


def test_rows_of_several_commits_say_so(day, monkeypatch):
    toy = Toy()
    toy.answers["second"] = RuntimeError()
    monkeypatch.setenv("BENCH_COMMIT", "before")
    toy.part.fill(day)
    assert "commits" not in json.loads(toy.part.file(day).read_text())["settings"]
    toy.answers.clear()
    monkeypatch.setenv("BENCH_COMMIT", "after")
    toy.part.fill(day)
    told = json.loads(toy.part.file(day).read_text())["settings"]["commits"]
    assert told == "first: before, second: after, third: after"


def test_parts_share_the_time(day, monkeypatch, capsys):
    """Each has its own limit, and no more than what is left; what is done takes none."""
    now, asked = [0.0], []

    def apart(day, part, seconds, again):
        asked.append((part.name, seconds))
        now[0] += 50

    monkeypatch.setattr(gpu_day.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_day, "_apart", apart)
    on_gpu = replace(day, device="cuda")
    limits = {"done": 90, "one": 80, "two": 80, "three": 80}
    parts = [replace(Toy().part, name=name, most=most) for name, most in limits.items()]
    parts[0].fill(on_gpu)
    assert not gpu_day.run(on_gpu, parts, 105)
    assert asked == [("one", 80), ("two", 55)]
    assert "done: done before" in capsys.readouterr().err


def test_processes_follow_each_other_until_all_rows_were_tried(day, monkeypatch):
    """Also where one of them dies without a word."""
    toy, launched = Toy(), []

    def apart(day, part, seconds, again):
        launched.append(again)
        part.fill(day, again=again)

    monkeypatch.setattr(gpu_day, "_apart", apart)
    toy.answers |= {"first": RuntimeError(), "second": RuntimeError()}
    assert not gpu_day.run(day, [toy.part], 60)
    assert toy.calls == ["first", "second", "third"] and launched == [True, False, False]
    toy.answers.clear()
    assert gpu_day.run(day, [toy.part], 60) and launched[3:] == [True]
    monkeypatch.setattr(gpu_day, "_apart", lambda *_: launched.append("died"))
    assert not gpu_day.run(day, [Toy().part, replace(Toy().part, name="other")], 60)
    assert launched[4:] == ["died"]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_day"])
    with pytest.raises(SystemExit) as stop:
        gpu_day.main()
    assert stop.value.code == 2 and "no CUDA device; --dry" in capsys.readouterr().err


def test_the_page_says_that_no_gpu_was_had(tmp_path, page):
    assert "**Not measured yet**: no GPU was had for it." in page(tmp_path)


def test_windows_stay_where_they_are_on_a_cpu(monkeypatch):
    """Pinned memory is for CUDA; the way of the CPU has no copy."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda *_: pytest.fail("pinned"))
    windows = torch.randn(2, 2, 100)
    assert stage.sent(windows, torch.device("cpu")) is windows


@pytest.mark.slow
def test_a_part_is_ended_when_its_time_is_up(day, capsys):
    """A process that still loads torch has written nothing, and is gone with all that it has started."""
    gpu_day._apart(day, TESTED, 0.5, True)
    assert "its 0 s are up" in capsys.readouterr().err and not day.folder.exists()


@pytest.mark.slow  # a minute: eight processes, and those that they start
def test_every_part_on_a_cpu(tmp_path, monkeypatch, capsys, page):
    folder = tmp_path / "work" / "results"
    arguments = ["gpu_day", "--dry", "--work", str(tmp_path / "work"), "--budget", "3000"]
    if found("msst"):
        arguments += ["--msst", str(Path(sys.executable).parent)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        gpu_day.main()
    told = capsys.readouterr()
    records = [json.loads(file.read_text()) for file in sorted(folder.iterdir())]
    assert {record["bench"] for record in records} == {f"gpu_day-{name}" for name in gpu_day.PARTS}
    missing = {row: why for record in records for row, why in record["not_measured"].items()}
    assert stop.value.code == 0 and all(why.startswith(LEFT_OUT) for why in missing.values()), (
        missing,
        told.err,
    )
    assert all(record["machine"]["device"] == gpu_day.DRY and record["figures"] for record in records)
    figures = {figure["name"]: figure["value"] for record in records for figure in record["figures"]}
    assert figures["SNR of float32 against demucs, worst stem"] >= 85
    assert figures["htdemucs, torch.compile, batch 1: difference from plain calls, of the peak"] < 1e-5
    assert figures["test_device.py: passed"] > 10 and figures["test_device.py: failed"] == 0
    assert figures["SNR of one against the other, worst stem"] == 200
    text = page(folder)
    assert all(f"| {name} | " in text for name in figures)
    paths = [
        value for record in records for value in record["settings"].values() if str(tmp_path) in str(value)
    ]
    assert not paths
