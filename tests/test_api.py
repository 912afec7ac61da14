"""The Python interface: stems of arrays at the mix's own rate, channels and length; files as said."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

import sepcli
from sepcli import loading
from sepcli.engine.chain import Chain
from sepcli.errors import InputError, SepcliError, UsageError
from tests.toys import Split

SHARES = Split.SHARES


def noise(channels: int, frames: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, frames)).astype(dtype)


@pytest.mark.parametrize("channels, frames", [(2, 1), (1, 12_345), (2, 70_001), (6, 5000)])
def test_stems_of_an_array_at_the_models_rate(channels, frames):
    mix = noise(channels, frames)
    stems = sepcli.separate(Split(), mix, 44100)
    assert list(stems) == list(SHARES)
    for name, stem in stems.items():
        assert stem.dtype == np.float32 and stem.shape == mix.shape
        np.testing.assert_allclose(stem, mix * SHARES[name], atol=1e-6)


@pytest.mark.parametrize("samplerate", [8000, 48000, 96000])
@pytest.mark.parametrize("frames", [1, 9_999])
def test_another_rate_keeps_rate_and_length(samplerate, frames):
    stems = sepcli.separate(Split(normalize=True), noise(2, frames), samplerate)
    assert all(stem.shape == (2, frames) and np.isfinite(stem).all() for stem in stems.values())


def test_levels_beyond_full_scale_are_untouched():
    mix = noise(2, 30_000) * 10
    np.testing.assert_allclose(sepcli.separate(Split(), mix, 44100)["drums"], mix * 0.5, rtol=1e-5, atol=1e-5)


def test_other_arrays_of_floats():
    mix = noise(2, 5000)
    wanted = sepcli.separate(Split(), mix, 44100)["bass"]
    for same in (mix.astype(np.float64), torch.from_numpy(mix), np.asfortranarray(mix), mix.tolist()):
        np.testing.assert_array_equal(sepcli.separate(Split(), same, 44100)["bass"], wanted)
    frozen = mix.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(sepcli.separate(Split(), frozen, 44100)["bass"], wanted)


def test_targets_and_progress():
    seen = []
    mix = noise(2, 60_000)
    stems = sepcli.separate(
        Split(), mix, 44100, targets=["vocals", "bass"], progress=lambda done, total: seen.append(done)
    )
    assert list(stems) == ["vocals", "bass"] and seen[-1] == pytest.approx(60_000 / 44100)
    np.testing.assert_allclose(stems["vocals"], mix * 0.125, atol=1e-6)


@pytest.mark.parametrize(
    "audio, rate, code",
    [
        (np.zeros(100, np.float32), 44100, "shape"),
        (np.zeros((100, 2), np.float32), 44100, "shape"),
        (np.zeros((2, 100), np.int16), 44100, "type"),
        (np.zeros((2, 100), np.float32), 0, "usage"),
        (np.zeros((2, 0), np.float32), 44100, "no_frames"),
        (np.full((2, 10), np.nan), 44100, "not_finite"),
        (np.zeros((9, 100), np.float32), 44100, "channels"),
    ],
)
def test_what_cannot_be_separated(audio, rate, code):
    with pytest.raises(SepcliError) as caught:
        sepcli.separate(Split(), audio, rate)
    assert caught.value.code == code and caught.value.remedy


def test_a_stem_that_the_model_lacks():
    with pytest.raises(UsageError, match="piano"):
        sepcli.separate(Split(), noise(2, 10), 44100, targets=["piano"])


def test_words_for_stems_of_an_array():
    mix = noise(2, 20_000)
    stems = sepcli.separate(Split(), mix, 44100, targets=["Instrumental", "DRUMS"])
    assert list(stems) == ["drums", "instrumental"]
    np.testing.assert_allclose(stems["instrumental"], mix * (1 - SHARES["vocals"]), atol=1e-6)
    assert list(sepcli.separate(Split(), mix, 44100, targets=["acapella"])) == ["vocals"]


def test_stems_on_request_of_a_chain():
    chain = Chain([Split(), Split(["lead", "backing"])], ["vocals"])
    mix = noise(2, 20_000)
    stems = sepcli.separate(chain, mix, 44100, targets=["Vocals", "vocals-rest"], submixes={"all": "mix-lead"})
    assert list(stems) == ["vocals", "vocals-rest", "all"]
    np.testing.assert_allclose(stems["vocals-rest"], stems["vocals"] / 2, atol=1e-6)
    assert list(sepcli.separate(chain, mix, 44100, targets=["acapella"])) == ["vocals"]
    assert list(sepcli.separate(chain, mix, 44100)) == ["drums", "bass", "other", "lead", "backing"]


@pytest.mark.slow  # the bundled networks
def test_a_chain_by_name(tmp_path):
    model = sepcli.load("duo", then=["drums: mini"])
    assert model.name == "duo-then-mini" and "drums-bass" in model.sources
    mix = noise(2, 44100)
    stems = sepcli.separate(model, mix, 44100, targets=["drums-bass", "drums-rest"])
    alone = sepcli.load("duo", then=["drums: mini"], targets=["drums-rest"])
    assert alone.sources == ("drums-rest",)
    np.testing.assert_allclose(sepcli.separate(alone, mix, 44100)["drums-rest"], stems["drums-rest"], atol=1e-5)


def test_words_for_stems_of_a_file(tmp_path, song):
    said = []
    made = sepcli.separate_file(song, tmp_path, model=Split(), targets=["instrumental"], notice=said.append)
    assert list(made.outputs) == ["instrumental"] and "minus vocals" in said[0]
    both = sepcli.separate_file(song, tmp_path / "both", model=Split(), targets=["VOCALS"], rest=True)
    assert list(both.outputs) == ["vocals", "no_vocals"]
    written = [soundfile.read(path)[0] for path in (both.outputs["no_vocals"], made.outputs["instrumental"])]
    np.testing.assert_array_equal(*written)
    made = sepcli.separate_file(song, tmp_path, model=Split(), targets=["Bass"])
    assert list(made.outputs) == ["bass"]


def test_a_model_is_not_narrowed_to_a_mix_minus_a_stem():
    model = sepcli.load("mini", targets=["Vocals"])
    assert model.sources == ("vocals",) and model.name == "mini"  # by which its outputs are called
    with pytest.raises(UsageError, match="mix minus vocals"):
        sepcli.load("mini", targets=["instrumental"])


def test_models_by_name(monkeypatch):
    asked = []

    def load_model(name, *, targets, **more):
        asked.append((name, targets))
        return type("Loaded", (), {"model": Split(targets or SHARES)})

    monkeypatch.setattr(loading, "load_model", load_model)
    assert sepcli.load("mini").sources == tuple(SHARES)
    assert list(sepcli.separate("mini", noise(2, 10), 44100, targets=["bass"])) == ["bass"]
    assert asked == [("mini", None), ("mini", ("bass",))]


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "album" / "song.wav"
    path.parent.mkdir()
    soundfile.write(path, noise(2, 30_000).T, 48000, subtype="PCM_16")
    return path


def test_files_of_a_file(tmp_path, song):
    done = sepcli.separate_file(
        song,
        tmp_path / "out",
        model=Split(),
        targets=["vocals"],
        rest=True,
        template="{parent}-{track}/{stem}.{ext}",
    )
    folder = tmp_path / "out" / "album-song"
    assert done.outputs == {"vocals": folder / "vocals.wav", "no_vocals": folder / "no_vocals.wav"}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "album-song",
        "no_vocals.wav",
        "vocals.wav",
    ]
    for path in done.outputs.values():
        assert soundfile.info(path).frames == 30_000 and soundfile.info(path).samplerate == 48000


def test_files_that_exist_stay_without_force(tmp_path, song):
    made = sepcli.separate_file(song, tmp_path, model=Split(), targets=["bass"]).outputs["bass"]
    before = made.read_bytes()
    with pytest.raises(UsageError) as caught:
        sepcli.separate_file(song, tmp_path, model=Split(), targets=["bass"], bit_depth="24")
    assert caught.value.code == "exists" and made.read_bytes() == before
    sepcli.separate_file(song, tmp_path, model=Split(), targets=["bass"], bit_depth="24", force=True)
    assert soundfile.info(made).subtype == "PCM_24"


def test_an_exact_sum_of_targets_writes_the_rest(tmp_path, song):
    done = sepcli.separate_file(song, tmp_path, model=Split(), targets=["bass", "drums"], sum="exact")
    assert list(done.outputs) == ["bass", "drums", "rest"]
    total = sum(soundfile.read(path, dtype="int16")[0].astype(int) for path in done.outputs.values())
    np.testing.assert_array_equal(total, soundfile.read(song, dtype="int16")[0])


def test_one_stem_alone_is_not_made_the_mix(tmp_path, song):
    done = sepcli.separate_file(song, tmp_path, model=Split(["vocals"]), sum="exact")
    assert list(done.outputs) == ["vocals", "no_vocals"]
    vocals, rest = (soundfile.read(path)[0] for path in done.outputs.values())
    mix = soundfile.read(song)[0]
    assert vocals.std() == pytest.approx(mix.std() * Split.SHARES["vocals"], rel=0.1)
    np.testing.assert_array_equal(vocals + rest, mix)


def test_errors_of_files(tmp_path, song):
    with pytest.raises(InputError) as caught:
        sepcli.separate_file(tmp_path / "none.wav", tmp_path / "out", model=Split())
    assert caught.value.code == "missing"
    with pytest.raises(UsageError, match="template"):
        sepcli.separate_file(song, tmp_path / "out", model=Split(), template="{stem}/{colour}")
    with pytest.raises(UsageError, match="sum=exact"):
        sepcli.separate_file(song, tmp_path / "out", model=Split(), format="mp3", sum="exact")
