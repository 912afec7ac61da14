"""The manifest: what it says of files, several writers, torn lines, inputs hashed once."""

import json
import os
import subprocess
import sys
from fractions import Fraction

import pytest

from sepcli.batch.lines import InputId, Output, Record
from sepcli.batch.manifest import MANIFEST_NAME, Manifest, settings_hash
from sepcli.errors import OutputError

SONG = InputId("/music/song.wav", 100, 12345, "ab" * 32)
DATE = 1_800_000_000_123_456_701  # ns, no date that a file system has rounded


def record(*paths, done=True, settings="s1", size=5, identity=SONG):
    outputs = tuple(Output(path.split("/")[-1].split(".")[0], path, size) for path in paths)
    return Record(done, settings, identity, outputs)


def put(folder, *paths, data=b"12345"):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def test_a_record_is_found_again_by_each_of_its_outputs(tmp_path):
    made = record("song/vocals.wav", "song/drums.wav")
    Manifest(tmp_path).add(made, {"gain": 1.0})
    again = Manifest(tmp_path)
    assert again.record_of(tmp_path / "song" / "drums.wav") == made
    assert again.record_of(tmp_path / "song" / "bass.wav") is None


def dated(folder, path, *, date=0, size=5, done=True, made="m"):
    """A record of that file as it is now, or with another date."""
    mtime_ns = (folder / path).stat().st_mtime_ns + date
    return Record(done, "s1", SONG, (Output("vocals", path, size, mtime_ns, made),))


def test_a_file_is_untouched_while_size_and_date_are_as_recorded(tmp_path):
    path = tmp_path / "song/vocals.wav"
    put(tmp_path, "song/vocals.wav")
    os.utime(path, ns=(0, DATE))
    manifest = Manifest(tmp_path)
    assert manifest.standing(path) is None
    manifest.add(dated(tmp_path, "song/vocals.wav"))
    assert manifest.standing(path).untouched
    os.utime(path, ns=(0, DATE + 1))
    assert not manifest.standing(path).untouched and manifest.standing(path).same_size
    put(tmp_path, "song/vocals.wav", data=b"1234")
    assert not manifest.standing(path).same_size
    path.unlink()
    assert not manifest.standing(path).untouched


def test_after_a_kill_a_file_is_the_old_one_or_the_new_one(tmp_path):
    """The run has written down what it is about to replace; which of its files are there, only they tell."""
    path = tmp_path / "song/vocals.wav"
    put(tmp_path, "song/vocals.wav")
    os.utime(path, ns=(0, DATE))
    manifest = Manifest(tmp_path)
    manifest.add(dated(tmp_path, "song/vocals.wav", made="old"))
    for date in (10, 20):  # two runs were killed
        manifest.add(dated(tmp_path, "song/vocals.wav", date=date, done=False, made=f"new{date}"))
    for known in (manifest, Manifest(tmp_path)):
        for date, made in ((0, "old"), (10, "new10"), (20, "new20")):
            os.utime(path, ns=(0, DATE + date))
            found = known.standing(path)
            assert found.untouched and (found.output.made, found.record.done) == (made, made == "old")
            assert known.made(made, SONG.sha256) == path
        os.utime(path, ns=(0, DATE + 5))
        assert not known.standing(path).untouched and known.made("old", SONG.sha256) is None


def test_the_later_line_wins(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add(record("song/vocals.wav", settings="old"))
    manifest.add(record("song/vocals.wav", settings="new"))
    assert Manifest(tmp_path).record_of(tmp_path / "song/vocals.wav").settings == "new"


@pytest.mark.parametrize("torn", [b'{"kind": "done", "outp', b"\x00\x00\xff", b"not json\n", b"[]\n", b"{}\n"])
def test_a_torn_or_foreign_line_costs_only_itself(tmp_path, torn):
    Manifest(tmp_path).add(record("a/vocals.wav"))
    with open(tmp_path / MANIFEST_NAME, "ab") as file:
        file.write(torn)
    manifest = Manifest(tmp_path)
    manifest.add(record("b/vocals.wav"))
    again = Manifest(tmp_path)
    for path in ("a/vocals.wav", "b/vocals.wav"):
        assert manifest.record_of(tmp_path / path) is not None
        assert again.record_of(tmp_path / path) is not None


def test_refresh_takes_in_what_others_wrote(tmp_path):
    mine, other = Manifest(tmp_path), Manifest(tmp_path)
    other.add(record("a/vocals.wav"))
    assert mine.record_of(tmp_path / "a/vocals.wav") is None
    mine.refresh()
    assert mine.record_of(tmp_path / "a/vocals.wav") is not None


WRITER = """
import sys
from pathlib import Path
from sepcli.batch.lines import InputId, Output, Record
from sepcli.batch.manifest import Manifest
manifest, who = Manifest(Path(sys.argv[1])), sys.argv[2]
for i in range(200):
    outputs = tuple(Output(f"stem{s}", f"{who}/{i}/stem{s}.wav", i) for s in range(40))
    manifest.add(Record(True, "s" * 16, InputId(f"/{who}/{i}", i, i, "0" * 64), outputs))
"""


@pytest.mark.slow
def test_several_processes_write_whole_lines(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), who]) for who in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = list(map(json.loads, (tmp_path / MANIFEST_NAME).read_bytes().splitlines()))
    assert [line["kind"] for line in lines].count("settings") in (1, 2, 3)  # of each, or of the first
    done = [line["input"]["path"] for line in lines if line["kind"] == "done"]
    assert len(done) == len(set(done)) == 600


def test_settings_are_written_once_and_known_for_all_tracks(tmp_path, monkeypatch):
    identity, made_with = InputId("/song.wav", 1, 1, "0" * 64), {"model": "duo", "shifts": 1}
    for number in range(3):
        known = Manifest(tmp_path)
        record = Record(True, "s" * 16, identity, (Output("vocals", f"{number}.wav", 1),), made_with)
        known.add(record)
        known.add(record)
    lines = list(map(json.loads, (tmp_path / MANIFEST_NAME).read_text().splitlines()))
    assert [line["kind"] for line in lines] == ["settings", *["done"] * 6]
    assert ["made_with" in line for line in lines] == [True, *[False] * 6]
    for in_memory in (1 << 20, 0):  # all of them, or none
        monkeypatch.setattr("sepcli.batch.manifest.IN_MEMORY", in_memory)
        found = Manifest(tmp_path).record_of(tmp_path / "0.wav")
        assert found is not None and found.made_with == made_with


def test_an_input_is_hashed_once_then_known_by_size_and_date(tmp_path, monkeypatch):
    song = tmp_path / "song.wav"
    song.write_bytes(b"music")
    manifest = Manifest(tmp_path)
    identity = manifest.identify(song)
    manifest.add(record("song/vocals.wav", identity=identity))

    again = Manifest(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("sepcli.batch.manifest.content_sha256", lambda path: pytest.fail("hashed again"))
        assert again.identify(song) == identity

    os.utime(song, ns=(1, 1))
    touched = again.identify(song)
    assert touched.sha256 == identity.sha256 and touched != identity
    again.note_input(touched)
    with monkeypatch.context() as patch:
        patch.setattr("sepcli.batch.manifest.content_sha256", lambda path: pytest.fail("hashed again"))
        assert Manifest(tmp_path).identify(song) == touched

    song.write_bytes(b"other")
    assert Manifest(tmp_path).identify(song).sha256 != identity.sha256


def test_the_settings_hash_is_of_the_values_not_their_order():
    assert settings_hash({"a": 1, "b": Fraction(39, 5)}) == settings_hash({"b": Fraction(39, 5), "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9/vocals.wav")
    Manifest(tmp_path).add(record(name))
    assert Manifest(tmp_path).record_of(tmp_path / name).outputs[0].path == name


def test_a_manifest_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(OutputError):
        Manifest(tmp_path).add(record("a/vocals.wav"))


def test_outputs_are_claimed_by_one_living_run(tmp_path):
    mine, other = Manifest(tmp_path), Manifest(tmp_path)
    paths = [tmp_path / "a" / "vocals.wav", tmp_path / "a" / "drums.wav"]
    alive = {"one", "two"}.__contains__
    assert mine.claim(paths, "one", alive) is None and mine.claim(paths, "one", alive) is None
    assert other.claim(paths[1:], "two", alive) == "one"
    assert other.claim([tmp_path / "b.wav"], "two", alive) is None
    assert other.claim(paths, "two", lambda name: name != "one") is None  # "one" has died
    other.release(paths)
    assert mine.claim(paths, "one", alive) is None
    mine.add(record("a/vocals.wav", "a/drums.wav"))  # done: nobody works on it any more
    assert other.claim(paths, "two", alive) is None
