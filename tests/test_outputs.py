"""Laws of output names: legal everywhere, inside the output folder, unique; and the checks before work."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepcli.batch import LAYOUTS, outputs
from sepcli.batch.outputs import (
    DEFAULT_TEMPLATE,
    check_space,
    check_template,
    check_writable,
    choose_template,
    collision_key,
    folds_case,
    legal_name,
    name_limit,
    output_path,
    rest_name,
)
from sepcli.errors import OutputError, UsageError

OUT = Path("separated")


def named(template: str = DEFAULT_TEMPLATE, **values) -> str:
    """Relative path for a track `song` under the given template."""
    extra = {key: values.pop(key) for key in ("below", "limit", "notice") if key in values}
    filled = {"track": "song", "stem": "vocals", "ext": "wav", "model": "m", "parent": "album"}
    return (
        output_path(OUT, template, {**filled, "trackext": "mp3", **values}, **extra).relative_to(OUT).as_posix()
    )


def test_template_substitution_is_plain():
    assert named() == "m/song/vocals.wav"
    assert named("{model}/{parent}-{track}.{trackext}_{stem}.{ext}") == "m/album-song.mp3_vocals.wav"
    assert named(track="{stem}", stem="a{track}b") == "m/{stem}/a{track}b.wav"  # values are never looked into
    assert named("{track}_{track}.{ext}") == "song_song.wav"


def test_mirrored_folders_come_before_the_track():
    assert named(below=PurePath("live/1999")) == "m/live/1999/song/vocals.wav"
    assert named(below="") == "m/song/vocals.wav"
    assert named(below="what?/..hidden..") == "m/what_/..hidden__/song/vocals.wav"
    assert named("{stem}/{track}.{ext}", below="A") == "vocals/A/song.wav"
    assert named("{model}/{parent}/{track}.{ext}", below="A") == "m/A/album/song.wav"
    assert named("{model}/{stem}.{ext}", below="A") == "A/m/vocals.wav"


@pytest.mark.parametrize(
    "template, said",
    [
        ("{track}/{name}.{ext}", "{name}"),
        ("{0}/{stem}", "{0}"),
        ("{track.__class__}/{stem}", "unknown field"),
        ("{track!r}/{stem}", "unknown field"),
        ("/abs/{stem}.{ext}", "absolute"),
        ("C:/x/{stem}.{ext}", "absolute"),
        ("../{stem}.{ext}", "'..'"),
        ("a/../../{stem}.{ext}", "'..'"),
        ("./{stem}.{ext}", "'.'"),
        ("{stem}/", "file name"),
        ("", "file name"),
        ("{track}.{ext}", "no {stem}"),
    ],
)
def test_bad_templates_are_refused_with_the_fields_there_are(template, said):
    with pytest.raises(UsageError) as caught:
        check_template(template, ["vocals", "drums"])
    assert said in caught.value.message
    assert all(f"{{{name}}}" in caught.value.message for name in outputs.TEMPLATE_FIELDS)
    assert DEFAULT_TEMPLATE in caught.value.remedy


def test_layouts_are_templates_by_name():
    for layout, template in LAYOUTS.items():
        assert choose_template(None, layout, packs=False) == template
        check_template(template, ["a", "b"])
    assert choose_template(None, None, packs=False) == DEFAULT_TEMPLATE == LAYOUTS["stems-by-track"]
    assert choose_template("{track}.{ext}", None, packs=True) == "{track}.{ext}"
    check_template(choose_template(None, None, packs=True), ["stems"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, "by-artist", False), "stems-by-track, tracks-by-stem, flat"),
        (("{track}.{ext}", "flat", False), "can't go together"),
        ((None, "tracks-by-stem", True), "a track becomes one file"),
    ],
)
def test_layouts_that_can_not_be(arguments, said):
    template, layout, packs = arguments
    with pytest.raises(UsageError, match=said):
        choose_template(template, layout, packs=packs)


@pytest.mark.parametrize("template", LAYOUTS.values())
def test_every_layout_keeps_long_names_within_255_bytes_and_apart(template):
    tracks = ["\u00e9" * 300, "\u00e9" * 300 + "x", "n" * 255]
    stems = ["vocals", "s" * 255, "s" * 254 + "t"]
    paths = [named(template, track=track, stem=stem) for track in tracks for stem in stems]
    assert len(set(paths)) == 9
    assert all(len(part.encode()) <= 255 for path in paths for part in PurePath(path).parts)
    assert all(path.endswith(".wav") for path in paths)


def test_good_templates_pass():
    check_template("{track} {stemnumber}.{ext}", ["a", "b"])
    check_template(DEFAULT_TEMPLATE, ["a", "b"])
    check_template("{track}.{ext}", ["vocals"])
    check_template("{parent}/{track} ({stem}) [{model}].{ext}", ["a", "b"])


@pytest.mark.parametrize(
    "name, legal",
    [
        ("plain name (1).wav", "plain name (1).wav"),
        ("Ünïcödé 曲名 🎵", "Ünïcödé 曲名 🎵"),
        (".hidden", ".hidden"),
        ('AC/DC: what? <live> "x"|*', "AC_DC_ what_ _live_ _x___"),
        ("back\\slash", "back_slash"),
        ("tab\tnul\0", "tab_nul_"),
        ("...", "___"),
        ("..", "__"),
        ("Vol. 1.", "Vol. 1_"),
        ("space ", "space_"),
        (" lead", " lead"),
        ("con", "con_"),
        ("NUL.wav", "NUL_.wav"),
        ("Lpt1 .tar.gz", "Lpt1 _.tar.gz"),
        ("com¹", "com¹_"),
        ("console", "console"),
        ("COM10", "COM10"),
    ],
)
def test_only_what_some_system_refuses_is_replaced(name, legal):
    assert legal_name(name) == legal
    assert legal_name(legal) == legal


@given(track=st.text(), parent=st.text(), stem=st.text(min_size=1), limit=st.sampled_from([60, 143, 255]))
def test_every_name_is_legal_inside_the_folder_and_fits(track, parent, stem, limit):
    track, parent, stem = (
        "".join(char for char in text if not 0xD800 <= ord(char) < 0xE000) for text in (track, parent, stem)
    )
    path = named("{parent}/{track}/{stem}.{ext}", track=track, parent=parent, stem=stem, limit=limit)
    parts = path.split("/")
    assert 1 <= len(parts) <= 3
    for part in parts:
        assert part not in ("", ".", "..") and legal_name(part) == part
        assert len(os.fsencode(part)) <= limit
    assert (OUT / path).resolve().is_relative_to(OUT.resolve())


def test_values_never_leave_the_folder():
    assert named(track="../../etc/passwd") == "m/.._.._etc_passwd/vocals.wav"
    assert named(track="..") == "m/__/vocals.wav"
    assert (
        named("{model}/{stem}", model="hf://owner/repo@main/file.th") == "hf___owner_repo@main_file.th/vocals"
    )
    assert named("{parent}/{track}_{stem}.{ext}", parent="") == "song_vocals.wav"
    with pytest.raises(UsageError, match="no file name"):
        named("{parent}", parent="")


def test_long_names_are_shortened_with_a_notice_and_stay_apart():
    told: list[str] = []
    name = "é" * 200  # 400 bytes
    one = named("{track}_{stem}.{ext}", track=name + "1", notice=told.append)
    two = named("{track}_{stem}.{ext}", track=name + "2", notice=told.append)
    assert one != two
    for path in (one, two):
        assert 253 <= len(path.encode()) <= 255  # as much as fits, no split character
        assert path.endswith("_vocals.wav") and path.startswith("é" * 100)
    assert len(told) == 2 and "255 bytes" in told[0] and one in told[0]
    assert named("{track}_{stem}.{ext}", track=name + "1") == one  # the same every time


def test_a_name_that_just_fits_is_kept():
    track = "x" * (255 - len("_vocals.wav"))
    assert named("{track}_{stem}.{ext}", track=track) == f"{track}_vocals.wav"
    assert len(named("{track}_{stem}.{ext}", track=track + "x").encode()) == 255


def test_a_field_used_twice_is_shortened_in_both_places():
    path = named("{track} {track} {stem}", track="y" * 300)
    assert len(path.encode()) <= 255 and path.count("~") == 2 and path.endswith(" vocals")


def test_a_template_that_leaves_no_room_is_refused():
    with pytest.raises(UsageError, match="255 bytes"):
        named("a" * 250 + "{track}{stem}.{ext}")
    with pytest.raises(UsageError, match="255 bytes"):
        named("a" * 256 + "/{stem}.{ext}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are not UTF-8")
def test_names_that_are_not_utf8_survive(tmp_path):
    track = os.fsdecode(b"caf\xe9 " + b"\xff" * 5)
    told: list[str] = []
    path = output_path(tmp_path, "{track}.{ext}", {"track": track, "ext": "wav"}, notice=told.append)
    path.write_bytes(b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9 " + b"\xff" * 5 + b".wav"]
    assert not told
    long = output_path(
        tmp_path, "{track}.{ext}", {"track": os.fsdecode(b"\xe9" * 300), "ext": "wav"}, notice=told.append
    )
    long.write_bytes(b"x")
    assert len(os.fsencode(long.name)) == 255
    told[0].encode()  # a notice can always be printed


def test_a_long_mirrored_folder_is_shortened_too():
    path = named(below="d" * 255, limit=143)
    assert len(path.split("/")[1]) == 143


def test_rest_name():
    assert rest_name(["vocals"]) == "no_vocals"
    assert rest_name(["vocals", "drums"]) == "rest" == rest_name([])


def test_collision_key():
    upper, lower = OUT / "Song" / "a.wav", OUT / "song" / "A.WAV"
    assert collision_key(upper, fold=True) == collision_key(lower, fold=True)
    assert collision_key(upper, fold=False) != collision_key(lower, fold=False)
    composed, decomposed = OUT / "caf\u00e9", OUT / "cafe\u0301"
    assert collision_key(composed, fold=False) == collision_key(decomposed, fold=False)
    assert collision_key(OUT / "x" / ".." / "y", fold=False) == collision_key(OUT / "y", fold=False)
    assert collision_key(OUT / "Straße", fold=True) == collision_key(OUT / "STRASSE", fold=True)
    assert collision_key(upper) == collision_key(upper, fold=sys.platform in ("darwin", "win32"))


def test_folds_case_agrees_with_the_file_system(tmp_path):
    (tmp_path / "Probe").write_bytes(b"")
    truth = (tmp_path / "pROBE").exists()
    assert folds_case(tmp_path) == truth
    assert folds_case(tmp_path / "not" / "there") == truth
    assert os.listdir(tmp_path) == ["Probe"]  # found out without writing


def test_name_limit(tmp_path):
    limit = name_limit(tmp_path / "not yet there")
    assert 0 < limit <= 255
    (tmp_path / ("n" * limit)).write_bytes(b"")


def test_check_writable_creates_the_folder_and_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError) as caught:
            check_writable(path)
        assert caught.value.exit_code == 5 and "file" in caught.value.message and caught.value.remedy


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable_refuses_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError) as caught:
            check_writable(tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)
    assert caught.value.code == "not_writable"


def test_check_space(tmp_path):
    check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(OutputError) as caught:
        check_space(tmp_path, 10**18)
    assert caught.value.code == "disk_full" and caught.value.exit_code == 5
    assert "1000000000.0 GB" in caught.value.message and "free" in caught.value.message
