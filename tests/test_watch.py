"""`separate --watch`: which files have arrived, what they are called, how a watch goes on and ends.

Time and changes are scripted (`watched`), but for the last tests, which watch real folders in real time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from sepcli.batch import inputs, watch
from sepcli.batch.arrivals import Arrivals
from sepcli.batch.results import Listener
from sepcli.cli.app import main
from sepcli.cli.signals import Terminated
from sepcli.errors import InputError, OutputError, UsageError
from tests import fake_model
from tests.test_events import VALID
from tests.test_jobs import STEMS, song, tree, wait_for

ROOT = Path(__file__).parents[1]
SUFFIXES = {".wav", ".flac"}


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    Path("music").mkdir()


@pytest.fixture
def watched(monkeypatch, capfd):
    """A watch in which nothing happens but the steps, each followed by the time in which files settle.

    (exit code, results of --json, events of --progress json). Stems are in `out` where -o says nothing else.
    """

    def run(*arguments, steps=(), folders=("music",)):
        now = [0.0]

        def changes(*_):
            for step in (lambda: None, *steps):
                step()
                yield True
                now[0] += watch.SETTLE_SECONDS
                yield False
            raise KeyboardInterrupt

        monkeypatch.setattr(watch, "changes", changes)
        monkeypatch.setattr(watch, "clock", lambda: now[0])
        out = () if "-o" in arguments else ("-o", "out")
        options = ("-m", "fake", "-t", "bass", "--watch", "--json", "--progress", "json")
        code = main(["separate", *folders, *options, *out, *arguments])
        printed = capfd.readouterr()
        assert all(line.startswith("{") for line in printed.err.splitlines()), printed.err
        events = [json.loads(line) for line in printed.err.splitlines()]
        for event in events:
            VALID.validate(event)
        return code, [json.loads(line) for line in printed.out.splitlines()], events

    return run


def ended(results):
    return [(result.get("input"), result["status"]) for result in results]


# --- which files have arrived ---


def arrivals(*folders, settle=5.0):
    return Arrivals(folders or ("music",), Path("out"), SUFFIXES, settle=settle)


def at(found, now, look=True):
    """The names of what has arrived at this time."""
    if look:
        assert found.look(now, lambda path: False) == []
    return [source.name for source in found.settled(now)]


def test_a_file_arrives_once_it_has_stopped_growing():
    found = arrivals()
    file = Path("music/a.wav")
    file.write_bytes(b"1")
    assert at(found, 0) == at(found, 4.9) == []
    file.write_bytes(b"12")
    assert at(found, 5) == at(found, 9.9) == [] and found.waiting
    assert at(found, 10) == ["music/a.wav"] and not found.waiting
    assert at(found, 20) == at(found, 30) == []


def test_a_file_that_changes_or_comes_back_arrives_again():
    found = arrivals(settle=0)
    file = Path(song("music/a.wav"))
    assert at(found, 0) == ["music/a.wav"]
    os.utime(file, ns=(0, 10**9))  # of the same size
    assert at(found, 1) == ["music/a.wav"] and at(found, 2) == []
    file.rename("b.wav")
    assert at(found, 3) == []
    Path("b.wav").rename(file)
    assert at(found, 4) == ["music/a.wav"]


@pytest.mark.skipif(os.name == "nt", reason="no such date")
def test_other_rights_bring_back_only_what_failed():
    found = arrivals(settle=0)
    for name in "ab":
        song(f"music/{name}.wav")
    assert at(found, 0) == ["music/a.wav", "music/b.wav"]
    found.done("music/a.wav")
    for name in "ab":
        Path(f"music/{name}.wav").chmod(0o640)
    assert at(found, 1) == ["music/b.wav"]


def test_unfinished_downloads_are_no_files_and_arrive_under_their_final_name():
    found = arrivals()
    for name in ("a.wav.part", "b.wav.crdownload", ".c.wav.x1y2", ".d.wav"):
        song("x.wav"), Path("x.wav").rename(f"music/{name}")
    assert at(found, 0) == at(found, 9) == []
    Path("music/a.wav.part").rename("music/a.wav"), Path("music/.c.wav.x1y2").rename("music/c.wav")
    assert at(found, 10) == [] and at(found, 15) == ["music/a.wav", "music/c.wav"]


def test_a_file_that_goes_while_it_is_waited_for_is_forgotten():
    found = arrivals()
    Path(song("music/a.wav"))
    assert at(found, 0) == [] and found.waiting
    Path("music/a.wav").unlink()
    assert at(found, 5) == [] and not found.waiting


def test_memory_holds_what_is_there_only():
    found = arrivals(settle=0)
    for number in range(3):
        song(f"music/{number}.wav")
        assert at(found, number) == [f"music/{number}.wav"]
        Path(f"music/{number}.wav").unlink()
    assert at(found, 9) == [] and not found._known


def test_a_folder_that_can_not_be_read_is_named_once_each_time(monkeypatch):
    found = arrivals()
    song("music/locked/a.wav")
    scandir, locked = os.scandir, [True]

    def guarded(path):
        if locked[0] and Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(inputs.os, "scandir", guarded)
    assert [name for name, _ in found.look(0, lambda path: False)] == ["music/locked"]
    assert found.look(1, lambda path: False) == []
    locked[0] = False
    assert found.look(2, lambda path: False) == [] and found.waiting
    locked[0] = True
    assert [problem.code for _, problem in found.look(3, lambda path: False)] == ["unreadable"]


def test_a_folder_in_whose_place_there_is_another_disk_is_gone(monkeypatch):
    found = arrivals()
    found.check()
    found._disks["music"] += 1
    with pytest.raises(InputError, match="'music' is gone"):
        found.check()


# --- a watch ---


def test_what_is_there_and_what_arrives_is_separated_by_one_model(watched):
    song("music/a.wav")
    code, results, events = watched(
        "-o", "music/stems", steps=[lambda: song("music/new/b.wav"), lambda: None, lambda: song("music/c.flac")]
    )
    names = ["music/a.wav", "music/new/b.wav", "music/c.flac"]
    assert code == 0 and ended(results) == [(name, "done") for name in names]  # and no stem is an input
    assert tree("music/stems/fake") == ["a/bass.wav", "c/bass.wav", "new/b/bass.wav"]
    assert fake_model.loads == ["fake"]
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    one = ["track", "result", "watching"]
    assert kinds == ["start", *one, *one, *one, "summary"]
    assert events[-1]["done"] == 3 and not list(Path("music/stems").glob(".sepcli-work*"))


def test_an_empty_folder_is_waited_at_and_a_model_that_is_none_is_found_before(watched):
    code, results, events = watched()
    assert (
        code == 0 and results == [] and [event["event"] for event in events] == ["start", "watching", "summary"]
    )
    code, (failure,), _ = watched("-m", "fkae")
    assert code == 3 and failure["error"]["code"] == "unknown_model"


def test_of_what_has_had_its_turn_only_the_numbers_are_kept(watched, monkeypatch):
    from sepcli.cli.reporting import Reporter

    song("music/a.wav")
    heard = []
    monkeypatch.setattr(Reporter, "__exit__", lambda self, *_: heard.append(self.results))
    _, _, events = watched(steps=[lambda: song("music/b.wav")])
    assert heard == [[]] and events[-1]["done"] == 2


def test_bars_come_back_with_what_arrives_and_one_round_follows_another(monkeypatch, capfd):
    from sepcli.cli import console

    now = [0.0]

    def changes(*_):
        for at, new in ((0, "a"), (3, "b"), (5, ""), (8, ""), (9, "c"), (14, "")):
            if new:
                song(f"music/{new}.wav")
            now[0] = at
            yield True
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "changes", changes)
    monkeypatch.setattr(watch, "clock", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1")
    try:
        assert main(["separate", "music", "-m", "fake", "-t", "bass", "--watch"]) == 0
    finally:
        console.err.cache_clear()
    said = capfd.readouterr().err
    assert "Traceback" not in said and "Stopped: 3 done" in said and said.count("Watching music: ") == 1
    assert "\x1b[?25h" in said  # a live display has given the cursor back


def test_a_watch_that_is_started_again_catches_up(watched):
    song("music/a.wav")
    watched()
    song("music/b.wav", seed=1), song("music/a.wav", seed=2)
    code, results, _ = watched(steps=[lambda: None])
    assert code == 0 and ended(results) == [("music/a.wav", "done"), ("music/b.wav", "done")]
    assert ended(watched()[1]) == [("music/a.wav", "skipped"), ("music/b.wav", "skipped")]


def test_an_input_that_was_replaced_is_separated_again(watched):
    song("music/a.wav")
    _, results, _ = watched(steps=[lambda: song("music/a.wav", seed=1, seconds=0.3)])
    assert ended(results) == [("music/a.wav", "done")] * 2
    assert soundfile.info("out/fake/a/bass.wav").duration == pytest.approx(0.3)


def test_a_file_that_fails_is_tried_again_when_it_has_changed(watched):
    Path("music/bad.wav").write_bytes(b"no audio at all" * 99)
    song("music/good.wav")
    code, results, _ = watched(steps=[lambda: None, lambda: song("music/bad.wav")])
    assert code == 0
    assert sorted(ended(results[:2])) == [("music/bad.wav", "failed"), ("music/good.wav", "done")]
    assert ended(results[2:]) == [("music/bad.wav", "done")]


def test_a_file_in_the_way_fails_its_own_track(watched):
    song("out/fake/a/bass.wav")
    song("music/a.wav"), song("music/b.wav")
    before = Path("out/fake/a/bass.wav").read_bytes()
    code, results, _ = watched()
    assert code == 0 and sorted(ended(results)) == [("music/a.wav", "failed"), ("music/b.wav", "done")]
    error = next(result["error"] for result in results if result["error"])
    assert error["code"] == "exists" and "sepcli did not make it" in error["message"]
    assert Path("out/fake/a/bass.wav").read_bytes() == before


def test_stems_written_into_the_watched_folder_are_no_inputs(watched):
    song("music/a.wav")
    code, results, _ = watched("-o", ".", "--template", "music/{track}-{stem}.{ext}", steps=[lambda: None] * 2)
    assert code == 0 and ended(results) == [("music/a.wav", "done")]
    assert tree("music") == ["a-bass.wav", "a.wav"]


# --- names ---


def test_names_stay_as_they_are_whatever_arrives(watched):
    song("music/a.wav")
    _, results, events = watched(steps=[lambda: song("music/a.flac", seed=1)])
    assert ended(results) == [("music/a.wav", "done"), ("music/a.flac", "done")]
    assert tree("out/fake") == ["a.flac/bass.wav", "a/bass.wav"]
    (notice,) = (event["message"] for event in events if event["event"] == "notice")
    assert notice == (
        "music/a.flac would get the names of another input's stems; {trackext} in its own tells them apart."
    )
    assert ended(watched()[1]) == [("music/a.flac", "skipped"), ("music/a.wav", "skipped")]
    Path("music/a.wav").unlink()
    assert ended(watched()[1]) == [("music/a.flac", "skipped")]
    Path("music").rename("moved")
    assert ended(watched(folders=["moved"])[1]) == [("moved/a.flac", "skipped")]


def test_what_arrives_together_is_told_apart_as_in_an_ordinary_run(watched):
    song("music/a.wav"), song("music/a.flac", seed=1)
    assert ended(watched()[1]) == [("music/a.flac", "done"), ("music/a.wav", "done")]
    assert tree("out/fake") == ["a.flac/bass.wav", "a.wav/bass.wav"]
    assert main(["separate", "music", "-m", "fake", "-t", "bass", "-o", "out", "-q"]) == 0
    assert tree("out/fake") == ["a.flac/bass.wav", "a.wav/bass.wav"]


def test_what_nothing_else_tells_apart_gets_a_number_that_stays(watched):
    folders = [Path(name) for name in "wxyz"]
    for folder in folders:
        (folder / "cd").mkdir(parents=True)
    steps = [lambda at=at: song(folders[at] / "cd" / "a.wav", seed=at) for at in range(4)]
    _, results, _ = watched(steps=steps, folders=list("wxyz"))
    assert ended(results) == [(f"{name}/cd/a.wav", "done") for name in "wxyz"]
    assert len({result["outputs"]["bass"] for result in results}) == 4
    _, again, _ = watched(folders=list("zyxw"))
    assert {result["status"] for result in again} == {"skipped"}
    assert {(each["input"], each["outputs"]["bass"]) for each in again} == {
        (each["input"], each["outputs"]["bass"]) for each in results
    }


# --- its end ---


def test_a_folder_that_vanishes_ends_it_with_a_sentence(watched):
    song("music/a.wav")
    code, results, events = watched(steps=[lambda: shutil.rmtree("music"), lambda: None])
    assert code == 1 and ended(results) == [("music/a.wav", "done"), (None, "failed")]
    assert results[-1]["error"]["code"] == "folder_gone"
    assert [event["event"] for event in events[-2:]] == ["summary", "error"]
    assert "'music' is gone" in events[-1]["message"] and "goes on where it stopped" in events[-1]["remedy"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated()])
def test_a_stop_within_a_track_is_clean_too(watched, monkeypatch, stop):
    from sepcli.batch import track

    def stopped(*arguments, **more):
        raise stop

    song("music/a.wav"), song("music/b.wav")
    with monkeypatch.context() as patch:
        patch.setattr(track, "render", stopped)
        code, results, _ = watched()
    assert code == 0 and ended(results) == [("music/a.wav", "failed"), ("music/b.wav", "failed")]
    assert {result["error"]["code"] for result in results} == {"not_done"}
    assert not list(Path("out").glob(".sepcli-work*")) if Path("out").exists() else True
    assert ended(watched()[1]) == [("music/a.wav", "done"), ("music/b.wav", "done")]


def test_an_output_that_can_not_be_written_ends_it(watched, monkeypatch):
    from sepcli.batch import track

    def full(*arguments, **more):
        raise OutputError("The disk is full.")

    song("music/a.wav"), song("music/b.wav")
    monkeypatch.setattr(track, "render", full)
    code, results, _ = watched(steps=[lambda: song("music/c.wav")])
    assert code == 5 and [result["error"]["code"] for result in results] == ["output", "not_done"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.wav"], 2, "'a.wav' is no folder, and --watch waits for files in folders."),
        (["-"], 2, "Standard input is no folder"),
        (["missing"], 1, "'missing' does not exist."),
        (["music", "-o", "music"], 2, "is the output folder too"),
        (["music", "--dry-run"], 2, "--dry-run and --shard have no place there"),
        (["music", "--shard", "1/2"], 2, "--dry-run and --shard have no place there"),
        (["music", "--template", "{tracknumber} {track}/{stem}.{ext}"], 2, "numbers all inputs"),
        (["music", "-o", "-", "-t", "bass"], 2, "-o -, --dry-run"),
    ],
)
def test_what_can_not_be_watched(arguments, code, said, capfd, monkeypatch):
    song("a.wav")
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    assert main(["separate", "-m", "fake", "--watch", *arguments]) == code
    assert said in capfd.readouterr().err
    assert not Path("separated").exists()


def test_stems_are_not_watched(watched):
    song("music/a.wav")
    watched()
    Path("out").rename("stems")
    with pytest.raises(InputError, match="holds stems"):
        arrivals("stems")
    with pytest.raises(UsageError):
        arrivals("music/a.wav")


# --- what the system reports ---


def test_changes_are_reported_as_they_come_but_those_of_the_output_folder(monkeypatch):
    monkeypatch.setattr(watch, "TICK_SECONDS", 0.05)
    out = Path("music/stems")
    out.mkdir()
    found = watch.changes(["music"], out, Listener())
    assert next(found) and next(found)  # now, and once everything is reported
    assert not next(found)
    (out / "bass.wav").write_bytes(b"1")
    assert not any(next(found) for _ in range(4))
    Path("music/a.wav").write_bytes(b"1")
    assert any(next(found) for _ in range(20))
    found.close()


def test_folders_are_searched_where_the_system_reports_nothing(monkeypatch):
    import watchfiles

    def limit(*arguments, **more):
        raise OSError("OS file watch limit reached.")

    heard, slept = Listener(), []
    heard.notice = slept.append
    monkeypatch.setattr(watchfiles, "watch", limit)
    monkeypatch.setattr(watch.time, "sleep", slept.append)
    found = watch.changes(["music"], Path("out"), heard)
    assert [next(found) for _ in range(4)] == [True, False, False, False]
    assert slept[0].startswith("The system reports no changes (OS file watch limit reached), so")
    assert slept[1:] == [watch.TICK_SECONDS] * 2


PROGRAM = """
import sys
from sepcli.batch import watch
watch.SETTLE_SECONDS, watch.TICK_SECONDS = 2.0, 0.1
from tests import fake_model
fake_model.run()
"""


def start(*arguments):
    command = [sys.executable, "-c", PROGRAM, "separate", "-m", "fake", "music", "-o", "music/stems", "--watch"]
    return subprocess.Popen(
        [*command, *arguments, "--json", "--progress", "json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=open("events", "w"),
        text=True,
    )


def times(word):
    return Path("events").read_text().count(word)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_growing_file_signals_and_restarts():
    song("music/a.wav")
    whole = Path(song("b.wav", seconds=1, seed=1)).read_bytes()

    def stopped(process, number):
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and times("Traceback") == 0
        return ended(map(json.loads, printed.splitlines()))

    process = start()
    wait_for(lambda: times('"watching"') == 1, process)
    with open("music/b.wav", "wb") as file:
        for part in range(10):
            file.write(whole[part * len(whole) // 10 : (part + 1) * len(whole) // 10])
            file.flush()
            time.sleep(0.3)
    wait_for(lambda: times('"watching"') == 2, process)
    assert stopped(process, signal.SIGINT) == [("music/a.wav", "done"), ("music/b.wav", "done")]
    assert soundfile.info("music/stems/fake/b/bass.wav").frames == 44100
    song("music/c.wav", seed=2)
    for number, status in ((signal.SIGTERM, "done"), (signal.SIGHUP, "skipped")):
        process = start()
        wait_for(lambda process=process: times('"watching"') == 1, process)
        assert stopped(process, number) == [
            ("music/a.wav", "skipped"),
            ("music/b.wav", "skipped"),
            ("music/c.wav", status),
        ]
    assert len(tree("music/stems")) == 3 * len(STEMS) and not list(Path("music/stems").glob(".sepcli-work*"))


@pytest.mark.slow
@pytest.mark.parametrize("polling", ["", "1"])
def test_a_real_folder_that_vanishes(polling, monkeypatch):
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", polling)
    process = start()
    wait_for(lambda: times('"watching"') == 1, process)
    song("x.wav"), Path("x.wav").rename("music/a.wav")  # at once
    wait_for(lambda: times('"watching"') == 2, process)
    Path("music").rename("gone")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "'music' is gone" in Path("events").read_text()
    results = [json.loads(line) for line in printed.splitlines()]
    assert ended(results) == [("music/a.wav", "done"), (None, "failed")]
