"""Tags and covers: what goes over, what must not, and that no sample changes."""

import errno
import os
import struct
import subprocess

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from sepcli.sound import tags
from sepcli.sound.decode import AudioReader
from sepcli.sound.encode import AudioWriter
from sepcli.sound.formats import SOUNDS
from sepcli.sound.probe import AudioInfo, probe
from sepcli.sound.tags import Tags, read_tags
from tests.needs import need
from tests.sounds import music

NO_COVER = ("wav", "caf")
FRAMES = 30011


def run_ffmpeg(*arguments):
    need("ffmpeg")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An MP3 with tags of all kinds and a cover."""
    folder = tmp_path_factory.mktemp("source")
    soundfile.write(folder / "a.wav", music(FRAMES, samplerate=48000).T, 48000)
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=32x32:duration=0.1", "-frames:v", 1, folder / "cover.jpg")
    text = {
        "title": "S\u00f6ng; \u266a = #1 \\ 'x'", "artist": "\u6771\u4eac", "album": "Album", "date": "1999",
        "genre": "Rock", "comment": "two\nlines", "track": "3/12", "album_artist": "Various",
        "composer": "C", "MYTAG": "mine", "REPLAYGAIN_TRACK_GAIN": "-7.5 dB", "encoder": "old",
    }  # fmt: skip
    metadata = [part for name, value in text.items() for part in ("-metadata", f"{name}={value}")]
    path = folder / "01 Track.mp3"
    run_ffmpeg("-i", folder / "a.wav", "-i", folder / "cover.jpg", "-map", "0:a", "-map", "1:v", "-c:v", "copy",
               "-disposition:v:0", "attached_pic", *metadata, "-c:a", "libmp3lame", path)  # fmt: skip
    return path


def picture(path):
    """The bytes of the cover, or None."""
    with av.open(path) as container:
        covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        return bytes(next(container.demux(covers[0]))) if covers else None


def kinds(path):
    """The types of all streams."""
    with av.open(path) as container:
        return [stream.type for stream in container.streams]


def metadata(path):
    """The tags of the file and of its first stream, by lower-case names."""
    with av.open(path) as container:
        merged = {**container.streams[0].metadata, **container.metadata}
    return {name.lower(): value for name, value in merged.items()}


def write(path, found, **options):
    options = {"samplerate": 48000, "channels": 2, "format": path.suffix[1:], "depth": "24", **options}
    with AudioWriter(path, tags=found, **options) as writer:
        writer.write(music(FRAMES, samplerate=48000))
    return writer


def samples(path):
    return np.concatenate(list(AudioReader(path)), axis=1)


def test_reading(source):
    found = read_tags(source, probe(source))
    assert found.title == "S\u00f6ng; \u266a = #1 \\ 'x'" and found.text["artist"] == "\u6771\u4eac"
    assert found.text["mytag"] == "mine" and found.text["album_artist"] == "Various"
    assert not {"encoder", "replaygain_track_gain"} & set(found.text)
    assert found.cover == picture(source) and found.cover_type == "image/jpeg"


@pytest.mark.parametrize("format", SOUNDS)
def test_tags_and_cover_go_over_and_no_sample_changes(tmp_path, source, format):
    found = read_tags(source, probe(source)).for_stem("vocals")
    path, bare = tmp_path / f"a.{format}", tmp_path / f"b.{format}"
    writer = write(path, found)
    write(bare, None)
    assert writer.warnings == []
    assert np.array_equal(samples(path), samples(bare))
    back = read_tags(path, probe(path))
    assert back.title == "S\u00f6ng; \u266a = #1 \\ 'x' (vocals)"
    expected = {"artist": "\u6771\u4eac", "album": "Album", "genre": "Rock", "track": "3/12"}
    expected["comment"] = "two\nlines"
    if format != "wav":
        expected |= {"album_artist": "Various", "composer": "C"}
    if format not in ("wav", "m4a"):
        expected |= {"mytag": "mine"}
    assert {name: back.text.get(name) for name in expected} == expected
    assert "1999" in back.text["date"]
    assert "replaygain_track_gain" not in metadata(path)
    assert picture(path) == (None if format in NO_COVER else picture(source))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([path.name, bare.name])


@pytest.mark.parametrize("format", [format for format in SOUNDS if format != "wav"])
@pytest.mark.parametrize("frames", [1, 1000, 1025, 100_003])
def test_lengths_survive_the_copy(tmp_path, source, format, frames):
    found = read_tags(source, probe(source)).for_stem("bass")
    for name, with_tags in (("a", found), ("b", None)):
        path = tmp_path / f"{name}.{format}"
        with AudioWriter(path, samplerate=48000, channels=1, format=format, tags=with_tags) as writer:
            writer.write(music(frames, 1, 48000))
    one, other = samples(tmp_path / f"a.{format}"), samples(tmp_path / f"b.{format}")
    assert np.array_equal(one, other)


@pytest.mark.parametrize("format", ["wav", "aiff", "caf"])
@pytest.mark.parametrize("depth", ["16", "24", "32", "32f"])
def test_tags_keep_the_depth(tmp_path, source, format, depth):
    path = tmp_path / f"a.{format}"
    write(path, read_tags(source, probe(source)).for_stem("x"), depth=depth, frames=FRAMES)
    info = probe(path)
    assert info.depth == depth and info.frames == FRAMES and info.tags["title"].endswith("(x)")


@pytest.mark.parametrize("format", [format for format in SOUNDS if format != "m4a"])
def test_where_the_copy_fails_the_basic_tags_stand(tmp_path, source, monkeypatch, format):
    path = tmp_path / f"a.{format}"
    found = read_tags(source, probe(source)).for_stem("vocals")
    monkeypatch.setattr(tags, "_copy", fail)
    monkeypatch.setattr(tags, "_write_at", fail_midway)
    writer = write(path, found)
    if format in ("wav", "mp3"):  # have all their tags from the beginning
        assert writer.warnings == []
    else:
        assert len(writer.warnings) == 1 and "the disk is full" in writer.warnings[0]
    assert samples(path).shape == (2, FRAMES)
    back = probe(path).tags
    assert back["title"] == "S\u00f6ng; \u266a = #1 \\ 'x' (vocals)" and back["artist"] == "\u6771\u4eac"
    if format != "aiff":  # has no text chunks for more than title, artist, comment and copyright
        assert back["album"] == "Album" and back["track"].startswith("3")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def fail(path, sink, *_):
    sink.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_midway(file, offset, data):
    file.seek(offset)
    file.write(data[:1])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_a_title_the_name_of_the_file_stands_in(tmp_path):
    path = tmp_path / "07 Night.wav"
    soundfile.write(path, music(100).T, 44100)
    found = read_tags(path, probe(path))
    assert found.text == {} and found.for_stem("drums").text == {"title": "07 Night (drums)"}


def test_flac_and_ogg_and_m4a_as_sources(tmp_path, source):
    """Ogg keeps tags with the stream, the others with the file; each can be the source of any other."""
    first = read_tags(source, probe(source))
    for format in ("flac", "ogg", "m4a"):
        middle, last = tmp_path / f"a.{format}", tmp_path / f"b-{format}.mp3"
        write(middle, first)
        write(last, read_tags(middle, probe(middle)).for_stem("x"))
        back = read_tags(last, probe(last))
        assert back.title.endswith("'x' (x)") and back.text["album_artist"] == "Various"
        assert picture(last) == picture(source)


@pytest.mark.parametrize("tempo", ["124", "127.6", "fast"])
@pytest.mark.parametrize("format", ["flac", "ogg", "mp3", "aiff", "caf", "m4a"])
def test_what_djs_sort_by_goes_over(tmp_path, format, tempo):
    """Each format has its own name for the tempo; FFmpeg reads that of MP4 not at all."""
    first, last = tmp_path / f"a.{format}", tmp_path / "b.flac"
    texts = {"title": "x", "bpm": tempo, "initialkey": "Am", "isrc": "NLA1", "lyrics": "la", "compilation": "1"}
    write(first, Tags(texts, "x"))
    write(last, read_tags(first, probe(first)))
    found = read_tags(last, probe(last)).text
    if format == "m4a":  # has no names for them, and whole numbers only
        texts = {name: text for name, text in texts.items() if name not in ("initialkey", "isrc")}
        texts["bpm"] = {"124": "124", "127.6": "128"}.get(tempo, "")
    assert found == {name: text for name, text in texts.items() if text}


@pytest.mark.parametrize("size", [7, 8, 0x11, 0x13, 0xFFFFFFFF])
def test_a_damaged_tempo_is_none(tmp_path, size):
    path = tmp_path / "a.m4a"
    write(path, Tags({"title": "x", "bpm": "124"}, "x"))
    data = path.read_bytes()
    at = data.index(b"tmpo") + 4  # the box of the value, of 18 bytes
    path.write_bytes(data[:at] + struct.pack(">I", size) + data[at + 4 :])
    found = read_tags(path, probe(path))
    assert found.title == "x" and "bpm" not in found.text


def test_the_picture_of_a_video_is_no_cover(tmp_path):
    path = tmp_path / "a.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=1", "-f", "lavfi", "-i",
               "sine=duration=1", "-c:v", "mpeg4", "-metadata", "title=Film", path)  # fmt: skip
    found = read_tags(path, probe(path))
    assert found.cover == b"" and found.title == "Film"
    write(tmp_path / "a.m4a", found.for_stem("x"))
    assert kinds(tmp_path / "a.m4a") == ["audio"]


def test_very_long_tags(tmp_path):
    lyrics = "la la la \u266a\n" * 30000
    found = Tags(text={"title": "x", "lyrics": lyrics}, title="x")
    path = tmp_path / "a.flac"
    assert write(path, found).warnings == []
    assert metadata(path)["lyrics"] == lyrics


@pytest.mark.parametrize("format", ["aiff", "caf"])
@pytest.mark.parametrize("copies", [True, False])
def test_texts_too_long_for_the_format_are_left_out_and_named(tmp_path, monkeypatch, format, copies):
    """libsndfile would write them, and then not be able to read the file."""
    text = {"title": "x", "comment": "c" * 20_000, "artist": "y", "copyright": "d" * 7000, "genre": "z" * 7000}
    path = tmp_path / f"a.{format}"
    if not copies:
        monkeypatch.setattr(tags, "add_tags", lambda *_: "")
    writer = write(path, Tags(text=text, title="x"))
    assert sorted(writer.warnings) == [
        f"The tag '{name}' is too long for {format} and was left out." for name in ("comment", "genre")
    ]
    info = probe(path)
    assert info.decoder == "soundfile" and samples(path).shape == (2, FRAMES)
    assert info.tags["title"] == "x" and "comment" not in info.tags


def test_odd_characters_in_tags(tmp_path):
    found = Tags(text={"title": "a\udcffb", "artist": "\x01 \u202e", "com=ment": "[x]\n; y"}, title="t")
    for format in SOUNDS:
        path = tmp_path / f"a.{format}"
        write(path, found)
        assert read_tags(path, probe(path)).title == "a?b"


@pytest.mark.parametrize("cover", [b"", b"no picture", b"\xff\xd8\xffbroken", b"\x89PNG\r\n\x1a\nbroken"])
@pytest.mark.parametrize("format", SOUNDS)
def test_a_broken_cover_costs_no_sample(tmp_path, format, cover):
    path = tmp_path / f"a.{format}"
    write(path, Tags(text={"title": "x", "artist": "y"}, title="x", cover=cover))
    assert samples(path).shape[1] >= FRAMES
    assert metadata(path)["artist"] == "y"


def test_a_long_tail_of_nulls_is_not_searched_for_tags(tmp_path):
    """FFmpeg takes every 8 of them for an empty chunk."""
    path = tmp_path / "a.wav"
    write(path, Tags(text={"title": "x"}, title="x"), depth="16")
    os.truncate(path, 16 << 30)
    if path.stat().st_blocks * 512 > 1 << 24:
        pytest.skip("the file system has no sparse files")
    read = []

    class Counting(tags._Excerpt):
        def read(self, size):
            data = super().read(size)
            read.append(len(data))
            return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tags, "LOOKED_AT", 1 << 20)
        patch.setattr(tags, "_Excerpt", Counting)
        found = read_tags(path, AudioInfo(path, 48000, 2, None, "16", False, "wav", "soundfile"))
    assert found.title == "x" and 0 < sum(read) <= 1 << 20


def test_the_names_of_fields_are_ffmpegs(source):
    """What libsndfile reads and what ffprobe reads are one vocabulary."""
    info = probe(source)
    everything = read_tags(source, info).text
    kept = {name for name in info.tags if tags.is_kept(name)} - {"software"}
    assert kept <= set(everything) | {"license", "copyright"}
    assert set(tags.SNDFILE_FIELDS) == {"title", "artist", "album", "date", "genre", "comment", "copyright",
                                        "license", "track"}  # fmt: skip
