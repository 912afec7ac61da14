"""Stem files: the structure of published ones, tracks that add up to the mix, and the way of a run to one."""

import json
import struct
from dataclasses import replace
from fractions import Fraction
from importlib import resources

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from sepcli.api import separate_file
from sepcli.batch.packing import make_pack
from sepcli.cli.app import main
from sepcli.errors import OutputError, UsageError
from sepcli.sound.boxes import box, boxes, find_box
from sepcli.sound.decode import AudioReader
from sepcli.sound.formats import FORMATS
from sepcli.sound.probe import probe
from sepcli.sound.stemfile import StemFileWriter, manifest
from sepcli.sound.tags import Tags, read_tags
from tests import fake_model
from tests.needs import package
from tests.sounds import lag, music
from tests.test_encode import linux
from tests.test_jobs import song, tree
from tests.test_track import SHARES, Shares

NAMES = ("Mix", "Drums", "Bass", "Other", "Vocals")
STEM = (b"moov", b"udta", b"stem")


def write(path, tracks, block=7000, **options):
    with_names = {"samplerate": 44100, **options}
    writer = StemFileWriter(path, NAMES, **with_names)
    for at in range(0, tracks.shape[-1], block):
        writer.write(tracks[..., at : at + block])
    writer.close()
    return writer


def read(path):
    """The samples of the tracks, [K, C, T] float64."""
    numbers = range(1, 6)
    return np.stack(
        [np.concatenate(list(AudioReader(path, probe(path, str(n)))), axis=1) for n in numbers], dtype=float
    )


def described(path):
    with open(path, "rb") as file:
        data = find_box(file, STEM)
    return None if data is None else json.loads(data)


def enabled(path):
    """Whether each track is enabled: the lowest bit of its header's flags."""
    with open(path, "rb") as file:
        moov = next(place for kind, *place in boxes(file, 0, file.seek(0, 2)) if kind == b"moov")
        flags = []
        for kind, _, begin, end in list(boxes(file, *moov[1:])):
            if kind == b"trak":
                header = next(place for name, *place in boxes(file, begin, end) if name == b"tkhd")
                file.seek(header[1])
                flags.append(bool(struct.unpack(">I", file.read(4))[0] & 1))
    return flags


def shape(value):
    """Keys and types, without the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


# --- the file ---


@pytest.mark.parametrize(("depth", "channels"), [("16", 2), ("24", 2), ("24", 1)])
def test_alac_gives_back_every_integer(tmp_path, depth, channels):
    full = 1 << (int(depth) - 1)
    integers = np.random.default_rng(0).integers(-full, full, (5, channels, 20011))
    integers[:, 0, :2] = -full, full - 1
    writer = StemFileWriter(tmp_path / "a.stem.mp4", NAMES, samplerate=48000, depth=depth)
    for at in range(0, 20011, 4000):
        writer.write_ints(integers[..., at : at + 4000].astype(np.int32))
    writer.close()
    assert np.array_equal(read(tmp_path / "a.stem.mp4") * full, np.broadcast_to(integers, (5, 2, 20011)))


@pytest.mark.parametrize("frames", [1, 1024, 30011])
def test_aac_keeps_the_length_and_the_place_of_every_track(tmp_path, frames):
    tracks = np.stack([music(frames, seed=seed) for seed in range(5)])
    write(tmp_path / "a.stem.mp4", tracks)
    found = read(tmp_path / "a.stem.mp4")
    assert found.shape[:2] == (5, 2) and frames <= found.shape[2] < frames + 1024  # the last packet is whole
    found = found[..., :frames]
    if frames > 10_000:
        assert all(lag(one, other) == 0 for one, other in zip(tracks, found, strict=True))
        assert np.sqrt(np.mean((found - tracks) ** 2)) < 0.02


def test_the_structure_is_that_of_a_published_stem_file(tmp_path):
    """The box, its place and its keys, which tracks are enabled, codec and channels."""
    stempeg = package("stempeg")
    with resources.as_file(resources.files(stempeg) / "data") as data:
        theirs = next(data.glob("*.stem.mp4"))
        ours = tmp_path / "a.stem.mp4"
        write(ours, np.zeros((5, 2, 3000), np.float32))
        assert shape(described(ours)) == shape(described(theirs))
        assert [stem["color"] for stem in described(ours)["stems"]] == [
            stem["color"] for stem in described(theirs)["stems"]
        ]
        assert enabled(ours) == enabled(theirs) == [True, False, False, False, False]
        kinds = []
        for path in (ours, theirs):
            with av.open(path) as container:
                kinds.append([(s.codec.name, s.rate, s.channels) for s in container.streams.audio])
        assert kinds[0] == kinds[1]


def test_the_settings_of_the_mastering_are_off():
    dsp = manifest(["a", "b", "c", "d"])["mastering_dsp"]
    assert [part["enabled"] for part in dsp.values()] == [False, False]


@pytest.mark.slow  # stempeg runs ffmpeg and ffprobe once a track
def test_stempeg_reads_names_and_sound(tmp_path):
    stempeg = package("stempeg")
    path = tmp_path / "a.stem.mp4"
    tracks = np.stack([music(9000, seed=seed) for seed in range(5)])
    write(path, tracks, depth="24")
    assert stempeg.Info(str(path)).title_streams == list(NAMES)
    found, rate = stempeg.read_stems(str(path))
    assert rate == 44100 and np.abs(found.swapaxes(1, 2) - tracks).max() <= 2**-24


def test_tags_and_cover(tmp_path):
    cover = picture()
    texts = {"artist": "\u6771\u4eac", "title": "old", "bpm": "127.6"}
    tags = Tags(text=texts, title="S\u00f6ng", cover=cover)
    for depth in ("lossy", "16"):
        path = tmp_path / f"{depth}.stem.mp4"
        assert write(path, np.zeros((5, 2, 5000), np.float32), depth=depth, tags=tags).warnings == []
        found = read_tags(path, probe(path))
        assert found.title == "S\u00f6ng" and found.text["artist"] == "\u6771\u4eac" and found.cover == cover
        assert found.text["bpm"] == "128"
        assert described(path)["stems"][3] == {"name": "Vocals", "color": "#56B4E9"}
        with av.open(path) as container:
            audio = container.streams.audio
            assert [s.metadata["handler_name"] for s in audio] == list(NAMES)
            assert [bool(s.disposition & Disposition.default) for s in audio] == [True] + 4 * [False]


def picture():
    frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 200, np.uint8), format="rgb24")
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = 8, 8, "rgb24"
    codec.time_base = frame.time_base = Fraction(1, 25)
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


@pytest.mark.parametrize("cover", [b"no picture", b"\xff\xd8\xffbroken", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_broken_cover_is_left_out_and_said(tmp_path, cover):
    path = tmp_path / "a.stem.mp4"
    writer = write(path, np.zeros((5, 2, 2000), np.float32), tags=Tags(title="x", cover=cover))
    assert [warning.code for warning in writer.warnings] in ([], ["tags"])
    assert read(path).shape == (5, 2, 2048) and read_tags(path, probe(path)).title == "x"


def test_a_file_without_tags_has_the_box(tmp_path):
    path = tmp_path / "a.stem.mp4"
    write(path, np.zeros((5, 2, 2000), np.float32))
    assert described(path) == manifest(NAMES[1:])


def test_boxes_of_every_size_and_broken_ones(tmp_path):
    path = tmp_path / "a"
    long = struct.pack(">I4sQ", 1, b"long", 16 + 3) + b"abc"
    path.write_bytes(box(b"none", b"") + long + struct.pack(">I4s", 0, b"last") + b"xyz")
    with open(path, "rb") as file:
        assert find_box(file, [b"long"]) == b"abc" and find_box(file, [b"last"]) == b"xyz"
        assert find_box(file, [b"none"]) == b"" and find_box(file, [b"miss"]) is None
    path.write_bytes(box(b"moov", struct.pack(">I4s", 99, b"udta")) + b"\0\0\0\x04last")
    with open(path, "rb") as file:
        assert find_box(file, STEM) is None and find_box(file, [b"last"]) is None
    path.write_bytes(box(b"none", b"") + struct.pack(">I4s", 1, b"long"))
    with open(path, "rb") as file:
        assert find_box(file, [b"long"]) is None


@linux
def test_a_full_disk(tmp_path):
    path = tmp_path / "a.stem.mp4"
    path.symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"):
        write(path, np.zeros((5, 2, 400_000), np.float32), depth="16")


def test_where_nothing_can_be_written_and_after_an_abort(tmp_path):
    with pytest.raises(OutputError) as caught:
        StemFileWriter(tmp_path / "missing" / "a.stem.mp4", NAMES, samplerate=44100)
    assert caught.value.code == "not_writable"
    writer = StemFileWriter(tmp_path / "a.stem.mp4", NAMES, samplerate=44100)
    writer.write(np.zeros((5, 2, 5000), np.float32))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


# --- which stems ---

FOUR = ("drums", "bass", "other", "vocals")


@pytest.mark.parametrize(
    ("wanted", "whole", "rest", "names", "folded"),
    [
        (FOUR, True, "rest", FOUR, ()),
        ((*FOUR, "guitar", "piano"), True, "rest", FOUR, ("guitar", "piano")),
        (("vocals", "instrumental"), True, "rest", ("silence", "silence", "instrumental", "vocals"), ()),
        (("vocals",), False, "no_vocals", ("silence", "silence", "no_vocals", "vocals"), ()),
        (("other",), True, "no_other", ("other", "silence", "no_other", "silence"), ()),
        (("guitar", "vocals"), False, "rest", ("guitar", "silence", "rest", "vocals"), ()),
        (("other", "drums"), False, "rest", ("drums", "other", "rest", "silence"), ()),
        (("kick", "snare", "toms", "cymbals"), True, "rest", ("kick", "snare", "other", "toms"), ("cymbals",)),
        (("a", "other", "b", "vocals"), False, "rest", ("a", "b", "other", "vocals"), ("other",)),
    ],
)
def test_which_stems_have_a_track(wanted, whole, rest, names, folded):
    pack = make_pack(wanted, whole=whole, rest=rest)
    assert pack.names == ("mix", *names) and pack.folded == folded
    assert all(stem in pack.notice for stem in folded) and bool(pack.notice) is bool(folded)


@pytest.mark.parametrize("wanted", [FOUR, (*FOUR, "guitar"), ("vocals",), ("a", "b", "c", "d", "e")])
def test_the_four_always_add_up_to_the_mix(wanted):
    pack = make_pack(wanted, whole=True, rest="rest")
    parts = [*({stem: 1.0} for stem in pack.kept), *({"mix": s.mix, **s.stems} for s in pack.submixes)]
    mix, *stems = (parts[place] for place in pack.tracks)
    total = {}
    for part in stems:
        for name, gain in part.items():
            total[name] = total.get(name, 0.0) + gain
    assert {name: gain for name, gain in total.items() if gain} == mix == {"mix": 1.0}


def test_two_tracks_of_one_name():
    with pytest.raises(UsageError, match="would be called 'Mix'"):
        make_pack(("Mix", "vocals"), whole=False, rest="rest")


# --- a track ---


def separated(path, model=None, **options):
    """(the result, its tracks [K, C, T])."""
    result = separate_file(path, path.parent / "out", model=model or Shares(), format="stem.mp4", **options)
    assert list(result.outputs) == ["stems"]
    return result, read(result.outputs["stems"])


@pytest.mark.parametrize("channels", [1, 2])
def test_the_stems_add_up_to_the_mix_and_the_mix_is_the_input(tmp_path, channels):
    """To the integer, as with --sum exact; shares of a mix do not round to its sum."""
    integers = np.random.default_rng(1).integers(-20000, 20000, (channels, 40007))
    soundfile.write(tmp_path / "a.wav", integers.T.astype(np.int16), 44100, "PCM_16")
    result, tracks = separated(tmp_path / "a.wav", bit_depth="16")
    tracks *= 1 << 15
    assert np.array_equal(tracks[0], np.broadcast_to(integers, (2, 40007)))
    assert np.array_equal(tracks[1:].sum(0), tracks[0])
    for track, share in zip(tracks[1:], SHARES.values(), strict=True):
        assert np.abs(track - share * tracks[0]).max() <= 2.5
    assert result.outputs["stems"].name == "a.stem.mp4"
    assert list(result.levels) == ["mix", "drums", "bass", "other", "vocals"]


def test_one_gain_for_all_where_something_would_clip(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((9000, 2), 0.5), 44100, "PCM_24")
    result, tracks = separated(tmp_path / "a.wav", Shares({"drums": 4.0, "other": -3.0}), bit_depth="24")
    assert result.gain == pytest.approx(0.5, abs=1e-4)
    middle = tracks[..., 3000:6000] * (1 << 23)
    assert np.abs(middle[0] - result.gain * (1 << 22)).max() <= 0.5
    assert np.array_equal(middle[1:].sum(0), middle[0])
    assert any(w.code == "lowered" and "drums and other would have clipped" in w for w in result.warnings)


def test_aac_adds_up_as_well_as_it_codes(tmp_path):
    soundfile.write(tmp_path / "a.wav", music(44100).T, 44100, "PCM_16")
    _, tracks = separated(tmp_path / "a.wav")
    mix = music(44100)
    assert lag(mix, tracks[0]) == 0
    error = tracks[1:, :, :44100].sum(0) - mix
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(mix**2))
    with av.open(tmp_path / "out" / "shares" / "a.stem.mp4") as container:
        rates = [stream.bit_rate for stream in container.streams.audio]
    assert all(rate == pytest.approx(256_000, rel=0.15) for rate in rates)


@pytest.mark.parametrize(("rate", "given"), [(22050, 44100), (48000, 48000), (96000, 48000)])
def test_the_rate_is_44100_or_48000(tmp_path, rate, given):
    soundfile.write(tmp_path / "a.wav", music(rate // 2, samplerate=rate).T, rate, "PCM_16")
    result, tracks = separated(tmp_path / "a.wav", bit_depth="16")
    assert result.samplerate == given and tracks.shape == (5, 2, given // 2)
    assert any("has no" in warning for warning in result.warnings) is (rate != given)


def test_surround_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((9000, 6)), 44100, "PCM_16")
    with pytest.raises(UsageError, match="holds up to 2 channels, the input has 6"):
        separated(tmp_path / "a.wav")
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_more_stems_are_folded_and_fewer_are_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((9000, 2), 0.5), 44100, "PCM_16")
    said = []
    six = {"drums": 0.5, "bass": 0.1, "other": 0.1, "vocals": 0.1, "guitar": 0.1, "piano": 0.1}
    _, tracks = separated(tmp_path / "a.wav", Shares(six), bit_depth="16", notice=said.append)
    assert tracks[:, 0, 4000] == pytest.approx([0.5, 0.25, 0.05, 0.15, 0.05], abs=1e-3)
    assert said == ["A stem file has room for four stems: guitar and piano are in its 'other'."]
    result, tracks = separated(tmp_path / "a.wav", targets=["instrumental"], bit_depth="16", force=True)
    assert tracks[:, 0, 4000] == pytest.approx([0.5, 0, 0, 0.4375, 0.0625], abs=1e-3)
    assert list(result.levels) == ["mix", "instrumental", "vocals"]
    names = [stem["name"] for stem in described(result.outputs["stems"])["stems"]]
    assert names == ["Silence", "Silence", "Instrumental", "Vocals"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "stem.mp4", replace(FORMATS["stem.mp4"], rates=(), max_rate=400_000))
    soundfile.write(tmp_path / "a.wav", np.zeros((9000, 2)), 352_800, "PCM_16")
    with pytest.raises(OutputError, match="FFmpeg: "):
        separated(tmp_path / "a.wav")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


# --- a run ---


@pytest.fixture
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)


def run(capfd, *arguments, model="fake"):
    code = main(["separate", "-m", model, "--format", "stem.mp4", *arguments])
    return code, *capfd.readouterr()


def test_a_file_a_track_that_is_kept_when_the_run_goes_on(capfd, fake):
    song("x/a.wav"), song("y/a.wav", seed=1)
    code, out, err = run(capfd, "x/a.wav", "y/a.wav", "--json")
    results = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and tree("separated/fake") == ["x/a.stem.mp4", "y/a.stem.mp4"]
    assert results[0]["outputs"] == {"stems": "separated/fake/x/a.stem.mp4"}
    assert list(results[0]["levels"]) == ["mix", "drums", "bass", "other", "vocals"]
    assert "Model fake: mix, drums, bass, other, vocals." in err
    code, out, err = run(capfd, "x/a.wav", "y/a.wav", "--json")
    again = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [result["status"] for result in again] == ["skipped", "skipped"]
    assert again[0]["levels"] == results[0]["levels"]
    code, _, err = run(capfd, "x/a.wav", "y/a.wav", "--bit-depth", "16")
    assert code == 0 and "other settings (depth" in err and "2 done" in err
    assert probe("separated/fake/x/a.stem.mp4").depth == "16"


def test_another_choice_of_stems_is_another_file(capfd, fake):
    song("a.wav")
    assert run(capfd, "a.wav", "-t", "vocals")[0] == 0
    code, _, err = run(capfd, "a.wav")
    assert code == 0 and "1 done" in err and "replaced" in err
    assert [stem["name"] for stem in described("separated/fake/a.stem.mp4")["stems"]] == list(NAMES[1:])


def test_a_dry_run_names_the_file(capfd, fake):
    song("a.wav")
    code, out, _ = run(capfd, "a.wav", "--dry-run")
    assert (
        code == 0 and "-> separated/fake/a.stem.mp4" in out and "fake: mix, drums, bass, other, vocals" in out
    )


def test_a_template_of_the_users(capfd, fake):
    song("a.wav")
    assert run(capfd, "a.wav", "--template", "{track}/{stem}.{ext}")[0] == 0
    assert tree("separated") == ["a/stems.stem.mp4"]


def test_queries_and_their_rest(capfd, fake):
    song("a.wav"), song("hum.wav", seed=3, seconds=1)
    assert run(capfd, "a.wav", "--query", "voice=hum.wav", model="asked")[0] == 0
    assert [stem["name"] for stem in described("separated/asked/a.stem.mp4")["stems"]] == [
        "Voice",
        "Silence",
        "No voice",
        "Silence",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--player"], "needs a file for each stem"),
        (["--skip-silent"], "always has 4 stems"),
        (["--submix", "x=drums+bass"], "so x has no place in it"),
        (["-t", "instrumental", "-t", "drums"], "would not add up to the mix"),
        (["--bitrate", "192", "--bit-depth", "16"], "makes stem.mp4 lossless"),
        (["--sum", "exact"], "Choose 16 or 24 with --bit-depth"),
        (["--video"], "No video has stem.mp4 sound"),
        (["--bit-depth", "32f"], "it takes keep, 16 or 24"),
        (["-o", "-"], "-o - writes WAV"),
    ],
)
def test_what_a_stem_file_has_no_place_for(capfd, fake, arguments, sentence):
    song("a.wav")
    code, _, err = run(capfd, "a.wav", *arguments)
    assert code == 2 and sentence in " ".join(err.split())
    assert tree("separated") == []


def test_an_exact_sum_may_be_asked_for_where_it_holds(capfd, fake):
    song("a.wav")
    assert run(capfd, "a.wav", "--sum", "exact", "--bit-depth", "24")[0] == 0
