"""What an INPUT argument means: files, folders without what is ours or hidden, shards."""

import os
from collections import Counter

import pytest

from sepcli.batch.inputs import Originals, Shard, Source, find_inputs, parse_shard
from sepcli.batch.manifest import MANIFEST_NAME
from sepcli.errors import UsageError

SUFFIXES = {".wav", ".flac", ".mp4"}


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"audio")
    return root


def relatives(found):
    return [str(source.relative) for source in found.sources]


def test_a_folder_is_searched_in_a_stable_order_for_every_suffix_in_any_case(tmp_path):
    make(tmp_path, "b/2.WAV", "b/1.flac", "a/x/deep.Mp4", "top.wav", "notes.txt", "a/cover.jpg", "B.wav")
    found = find_inputs([str(tmp_path)], None, SUFFIXES)
    assert relatives(found) == ["B.wav", "top.wav", "a/x/deep.Mp4", "b/1.flac", "b/2.WAV"]
    assert not found.failures and not found.notices


def test_a_scan_enters_neither_hidden_folders_nor_the_output_nor_folders_of_stems(tmp_path):
    make(
        tmp_path,
        "song.wav",
        ".hidden/a.wav",
        "._song.wav",
        "out/song/vocals.wav",
        "old/song/bass.wav",
        f"old/{MANIFEST_NAME}",
        "kept/b.wav",
    )
    found = find_inputs([str(tmp_path)], tmp_path / "out", SUFFIXES)
    assert relatives(found) == ["song.wav", "kept/b.wav"]


def test_the_output_folder_is_known_by_any_name(tmp_path):
    make(tmp_path, "song.wav", "real/vocals.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = find_inputs([str(tmp_path)], tmp_path / "link", SUFFIXES)
    assert relatives(found) == ["song.wav"]


def test_links_that_lead_back_are_no_trap_and_a_folder_is_searched_once(tmp_path):
    make(tmp_path, "a/1.wav", "z/2.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "alias").symlink_to(tmp_path / "z")
    found = find_inputs([str(tmp_path)], None, SUFFIXES)
    assert sorted(relatives(found)) == ["a/1.wav", "z/2.wav"]


def test_links_to_folders_outside_are_followed(tmp_path):
    make(tmp_path, "elsewhere/1.wav", "music/0.wav")
    (tmp_path / "music" / "more").symlink_to(tmp_path / "elsewhere")
    found = find_inputs([str(tmp_path / "music")], None, SUFFIXES)
    assert relatives(found) == ["0.wav", "more/1.wav"]


def test_a_file_given_itself_is_taken_whatever_its_name(tmp_path):
    make(tmp_path, ".odd.xyz")
    found = find_inputs([str(tmp_path / ".odd.xyz")], None, SUFFIXES)
    assert relatives(found) == [".odd.xyz"]


def test_one_file_given_in_several_ways_is_done_once_with_a_notice(tmp_path):
    make(tmp_path, "a/song.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "a" / "song.wav")
    song = str(tmp_path / "a" / "song.wav")
    found = find_inputs([song, str(tmp_path / "a"), str(tmp_path / "link.wav"), song], None, SUFFIXES)
    assert relatives(found) == ["song.wav"]
    assert len(found.notices) == 3 and all("once" in notice for notice in found.notices)


def test_what_is_missing_or_empty_fails_alone(tmp_path):
    make(tmp_path, "song.wav", "texts/a.txt")
    found = find_inputs(
        [str(tmp_path / "sogn.wav"), str(tmp_path / "texts"), str(tmp_path / "song.wav")], None, SUFFIXES
    )
    assert relatives(found) == ["song.wav"]
    (_, missing), (_, empty) = found.failures
    assert missing.code == "missing" and "song.wav" in missing.remedy
    assert empty.code == "no_audio" and empty.exit_code == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unreadable_folder_fails_and_the_rest_goes_on(tmp_path):
    make(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "a").chmod(0)
    try:
        found = find_inputs([str(tmp_path)], None, SUFFIXES)
    finally:
        (tmp_path / "a").chmod(0o755)
    assert relatives(found) == ["b/2.wav"]
    assert [problem.code for _, problem in found.failures] == ["unreadable"]


def test_a_folder_of_stems_given_itself_is_refused(tmp_path):
    make(tmp_path, "song/vocals.wav", MANIFEST_NAME)
    found = find_inputs([str(tmp_path)], None, SUFFIXES)
    assert [problem.code for _, problem in found.failures] == ["stems_folder"]


def test_a_folder_that_is_also_the_output_is_a_usage_error(tmp_path):
    make(tmp_path, "song.wav")
    with pytest.raises(UsageError, match="output folder"):
        find_inputs([str(tmp_path)], tmp_path, SUFFIXES)


def test_standard_input_is_a_track_called_stdin():
    (source,) = find_inputs(["-"], None, SUFFIXES).sources
    assert source.once and source.track == "stdin" and source.name == "-"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_can_be_read_only_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (source,) = find_inputs([str(tmp_path / "pipe")], None, SUFFIXES).sources
    assert source.once and source.track == "pipe"


def test_names_that_are_not_utf8_pass_through(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        make(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = find_inputs([str(tmp_path)], None, SUFFIXES)
    assert os.fsencode(found.sources[0].path.name) == b"caf\xe9.wav"
    assert Shard(1, 1).has(str(found.sources[0].relative))


def test_originals_knows_an_input_by_name_link_and_inode(tmp_path):
    make(tmp_path, "song.wav", "other.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "song.wav")
    os.link(tmp_path / "song.wav", tmp_path / "hard.wav")
    source = Source(str(tmp_path / "song.wav"), "song.wav", "song.wav")
    originals = Originals([source])
    for name in ("song.wav", "link.wav", "hard.wav"):
        assert originals.at(tmp_path / name) is source
    assert originals.at(tmp_path / "other.wav") is None
    assert originals.at(tmp_path / "new.wav") is None


def test_shards_share_every_input_out_once_and_evenly():
    names = [f"album {i % 7}/track {i}.wav" for i in range(1000)]
    of = Counter(sum(index * Shard(index, 4).has(name) for index in (1, 2, 3, 4)) for name in names)
    assert set(of) == {1, 2, 3, 4} and min(of.values()) > 180
    assert Shard(1, 4).has("a/b.wav") == Shard(1, 4).has("a/b.wav")


def test_the_hash_behind_a_shard_never_changes():
    """A batch that is half done must go on with the same parts after an update."""
    parts = [next(part for part in (1, 2, 3) if Shard(part, 3).has(name)) for name in "abcdefgh"]
    assert parts == [2, 2, 3, 3, 3, 1, 3, 3]  # 1 + the first 64 bits of sha256(name), modulo 3


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError, match="I/N"):
        parse_shard(text)
    assert parse_shard("4/4") == Shard(4, 4)


@pytest.mark.parametrize(
    "address", ["https://example.org/watch?v=x", "HTTP://example.org/a.mp3", "ftp://host/a.wav"]
)
def test_an_address_is_not_a_missing_file(address):
    ((argument, problem),) = find_inputs([address], None, SUFFIXES).failures
    assert argument == address and problem.code == "address" and "Download it first" in problem.remedy


def test_the_address_of_a_file_names_its_path():
    ((_, problem),) = find_inputs(["file:///music/my%20song.wav"], None, SUFFIXES).failures
    assert problem.code == "address" and os.path.normpath("/music/my song.wav") in problem.remedy
