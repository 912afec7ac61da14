"""The work folder: nothing under a final name before it is complete, nothing left behind by the dead."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sepcli.batch.workspace import PREFIX, Workspace, flush, is_alive, publish, remove_leftovers
from sepcli.errors import OutputError
from sepcli.sound.spool import Spool


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_workspace_and_its_tracks_come_and_go(tmp_path):
    out = tmp_path / "new" / "out"
    with Workspace(out) as work:
        with work.track() as one, work.track() as two:
            assert one != two and one.parent == two.parent == work.path
            assert work.path.name.startswith(".") and work.path.parent == out
            (one / "x").write_bytes(b"1")
        assert not one.exists() and not two.exists()
        with pytest.raises(KeyboardInterrupt), work.track() as three:
            (three / "half.wav").write_bytes(b"1")
            raise KeyboardInterrupt
        assert not three.exists()
    assert everything(out) == []


def test_two_workspaces_share_one_folder(tmp_path):
    with Workspace(tmp_path) as one, Workspace(tmp_path) as two:
        assert one.path != two.path and one.path.is_dir()
        assert remove_leftovers(tmp_path) == 0
    assert everything(tmp_path) == []


CHILD = """
import sys, time
from pathlib import Path
from sepcli.batch.workspace import Workspace
with Workspace(Path(sys.argv[1])) as work, work.track() as track:
    (track / "half.wav").write_bytes(b"half")
    print(work.path, flush=True)
    time.sleep(60)
"""


def test_a_living_process_keeps_its_files_and_a_killed_ones_are_removed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        path = Path(child.stdout.readline().strip())
        with Workspace(tmp_path):
            assert (path / "1" / "half.wav").exists()
        child.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert (path / "1" / "half.wav").exists()
    with Workspace(tmp_path) as work:
        assert not path.exists() and work.path.exists()


def test_a_folder_just_being_made_is_no_leftover(tmp_path):
    young, old = tmp_path / f"{PREFIX}young", tmp_path / f"{PREFIX}old"
    young.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    assert remove_leftovers(tmp_path) == 1
    assert young.exists() and not old.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such moment")
def test_losing_the_race_for_a_new_folder_is_noticed(tmp_path, monkeypatch):
    import fcntl

    real, made = fcntl.flock, []

    def flock(descriptor, operation):
        if not made:  # another process takes the folder for a leftover before the lock is held
            made.append(next(tmp_path.glob(f"{PREFIX}*")))
            assert remove_leftovers_now(made[0])
        real(descriptor, operation)

    def remove_leftovers_now(path):
        (path / "lock").unlink()
        path.rmdir()
        return True

    monkeypatch.setattr(fcntl, "flock", flock)
    with Workspace(tmp_path) as work:
        assert made and (work.path / "lock").exists() and is_alive(tmp_path, work.name)
    assert everything(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="flock")
def test_a_file_system_without_locks_keeps_leftovers(tmp_path, monkeypatch):
    import fcntl

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Workspace(tmp_path) as one, Workspace(tmp_path):
        assert one.path.exists()
        assert not is_alive(tmp_path, one.name)  # nobody waits for a run that can't be told from a dead one


def test_a_run_is_alive_while_its_folder_is_locked(tmp_path):
    with Workspace(tmp_path) as work:
        assert is_alive(tmp_path, work.name)
    assert not is_alive(tmp_path, work.name)
    (tmp_path / work.name).mkdir()
    (tmp_path / work.name / "lock").touch()  # as a kill leaves it
    assert not is_alive(tmp_path, work.name)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="out") as caught:
        Workspace(tmp_path / "out")
    assert caught.value.exit_code == 5


def unfinished(tmp_path: Path, *names: str) -> list[tuple[Path, Path]]:
    work = tmp_path / "work"
    work.mkdir()
    for name in names:
        (work / name).write_bytes(name.encode())
    return [(work / name, tmp_path / "out" / "song" / name) for name in names]


def test_publish_names_all_files(tmp_path):
    files = unfinished(tmp_path, "a.wav", "bb.wav")
    assert [flush(path) for path, _ in files] == [5, 6]  # their sizes
    publish(files)
    assert everything(tmp_path / "out") == ["song", "song/a.wav", "song/bb.wav"]
    assert everything(tmp_path / "work") == []


def test_publish_replaces(tmp_path):
    files = unfinished(tmp_path, "a.wav")
    files[0][1].parent.mkdir(parents=True)
    files[0][1].write_bytes(b"old and longer")
    publish(files)
    assert files[0][1].read_bytes() == b"a.wav"


def test_publish_is_all_or_nothing(tmp_path):
    files = unfinished(tmp_path, "a.wav", "b.wav")
    files[1][1].mkdir(parents=True)  # a folder stands where the second file belongs
    with pytest.raises(OutputError):
        publish(files)
    assert everything(tmp_path / "out") == ["song", "song/b.wav"] and files[1][1].is_dir()


def test_errors_that_a_disk_reports_late_come_before_the_names(tmp_path, monkeypatch):
    files = unfinished(tmp_path, "a.wav")

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError) as caught:
        flush(files[0][0])
    assert caught.value.code == "disk_full" and not (tmp_path / "out").exists()


def test_publish_across_disks_copies_beside_and_renames(tmp_path, monkeypatch):
    files, real = unfinished(tmp_path, "a.wav"), os.replace

    def replace(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    publish(files)
    assert everything(tmp_path / "out") == ["song", "song/a.wav"]
    assert files[0][1].read_bytes() == b"a.wav"


def test_published_files_have_ordinary_permissions(tmp_path):
    with Workspace(tmp_path) as work, work.track() as track:
        (track / "a.wav").write_bytes(b"x")
        publish([(track / "a.wav", tmp_path / "a.wav")])
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_spool_gives_back_what_it_got_in_other_blocks(tmp_path):
    data = np.random.default_rng(0).standard_normal((6, 1000)).astype(np.float32)
    spool = Spool(tmp_path / "spool", 6)
    for start, end in [(0, 1), (1, 1), (1, 700), (700, 1000)]:
        spool.write(data[:, start:end])
    assert spool.frames == 1000
    for _ in range(2):
        blocks = list(spool.blocks(128))
        assert [block.shape[1] for block in blocks] == [128] * 7 + [104]
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), data)
    spool.close()
    assert everything(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_stops_the_spool(tmp_path):
    (tmp_path / "spool").symlink_to("/dev/full")
    spool = Spool(tmp_path / "spool", 2)
    with pytest.raises(OutputError) as caught:
        for _ in range(100):
            spool.write(np.zeros((2, 65536), dtype=np.float32))
    assert caught.value.code == "disk_full"
    spool.close()
