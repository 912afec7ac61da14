"""`separate --ray` from and to addresses: an S3 server on loopback, three nodes, and what dies or is refused.

What a cluster does with files that all nodes see is test_cluster.py's, what a run here does with addresses
test_remote.py's.
"""

import json
import os
import tempfile
from pathlib import Path

import pytest

from sepcli.batch import jobs
from sepcli.batch.remote import RemoteOut
from sepcli.batch.request import look_up
from sepcli.batch.workspace import PREFIX
from sepcli.cli.app import main
from sepcli.sound.suffixes import AUDIO_SUFFIXES
from sepcli.weights.catalog import load_catalog
from tests.needs import need
from tests.s3server import BUSY, DENIED, S3Server, always, cut, times
from tests.test_cluster import NICENESS, files, with_a_death
from tests.test_jobs import request, song, statuses

pytestmark = pytest.mark.slow
DUO = {"model": "duo", "threads": 1, "targets": ("vocals",)}
STEMS = "s3://bucket/stems"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The server, and a cluster of three nodes with what its workers need to know of it.

    The nodes have another folder for temporary files than this process, so that nothing goes through it unseen.
    """
    need("ray", "moto", "s3fs")
    from ray.cluster_utils import Cluster

    temporary = tmp_path_factory.mktemp("nodes")
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1", NICENESS: "0"}.items():
            patch.setenv(name, value)
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # names of sockets are short
        patch.setenv("TMPDIR", str(temporary))
        cluster = Cluster()
        try:
            others = [cluster.add_node(num_cpus=1) for _ in range(3)][1:]
            patch.delenv("TMPDIR")
            yield server, cluster, others, temporary
        finally:
            cluster.shutdown()


@pytest.fixture
def s3(place, tmp_path, monkeypatch):
    """An empty bucket. Nothing stays unfinished in it, nor on this machine."""
    server = place[0]
    server.reset()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield server
    assert not list((tmp_path / "temporary").glob(f"{PREFIX}*"))
    assert not [name for name in server.names() if "/.sepcli/aside/" in name]


def albums(server, count, seconds=1.0):
    """So many songs, in the bucket and in a folder here."""
    for number in range(count):
        path = Path(song(f"albums/{number:02}.wav", seconds, seed=number))
        server.put(path.as_posix(), path.read_bytes())


def plan(inputs, out, **changes):
    remote = RemoteOut(out) if "://" in out else None
    asked = request(**DUO, out=Path(out) if remote is None else remote.path, remote=remote, **changes)
    return look_up(asked, [inputs], load_catalog(()), AUDIO_SUFFIXES)


def stems(server):
    """The stems in the bucket, by their path below the output folder."""
    found = [name.removeprefix("stems/") for name in server.names() if name.startswith("stems/")]
    return {name: server.get(f"stems/{name}") for name in found if not name.startswith(".sepcli/")}


def lines(server):
    """The manifest's lines in the bucket."""
    found = [name for name in server.names() if name.startswith("stems/.sepcli/") and name.endswith(".json")]
    return {name.removeprefix("stems/.sepcli/"): json.loads(server.get(name)) for name in found}


def test_a_node_that_dies_in_mid_batch_loses_no_track(place, s3, tmp_path, monkeypatch, capfd):
    _, cluster, others, temporary = place
    albums(s3, 12)

    def nothing_is_here():
        files = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
        assert not [path for path in files if path.name != "lock"]

    batch = plan("s3://bucket/albums", STEMS, ray=cluster.address)
    results, heard, killed = with_a_death(batch, cluster, others, monkeypatch, nothing_is_here)
    assert statuses(results) == ["done"] * 12
    assert sorted(result.input for result in results) == [f"s3://bucket/albums/{n:02}.wav" for n in range(12)]
    assert sum("its worker died" in text and "another one begins again." in text for text in heard) == 1, heard
    list(jobs.run(plan("albums", "here")))
    assert stems(s3) == files("here") and len(stems(s3)) == 12
    known = lines(s3)
    assert len(known) == 12 and not [name for name in known if name.startswith("begin-")]
    assert all(line["input"]["sha256"] and line["outputs"][0]["mtime_ns"] for line in known.values())
    assert capfd.readouterr().out == ""
    s3.seen.clear()
    again = list(jobs.run(plan("s3://bucket/albums", STEMS)))  # without Ray it goes on where that ended
    assert statuses(again) == ["skipped"] * 12
    assert not [path for method, path in s3.seen if method == "GET" and "albums" in path and "list" not in path]
    others.remove(killed)
    monkeypatch.setenv("TMPDIR", str(temporary))
    others.append(cluster.add_node(num_cpus=1))


@pytest.mark.parametrize("of", ["s3://bucket/albums", "albums"])
@pytest.mark.parametrize("to", [STEMS, "out"])
def test_inputs_and_outputs_may_each_be_elsewhere(place, s3, of, to):
    albums(s3, 3)
    list(jobs.run(plan("albums", "here")))
    address = place[1].address
    assert statuses(list(jobs.run(plan(of, to, ray=address)))) == ["done"] * 3
    assert (files("out") if to == "out" else stems(s3)) == files("here")
    if "://" in of + to:  # what a killed node has left is gone, too
        assert not list(place[3].glob(f"{PREFIX}*"))
    assert statuses(list(jobs.run(plan(of, to, ray=address)))) == ["skipped"] * 3


def test_faults_that_pass_are_got_over_and_a_broken_file_fails_alone(place, s3):
    albums(s3, 3)
    s3.put("albums/bad.wav", b"RIFF and no more")
    s3.faults += [times(1, cut, "GET", "albums/01.wav"), times(2, BUSY, "PUT", "/aside/")]
    results = list(jobs.run(plan("s3://bucket/albums", STEMS, ray=place[1].address)))
    assert sorted(statuses(results)) == ["done"] * 3 + ["failed"]
    assert {result.input for result in results if result.error} == {"s3://bucket/albums/bad.wav"}
    assert len(stems(s3)) == 3


@pytest.mark.parametrize(
    "fault, code", [(always(DENIED, "GET", text="albums/0"), 1), (always(DENIED, "PUT", text="/aside/"), 5)]
)
def test_who_is_refused_on_a_node_is_said_with_its_name(place, s3, capfd, fault, code):
    albums(s3, 2)
    s3.faults.append(fault)
    options = ["-m", "duo", "-t", "vocals", "--threads", "1", "--ray", place[1].address]
    found = main(["separate", "s3://bucket/albums", "-o", STEMS, *options])
    said = " ".join(capfd.readouterr().err.split())
    assert found == code and f"On the node {os.uname().nodename}: 's3://" in said, said
    assert "with which `ray start` was given" in said and "Traceback" not in said
    assert not stems(s3)
