"""`--video`: the picture of a video with a stem as its sound. Clicks and flashes show if they are in sync."""

import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from sepcli import separate_file
from sepcli.cli.app import main
from sepcli.errors import InputError, OutputError, UsageError
from sepcli.sound import remux
from sepcli.sound.video import CONTAINERS
from tests import fake_model
from tests.needs import need
from tests.test_track import Shares, one_thread  # noqa: F401  (a fixture)

RATE, FPS = 48000, 25  # Hz
CODECS = {  # picture, sound, subtitles, by container
    "mp4": ("mpeg4", "aac", "mov_text"),
    "mov": ("mpeg4", "aac", "mov_text"),
    "mkv": ("mpeg4", "aac", "subrip"),
    "webm": ("libvpx", "libopus", "webvtt"),
    "avi": ("mpeg4", "aac", ""),
}
EVENTS = (Fraction(2, 5), Fraction(7, 5))  # seconds: a flash and a click


def film(
    path, *, codec="", late=0.0, early=0.0, gap=None, seconds=2, rotation=0, title="", more=False, tracks=1
):
    """A dark picture and silence, with flashes and clicks.

    late: the sound's first packet, early: the picture's first frame, in seconds. gap: (from, to), without any
    packet. more: subtitles and chapters.
    """
    usual, sound, subtitles = CODECS[path.suffix[1:]]
    codec = codec or usual
    packets = []
    with av.open(str(path), "w") as container:
        fast = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {}
        picture = container.add_stream(codec, rate=FPS, width=64, height=48, pix_fmt="yuv420p", options=fast)
        if codec != "libvpx":
            picture.codec_context.max_b_frames = 2
        if rotation:
            picture.set_display_rotation(rotation)
        for number in range(round(early * FPS), seconds * FPS):
            lit = any(0 <= Fraction(number, FPS) - at < Fraction(3, FPS) for at in EVENTS)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255 * lit, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for number in range(tracks):
            packets += _sound(container, sound, seconds, late, gap, number)
        if more:
            text = container.add_mux_stream(subtitles, time_base=Fraction(1, 1000))
            text.metadata["language"] = "fre"
            words = b"Bonjour"
            packet = av.Packet(len(words).to_bytes(2, "big") + words if subtitles == "mov_text" else words)
            packet.pts = packet.dts = 500
            packet.duration, packet.time_base, packet.stream = 400, Fraction(1, 1000), text
            packets.append(packet)
            base = Fraction(1, 1000)
            chapter = {"id": 1, "start": 0, "end": 900, "time_base": base, "metadata": {"title": "One"}}
            container.set_chapters([chapter, {**chapter, "id": 2, "start": 900, "end": 2000}])
        if title:
            container.metadata["title"] = title
        container.start_encoding()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _sound(container, codec, seconds, late, gap, number):
    """Packets of a new track; the second one is a hum."""
    stream = container.add_stream(codec, rate=RATE, layout="stereo")
    stream.metadata.update({"language": "eng"} if number else {"language": "ger", "title": "Stereo"})
    stream.disposition = 0 if number else Disposition.default
    x = np.zeros((2, seconds * RATE), np.float32)
    for at in EVENTS:
        x[:, round(at * RATE) : round(at * RATE) + 24] = 0.9
    if number:
        x[:] = 0.2 * np.sin(2 * np.pi * 220 / RATE * np.arange(x.shape[1]))
    size, packets = 960 if codec == "libopus" else 1024, []
    for at in range(round(late * RATE) // size * size, x.shape[1], size):
        if gap and gap[0] <= at / RATE < gap[1]:
            continue
        block = np.ascontiguousarray(x[:, at : at + size])
        packed = codec == "libopus"
        frame = av.AudioFrame.from_ndarray(
            block.T.reshape(1, -1) if packed else block, format="flt" if packed else "fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def events(path):
    """When it flashes, and when it clicks: two lists of seconds."""
    flashes, clicks = [], []
    with av.open(str(path)) as container:
        dark = True
        for frame in container.decode(video=0):
            lit = frame.to_ndarray(format="gray").mean() > 128
            if lit and dark:
                flashes.append(float(frame.pts * frame.time_base))
            dark = not lit
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray())
            loud = samples.max(axis=0) if frame.format.is_planar else samples.reshape(-1, 2).max(axis=1)
            if frame.format.name.startswith("s"):
                loud = loud / 2.0 ** (8 * frame.format.bytes - 1)
            for at in np.flatnonzero(loud > 0.25):
                time = float(frame.pts * frame.time_base) + at / frame.sample_rate
                if not clicks or time - clicks[-1] > 0.1:
                    clicks.append(time)
    return flashes, clicks


def streams(path):
    """(type, codec, language) of each."""
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.codec_context.name if stream.codec_context else "", stream.language)
            for stream in container.streams
            if stream.type != "data"
        ]


def picture(path, kind="video", index=0):
    """[(seconds from the first, bytes)] of the packets."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[index]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        first = min(packet.pts for packet in packets)
        return [(round(float((packet.pts - first) * packet.time_base), 2), bytes(packet)) for packet in packets]


def chapters(container):
    """[(seconds, title)]"""
    return [(each["start"] * each["time_base"], each["metadata"]["title"]) for each in container.chapters()]


def vocals(path, out="out", **options):
    """The video with the stem, which is the mix, only softer."""
    model = Shares({"vocals": 0.75, "other": 0.25}, samplerate=RATE)
    made = separate_file(path, path.parent / out, model=model, targets=["vocals"], video=True, **options)
    return made.outputs["vocals"], made


# --- in sync ---

CASES = {
    "plain": {},
    "late sound": {"late": 0.2},
    "late picture": {"early": 0.2},
    "gap": {"gap": (0.7, 1.1)},
}


def test_a_gap_too_short_for_silence_stays_a_gap(tmp_path):
    """A packet of 21 ms. What follows is as late as it was."""
    source = film(tmp_path / "a.mp4", gap=(0.7, 0.71))
    made, result = vocals(source)
    assert "gap" not in {warning.code for warning in result.warnings}
    for path in (source, made):
        assert events(path)[1] == pytest.approx([0.4, 1.4], abs=0.003)


QUICK = {("mp4", "late sound"), ("mkv", "gap"), ("webm", "plain")}


@pytest.mark.parametrize(
    ("suffix", "case"),
    [
        pytest.param(suffix, case, marks=() if (suffix, case) in QUICK else pytest.mark.slow)
        for suffix in ("mp4", "mov", "mkv", "webm")
        for case in CASES
    ],
)
def test_sound_and_picture_stay_together(tmp_path, suffix, case):
    source = film(tmp_path / f"a.{suffix}", **CASES[case])
    made = vocals(source)[0]
    before, after = events(source), events(made)
    assert [len(times) for times in before] == [len(times) for times in after] == [2, 2]
    for flash, click, new_flash, new_click in zip(*before, *after, strict=True):
        assert abs(click - flash) < 0.005, "so says the test's own film"
        assert abs(new_click - new_flash) < 0.005
    assert picture(made) == picture(source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "format"),
    [(container.suffix, format) for container in CONTAINERS.values() for format in container.sounds[1:]],
)
def test_every_sound_that_a_container_holds_is_in_sync(tmp_path, suffix, format):
    source = film(tmp_path / f"a.{'mp4' if suffix == 'm4v' else suffix}")
    if suffix == "m4v":
        source = source.rename(tmp_path / "a.m4v")
    made = vocals(source, format=format)[0]
    flashes, clicks = events(made)
    assert len(flashes) == len(clicks) == 2
    assert max(abs(click - flash) for flash, click in zip(flashes, clicks, strict=True)) < 0.005
    codec = {"m4a": "aac", "ogg": "vorbis", "mp3": "mp3float"}.get(format, format)
    assert streams(made)[1][1].removeprefix("lib") == codec


# --- what is kept ---


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_everything_but_the_old_sound_is_kept(tmp_path, suffix):
    source = film(
        tmp_path / f"a.{suffix}", tracks=2, more=True, title="Film", rotation=90 if suffix == "mp4" else 0
    )
    made, result = vocals(source)
    assert made.name == f"vocals.{suffix}" and result.warnings[1:] == []  # the first: which track was taken
    assert streams(made) == streams(source)
    assert picture(made) == picture(source)
    assert picture(made, "audio", 1) == picture(source, "audio", 1)
    # FFmpeg puts an empty text before one that does not begin at 0.
    assert [each for each in picture(made, "subtitles") if each[1] != b"\0\0"] == [
        each for each in picture(source, "subtitles") if each[1] != b"\0\0"
    ]
    with av.open(str(source)) as old, av.open(str(made)) as new:
        assert new.metadata["title"] == "Film (vocals)"
        assert chapters(new) == chapters(old) == [(0, "One"), (Fraction(9, 10), "One")]
        assert [each.disposition & Disposition.default for each in new.streams.audio] == [1, 0]
        assert old.streams.audio[0].metadata.get("title", "Stereo") == "Stereo"
        assert "vocals" in new.streams.audio[0].metadata.values()
        frames = [next(container.decode(video=0)) for container in (old, new)]
        assert frames[0].rotation == frames[1].rotation == (90 if suffix == "mp4" else 0)


def test_pictures_out_of_order_keep_their_times(tmp_path):
    """Of H.264 in Matroska FFmpeg does not know when the first ones are decoded."""
    need("libx264")
    source = film(tmp_path / "a.mkv", codec="libx264")
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert packets[0].dts is None and [each.pts for each in packets] != sorted(each.pts for each in packets)
    assert picture(vocals(source)[0]) == picture(source)


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["hvc1", "hev1"])
def test_the_name_of_hevc_is_kept(tmp_path, tag):
    need("libx265")
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=FPS, width=64, height=48, pix_fmt="yuv420p")
        stream.options = {"x265-params": "log-level=none:pools=1:bframes=0"}
        stream.codec_context.codec_tag = tag
        packets = []
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            packet.dts = packet.pts
        for packet in [*packets, *_sound(container, "aac", 1, 0, None, 0)]:
            container.mux(packet)
    with av.open(str(vocals(path)[0])) as container:
        assert container.streams.video[0].codec_context.codec_tag == tag


def test_another_track_is_replaced_and_the_new_sound_comes_first(tmp_path):
    source = film(tmp_path / "a.mkv", tracks=2)
    made, _ = vocals(source, audio_track="eng")
    assert [kind for kind, *_ in streams(made)] == ["video", "audio", "audio"]
    with av.open(str(made)) as container:
        assert [each.language for each in container.streams.audio] == ["eng", "ger"]
        assert [each.disposition & Disposition.default for each in container.streams.audio] == [1, 0]
    assert picture(made, "audio", 1) == picture(source, "audio", 0)
    assert events(made)[1] == []  # the hum


def test_a_cover_and_files_beside_the_tracks_are_kept(tmp_path):
    source, image = film(tmp_path / "a.mkv"), png()
    with av.open(str(source)) as old, av.open(str(tmp_path / "b.mkv"), "w") as new:
        pairs = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        new.add_attachment("cover.png", "image/png", image)
        new.add_attachment("font.ttf", "font/ttf", b"letters")
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = pairs[packet.stream.index]
                new.mux(packet)
    made, result = vocals(tmp_path / "b.mkv")
    assert result.warnings == []
    with av.open(str(made)) as container:
        assert bytes(next(container.demux(container.streams.video[1]))) == image
        (font,) = container.streams.attachments
        assert (font.name, font.mimetype, bytes(font.data)) == ("font.ttf", "font/ttf", b"letters")


def png():
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 8, 8, "rgb24", Fraction(1, 25)
    (packet,) = codec.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24"))
    return bytes(packet)


def test_a_kind_of_video_that_is_not_written_becomes_matroska(tmp_path):
    source = film(tmp_path / "a.avi")
    made, result = vocals(source)
    assert made.name == "vocals.mkv" and "A video of the kind avi is written as mkv." in result.warnings
    assert [data for _, data in picture(made)] == [data for _, data in picture(source)]
    before, after = events(source), events(made)
    for flash, click, new_flash, new_click in zip(*before, *after, strict=True):
        assert abs((click - flash) - (new_click - new_flash)) < 0.005


def test_without_tags_only_the_languages_stay(tmp_path):
    made, _ = vocals(film(tmp_path / "a.mkv", title="Film"), tags=False)
    with av.open(str(made)) as container:
        assert "title" not in {name.lower() for name in container.metadata}
        assert container.streams.audio[0].language == "ger"


# --- the command ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)


def separate(capfd, *arguments):
    code = main(["separate", "-m", "fake", "--video", *arguments])
    return code, *capfd.readouterr()


def test_a_karaoke_video(capfd, fake):
    film(Path("song.mp4"))
    command = ("song.mp4", "-t", "instrumental", "-o", "out", "--template", "{track}_{stem}.{ext}", "--json")
    code, out, _ = separate(capfd, *command)
    assert code == 0 and json.loads(out)["outputs"] == {"instrumental": "out/song_instrumental.mp4"}
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["song_instrumental.mp4"]
    assert events(Path("out/song_instrumental.mp4"))[0] == pytest.approx([0.4, 1.4], abs=0.001)
    code, out, _ = separate(capfd, *command)
    assert code == 0 and json.loads(out)["status"] == "skipped"
    assert (
        separate(capfd, *command, "--format", "mp3", "--bitrate", "64")[0] == 0
    )  # another sound is another file
    assert streams(Path("out/song_instrumental.mp4"))[1][1] == "mp3float"


def test_inputs_without_a_picture_fail_and_the_others_go_on(capfd, fake, monkeypatch):
    monkeypatch.setattr("sepcli.batch.survey.SURVEY_SECONDS", 60.0)
    film(Path("in.mkv"))
    with av.open("sound.mka", "w") as container:
        container.mux(_sound(container, "libopus", 1, 0, None, 0))
    code, out, _ = separate(capfd, ".", "-t", "bass", "-o", "../out", "--json")
    results = {Path(each["input"]).name: each for each in map(json.loads, out.splitlines())}
    assert code == 1 and results["in.mkv"]["status"] == "done"
    assert results["sound.mka"]["error"]["code"] == "no_picture"
    assert "sound.mka has no moving picture. Leave --video out for it" in results["sound.mka"]["error"][
        "message"
    ] + (" " + results["sound.mka"]["error"]["remedy"])
    assert [path.name for path in Path("../out/fake/in").iterdir()] == ["bass.mkv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--start", "1"), "a part of it could begin at a key frame only"),
        (("--preview",), "a part of it could begin at a key frame only"),
        (("--format", "aiff"), "No video has aiff sound"),
        (("--sum", "exact"), "m4a is lossy. Choose flac with --format"),
        (("--bit-depth", "24"), "has no meaning for --format m4a"),
        (("--format", "flac"), "A webm file can't hold flac sound. Choose opus or ogg"),
        (("-o", "-"), "--video"),
    ],
)
def test_what_can_not_be_is_a_sentence(capfd, fake, options, said):
    Path("a.webm").write_bytes(film(Path("b.webm"), seconds=1).read_bytes())
    code, out, err = separate(capfd, "a.webm", *options)
    assert code in (1, 2) and not out and said in " ".join(err.split())
    assert not list(Path().glob("separated/*/*"))


def test_a_dry_run_names_the_videos(capfd, fake):
    Path("Film.MOV").write_bytes(b"not looked at")
    Path("old.avi").write_bytes(b"not looked at")
    code, out, _ = separate(capfd, ".", "-t", "bass", "-o", "../out", "--dry-run", "--json")
    made = [each["outputs"]["bass"] for each in map(json.loads, out.splitlines())]
    assert code == 0 and made == ["../out/fake/Film/bass.mov", "../out/fake/old/bass.mkv"]


def test_the_page_names_what_each_container_holds():
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `.")]
    for container in CONTAINERS.values():
        (sounds,) = (row[2] for row in rows if f"`.{container.suffix}`" in row[0])
        assert tuple(re.findall(r"`(\w+)`", sounds)) == container.sounds


def test_the_picture_counts_for_the_room_on_the_disk(capfd, fake, monkeypatch):
    needed = []
    monkeypatch.setattr("sepcli.batch.jobs.check_space", lambda folder, size: needed.append(size))
    source = film(Path("a.mp4"))
    with source.open("ab") as file:  # a box that nobody reads
        file.write((1_000_008).to_bytes(4, "big") + b"free" + bytes(1_000_000))
    assert separate(capfd, "a.mp4", "-t", "bass", "-t", "drums")[0] == 0
    assert 2 * source.stat().st_size < needed[0] < 2 * source.stat().st_size + 2_000_000


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stops_the_copying_leaves_nothing(tmp_path, monkeypatch, error):
    source, real, count = film(tmp_path / "a.mp4"), remux.Sink.write, []

    def write(sink, data):
        count.append(len(data))
        if len(count) > 3:
            sink.error = error() if isinstance(error, type) else error
            return 0
        return real(sink, data)

    monkeypatch.setattr(remux, "Sink", type("Failing", (remux.Sink,), {"write": write}))
    with pytest.raises((KeyboardInterrupt, OutputError)):
        vocals(source)
    assert len(count) > 3 and list((tmp_path / "out").rglob("*")) == []


def test_a_cover_is_no_moving_picture(tmp_path):
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("png", rate=1, width=8, height=8, pix_fmt="rgb24")
        cover.disposition = Disposition.attached_pic
        packets = _sound(container, "aac", 1, 0, None, 0)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        container.mux(packets)
    assert len(av.open(str(path)).streams.video) == 1
    with pytest.raises(InputError, match="no moving picture"):
        vocals(path)


def test_a_picture_that_the_container_can_not_hold_is_said_before_the_work(tmp_path):
    source = film(tmp_path / "a.mkv").rename(tmp_path / "a.webm")  # MPEG-4 video
    with pytest.raises(UsageError, match=r"A webm file can't hold the picture of .*a\.webm \(mpeg4\)"):
        vocals(source)
