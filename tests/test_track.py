"""Laws of one track: frames, rates, channels and levels of what is written; and nothing left of a failure.

The separator is a fake whose stems are known fractions of the mix, so every file can be predicted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from sepcli.api import TrackResult, separate_file
from sepcli.batch import track as track_module
from sepcli.batch.outputs import rest_name
from sepcli.batch.outputspec import OutputSpec
from sepcli.batch.track import render
from sepcli.batch.workspace import Workspace, publish
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.engine.settings import Settings
from sepcli.errors import InputError, ModelError, OutputError, UsageError
from sepcli.sound.broadcast import read_chunks
from sepcli.sound.probe import probe
from sepcli.sound.submix import Submix
from tests.test_broadcast import HOUR, recording

SHARES = {"drums": 0.5, "bass": 0.25, "other": 0.125, "vocals": 0.125}
WHAT = ("start", "duration", "progress", "info", "submixes", "hidden")  # arguments of `render`


class Shares(Separator):
    """Each stem is the mix times a number."""

    def __init__(self, shares=SHARES, *, samplerate=44100, channels=2, normalize=False, samples=20000):
        super().__init__()
        self.shares = dict(shares)
        self.sources, self.samplerate, self.channels = tuple(shares), samplerate, channels
        self.segment, self.normalize = Segment(samples=samples), normalize

    def forward(self, mix, *, noise=None):
        return mix[:, None] * torch.tensor(list(self.shares.values()))[:, None, None]

    def select(self, sources):
        source_indices(self.sources, sources)
        narrowed = Shares(
            {name: self.shares[name] for name in sources},
            samplerate=self.samplerate,
            channels=self.channels,
            normalize=self.normalize,
        )
        narrowed.whole = self.whole or self.sources
        return narrowed


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The fake computes next to nothing; threads that wait for it only take time from each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine(model: Separator | None = None) -> Engine:
    return Engine(model or Shares(), Settings(), torch.device("cpu"), torch.float32)


def noise(frames: int, channels: int = 2, seed: int = 0, peak: float = 0.5) -> np.ndarray:
    """[T, C], as soundfile takes it."""
    return np.random.default_rng(seed).uniform(-peak, peak, (frames, channels))


def song(tmp_path: Path, data: np.ndarray, samplerate=44100, subtype="PCM_16", name="song.wav") -> Path:
    path = tmp_path / name
    soundfile.write(path, data, samplerate, subtype=subtype)
    return path


def separate(path: Path, model: Separator | None = None, out: str = "out", names=None, **spec) -> TrackResult:
    """One track into path's folder / out; the files are named after the stems, or `names`."""
    with_part = {key: spec.pop(key) for key in WHAT if key in spec}
    ready = engine(model)
    asked = OutputSpec(**spec)
    asked.validate()
    if asked.rest:
        residual = names[-1] if names else rest_name(ready.sources[:1])
        with_part["submixes"] = [*with_part.get("submixes", ()), Submix.without(residual, ready.sources)]
    folder = path.parent / out
    with Workspace(folder) as work, work.track() as place:
        made = render(path, ready, asked, place, **with_part)
        outputs = {name: folder / f"{name}.{asked.format}" for name in made.files}
        for name, file in made.files.items():
            assert file.parent == place and file.stat().st_size == made.sizes[name]
        publish([(file, outputs[name]) for name, file in made.files.items()])
    assert sorted(file.name for file in folder.iterdir()) == sorted(file.name for file in outputs.values())
    for name, size in made.sizes.items():
        assert outputs[name].stat().st_size == size
    return TrackResult(
        outputs,
        made.sizes,
        made.frames,
        made.samplerate,
        made.audio_seconds,
        made.seconds,
        made.gain,
        made.damaged_seconds,
        list(made.warnings),
    )


def read(result: TrackResult, dtype="float64") -> dict[str, np.ndarray]:
    """{name: [T, C]}, every file with the result's rate and length."""
    stems = {}
    for name, path in result.outputs.items():
        data, rate = soundfile.read(path, dtype=dtype, always_2d=True)
        assert rate == result.samplerate and len(data) == result.frames
        stems[name] = data
    return stems


def ints(path: Path, bits: int) -> np.ndarray:
    """[T, C] the file's own integers."""
    return soundfile.read(path, dtype="int32", always_2d=True)[0].astype(np.int64) >> (32 - bits)


# ------------------------------------------------------------------------------------------ faithful output


@pytest.mark.parametrize("normalize", [False, True])
def test_stems_of_a_plain_song(tmp_path, normalize):
    path = song(tmp_path, noise(100_000))
    result = separate(path, Shares(normalize=normalize))
    mix, _ = soundfile.read(path)
    stems = read(result)
    for name, share in SHARES.items():
        wanted = mix * share
        if normalize:  # the track's mean lies in `other`
            mean = mix.mean()
            wanted = (mix - mean) * share + (mean if name == "other" else 0)
        np.testing.assert_allclose(stems[name], wanted, atol=0.51 / 32768)
    assert list(stems) == list(SHARES) and result.gain == 1.0 and result.warnings == []
    assert result.frames == 100_000 and result.audio_seconds == pytest.approx(100_000 / 44100)
    assert soundfile.info(result.outputs["drums"]).subtype == "PCM_16"


def test_an_offset_is_once_in_the_stems_or_in_the_rest(tmp_path):
    """A recording of 0.1 and silence, and one with a tone: no stem but `other` is moved."""
    t = np.arange(50_000) / 44100
    for i, tone in enumerate((0 * t, 0.3 * np.sin(2 * np.pi * 441 * t))):
        path = song(tmp_path, np.stack([0.1 + tone] * 2, axis=1), subtype="FLOAT", name=f"{i}.wav")
        stems = read(separate(path, Shares(normalize=True), out=f"all{i}"))
        means = {name: x.mean() for name, x in stems.items()}
        expected = dict.fromkeys(SHARES, 0.0) | {"other": 0.1}
        assert means == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(sum(stems.values()), soundfile.read(path)[0], atol=1e-6)
        part = read(separate(path, Shares(normalize=True).select(["vocals"]), out=f"part{i}", rest=True))
        means = {name: x.mean() for name, x in part.items()}
        assert means == pytest.approx({"vocals": 0.0, "no_vocals": 0.1}, abs=1e-4)


@pytest.mark.parametrize("samplerate", [8000, 11025, 22050, 44100, 48000, 88200, 96000, 192000])
@pytest.mark.parametrize("frames", [1, 2, 4409, 30_011])
def test_rate_and_frames_are_the_inputs(tmp_path, samplerate, frames):
    path = song(tmp_path, noise(frames), samplerate)
    result = separate(path, Shares(normalize=True), depth="32f")
    stems = read(result)
    assert result.frames == frames and result.samplerate == samplerate
    assert all(np.isfinite(stem).all() for stem in stems.values())


@pytest.mark.parametrize("samplerate", [32000, 48000])
def test_resampling_there_and_back_keeps_the_place_in_time(tmp_path, samplerate):
    t = np.arange(samplerate) / samplerate
    mix = 0.5 * np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 3000 * t)], axis=1)
    result = separate(song(tmp_path, mix, samplerate, "FLOAT"))
    middle = slice(2000, -2000)
    np.testing.assert_allclose(read(result)["drums"][middle], 0.5 * mix[middle], atol=2e-6)


@pytest.mark.parametrize("channels, model_channels", [(1, 2), (2, 1), (1, 1), (2, 2), (6, 2), (5, 1)])
def test_channels_are_the_inputs(tmp_path, channels, model_channels):
    path = song(tmp_path, noise(30_000, channels), subtype="FLOAT")
    result = separate(path, Shares(channels=model_channels))
    mix, _ = soundfile.read(path, always_2d=True)
    np.testing.assert_allclose(read(result)["bass"], mix * 0.25, atol=1e-6)


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_channels_keep_their_names(tmp_path, form):
    path = song(tmp_path, noise(30_000, 6))
    names = ("FL", "FR", "FC", "LFE", "SL", "SR")
    result = separate(path, Shares(), format=form, info=replace(probe(path), layout=names))
    with av.open(result.outputs["drums"]) as container:
        assert tuple(channel.name for channel in container.streams.audio[0].layout.channels) == names
    assert not result.warnings


def test_unknown_channels_are_a_warning_and_lossy_formats_refuse_them(tmp_path):
    path = song(tmp_path, noise(30_000, 3))
    info = replace(probe(path), layout=("FL", "FR", "X"))
    result = separate(path, Shares(), info=info)
    assert (
        len(result.warnings) == 2 and "belong to X" in result.warnings[0] and "no places" in result.warnings[1]
    )
    mix, _ = soundfile.read(path, always_2d=True)
    np.testing.assert_allclose(read(result)["bass"], mix * 0.25, atol=2e-5)
    with pytest.raises(UsageError, match="can't say"):
        separate(path, Shares(), out="other", format="opus", info=info)


def test_stems_of_a_broadcast_wav_say_where_they_belong(tmp_path):
    path = recording(tmp_path / "take.wav")
    for start, options in ((0, {}), (0.5, {"start": 0.5})):
        result = separate(path, Shares(), out=f"from{start}", **options)
        assert result.warnings == []
        for file in result.outputs.values():
            found = read_chunks(file)
            assert found.reference == HOUR + round(start * 44100) and bool(found.timeline) is (start == 0)
    bare = separate(path, Shares(), out="bare", tags=False)
    assert read_chunks(bare.outputs["drums"]).reference is None


def test_silence_gives_silence(tmp_path):
    path = song(tmp_path, np.zeros((50_000, 2)))
    result = separate(path, Shares(normalize=True), rest=True, sum="exact", names=[*SHARES, "rest"])
    assert result.gain == 1.0
    assert not any(stem.any() for stem in read(result).values())


@pytest.mark.parametrize(
    "subtype, kept, kept_flac",
    [
        ("PCM_U8", "PCM_16", "PCM_16"),
        ("PCM_16", "PCM_16", "PCM_16"),
        ("PCM_24", "PCM_24", "PCM_24"),
        ("PCM_32", "PCM_32", "PCM_24"),
        ("FLOAT", "FLOAT", "PCM_24"),
        ("DOUBLE", "FLOAT", "PCM_24"),
    ],
)
def test_depth_is_kept(tmp_path, subtype, kept, kept_flac):
    path = song(tmp_path, noise(5000), subtype=subtype)
    for form in ("wav", "aiff", "caf"):
        info = soundfile.info(separate(path, out=form, format=form).outputs["drums"])
        assert (info.format.lower(), info.subtype) == (form, kept)
    flac = separate(path, out="flac", format="flac")
    assert soundfile.info(flac.outputs["drums"]).subtype == kept_flac
    assert soundfile.info(separate(path, out="24", depth="24").outputs["drums"]).subtype == "PCM_24"


def test_a_lossy_input_gives_24_bits(tmp_path):
    path = song(tmp_path, noise(50_000), subtype="VORBIS", name="song.ogg")
    result = separate(path)
    assert soundfile.info(result.outputs["drums"]).subtype == "PCM_24"
    assert result.frames == 50_000


@pytest.mark.parametrize("asked, rate", [("keep", 48000), ("model", 44100), (22050, 22050), (96000, 96000)])
def test_output_rate(tmp_path, asked, rate):
    path = song(tmp_path, noise(48_001), 48000)
    result = separate(path, samplerate=asked, rest=True, names=[*SHARES, "rest"])
    assert result.samplerate == rate and result.frames == -(-48_001 * rate // 48000)
    read(result)


def test_a_part_of_a_track(tmp_path):
    path = song(tmp_path, noise(100_000), subtype="FLOAT")
    mix, _ = soundfile.read(path)
    result = separate(path, start=0.5, duration=1.0, rest=True, names=[*SHARES, "rest"])
    stems = read(result)
    np.testing.assert_allclose(stems["drums"], mix[22050 : 22050 + 44100] * 0.5, atol=1e-6)
    np.testing.assert_allclose(sum(stems.values()), mix[22050 : 22050 + 44100], atol=1e-6)
    assert result.audio_seconds == 1.0


def test_lossy_formats_are_written(tmp_path):
    path = song(tmp_path, noise(44_100))
    for form in ("mp3", "ogg"):
        result = separate(path, Shares({"vocals": 0.5}), out=form, format=form)
        info = soundfile.info(result.outputs["vocals"])
        assert info.samplerate == 44100 and info.channels == 2
    result = separate(path, Shares({"vocals": 0.5}), out="opus", format="opus")
    assert soundfile.info(result.outputs["vocals"]).samplerate == 48000
    assert "48000" in result.warnings[0]


# ------------------------------------------------------------------------------------------ rest and sums


@pytest.mark.parametrize("samplerate", [44100, 32000])
def test_rest_is_the_input_minus_the_stems_at_its_own_rate(tmp_path, samplerate):
    path = song(tmp_path, noise(60_000), samplerate, subtype="FLOAT")
    mix, _ = soundfile.read(path)
    result = separate(path, Shares({"vocals": 0.3}), rest=True)
    stems = read(result)
    assert list(stems) == ["vocals", "no_vocals"]
    np.testing.assert_allclose(stems["vocals"] + stems["no_vocals"], mix, atol=1e-7)


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("samplerate", [44100, 48000])
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("form", ["wav", "flac", "aiff", "caf"])
def test_exact_sum_of_integers_is_the_input(tmp_path, bits, samplerate, rest, form):
    path = song(tmp_path, noise(30_000, peak=0.9), samplerate, f"PCM_{bits}")
    model = Shares({"drums": 0.31, "other": 0.17, "vocals": 0.23}, normalize=True)
    names = ["drums", "other", "vocals", *(["rest"] if rest else [])]
    result = separate(path, model, sum="exact", rest=rest, names=names, format=form)
    assert result.gain == 1.0
    total = sum(ints(file, bits) for file in result.outputs.values())
    np.testing.assert_array_equal(total, ints(path, bits))


def test_exact_sum_without_a_stem_for_the_residual_is_shared(tmp_path):
    path = song(tmp_path, noise(30_000), subtype="PCM_16")
    result = separate(path, Shares({"a": 0.4, "b": 0.2}), sum="exact")
    total = sum(ints(file, 16) for file in result.outputs.values())
    np.testing.assert_array_equal(total, ints(path, 16))
    mix = ints(path, 16)
    np.testing.assert_allclose(ints(result.outputs["a"], 16), mix * 0.6, atol=1.1)  # 0.4 and half of 0.4


def test_exact_sum_in_more_bits_than_the_input_is_still_the_input(tmp_path):
    path = song(tmp_path, noise(30_000), subtype="PCM_16")
    result = separate(path, Shares({"a": 0.37, "other": 0.2}), sum="exact", depth="24")
    total = sum(ints(file, 24) for file in result.outputs.values())
    np.testing.assert_array_equal(total, ints(path, 16) << 8)


def test_exact_sum_at_32_bits_is_the_input_as_float32_holds_it(tmp_path):
    path = song(tmp_path, noise(30_000, peak=0.9), subtype="PCM_32")
    result = separate(path, Shares({"a": 0.37, "other": 0.2}), sum="exact")
    total = sum(ints(file, 32) for file in result.outputs.values())
    mix = soundfile.read(path, dtype="float32", always_2d=True)[0].astype(np.float64)
    np.testing.assert_array_equal(total, mix * 2**31)
    loud = separate(path, Shares({"a": 2.0, "other": 0.2}), out="loud", sum="exact")
    assert loud.gain < 1 and ints(loud.outputs["a"], 32).max() > 0.99 * 2**31


@pytest.mark.parametrize("form", ["wav", "aiff", "caf"])
def test_exact_sum_of_floats(tmp_path, form):
    path = song(tmp_path, noise(30_000), 48000, subtype="FLOAT")
    result = separate(path, Shares({"a": 0.37, "other": 0.2, "c": 0.1}), sum="exact", format=form)
    stems = read(result)
    mix, _ = soundfile.read(path)
    error = np.abs(sum(stems.values()) - mix)
    assert (error <= np.spacing(np.abs(stems["other"]).astype(np.float32)) / 2 + 1e-15).all()


# ------------------------------------------------------------------------------------------ levels

LOUD = {"drums": 2.5, "vocals": -0.75}  # of a mix at 0.8: drums reach 2.0


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_common_gain_where_one_stem_would_clip(tmp_path, form):
    path = song(tmp_path, noise(50_000, peak=0.8))
    mix, _ = soundfile.read(path)
    result = separate(path, Shares(LOUD), format=form, rest=True, names=["drums", "vocals", "rest"])
    peak = max(-(mix * 2.5).min(), (mix * 2.5).max() / (1 - 2**-15))
    assert result.gain == pytest.approx(1 / peak, rel=1e-4) and result.gain < 0.51
    stems = read(result)
    for name, share in {**LOUD, "rest": 1 - 2.5 + 0.75}.items():
        np.testing.assert_allclose(stems[name], mix * share * result.gain, atol=1e-4)
    assert max(abs(ints(file, 16)).max() for file in result.outputs.values()) >= 32766


def test_the_rest_alone_can_call_for_the_gain(tmp_path):
    path = song(tmp_path, noise(50_000, peak=0.8))
    result = separate(path, Shares({"vocals": -1.0}), rest=True)
    assert result.gain == pytest.approx(1 / 1.6, rel=1e-3)


def test_no_gain_for_a_full_scale_mix(tmp_path):
    data = np.array([[-32768, 32767], [32767, -32768]] * 5000, dtype=np.int16)
    path = tmp_path / "song.wav"
    soundfile.write(path, data, 44100, subtype="PCM_16")
    result = separate(path, Shares({"a": 1.0, "b": 0.5}))
    assert result.gain == 1.0
    np.testing.assert_array_equal(ints(result.outputs["a"], 16), data)


@pytest.mark.parametrize("shares", [LOUD, {"a": 1.7, "other": -1.2}, {"a": 1.9, "b": -1.9}])
@pytest.mark.parametrize("rest", [False, True])
def test_exact_sum_with_a_gain_adds_up_to_gain_times_input(tmp_path, shares, rest):
    path = song(tmp_path, noise(40_000, peak=0.99), subtype="PCM_24")
    names = [*shares, *(["rest"] if rest else [])]
    result = separate(path, Shares(shares), sum="exact", rest=rest, names=names)
    assert result.gain < 1.0
    total = sum(ints(file, 24) for file in result.outputs.values())
    np.testing.assert_array_equal(total, np.rint(ints(path, 24) * result.gain))


def test_float_files_are_written_as_they_are(tmp_path):
    path = song(tmp_path, noise(30_000, peak=0.8), subtype="FLOAT")
    result = separate(path, Shares(LOUD))
    assert result.gain == 1.0 and np.abs(read(result)["drums"]).max() > 1.9
    asked = separate(path, Shares(LOUD), out="gain", clip="gain")
    assert asked.gain < 0.51 and np.abs(read(asked)["drums"]).max() == pytest.approx(1, abs=1e-6)


def test_clamping_is_said(tmp_path):
    path = song(tmp_path, noise(30_000, peak=0.8))
    for clip in ("clamp", "none"):  # integers can't but clamp
        result = separate(path, Shares(LOUD), out=clip, clip=clip)
        drums = ints(result.outputs["drums"], 16)
        assert result.gain == 1.0 and drums.max() == 32767 and drums.min() == -32768
        mix, _ = soundfile.read(path)
        count = np.count_nonzero((mix * 2.5 * 32768 >= 32767.5) | (mix * 2.5 * 32768 < -32768.5))
        assert result.warnings == [f"{count} samples of drums were beyond full scale and were clamped."]


def test_a_float_input_asked_to_be_clamped_is_not_and_says_so(tmp_path):
    path = song(tmp_path, noise(30_000, peak=0.8), subtype="FLOAT")
    result = separate(path, Shares(LOUD), clip="clamp")
    assert "never clamped" in result.warnings[0] and np.abs(read(result)["drums"]).max() > 1.9


def test_a_model_that_gives_nan_is_refused(tmp_path):
    path = song(tmp_path, noise(30_000))
    with pytest.raises(ModelError) as caught:
        separate(path, Shares({"a": float("nan")}))
    assert caught.value.code == "not_finite_stems" and not list((tmp_path / "out").iterdir())


# ------------------------------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    "spec, said",
    [
        (dict(format="mp3", sum="exact"), "sum=exact"),
        (dict(format="ogg", depth="16"), "bit_depth=16"),
        (dict(format="wav", bitrate=320), "bitrate="),
        (dict(format="mp3", bitrate=0), "bitrate=0"),
        (dict(format="mp3", bitrate=321), "8 to 320"),
        (dict(format="flac", depth="32f"), "flac holds: it takes keep, 16 or 24"),
        (dict(depth="32f", clip="clamp"), "never clamped"),
        (dict(format="wma"), "wav, flac, aiff, caf, ogg"),
        (dict(depth="20"), "keep, 16, 24, 32f"),
        (dict(clip="limit"), "gain, clamp, none"),
        (dict(sum="most"), "none, exact"),
        (dict(samplerate="half"), "keep, model"),
        (dict(samplerate=7), "1000 to 768000"),
    ],
)
def test_requests_that_contradict_themselves(spec, said):
    with pytest.raises(UsageError) as caught:
        OutputSpec(**spec).validate()
    assert said in caught.value.message and caught.value.remedy


def test_a_track_too_long_for_aiff_is_said_before_it_is_separated(tmp_path, monkeypatch):
    """The limit is 4 GiB; here it is made small."""
    from sepcli.sound.formats import FORMATS

    path = song(tmp_path, noise(100_000))
    monkeypatch.setitem(FORMATS, "aiff", replace(FORMATS["aiff"], max_bytes=300_000))
    done = []
    with pytest.raises(UsageError, match="aiff files end at") as caught:
        separate(path, format="aiff", progress=lambda *seconds: done.append(seconds))
    assert caught.value.code == "too_large" and "wav, flac or caf" in caught.value.remedy
    assert not done and not list((tmp_path / "out").iterdir())
    assert separate(path, format="aiff", duration=1.0, out="part").frames == 44100
    assert separate(path, format="caf", out="caf").frames == 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, depth",
    [("wav", "16"), ("wav", "32f"), ("flac", "24"), ("aiff", "24"), ("caf", "32f"), ("mp3", "keep")],
)
def test_the_room_that_is_asked_for_is_enough_and_not_absurd(tmp_path, form, depth):
    from sepcli.sound.probe import probe

    path = song(tmp_path, noise(200_000))
    spec = OutputSpec(format=form, depth=depth, rest=True, clip="gain")
    room = spec.resolve(probe(path), 44100).room(200_000, 44100, 2, files=5, spooled=5)
    result = separate(path, format=form, depth=depth, rest=True, clip="gain", names=[*SHARES, "rest"])
    assert sum(result.sizes.values()) <= room.results <= 3 * sum(result.sizes.values())
    assert room.spool == 200_000 * 2 * 4 * 5  # four stems and the mix


def test_an_input_is_never_overwritten(tmp_path):
    path = song(tmp_path, noise(1000))
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        separate_file(path, tmp_path, model=Shares({"a": 0.5}), template="{track}.{ext}", force=True)
    assert caught.value.code == "input_is_output" and path.read_bytes() == before


# ------------------------------------------------------------------------------------------ failures


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*"))


@pytest.mark.parametrize("clip", ["gain", "clamp"])
def test_bad_samples_late_in_the_file_leave_nothing(tmp_path, clip):
    data = noise(300_000)
    data[250_000] = np.nan
    path = song(tmp_path, data, subtype="FLOAT")
    threads = threading.active_count()
    with pytest.raises(InputError) as caught:
        separate(path, clip=clip, depth="16", rest=True, names=[*SHARES, "rest"])
    assert caught.value.code == "not_finite"
    assert left(tmp_path / "out") == [] and threading.active_count() == threads


@pytest.mark.parametrize("clip", ["gain", "none"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_error_while_writing_leaves_nothing(tmp_path, monkeypatch, clip, error):
    path = song(tmp_path, noise(300_000), subtype="PCM_16")
    real, calls = track_module.AudioWriter.write, []

    def write(self, block):
        calls.append(block.shape)
        if len(calls) > 6:
            raise error
        real(self, block)

    monkeypatch.setattr(track_module.AudioWriter, "write", write)
    threads = threading.active_count()
    with pytest.raises((KeyboardInterrupt, OutputError, OSError)):
        separate(path, clip=clip)
    assert left(tmp_path / "out") == [] and threading.active_count() == threads


def test_a_full_disk_while_spooling_is_an_output_error(tmp_path, monkeypatch):
    path = song(tmp_path, noise(300_000))

    def write(self, block):
        raise OutputError("full", code="disk_full")

    monkeypatch.setattr(track_module.Spool, "write", write)
    with pytest.raises(OutputError):
        separate(path)
    assert left(tmp_path / "out") == []


def test_a_failure_in_the_model_leaves_nothing(tmp_path):
    class Fails(Shares):
        def forward(self, mix, *, noise=None):
            self.count = getattr(self, "count", 0) + 1
            if self.count > 3:
                raise RuntimeError("broken")
            return super().forward(mix)

    path = song(tmp_path, noise(300_000))
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        separate(path, Fails(), rest=True, names=[*SHARES, "rest"])
    assert left(tmp_path / "out") == [] and threading.active_count() == threads


def test_a_truncated_file_gives_what_decodes_with_a_warning(tmp_path):
    path = song(tmp_path, noise(100_000))
    path.write_bytes(path.read_bytes()[:200_044])
    result = separate(path, rest=True, names=[*SHARES, "rest"])
    assert result.frames == 50_000 and len(result.warnings) == 1  # once, though it was decoded twice
    assert result.warnings[0].code == "cut_short"
    assert result.damaged_seconds == pytest.approx(50_000 / 44100, abs=1e-3)


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_track as t
path, out = Path(sys.argv[1]), Path(sys.argv[2])
def die(done, total):
    if done > 3:
        os.kill(os.getpid(), signal.SIGKILL)
t.separate(path, out=out.name, progress=die)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_leaves_no_stem_and_the_next_one_clears_its_folder(tmp_path):
    path = song(tmp_path, noise(300_000))
    code = CHILD.format(tests=str(Path(__file__).parent))
    child = subprocess.run([sys.executable, "-c", code, path, tmp_path / "out"], capture_output=True)
    assert child.returncode == -9, child.stderr.decode()
    assert not list((tmp_path / "out").glob("*.wav"))
    assert len(list((tmp_path / "out").iterdir())) == 1
    separate(path)  # asserts that only the stems are there


# ------------------------------------------------------------------------------------------ progress, memory


@pytest.mark.parametrize("normalize", [False, True])
def test_progress_is_in_audio_seconds_and_ends_at_the_end(tmp_path, normalize):
    path = song(tmp_path, noise(220_500))
    seen = []
    separate(path, Shares(normalize=normalize), progress=lambda done, total: seen.append((done, total)))
    done = [pair[0] for pair in seen]
    assert done == sorted(done) and len(done) > 5 and 0 < done[0] < 2
    assert all(total == pytest.approx(5.0, abs=0.01) for _, total in seen)
    assert seen[-1] == (5.0, 5.0)


MEMORY = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_track as t
path = Path(sys.argv[1])
t.torch.set_num_threads(1)
t.separate(path, t.Shares(normalize=True), out=path.stem, rest=True, sum="exact", names=[*t.SHARES, "rest"])
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource")
def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    second = noise(44100)
    for seconds in (20, 200):
        path = tmp_path / f"song{seconds}.wav"
        with soundfile.SoundFile(path, "w", 44100, 2, "PCM_16") as file:
            for _ in range(seconds):
                file.write(second)
        code = MEMORY.format(tests=str(Path(__file__).parent))
        child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert child.returncode == 0, child.stderr
        peaks.append(json.loads(child.stdout) * (1 if sys.platform == "darwin" else 1024))
    # Three more minutes are 63 MB of float32 for each of five files: a stage that kept one would show.
    assert peaks[1] - peaks[0] < 30e6, peaks
