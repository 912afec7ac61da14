"""Layouts: folders on disk -> tracks."""

import pytest

from sepcli.data.layouts import MUSDB_STEMS, SLAKH_STEMS, detect, find_tracks
from sepcli.errors import InputError, UsageError
from tests.sounds import music
from tests.stems import RATE, track, write


def test_musdb(tmp_path):
    track(tmp_path / "train" / "B - Song", MUSDB_STEMS, mixture=True)
    track(tmp_path / "test" / "A - Song", MUSDB_STEMS, mixture=True, seconds=2)
    for layout in ("auto", "musdb"):
        test, train = find_tracks(tmp_path, layout)
        assert (test.name, train.name) == ("test/A - Song", "train/B - Song")
        assert list(train.stems) == sorted(MUSDB_STEMS)
        assert train.mixture == tmp_path / "train" / "B - Song" / "mixture.wav"
        assert (train.samplerate, train.channels, train.frames, train.seconds) == (RATE, 2, 3 * RATE, 3.0)
    assert detect(tmp_path / "train") == "musdb"
    assert [found.name for found in find_tracks(tmp_path / "test")] == ["A - Song"]


def test_musdb_takes_its_own_stems_only(tmp_path):
    track(tmp_path / "train" / "song", [*MUSDB_STEMS, "accompaniment"])
    assert list(find_tracks(tmp_path, "musdb")[0].stems) == sorted(MUSDB_STEMS)
    assert "accompaniment" in find_tracks(tmp_path)[0].stems


def test_slakh(tmp_path):
    for split in ("train", "validation", "test"):
        track(tmp_path / split / "Track00001", SLAKH_STEMS, rate=22050, channels=1)
    for layout in ("auto", "slakh"):
        found = find_tracks(tmp_path, layout)
        assert [one.name for one in found] == [f"{s}/Track00001" for s in ("test", "train", "validation")]
        assert list(found[0].stems) == sorted(SLAKH_STEMS) and found[0].channels == 1
    assert detect(tmp_path / "train") == "slakh"


def test_a_plain_folder(tmp_path):
    track(tmp_path / "one", ["Vocals", "kazoo"], suffix=".flac", seconds=2)
    track(tmp_path / "two", ["drums"], suffix=".ogg", mixture=True)
    track(tmp_path / ".hidden", ["drums"])
    write(tmp_path / "two" / "._drums.wav", music(RATE))  # what another system leaves behind
    (tmp_path / "one" / "notes.txt").write_text("x")
    one, two = find_tracks(tmp_path)
    assert list(one.stems) == ["kazoo", "vocals"] and one.mixture is None and one.seconds == 2
    assert list(two.stems) == ["drums"] and two.mixture.name == "mixture.ogg"
    assert [found.name for found in find_tracks(tmp_path / "two")] == ["two"]  # a single track


def test_without_a_mixture_the_shortest_stem_counts(tmp_path):
    write(tmp_path / "song" / "a.wav", music(3 * RATE))
    write(tmp_path / "song" / "b.wav", music(2 * 2 * RATE), 2 * RATE)  # 2 s at twice the rate
    (song,) = find_tracks(tmp_path)
    assert (song.samplerate, song.frames) == (RATE, 2 * RATE)


def test_pools(tmp_path):
    write(tmp_path / "drums" / "kick.wav", music(100, 1))
    write(tmp_path / "drums" / "loops" / "beat.flac", music(RATE))
    write(tmp_path / "Vocals" / "la.wav", music(RATE))
    assert detect(tmp_path) == "pools"
    found = find_tracks(tmp_path)
    assert {one.name: list(one.stems) for one in found} == {
        "Vocals/la.wav": ["vocals"], "drums/kick.wav": ["drums"], "drums/loops/beat.flac": ["drums"],
    }  # fmt: skip
    assert all(one.mixture is None for one in found)


def test_a_track_called_like_a_stem_is_no_pool(tmp_path):
    track(tmp_path / "other", ["drums", "vocals"])
    assert detect(tmp_path) == "stems"


def test_a_pool_of_an_unheard_of_stem_is_named(tmp_path):
    write(tmp_path / "kazoo" / "one.wav", music(100))
    write(tmp_path / "drums" / "two.wav", music(100))
    assert detect(tmp_path) == "stems"
    assert [list(one.stems) for one in find_tracks(tmp_path, "pools")] == [["drums"], ["kazoo"]]


def test_what_cant_be_read_is_named_and_its_stem_left_out(tmp_path):
    track(tmp_path / "good", ["drums", "vocals"])
    track(tmp_path / "half", ["drums"])
    (tmp_path / "half" / "vocals.wav").write_text("not audio")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "drums.flac").write_bytes(b"")
    with pytest.raises(InputError, match="vocals.wav"):
        find_tracks(tmp_path)
    problems = []
    found = find_tracks(tmp_path, problems=problems)
    assert {one.name: list(one.stems) for one in found} == {"good": ["drums", "vocals"], "half": ["drums"]}
    assert len(problems) == 2 and any(str(tmp_path / "none" / "drums.flac") in text for text in problems)


def test_two_files_for_a_stem_are_a_problem(tmp_path):
    track(tmp_path / "song", ["drums"], suffix=".flac")
    track(tmp_path / "song", ["drums"])
    with pytest.raises(InputError, match="second file for drums"):
        find_tracks(tmp_path)


def test_nothing_found(tmp_path):
    with pytest.raises(InputError, match="looked for .*TrackNNNNN"):
        find_tracks(tmp_path, "slakh")
    with pytest.raises(InputError, match="looked for .*TRACK/STEM.wav"):
        find_tracks(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_tracks(tmp_path / "absent")
    with pytest.raises(UsageError, match="auto, stems, musdb, slakh, pools"):
        find_tracks(tmp_path, "tracks")
