"""A file's channels: which go together through a model, and their places in files of every format."""

import struct

import av
import numpy as np
import pytest
import soundfile

from sepcli.errors import InputError, UsageError
from sepcli.sound import layouts, wav
from sepcli.sound.channels import ChannelMap
from sepcli.sound.decode import AudioReader
from sepcli.sound.encode import AudioWriter
from sepcli.sound.formats import FORMATS, SOUNDS
from sepcli.sound.probe import probe
from sepcli.sound.tags import Tags
from sepcli.sound.writers import check_format
from tests.sounds import music


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("model", [1, 2])
def test_join_undoes_split(channels, model):
    x = music(100, channels)
    channel_map = ChannelMap(channels, model)
    split = channel_map.split(x)
    assert split.shape == (channel_map.groups, model, 100) and split.dtype == np.float32
    stems = np.stack([split, 2 * split])
    joined = channel_map.join(stems)
    assert joined.shape == (2, channels, 100)
    assert np.array_equal(joined, np.stack([x, 2 * x]))  # the mean of two equal floats is exact


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (7, 5), (8, 5)]
)
def test_the_groups_of_a_stereo_model(channels, groups):
    assert ChannelMap(channels, 2).groups == groups
    assert ChannelMap(channels, 1).groups == channels


def test_the_pairs_of_5_1():
    x = np.arange(6, dtype=np.float32)[:, None]
    assert ChannelMap(6, 2).split(x)[..., 0].tolist() == [[0, 1], [2, 2], [3, 3], [4, 5]]


def test_mono_through_a_stereo_model_is_the_mean_of_both_sides():
    stems = np.array([[[[1.0], [3.0]]]], np.float32)
    assert ChannelMap(1, 2).join(stems).tolist() == [[[2.0]]]


def test_the_plain_cases_cost_no_copy():
    x = music(10)
    assert np.shares_memory(ChannelMap(2, 2).split(x), x)
    stems = np.zeros((4, 1, 2, 10), np.float32)
    assert np.shares_memory(ChannelMap(2, 2).join(stems), stems)


@pytest.mark.parametrize("channels", [9, 16])
def test_more_than_eight_channels_without_names_are_refused(channels):
    with pytest.raises(InputError, match="up to 8") as caught:
        ChannelMap(channels, 2)
    assert caught.value.code == "channels" and caught.value.remedy


@pytest.mark.parametrize(
    ("layout", "groups"),
    [
        ("FL FR FC BC", [[0, 1], [2, 2], [3, 3]]),  # 4.0 is not quad
        ("FL FR BL BR", [[0, 1], [2, 3]]),
        ("FL FR LFE", [[0, 1], [2, 2]]),
        ("FL FR FC LFE SL SR", [[0, 1], [2, 2], [3, 3], [4, 5]]),
        ("FL FR FC LFE FLC FRC BC SL SR", [[0, 1], [2, 2], [3, 3], [4, 5], [6, 6], [7, 8]]),
        (
            "FL FR FC LFE BL BR SL SR TFL TFR TBL TBR",
            [[0, 1], [2, 2], [3, 3], [4, 5], [6, 7], [8, 9], [10, 11]],
        ),
        ("BR FR BL FL", [[2, 0], [3, 1]]),  # left comes first
        ("FL FC BL", [[0, 0], [1, 1], [2, 2]]),  # pairs of which one is missing
    ],
)
def test_channels_go_together_by_their_names(layout, groups):
    names = tuple(layout.split())
    x = np.arange(len(names), dtype=np.float32)[:, None]
    channel_map = ChannelMap(len(names), 2, names)
    split = channel_map.split(x)
    assert split[..., 0].tolist() == groups and channel_map.notice == ""
    assert np.array_equal(channel_map.join(split[None])[0], x)


def test_names_that_no_rule_covers_go_one_by_one_and_are_named():
    names = ("AMBI0", "AMBI1", "AMBI2", "AMBI3")
    x = music(10, 4)
    channel_map = ChannelMap(4, 2, names)
    assert channel_map.groups == 4 and "AMBI0, AMBI1, AMBI2, AMBI3" in channel_map.notice
    assert np.array_equal(channel_map.join(channel_map.split(x)[None])[0], x)
    assert ChannelMap(4, 1, names).notice == ""  # as every file on a mono model


# Files

LAYOUTS = {
    "mono": "FC",
    "stereo": "FL FR",
    "2.1": "FL FR LFE",
    "3.0": "FL FR FC",
    "4.0": "FL FR FC BC",
    "quad": "FL FR BL BR",
    "5.0": "FL FR FC BL BR",
    "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR",
    "6.1": "FL FR FC LFE BC SL SR",
    "7.0": "FL FR FC BL BR SL SR",
    "7.1": "FL FR FC LFE BL BR SL SR",
    "7.1(wide)": "FL FR FC LFE BL BR FLC FRC",
}
HERTZ = {"FL": 500, "FR": 700, "FC": 300, "LFE": 60, "BL": 1100, "BR": 1300, "FLC": 1900, "FRC": 2100,
         "BC": 900, "SL": 1500, "SR": 1700}  # fmt: skip
RATE = 48000


def sines(names):
    t = np.arange(RATE // 4) / RATE
    return np.stack([0.2 * np.sin(2 * np.pi * HERTZ[name] * t) for name in names]).astype(np.float32)


def heard(path):
    """By FFmpeg: the name that each channel has in the file ("NONE" for none), and the frequency in it."""
    resampler = av.AudioResampler("flt")
    with av.open(path) as container:
        stream = container.streams.audio[0]
        names = [channel.name for channel in stream.layout.channels]
        packed = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
    x = np.concatenate([part.to_ndarray() for part in packed], axis=1).reshape(-1, len(names)).T
    spectra = np.abs(np.fft.rfft(x[:, 1000:10600] * np.hanning(9600)))  # 5 Hz a bin
    return [(name, 5 * int(peak)) for name, peak in zip(names, spectra.argmax(axis=1), strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format", SOUNDS)
def test_every_channel_is_in_its_place_in_every_format(tmp_path, format, layout):
    """Or, where a lossy format has no such places, the request is refused."""
    names = tuple(LAYOUTS[layout].split())
    refused = {"ogg": {"4.0", "2.1", "7.0", "7.1(wide)"}, "m4a": {"6.1", "7.0", "7.1(wide)"}}
    refused |= {"opus": refused["ogg"], "mp3": set(LAYOUTS) - {"mono", "stereo"}}
    if layout in refused.get(format, ()):
        with pytest.raises(UsageError, match=r"can't say|up to 2 channels"):
            check_format(format, channels=len(names), layout=names)
        return
    check_format(format, channels=len(names), layout=names)
    path = tmp_path / f"a.{format}"
    with AudioWriter(path, samplerate=RATE, channels=len(names), format=format, layout=names) as writer:
        writer.write(sines(names))
    got = heard(path)
    assert [hertz for _, hertz in got] == pytest.approx([HERTZ[name] for name in names], abs=5)
    expected = list(names)
    if layout == "5.1(side)" and not FORMATS[format].lossless:
        expected[4:] = ["BL", "BR"]
        assert writer.warnings == [f"{format} has no such layout: it has SL as BL and SR as BR."]
    else:
        assert writer.warnings == []
    if len(names) > 2:
        assert [name for name, _ in got] == expected


@pytest.mark.parametrize("format", ["wav", "flac", "aiff", "caf", "ogg", "opus", "m4a"])
@pytest.mark.parametrize("channels", [8, 10])
def test_many_channels_are_read(tmp_path, format, channels):
    """With eight planes or more, PyAV's own way to an array reads beyond them."""
    if channels > FORMATS[format].max_channels:
        return
    path = tmp_path / f"a.{format}"
    names = [*layouts.default(8), "BC", "FLC"][:channels]
    with AudioWriter(path, samplerate=RATE, channels=channels, format=format) as writer:
        writer.write(sines(names))
    x = np.concatenate(list(AudioReader(path)), axis=1)
    peaks = np.abs(np.fft.rfft(x[:, 1000:10600] * np.hanning(9600))).argmax(axis=1)
    assert (5 * peaks).tolist() == pytest.approx([HERTZ[name] for name in names], abs=5)


@pytest.mark.parametrize("format", ["wav", "flac", "aiff", "caf"])
def test_names_and_tags_go_together(tmp_path, format):
    names = tuple(LAYOUTS["5.1(side)"].split())
    path = tmp_path / f"a.{format}"
    tags = Tags(text={"title": "x", "artist": "y"}, title="x")
    options = {"samplerate": RATE, "channels": 6, "format": format, "layout": names, "tags": tags}
    with AudioWriter(path, **options) as writer:
        writer.write(sines(names))
    assert writer.warnings == [] and [name for name, _ in heard(path)] == list(names)
    info = probe(path)
    assert info.tags["artist"] == "y" and info.frames == RATE // 4


@pytest.mark.parametrize("depth", ["16", "24", "32", "32f"])
def test_surround_in_wav_is_extensible(tmp_path, depth):
    path = tmp_path / "a.wav"
    names = tuple(LAYOUTS["5.1"].split())
    with AudioWriter(path, samplerate=RATE, channels=6, depth=depth) as writer:
        writer.write(sines(names))
    data = path.read_bytes()
    at = data.index(b"fmt ")
    size, code, channels, _, _, block, bits, more, valid, mask, plain = struct.unpack_from(
        "<IHHIIHHHHIH", data, at + 4
    )
    assert (size, code, channels, more, mask) == (40, 0xFFFE, 6, 22, 0x3F)
    assert (bits, valid, block) == (int(depth.rstrip("f")), int(depth.rstrip("f")), 6 * bits // 8)
    assert plain == (3 if depth == "32f" else 1)
    assert data[at + 34 : at + 48] == bytes.fromhex("000000001000800000AA00389B71")
    with soundfile.SoundFile(path) as file:
        assert (file.format, file.frames, file.channels) == ("WAVEX", RATE // 4, 6)


def test_an_rf64_of_surround_is_extensible_too(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    monkeypatch.setattr(wav, "SIZE_LIMIT", 100_000)
    with AudioWriter(path, samplerate=RATE, channels=6, depth="16") as writer:
        writer.write(sines(LAYOUTS["5.1"].split()))
    data = path.read_bytes()
    at = data.index(b"fmt ") + 8
    assert data[:4] == b"RF64" and struct.unpack_from("<HH", data, at) == (0xFFFE, 6)
    assert struct.unpack_from("<I", data, at + 20) == (0x3F,)


def test_more_channels_than_have_names_are_written_without(tmp_path):
    for format in ("wav", "flac", "caf", "aiff", "ogg", "opus"):
        count = 8 if format == "flac" else 10
        path = tmp_path / f"a.{format}"
        x = music(4800, count, RATE)
        with AudioWriter(path, samplerate=RATE, channels=count, format=format) as writer:
            writer.write(x)
        assert writer.warnings == [] and len(heard_names(path)) == count


def heard_names(path):
    with av.open(path) as container:
        return container.streams.audio[0].layout.channels
