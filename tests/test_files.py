"""A file is there whole or not at all, and its hash is that of its bytes."""

import hashlib

import pytest

from sepcli.errors import OutputError
from sepcli.system.files import atomic_output, atomic_write, content_sha256


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_written_takes_the_name(tmp_path, shared):
    path = tmp_path / "new" / "curves.png"
    for text in ("one", "two"):
        with atomic_write(path, shared=shared) as beside:
            assert beside.suffix == ".png" and beside.parent == path.parent and beside.name.startswith(".")
            beside.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert names(path.parent) == ["curves.png"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_leaves_the_old_one_alone(tmp_path, shared, begun):
    path = tmp_path / "state.pt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, shared=shared) as beside:
        if begun:
            beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and names(tmp_path) == ["state.pt"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    path = tmp_path / "state.pt"
    (tmp_path / ".state.new.pt").write_text("begun, and more than what comes now")
    with atomic_write(path) as beside:
        beside.write_text("whole")
    assert path.read_text() == "whole" and names(tmp_path) == ["state.pt"]


def test_two_that_write_at_once_do_not_meet(tmp_path):
    path = tmp_path / "latents.safetensors"
    with atomic_write(path, shared=True) as first, atomic_write(path, shared=True) as second:
        assert first != second
        first.write_text("a")
        second.write_text("b")
    assert path.read_text() == "a" and names(tmp_path) == ["latents.safetensors"]  # the last to leave


def test_where_nothing_was_written_the_caller_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "never"):
        pass


def test_an_output_that_can_not_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    with (
        pytest.raises(OutputError, match="scores.csv' can't be written"),
        atomic_output(tmp_path / "file/scores.csv"),
    ):
        pass
    with atomic_output(tmp_path / "scores.csv") as unfinished:
        unfinished.write_text("1")
    assert (tmp_path / "scores.csv").read_text() == "1"


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "some").write_bytes(data)
    assert content_sha256(tmp_path / "some") == hashlib.sha256(data).hexdigest()
