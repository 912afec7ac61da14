"""Inputs and outputs at addresses: memory:// in this process, and a real S3 server on loopback with faults."""

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from sepcli import __version__
from sepcli.batch import jobs
from sepcli.batch.actor import Actor
from sepcli.batch.remote import RemoteOut
from sepcli.batch.workspace import PREFIX
from sepcli.cli.app import main
from sepcli.engine.device import choose_device
from sepcli.errors import OutputError, SepcliError, spelling
from sepcli.system import remote
from sepcli.system.remote import Storage
from tests import fake_model
from tests.needs import need, package
from tests.s3server import BUSY, DENIED, EXPIRED, S3Server, always, cut, drop, slow, times
from tests.test_jobs import song, tree

fsspec = package("fsspec")
ROOT = Path(__file__).parents[1]
FAKE = ("-m", "fake", "-t", "bass", "-t", "vocals", "--json")
KINDS = ["bass.wav", "vocals.wav"]


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    yield
    assert not list((tmp_path / "temporary").glob(f"{PREFIX}*")), "unfinished files stay"
    assert not [path for path in Path().iterdir() if ":" in path.name], "an address was taken for a path"


@pytest.fixture
def memory():
    """What is in memory://, by path."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def run(capfd):
    """The command's exit code, its results and what it said."""

    def run(*arguments):
        code = main(["separate", *FAKE, *arguments])
        printed = capfd.readouterr()
        return code, [json.loads(line) for line in printed.out.splitlines()], " ".join(printed.err.split())

    return run


def sounding(path="song.wav", **kind):
    """The bytes of a song."""
    return Path(song(path, **kind)).read_bytes()


def ended(results):
    return [(result["input"].rpartition("/")[2], result["status"]) for result in results]


def below(memory, folder, hidden=False):
    """The files there, without the manifest's."""
    names = (name.removeprefix(f"/{folder}/") for name in memory.store if name.startswith(f"/{folder}/"))
    return sorted(name for name in names if hidden or not name.startswith(".sepcli/"))


def contents(memory, folder):
    return {name: memory.cat_file(f"/{folder}/{name}") for name in below(memory, folder)}


# --- the same as locally ---


def test_a_folder_is_searched_and_its_stems_are_made_as_locally(memory, run):
    for seed, name in enumerate(
        ["b.wav", "A/one.flac", "A/b/two.wav", "A/a.wav", "z.wav", ".x.wav", ".h/a.wav"]
    ):
        song(f"albums/{name}", seed=seed)
    Path("albums/cover.jpg").write_bytes(b"picture")
    for path in Path("albums").rglob("*.*"):
        if path.is_file():
            memory.pipe_file(f"/{path.as_posix()}", path.read_bytes())
    code, locally, _ = run("albums", "-o", "out")
    remotely = run("memory://albums", "-o", "memory://stems/of")
    assert (code, remotely[0]) == (0, 0)
    assert [f"memory://{result['input']}" for result in locally] == [result["input"] for result in remotely[1]]
    assert tree() == below(memory, "stems/of") and len(tree()) == 10
    assert all(
        Path("out", name).read_bytes() == content for name, content in contents(memory, "stems/of").items()
    )
    assert remotely[1][0]["outputs"]["bass"] == "memory://stems/of/fake/b/bass.wav"
    for mine, theirs in zip(locally, remotely[1], strict=True):
        assert mine["levels"] == theirs["levels"] and mine["audio_seconds"] == theirs["audio_seconds"]


@pytest.mark.parametrize("of", ["memory://albums/a.wav", "albums/a.wav", "memory://albums/"])
@pytest.mark.parametrize("to", ["memory://stems", "out"])
def test_inputs_and_outputs_may_each_be_elsewhere(memory, run, of, to):
    memory.pipe_file("/albums/a.wav", sounding("albums/a.wav"))
    for status in ("done", "skipped"):
        code, results, _ = run(of, "-o", to)
        assert code == 0 and ended(results) == [("a.wav", status)]
    written = tree() if to == "out" else below(memory, "stems")
    assert written == ["fake/a/bass.wav", "fake/a/vocals.wav"]
    manifest = [name for name in below(memory, "stems", hidden=True) if name.startswith(".sepcli/")]
    assert len(manifest) == (to != "out")  # its line, and nothing of what was tried


def test_standard_input_and_output_go_together_with_addresses(memory, capfdbinary, tmp_path):
    memory.pipe_file("/song.d/song.wav", sounding())
    with open("song.wav", "rb") as song:
        stdin = os.dup(0)
        os.dup2(song.fileno(), 0)
        try:
            assert main(["separate", "-", "-m", "fake", "-t", "bass", "-o", "memory://stems"]) == 0
        finally:
            os.dup2(stdin, 0)
            os.close(stdin)
    assert below(memory, "stems") == ["fake/stdin/bass.wav"]
    capfdbinary.readouterr()
    assert main(["separate", "memory://song.d/song.wav", "-m", "fake", "-t", "bass", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out[:4] == b"RIFF"


def test_a_dry_run_writes_nothing_and_names_addresses(memory, run):
    memory.pipe_file("/albums/a.wav", sounding())
    code, results, _ = run("memory://albums", "-o", "memory://stems", "--dry-run")
    assert code == 0 and results[0]["outputs"]["bass"] == "memory://stems/fake/a/bass.wav"
    assert not below(memory, "stems", hidden=True)


# --- what stands ---


def test_what_is_done_is_skipped_without_reading_it(memory, run, monkeypatch):
    memory.pipe_file("/albums/a.wav", sounding())
    run("memory://albums", "-o", "memory://stems")
    before = contents(memory, "stems")
    for name in ("fetch", "sha256", "put"):
        monkeypatch.setattr(Storage, name, lambda *_: pytest.fail("read or written"))
    fake_model.loads.clear()
    code, results, said = run("memory://albums", "-o", "memory://stems")
    assert (code, ended(results)) == (0, [("a.wav", "skipped")]) and not fake_model.loads
    assert "memory://stems" in said and contents(memory, "stems") == before
    assert (
        results[0]["outputs"]["vocals"] == "memory://stems/fake/a/vocals.wav" and results[0]["levels"]["bass"]
    )


def test_what_has_changed_is_made_again(memory, run):
    memory.pipe_file("/albums/a.wav", sounding())
    run("memory://albums", "-o", "memory://stems")
    first = contents(memory, "stems")
    memory.pipe_file("/albums/a.wav", sounding(seed=1))
    _, results, said = run("memory://albums", "-o", "memory://stems")
    second = contents(memory, "stems")
    assert ended(results) == [("a.wav", "done")] and "separated from an earlier version of its input" in said
    assert all(second[name] != first[name] for name in first) and len(first) == 2
    _, results, said = run("memory://albums", "-o", "memory://stems", "--bit-depth", "24")
    assert ended(results) == [("a.wav", "done")] and "with other settings (depth)" in said
    _, results, _ = run("memory://albums", "-o", "memory://stems", "--bit-depth", "24")
    assert ended(results) == [("a.wav", "skipped")]


def test_an_input_with_a_new_date_only_is_read_once_and_skipped(memory, run, monkeypatch):
    content = sounding()
    memory.pipe_file("/albums/a.wav", content)
    run("memory://albums", "-o", "memory://stems")
    memory.pipe_file("/albums/a.wav", content)
    read = []
    whole = Storage.sha256
    monkeypatch.setattr(Storage, "sha256", lambda *args: read.append(1) or whole(*args))
    for _ in range(2):
        _, results, _ = run("memory://albums", "-o", "memory://stems")
        assert ended(results) == [("a.wav", "skipped")] and len(read) == 1


def test_only_missing_stems_are_made(memory, run):
    memory.pipe_file("/albums/a.wav", sounding())
    run("memory://albums", "-o", "memory://stems")
    before = contents(memory, "stems")
    _, results, said = run("memory://albums", "-o", "memory://stems", "-t", "drums")
    assert "only what is missing is made" in said and ended(results) == [("a.wav", "done")]
    assert contents(memory, "stems") == before | {
        "fake/a/drums.wav": memory.cat_file("/stems/fake/a/drums.wav")
    }
    _, results, _ = run("memory://albums", "-o", "memory://stems", "-t", "drums", "--rest")
    assert ended(results) == [("a.wav", "done")] and "fake/a/rest.wav" in below(memory, "stems")


@pytest.mark.parametrize("whose", ["changed", "another's"])
def test_files_of_others_are_replaced_by_force_only(memory, run, whose):
    memory.pipe_file("/albums/a.wav", sounding())
    if whose == "changed":
        run("memory://albums", "-o", "memory://stems")
    memory.pipe_file("/stems/fake/a/bass.wav", b"mine")
    options = ("memory://albums", "-o", "memory://stems", "--bit-depth", "24")
    code, _, said = run(*options)
    assert code == 2 and "'memory://stems/fake/a/bass.wav'" in said
    assert memory.cat_file("/stems/fake/a/bass.wav") == b"mine"
    assert run(*options, "--force")[0] == 0
    assert memory.cat_file("/stems/fake/a/bass.wav")[:4] == b"RIFF"


def test_silent_stems_that_are_left_out_stand_without_a_file(memory, run):
    import soundfile

    soundfile.write("quiet.wav", [[0.0, 0.0]] * 44100, 44100)
    memory.pipe_file("/albums/quiet.wav", Path("quiet.wav").read_bytes())
    for status in ("done", "skipped"):
        _, results, _ = run("memory://albums", "-o", "memory://stems", "--skip-silent")
        assert ended(results) == [("quiet.wav", status)] and results[0]["silent"] == ["bass", "vocals"]
    assert not below(memory, "stems")


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_that_was_killed_between_two_names_is_repeated(memory, run, monkeypatch, after):
    memory.pipe_file("/albums/a.wav", sounding())
    run("memory://albums", "-o", "memory://stems", "--bit-depth", "24")
    old = contents(memory, "stems")

    def killed(self, files):
        for unfinished, final in files[:after]:
            self.storage.put(unfinished, self._relative(final))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemoteOut, "publish", killed)
        assert run("memory://albums", "-o", "memory://stems", "--bit-depth", "32f")[0] == 130
    there = contents(memory, "stems")
    assert sum(there[name] != old[name] for name in old) == after
    code, results, _ = run("memory://albums", "-o", "memory://stems", "--bit-depth", "32f")
    # Both stems are there with the right size: they stand, though the line that says so was never written.
    assert (code, ended(results)) == (0, [("a.wav", "skipped" if after == 2 else "done")])
    new = contents(memory, "stems")
    assert all(new[name] != old[name] for name in old)
    assert run("memory://albums", "-o", "memory://stems", "--bit-depth", "32f")[1][0]["status"] == "skipped"


def test_of_a_track_that_can_not_be_put_there_whole_nothing_stays(memory, run, monkeypatch):
    for name in "ab":
        memory.pipe_file(f"/albums/{name}.wav", sounding(seed=ord(name)))
    put = Storage.put

    def fail(self, file, relative):
        if relative.endswith("b/vocals.wav"):
            raise self._said(ConnectionError("line cut"), relative)
        return put(self, file, relative)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", fail)
        code, results, said = run("memory://albums", "-o", "memory://stems")
    assert code == 5 and ended(results) == [("a.wav", "done"), ("b.wav", "failed")] and "line cut" in said
    assert below(memory, "stems") == ["fake/a/bass.wav", "fake/a/vocals.wav"]
    code, results, _ = run("memory://albums", "-o", "memory://stems")
    assert code == 0 and ended(results) == [("a.wav", "skipped"), ("b.wav", "done")]


# --- what is refused ---


def test_stems_are_no_inputs(memory, run):
    memory.pipe_file("/music/a.wav", sounding())
    assert run("memory://music", "-o", "memory://music/stems")[0] == 0
    code, results, _ = run("memory://music", "-o", "memory://music/stems")
    assert code == 0 and ended(results) == [("a.wav", "skipped")]
    code, results, _ = run("memory://music", "-o", "out")  # that folder is one of stems, wherever others go
    assert code == 0 and ended(results) == [("a.wav", "done")]
    code, results, _ = run("memory://music/stems", "-o", "out")
    assert code == 1 and results[0]["error"]["code"] == "stems_folder"
    code, _, said = run("memory://music/", "-o", "memory://music")
    assert code == 2 and "is the output folder too" in said


def test_an_input_is_never_overwritten(memory, run):
    content = sounding()
    memory.pipe_file("/music/a.wav", content)
    code, _, said = run("memory://music/a.wav", "-o", "memory:///music", "--template", "a.{ext}", "-t", "drums")
    assert code == 2 and "all get one name" in said
    code = main(
        [
            "separate",
            "memory://music/a.wav",
            "-o",
            "memory:///music",
            "--template",
            "a.{ext}",
            "-m",
            "fake",
            "-t",
            "bass",
        ]
    )
    assert code == 2 and memory.cat_file("/music/a.wav") == content


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["memory://m", "-o", "memory://s", "--player"], 2, "memory://s is an address"),
        (["memory://m", "--watch"], 2, "it takes no addresses"),
        (["in", "-o", "memory://s", "--watch"], 2, "it takes no addresses"),
        (
            ["memory://m", "-o", "nowhere://s"],
            2,
            "'nowhere://s' is no address that can be used: Protocol not known",
        ),
        (["memory://m", "-o", "memory://"], 2, "names no bucket"),
        (["memory://nothing"], 1, "there is no such file or bucket"),
        (["memory://nothing/"], 1, "holds no audio file"),
        (["nowhere://m"], 2, "Protocol not known"),
    ],
)
def test_what_can_not_be_is_one_sentence(memory, run, arguments, code, sentence):
    found, _, said = run(*arguments)
    assert found == code and sentence in said and "Traceback" not in said
    assert not memory.store and not Path("separated").exists()


def test_a_file_that_is_no_audio_or_vanishes_fails_alone(memory, run, monkeypatch):
    memory.pipe_file("/m/a.wav", b"no audio")
    memory.pipe_file("/m/b.wav", sounding())
    memory.pipe_file("/m/c.wav", sounding())
    find = Storage.find

    def vanish(self):
        found = find(self)
        if not self.writing:
            memory.rm_file("/m/c.wav")
        return found

    monkeypatch.setattr(Storage, "find", vanish)
    code, results, _ = run("memory://m", "-o", "memory://s")
    assert code == 1 and ended(results) == [("a.wav", "failed"), ("b.wav", "done"), ("c.wav", "failed")]
    assert results[2]["error"]["code"] == "missing" and below(memory, "s") == [
        f"fake/b/{kind}" for kind in KINDS
    ]


def test_a_file_that_changes_while_it_is_read_fails(memory, run, monkeypatch):
    memory.pipe_file("/m/a.wav", sounding())
    get_file = type(memory).get_file

    def change(self, path, *args, **kwargs):
        get_file(self, path, *args, **kwargs)
        self.pipe_file(path, self.cat_file(path))

    monkeypatch.setattr(type(memory), "get_file", change)
    code, results, _ = run("memory://m", "-o", "memory://s")
    assert code == 1 and results[0]["error"]["code"] == "changed" and not below(memory, "s")


def test_a_password_in_an_address_is_not_shown():
    assert Storage("memory://user:secret@host/folder").url == "memory://user@host/folder"


# --- what goes wrong on the way ---


@pytest.mark.parametrize("failures", [3, 4])
@pytest.mark.parametrize(("call", "code"), [("get_file", 1), ("pipe_file", 5), ("cat", 5), ("find", 1)])
def test_calls_are_tried_again_within_a_bound(memory, run, monkeypatch, call, code, failures):
    memory.pipe_file("/m/a.wav", sounding())
    run("memory://m", "-o", "memory://s")
    memory.pipe_file("/m/a.wav", sounding(seed=2))
    whole, left = getattr(type(memory), call), [failures]

    def fail(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            raise ConnectionError("busy")
        return whole(*args, **kwargs)

    monkeypatch.setattr(type(memory), call, fail)
    found, results, said = run("memory://m", "-o", "memory://s")
    if failures == 3:
        assert found == 0 and ended(results) == [("a.wav", "done")]
    else:
        assert found == code and "after several attempts: busy" in said


def test_files_appear_whole_where_a_storage_shows_them_as_they_grow(run, monkeypatch):
    song("a.wav")
    out = f"local://{Path('out').absolute()}"
    from fsspec.implementations.local import LocalFileSystem

    put_file, shown = LocalFileSystem.put_file, []

    def watched(self, here, there, *args, **kwargs):
        put_file(self, here, there, *args, **kwargs)
        shown.append([path for path in tree() if "/." not in path and path.endswith(".wav")])
        if len(shown) == 2 and there_fails:
            raise PermissionError("no more")

    monkeypatch.setattr(LocalFileSystem, "put_file", watched)
    there_fails = True
    code, _, said = run("a.wav", "-o", out)
    assert code == 5 and "access is denied" in said and shown == [[], ["fake/a/bass.wav"]]
    assert not [path for path in tree() if path.endswith(".wav")]
    there_fails = False
    assert run("a.wav", "-o", out)[0] == 0
    assert [path for path in tree() if path.endswith(".wav")] == ["fake/a/bass.wav", "fake/a/vocals.wav"]
    assert run("a.wav", "-o", out)[1][0]["status"] == "skipped"


# --- by workers elsewhere ---


def test_what_was_put_aside_gets_its_name_whole_or_goes(memory, tmp_path, monkeypatch):
    here = RemoteOut("memory://stems")
    elsewhere = pickle.loads(pickle.dumps(here))  # as a worker has it
    Path("one").write_bytes(b"sound")
    placed = elsewhere.put_aside({"vocals": Path("one"), "bass": Path("one")})
    assert below(memory, "stems") == [] and len(below(memory, "stems", hidden=True)) == 2
    here.look()
    here.publish([(placed["vocals"], here.path / "song" / "vocals.wav")])
    assert contents(memory, "stems") == {"song/vocals.wav": b"sound"}
    assert here.files["song/vocals.wav"].size == 5
    here.clear_aside()
    assert below(memory, "stems", hidden=True) == ["song/vocals.wav"]
    with pytest.raises(OutputError):
        here.publish([(placed["bass"], here.path / "song" / "bass.wav")])
    assert below(memory, "stems", hidden=True) == ["song/vocals.wav"]


def test_of_a_track_that_can_not_be_put_aside_nothing_stays(memory, monkeypatch):
    out = RemoteOut("memory://stems")
    Path("one").write_bytes(b"sound")
    real, calls = Storage.put, []

    def put(self, file, relative):
        calls.append(relative)
        if len(calls) == 2:
            raise OutputError("It is full.")
        return real(self, file, relative)

    monkeypatch.setattr(Storage, "put", put)
    with pytest.raises(OutputError):
        out.put_aside({"vocals": Path("one"), "bass": Path("one")})
    assert len(calls) == 2 and below(memory, "stems", hidden=True) == []


def test_what_a_killed_run_put_aside_is_removed_a_day_later(memory, monkeypatch):
    killed, other = RemoteOut("memory://stems"), RemoteOut("memory://stems")
    Path("one").write_bytes(b"sound")
    killed.put_aside({"vocals": Path("one")})
    other.clear_aside()
    assert len(below(memory, "stems", hidden=True)) == 1, "it may be at work"
    monkeypatch.setattr("sepcli.batch.remote._OLD_SECONDS", -60.0)
    other.clear_aside()
    assert below(memory, "stems", hidden=True) == []


def test_a_copy_of_a_storage_in_another_process_has_its_address_and_no_connection(memory):
    memory.pipe_file("/albums/a.wav", b"sound")
    file = Storage("memory://albums").find()["a.wav"]
    copy = pickle.loads(pickle.dumps(file))
    assert copy == file and copy.storage._fs is None
    copy.fetch(Path("copy.wav"))
    assert Path("copy.wav").read_bytes() == b"sound" and copy.storage._fs is not None


class Elsewhere:
    """Workers like those on a cluster, without one: an Actor that has copies of all it is told."""

    fetch = True

    def __init__(self, model, listener):
        self.batch, self.given, self.actor = model.batch, [], None
        self.device = choose_device("cpu")

    def begin(self, half, folder):
        self.actor = Actor(*copied((self.batch, folder, 1, os.getcwd(), spelling(), __version__)))
        _, precision = self.actor._device("cpu", half)
        self.precision = precision.name
        return precision

    def load(self, stems, tracks):
        self.actor.load("cpu", self.precision, stems)

    has_room = property(lambda self: len(self.given) < 2)

    def give(self, number, work):
        self.given.append((number, work))

    def take(self):
        number, work = self.given.pop()
        try:
            return number, copied(self.actor.make(number, copied(work))).answer
        except SepcliError as error:
            return number, error

    def abandon(self):
        self.given = []

    def close(self):
        if self.actor is not None:
            self.actor.end()
        if self.batch.request.remote is not None:
            self.batch.request.remote.clear_aside()


def proxy(items):
    return MappingProxyType(items)


class Pickler(pickle.Pickler):
    dispatch_table = {MappingProxyType: lambda mapping: (proxy, (dict(mapping),))}  # as Ray's own has it


def copied(value):
    file = io.BytesIO()
    Pickler(file).dump(value)
    return pickle.loads(file.getvalue())


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setattr(jobs, "_workers", Elsewhere)


@pytest.mark.parametrize("of", ["memory://albums", "albums"])
@pytest.mark.parametrize("to", ["memory://stems", "out"])
def test_workers_that_fetch_and_put_themselves_make_the_same(memory, run, monkeypatch, of, to):
    for seed, name in enumerate(["a", "b", "c"]):
        memory.pipe_file(f"/albums/{name}.wav", sounding(f"albums/{name}.wav", seed=seed))
    locally, real = run("albums", "-o", "here")[1], jobs._workers
    monkeypatch.setattr(jobs, "_workers", Elsewhere)
    code, results, said = run(of, "-o", to)
    assert code == 0 and sorted(ended(results)) == [(f"{name}.wav", "done") for name in "abc"], said
    made = (
        contents(memory, "stems") if to == "memory://stems" else {n: Path(to, n).read_bytes() for n in tree(to)}
    )
    assert made == {name: Path("here", name).read_bytes() for name in tree("here")} and len(made) == 6
    assert not [name for name in below(memory, "stems", hidden=True) if "/aside/" in name or "begin-" in name]
    levels = {Path(result["input"]).name: result["levels"] for result in locally}
    assert levels == {Path(result["input"]).name: result["levels"] for result in results}
    monkeypatch.setattr(jobs, "_workers", real)
    assert [result["status"] for result in run(of, "-o", to)[1]] == ["skipped"] * 3  # by a run here


def test_what_such_workers_fail_with_fails_alone_and_leaves_nothing(memory, run, elsewhere, monkeypatch):
    for name in "abc":
        memory.pipe_file(f"/albums/{name}.wav", sounding(seed=ord(name)))
    memory.pipe_file("/albums/b.wav", b"RIFF and no more")
    code, results, _ = run("memory://albums", "-o", "memory://stems", "--strict")
    assert code == 1 and sorted(ended(results)) == [("a.wav", "done"), ("b.wav", "failed"), ("c.wav", "done")]
    memory.pipe_file("/albums/b.wav", sounding())
    real = Storage.fetch

    def change(self, file, copy):
        real(self, file, copy)
        memory.pipe_file("/albums/b.wav", sounding(seed=9))
        self._check_unchanged(file)

    monkeypatch.setattr(Storage, "fetch", change)
    code, results, said = run("memory://albums", "-o", "memory://stems")
    assert code == 1 and ("b.wav", "failed") in ended(results) and "changed while it was read" in said
    assert not [name for name in below(memory, "stems", hidden=True) if "/aside/" in name]


# --- S3 ---


@pytest.fixture(scope="module")
def server():
    need("moto", "s3fs")
    with S3Server() as started:
        yield started


@pytest.fixture
def s3(server, monkeypatch):
    """An empty bucket, which is asked once again after a failure and not 25 times."""
    server.reset()
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.slow
def test_albums_on_s3_become_stems_on_s3(s3, run):
    for name in ("A/one.wav", "A/two words.wav", "B/\u00e9t\u00e9.wav"):
        s3.put(f"albums/{_quoted(name)}", sounding(name))
    code, results, _ = run("s3://bucket/albums/", "-o", "s3://bucket/stems/")
    assert code == 0 and [result["status"] for result in results] == ["done"] * 3
    assert results[1]["outputs"]["bass"] == "s3://bucket/stems/fake/A/two words/bass.wav"
    run("A", "B", "-o", "out", "--template", "{model}/{parent}/{track}/{stem}.{ext}")
    for name in tree():
        assert s3.get(f"stems/{_quoted(name)}") == Path("out", name).read_bytes()
    s3.seen.clear()
    code, results, _ = run("s3://bucket/albums", "-o", "s3://bucket/stems")
    assert code == 0 and [result["status"] for result in results] == ["skipped"] * 3
    assert not [
        path for method, path in s3.seen if "albums" in path and method == "GET" and "list-type" not in path
    ]
    s3.put("albums/A/one.wav", sounding(seed=5))
    code, results, said = run("s3://bucket/albums", "-o", "s3://bucket/stems")
    assert [result["status"] for result in results] == ["skipped", "skipped", "done"], said


def _quoted(name):
    from urllib.parse import quote

    return quote(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        lambda: times(2, BUSY, "PUT", "vocals.wav"),
        lambda: times(2, BUSY, "GET", "a.wav"),
        lambda: times(2, cut, "GET", "a.wav"),
        lambda: times(2, drop, "PUT", "vocals.wav"),
        lambda: times(2, drop, "HEAD"),
        lambda: times(2, BUSY, "GET", "list-type"),
        lambda: always(slow(0.1)),
    ],
    ids=["busy put", "busy get", "cut get", "cut put", "cut look", "busy list", "slow"],
)
def test_what_passes_is_got_over(s3, run, fault):
    s3.put("albums/a.wav", sounding())
    s3.faults.append(fault())
    code, results, said = run("s3://bucket/albums", "-o", "s3://bucket/stems")
    assert code == 0 and ended(results) == [("a.wav", "done")], said
    s3.faults.clear()
    assert run("s3://bucket/albums", "-o", "s3://bucket/stems")[1][0]["status"] == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [drop, BUSY, EXPIRED], ids=["cut", "busy", "expired"])
def test_an_upload_that_can_not_end_leaves_nothing_under_its_name(s3, run, fault):
    s3.put("albums/a.wav", sounding())
    s3.faults.append(always(fault, "PUT", text="vocals.wav"))
    code, _, said = run("s3://bucket/albums", "-o", "s3://bucket/stems")
    assert code == 5 and "'s3://bucket/stems/fake/a/vocals.wav' can't be written" in said
    assert not [key for key in s3.names() if key.endswith(".wav") and key.startswith("stems")]
    s3.faults.clear()
    assert run("s3://bucket/albums", "-o", "s3://bucket/stems")[0] == 0
    assert [f"stems/fake/a/{kind}" for kind in KINDS] == [
        key for key in s3.names() if key.startswith("stems/fake")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "of", "to", "code", "sentence"),
    [
        (
            always(EXPIRED),
            "bucket/albums",
            "bucket/stems",
            1,
            "access is denied (The provided token has expired)",
        ),
        (always(DENIED, "GET"), "bucket/albums/", "bucket/stems", 1, "access is denied (Access Denied)"),
        (
            always(EXPIRED, "PUT"),
            "bucket/albums",
            "bucket/stems",
            5,
            "'s3://bucket/stems' can't be written: access is",
        ),
        (always(DENIED, text="stems"), "bucket/albums", "bucket/stems", 5, "access is denied (Access Denied)"),
        (None, "bucket/albums", "none/stems", 5, "'s3://none/stems' can't be written: there is no such bucket"),
        (
            None,
            "none/albums",
            "bucket/stems",
            1,
            "'s3://none/albums' can't be read: there is no such file or bucket",
        ),
        (
            None,
            "none/albums/",
            "bucket/stems",
            1,
            "'s3://none/albums' can't be read: there is no such file or bucket",
        ),
        (
            None,
            "bucket/none",
            "bucket/stems",
            1,
            "'s3://bucket/none' can't be read: there is no such file or bucket",
        ),
    ],
)
def test_what_is_final_is_one_sentence(s3, run, fault, of, to, code, sentence):
    s3.put("albums/a.wav", sounding())
    s3.faults += [fault] if fault else []
    found, _, said = run(f"s3://{of}", "-o", f"s3://{to}")
    assert found == code and sentence in said and "Traceback" not in said
    assert not [key for key in s3.names() if key.endswith(".wav") and key.startswith("stems")]


@pytest.mark.slow
def test_a_server_that_is_not_there_and_no_key_at_all(s3, run, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    code, _, said = run("s3://bucket/albums/", "-o", "s3://bucket/stems")
    assert code == 1 and "Could not connect" in said and time.monotonic() - began < 60
    song("a.wav")
    assert run("a.wav", "-o", "s3://bucket/stems")[0] == 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, _, said = run("s3://bucket/albums/", "-o", "s3://bucket/stems")
    assert code == 1 and "Unable to locate credentials" in said and "AWS_PROFILE" in said


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_what_a_killed_writer_left_is_made_again(s3, run, tmp_path):
    for name in "ab":
        s3.put(f"albums/{name}.wav", sounding(seed=ord(name)))
    reached = []

    def stop(request, body):
        reached.append(1)
        time.sleep(60)
        return False

    s3.faults.append(always(stop, "PUT", text="b/vocals.wav"))
    command = [*fake_model.PROGRAM, "separate", *FAKE, "s3://bucket/albums", "-o", "s3://bucket/stems"]
    place = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    writer = subprocess.Popen(command, env={**os.environ, **place}, stdout=subprocess.PIPE)
    try:
        while not reached and writer.poll() is None:
            time.sleep(0.1)
        assert reached
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    stems = [key for key in s3.names() if key.startswith("stems/fake")]
    assert stems == ["stems/fake/a/bass.wav", "stems/fake/a/vocals.wav", "stems/fake/b/bass.wav"]
    assert list((tmp_path / "temporary").glob(f"{PREFIX}*")), "its work folder"
    s3.faults.clear()
    code, results, _ = run("s3://bucket/albums", "-o", "s3://bucket/stems")  # it removes that folder, too
    assert code == 0 and ended(results) == [("a.wav", "skipped"), ("b.wav", "done")]
    assert "stems/fake/b/vocals.wav" in s3.names()
    code, results, _ = run("s3://bucket/albums", "-o", "s3://bucket/stems")
    assert code == 0 and [result["status"] for result in results] == ["skipped", "skipped"]
