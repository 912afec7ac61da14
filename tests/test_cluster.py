"""`separate --ray`: what a run on a cluster has to do as one here does, and what becomes of it when nodes die.

Several tracks at a time are tested without Ray first, by workers of this process that end in any order.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sepcli.batch import jobs
from sepcli.batch.cluster import _again
from sepcli.batch.inputs import Source
from sepcli.batch.manifest import Manifest
from sepcli.batch.names import Stems, Track
from sepcli.batch.nodes import Node, room
from sepcli.batch.request import look_up
from sepcli.batch.results import Listener, unfinished
from sepcli.batch.worker import Alone, Work
from sepcli.batch.workspace import PREFIX
from sepcli.cli.app import main
from sepcli.cli.reporting import _Bars
from sepcli.errors import DeviceError, OutputError
from sepcli.sound.suffixes import AUDIO_SUFFIXES
from sepcli.weights.catalog import load_catalog
from tests import fake_model
from tests.needs import need
from tests.test_jobs import request, song, statuses, tree
from tests.test_standing import loud
from tests.toys import Split

ROOT = Path(__file__).parents[1]


# --- several tracks at a time, without Ray ---


class Crowd(Alone):
    """Several Works at a time; whichever is drawn is done next. `when(number)` is called before."""

    room = 3

    def __init__(self, model, listener):
        super().__init__(model, listener)
        self.draw, self.works, self.most = random.Random(0), {}, 0

    has_room = property(lambda self: len(self.works) < self.room)

    def give(self, number, work):
        self.works[number] = work
        self.most = max(self.most, len(self.works))

    def take(self):
        number = self.draw.choice(sorted(self.works))
        self.when(number)
        super().give(number, self.works.pop(number))
        return super().take()

    def when(self, number):
        pass

    def abandon(self):
        super().abandon()
        self.works.clear()


@pytest.fixture
def crowd(monkeypatch, tmp_path):
    """Runs a batch of the fake model by a Crowd: (results, the crowd)."""
    fake_model.install(monkeypatch, tmp_path)

    def run(*arguments, when=None, listener=None, **changes):
        made = []

        def workers(model, listener):
            made.append(Crowd(model, listener))
            made[0].when = when or made[0].when
            return made[0]

        monkeypatch.setattr(jobs, "_workers", workers)
        asked = look_up(request(**changes), arguments, load_catalog(()), AUDIO_SUFFIXES)
        results = []
        try:
            for result in jobs.run(asked, listener or Listener()):
                results.append(result)
        except KeyboardInterrupt:
            results += unfinished(asked, results, "the run was stopped")
        return results, made[0]

    return run


def files(folder="out"):
    """All files of the output folder but the manifest, with their bytes."""
    return {path: Path(folder, path).read_bytes() for path in tree(folder)}


def lines(folder="out"):
    """What the manifest says of each output, without dates and times."""
    said = {}
    for line in map(json.loads, Path(folder, ".sepcli.jsonl").read_text().splitlines()):
        if line["kind"] == "done":
            outputs = [{**output, "mtime_ns": 0} for output in line["outputs"]]
            fields = {key: line[key] for key in ("settings", "input", "gain", "frames", "origin")}
            assert said.setdefault(outputs[0]["path"], {**fields, "outputs": outputs}) == {
                **fields,
                "outputs": outputs,
            }
    return said


def done_lines(folder="out"):
    text = Path(folder, ".sepcli.jsonl").read_text()
    return [line["input"]["path"] for line in map(json.loads, text.splitlines()) if line["kind"] == "done"]


def test_tracks_side_by_side_are_what_they_are_one_by_one(crowd):
    for number in range(8):
        song(f"music/{number}.wav", seed=number)
    song("music/sub/8.flac", seed=8)
    Path("music/bad.wav").write_bytes(b"RIFF and no more")
    results, workers = crowd("music", out=Path("several"))
    assert workers.most == 3
    alone, _ = crowd("music", out=Path("one"), when=lambda number: None)
    assert sorted(statuses(results)) == ["done"] * 9 + ["failed"]
    assert {result.input: result.status for result in results} == {
        result.input: result.status for result in alone
    }
    assert files("several") == files("one") and len(files("one")) == 9 * 4
    assert lines("several") == lines("one")
    assert len(done_lines("several")) == 9
    again, _ = crowd("music", out=Path("several"))
    assert statuses(again).count("skipped") == 9


def test_a_track_that_fails_among_others_fails_alone(crowd):
    for name in "abcdef":
        song(f"music/{name}.wav")
    truncated = Path("music/c.wav").read_bytes()

    def when(number):
        Path("music/c.wav").write_bytes(b"RIFF")

    results, _ = crowd("music", when=when)
    assert {Path(result.input).stem: result.status for result in results} == {
        **dict.fromkeys("abdef", "done"),
        "c": "failed",
    }
    assert not list(Path("out").glob(f"{PREFIX}*"))
    Path("music/c.wav").write_bytes(truncated)
    results, _ = crowd("music")
    assert statuses(results).count("done") == 1  # its claim was given back


def test_what_is_under_way_is_finished_where_an_output_cannot_be_written(crowd, monkeypatch):
    for number in range(9):
        song(f"music/{number}.wav", seed=number)
    real, calls = jobs.Job._record, []

    def full(self, track, *arguments, **fields):
        calls.append(track)
        if len(calls) == 1:
            raise OutputError("The disk is full.", code="disk_full")
        return real(self, track, *arguments, **fields)

    monkeypatch.setattr(jobs.Job, "_record", full)
    results, _ = crowd("music")
    codes = [result.error.code if result.error else result.status for result in results]
    assert sorted(codes) == ["disk_full", "done", "done"] + ["not_done"] * 6
    assert len({result.input for result in results}) == 9
    assert not list(Path("out").glob(f"{PREFIX}*"))


def test_an_interruption_leaves_nothing_unfinished_of_any_track(crowd):
    for number in range(6):
        song(f"music/{number}.wav", seed=number)
    seen = []

    def when(number):
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt

    results, workers = crowd("music", when=when)
    assert statuses(results).count("done") == 2 and len(results) == 6
    assert not workers.works and not list(Path("out").glob(f"{PREFIX}*"))
    assert len(tree()) == 8
    results, _ = crowd("music")
    assert statuses(results).count("skipped") == 2 and statuses(results).count("done") == 4


def test_tracks_that_need_two_goes_have_them_while_others_are_under_way(crowd, monkeypatch):
    """What is missing would clip, so that the stem that stands is made again with it."""
    monkeypatch.setitem(Split.SHARES, "drums", 3.0)
    Path("music").mkdir()
    for name in "abc":
        loud(f"music/{name}.wav", peak=1.0 if name == "b" else 0.3)
    crowd("music", targets=("vocals",))
    numbers = []
    results, workers = crowd("music", when=numbers.append)
    assert statuses(results) == ["done"] * 3 and workers.most == 3
    assert sorted(numbers) == [1, 2, 2, 3]
    crowd("music", out=Path("new"))
    assert files() == files("new") and len(files()) == 12


def test_the_bar_is_of_the_track_that_began_first_and_all_tracks_count_in_the_other():
    bars = _Bars()
    bars.expected = 30.0
    try:
        bars.start("a", 1, 3)
        bars.start("b", 2, 3)
        bars.move("b", 4.0, 10.0, 1.0, 6.0)
        bars.move("a", 1.0, 10.0, 1.0, 9.0)
        everything, one = bars._progress.tasks
        assert everything.completed == 5.0 and everything.total == 30.0
        assert (one.description, one.completed) == ("a", 1.0)
        bars.finish("a", 10.0)
        bars.move("b", 6.0, 10.0, 1.0, 4.0)
        assert everything.completed == 16.0 and (one.description, one.completed) == ("b", 6.0)
        bars.finish("b", 10.0)
        bars.start("c", 3, 3)
        assert everything.completed == 20.0 and (one.description, one.completed) == ("c", 0.0)
    finally:
        bars.stop()


# --- what is refused, without a cluster ---


@pytest.fixture
def said(monkeypatch, tmp_path, capfd):
    """(exit code, what was printed as errors) of `separate a.wav` with options."""
    fake_model.install(monkeypatch, tmp_path)
    song("a.wav")

    def run(*options):
        code = main(["separate", "a.wav", "-m", "fake", "-o", "out", *options])
        assert not Path("out").exists()
        return code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("option", [("--watch",), ("--dry-run",)])
def test_options_that_do_not_fit_are_refused(said, option):
    code, text = said("--ray", "local", *option)
    assert code == 2 and "--watch, -o - and --dry-run have no place there" in text


@pytest.mark.parametrize("address", ["remote", "ray://host:10001", "host:", ":6379", "a b:1", ""])
def test_what_is_no_address_is_refused(said, address):
    code, text = said("--ray", address)
    assert code == 2 and "it is local, auto or HOST:PORT" in text


@pytest.mark.parametrize("device", ["cuda:1", "mps", "xpu"])
def test_a_device_of_one_machine_is_refused(said, device):
    code, text = said("--ray", "local", "--device", device)
    assert code == 2 and f"--device {device} has no place on a cluster" in text


def test_without_ray_its_extra_is_named(said, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, text = said("--ray", "local")
    assert code == DeviceError.exit_code and "pip install 'sepcli[ray]'" in text


def test_a_cluster_that_does_not_answer_is_named_at_once(said):
    need("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    code, text = said("--ray", address)
    assert code == DeviceError.exit_code and f"The Ray cluster {address} can not be reached" in text
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_one_or_more(said, threads):
    code, text = said("--threads", str(threads))
    assert code == 2 and "--threads" in text


def test_nodes_have_room_for_whole_workers_only():
    nodes = [Node("a", 8.0, 2.0), Node("b", 3.0), Node("c", memory=1.0), Node("d", 1.0, 4.0)]
    assert room(nodes, False, 1) == 12 and room(nodes, False, 4) == 2 and room(nodes, False, 16) == 0
    assert room(nodes, True, 1) == 3 and room(nodes, True, 8) == 1


def test_memory_makes_fewer_workers_but_never_none():
    node = Node("a", 8.0, 4.0, memory=10e9)
    assert [node.room(False, 1, int(each)) for each in (0, 1e9, 3e9, 20e9)] == [8, 8, 3, 1]
    assert node.room(True, 1, int(4e9)) == 2 and node.room(False, 9, int(1e9)) == 0
    assert Node("b", 8.0).room(False, 1, int(1e9)) == 8, "nobody says what it has"


def test_what_a_process_has_had_of_memory():
    code = (
        "from sepcli.system.memory import own_memory; before = own_memory(); block = b'sound' * 40_000_000\n"
        "del block; print(own_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 150e6 < int(done.stdout) < 250e6


def test_who_begins_again_has_a_folder_of_its_own(tmp_path):
    work = Work(Track(Source("a.wav", "a.wav", "a.wav")), Stems((), ()), tmp_path, 0.0)
    second = _again(work, 1)
    assert second.folder.is_dir() and second.folder.parent == tmp_path
    assert replace(second, folder=tmp_path) == work and _again(work, 2).folder != second.folder


# --- on Ray ---

NICENESS = "RAY_worker_niceness"  # as Ray spells it


@pytest.fixture(scope="module")
def nodes():
    """A cluster of three nodes of one core each, of which the first has what holds it together."""
    need("ray")
    from ray.cluster_utils import Cluster

    os.environ[NICENESS] = "0"  # 15 otherwise: for ever on a busy machine
    cluster = Cluster()
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(3)]
    finally:
        cluster.shutdown()
        del os.environ[NICENESS]


@pytest.fixture
def music(tmp_path, monkeypatch):
    """A folder with an album of one second each, to be in."""
    monkeypatch.chdir(tmp_path)
    return [song(f"music/{number:02}.wav", 1.0, seed=number) for number in range(10)]


def separated(capfd, *options):
    """(exit code, results of --json by input, errors) of `separate music` with the model inside sepcli."""
    code = main(["separate", "music", "-m", "duo", "--threads", "1", "--json", *options])
    printed = capfd.readouterr()
    results = [json.loads(line) for line in printed.out.splitlines()]
    assert len({result["input"] for result in results}) == len(results)
    return code, {result["input"]: result for result in results}, printed.err


@pytest.mark.slow
def test_a_run_on_three_nodes_is_as_one_here(nodes, music, capfd):
    cluster, _ = nodes
    Path("music/bad.wav").write_bytes(b"RIFF and no more")
    Path("music/cut.wav").write_bytes(Path(music[0]).read_bytes()[:100_000])
    code, here, _ = separated(capfd, "-o", "here")
    code_there, there, errors = separated(capfd, "-o", "there", "--ray", cluster.address)
    assert code == code_there == 1
    assert "Ray: 3 workers with 1 thread each, on 3 nodes." in errors
    assert files("here") == files("there") and len(files("here")) == 11 * 4
    assert lines("here") == lines("there")
    assert here.keys() == there.keys()
    for name, result in here.items():
        same = ("status", "audio_seconds", "gain", "levels", "error", "warnings", "device", "precision")
        assert [result[key] for key in same] == [there[name][key] for key in same]
        assert [*result["outputs"]] == [*there[name]["outputs"]]
    assert not list(Path("there").glob(f"{PREFIX}*"))
    code, again, _ = separated(capfd, "-o", "there", "--ray", cluster.address)
    assert sorted(result["status"] for result in again.values()) == ["failed"] + ["skipped"] * 11


@pytest.mark.slow
def test_a_node_that_dies_in_mid_batch_loses_no_track(nodes, music, capfd, monkeypatch):
    cluster, (_, *others) = nodes
    options = {"model": "duo", "threads": 1, "targets": ("vocals",)}

    def plan(**changes):
        return look_up(request(**options, **changes), ["music"], load_catalog(()), AUDIO_SUFFIXES)

    results, heard, _ = with_a_death(plan(out=Path("there"), ray=cluster.address), cluster, others, monkeypatch)
    assert statuses(results) == ["done"] * 10
    assert sorted(result.input for result in results) == sorted(music)
    assert sorted(done_lines("there")) == sorted(str(Path(path).resolve()) for path in music)
    assert sum("its worker died" in text and "another one begins again." in text for text in heard) == 1, heard
    list(jobs.run(plan(out=Path("here"))))
    assert files("here") == files("there") and len(files("here")) == 10
    assert not list(Path("there").glob(f"{PREFIX}*"))
    assert capfd.readouterr().out == ""  # where the objects of --json go
    cluster.add_node(num_cpus=1)


def with_a_death(batch, cluster, others, monkeypatch, after_each=lambda: None):
    """Run the batch, and kill one of the other nodes while it separates: (results, notices, that node)."""
    workers, heard, results, killed = [], [], [], []
    listener = Listener()
    listener.notice = heard.append
    real = jobs._workers
    monkeypatch.setattr(jobs, "_workers", lambda *given: workers.append(real(*given)) or workers[-1])
    for result in jobs.run(batch, listener):
        results.append(result)
        after_each()
        if not killed:
            killed = busy_on(workers[0], others)
            for node in killed:
                cluster.remove_node(node, allow_graceful=False)
    (node,) = killed
    return results, heard, node


def busy_on(workers, nodes):
    """The first of the nodes on which a track is being separated; none if there is no such node now."""
    from ray._private.state import actors

    for seat in workers._seats:
        if seat.given is not None:
            at = actors(seat.actor._actor_id.hex())["Address"]["NodeID"]
            if found := [node for node in nodes if node.node_id == at]:
                return found
    return []


@pytest.mark.slow
def test_a_worker_that_dies_each_time_fails_its_track_alone(nodes, music, capfd, monkeypatch):
    cluster, _ = nodes

    from sepcli.batch.cluster import Cluster

    real = Cluster._hand_out

    def hand_out(self):
        real(self)
        for seat in self._seats:
            if seat.given is not None and seat.given[0] == 2:
                self._ray.kill(seat.actor)

    monkeypatch.setattr(Cluster, "_hand_out", hand_out)
    code, results, errors = separated(capfd, "-o", "out", "--ray", cluster.address)
    assert code == DeviceError.exit_code
    failed = [result for result in results.values() if result["status"] == "failed"]
    assert [result["input"] for result in failed] == [music[1]] and failed[0]["error"]["code"] == "worker_died"
    assert len(results) == 10 and errors.count("another one begins again") == 2
    assert Manifest(Path("out").resolve()).standing(Path("out/duo/00/vocals.wav").resolve()) is not None


@pytest.mark.slow
def test_what_does_not_fit_into_the_nodes_is_refused(nodes, music, capfd):
    cluster, _ = nodes
    code = main(["separate", "music", "-m", "duo", "--ray", cluster.address, "--threads", "3"])
    assert code == DeviceError.exit_code and "No node of the Ray cluster has 3 cores" in capfd.readouterr().err
    code = main(["separate", "music", "-m", "duo", "--ray", cluster.address, "--device", "cuda"])
    assert code == DeviceError.exit_code and "a GPU and 1 core for" in capfd.readouterr().err
    assert not Path("separated").exists()


@pytest.mark.slow
@pytest.mark.parametrize("memory, most", [(100 << 20, 1), (64 << 30, 3)])
def test_no_more_workers_than_memory_allows(nodes, music, capfd, monkeypatch, memory, most):
    """On a node with cores for three."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv(NICENESS, "0")
    small = Cluster()
    try:
        small.add_node(num_cpus=3, memory=memory)
        code, results, errors = separated(capfd, "-t", "vocals", "--ray", small.address)
    finally:
        small.shutdown()
    said = " ".join(errors.split())
    assert code == 0 and len(results) == 10
    assert "Ray: 1 worker with 1 thread each, on 1 node." in said or most == 1
    assert (f"Ray: {most} workers with 1 thread each, on 1 node." in said) == (most > 1)
    assert ("memory is for no more, of which each takes" in said) == (most == 1)


@pytest.mark.slow
@pytest.mark.parametrize("sent, expected", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_cluster_of_this_machine_ends_with_its_run(music, sent, expected):
    need("ray")
    for path in music:
        song(path, 20.0)
    options = ["separate", "music", "-m", "duo", "-o", "out", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "sepcli", *options, "--ray", "local"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    first = json.loads(process.stdout.readline())
    children = descendants(process.pid)
    assert first["status"] == "done" and any("raylet" in name for name in children.values())
    process.send_signal(sent)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == expected, errors
    results = [first, *map(json.loads, out.splitlines())]
    assert {result["input"] for result in results} == set(music) and len(results) == 10
    assert "Stopped: " in errors and "Traceback" not in errors
    assert not list(Path("out").glob(f"{PREFIX}*"))
    done = sum(result["status"] == "done" for result in results)
    assert len(tree()) in (4 * done, 4 * done + 4)  # the signal may find one between its names and its result
    until = time.monotonic() + 30
    while left := [pid for pid, name in children.items() if alive(pid, name)]:
        assert time.monotonic() < until, [children[pid] for pid in left]
        time.sleep(0.1)


def descendants(parent):
    """The command lines of a process's children, and of theirs, by number."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    found, grown = {str(parent): ""}, True
    while grown:
        more = {pid: args for pid, above, args in rows if above in found and pid not in found}
        found |= more
        grown = bool(more)
    del found[str(parent)]
    return found


def alive(pid, name):
    listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", pid], capture_output=True, text=True).stdout
    return listed.strip() == name.strip()
