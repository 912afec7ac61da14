"""Noise on the latents of a codec: laws on a codec that loses nothing, and a real one's numbers by hand."""

import json
import math

import numpy as np
import pytest
import torch

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Coder, Segment
from sepcli.engine.settings import Settings
from sepcli.errors import InputError, OutputError, UsageError
from sepcli.evaluation.robustness import (
    NUMBERS_NAME,
    PICTURE_NAME,
    PLACES,
    STRENGTHS,
    Contaminated,
    Study,
    _lines,
    check_strengths,
    codes,
    find_sounds,
    study,
    table,
    write,
)
from sepcli.weights.catalog import bundled_catalog, read_catalog
from tests.models.test_ldm_codec import tiny
from tests.toys import Split
from tests.tracks import RATE, make_track, read

HOP = 4  # samples
FULL = 16.0  # of the toy's latents, whose deviation is 1


class Blocks(Coder):
    """A codec without loss: a latent is `HOP` samples of both channels, scaled. step: of its quantiser."""

    sources, samplerate, channels, segment = ("reconstruction",), RATE, 2, Segment(samples=1000)
    hop = HOP

    def __init__(self, step=None):
        super().__init__()
        self.step, self.codebooks = step, 2 * HOP if step else 0  # one for each value
        self.codebook_size = round(2 * FULL / step) if step else 0

    def encode(self, wave):
        scale = wave.square().mean((1, 2), keepdim=True).sqrt() + 1e-8
        return (wave / scale).unflatten(-1, (-1, HOP)).transpose(2, 3).flatten(1, 2), scale

    def decode(self, z, scale, samples):
        return z.unflatten(1, (2, HOP)).transpose(2, 3).flatten(2)[..., :samples] * scale

    def quantize(self, z, bandwidth=None):
        return ((z + FULL) / self.step).round().long().clamp(0, self.codebook_size - 1).transpose(0, 1)

    def dequantize(self, codes):
        return codes.transpose(0, 1) * self.step - FULL


@pytest.fixture
def tracks(tmp_path):
    for k in range(2):
        make_track(tmp_path / "data", f"song{k}", {"vocals": 0.05 * (k + 1), "drums": 0.3}, seed=k)
    return find_sounds(tmp_path / "data", "auto", "vocals")


def decibels(tracks, name):
    """Of a track's vocals, full scale being 1."""
    (path,) = [track.stems["vocals"] for track in tracks if track.name == name]
    return 10 * math.log10(np.square(read(path)).mean())


# --- laws --------------------------------------------------------------------------------------------------


def test_without_a_codec_it_is_the_ratio_of_sound_and_noise(tracks):
    found = study(Blocks(), tracks, "vocals")
    for name, each in found.scores.items():
        for strength, value in zip(STRENGTHS[2:], each["identity"][2:], strict=True):
            assert value == pytest.approx(decibels(tracks, name) - 20 * math.log10(strength), abs=0.1)
        assert each["identity"][0] > 80


def test_noise_on_latents_is_as_strong_as_they_are(tracks):
    """Blocks keep energies, so the ratio is that of the latents to their noise, whatever a track's level."""
    found = study(Blocks(), tracks, "vocals", strengths=(0.1, 1.0, 3.0))
    for each in found.scores.values():
        for strength, value in zip(found.strengths, each["unquantised"], strict=True):
            assert value == pytest.approx(-20 * math.log10(strength), abs=0.1)


def test_more_noise_is_never_better(tracks):
    found = study(Blocks(0.1), tracks, "vocals", strengths=(0.0, 0.01, 0.1, 0.3, 1.0))
    assert list(found.means()) == list(PLACES)
    for place, values in found.means().items():
        assert list(values) == sorted(values, reverse=True), place


def test_where_the_quantiser_stands(tracks):
    """Rounding to steps d costs d^2 / 12; noise far below it nothing before, and half a step after it."""
    step = 0.25
    found = study(Blocks(step), tracks, "vocals", strengths=(0.0, 1e-4))
    means = found.means()
    quantised = -10 * math.log10(step**2 / 12)
    assert means["before"][0] == means["after"][0] == pytest.approx(quantised, abs=0.1)
    assert means["unquantised"][0] > 60 > means["before"][0]
    assert means["before"][1] == pytest.approx(quantised, abs=0.1)
    # Cut off to whole numbers, half of the codes are one too small: beside d^2 / 12 an error of d^2 / 2.
    assert means["after"][1] == pytest.approx(-10 * math.log10(step**2 / 12 + step**2 / 2), abs=0.2)


def test_the_same_seed_the_same_study(tracks):
    one, same, other = (study(Blocks(), tracks, "vocals", cut=Settings(seed=seed)) for seed in (1, 1, 2))
    assert one.scores == same.scores != other.scores


@pytest.mark.parametrize("batch_size", [1, 3])
def test_any_batch_size(tracks, batch_size):
    cut = Settings(batch_size=batch_size)
    found = study(Blocks(0.1), tracks, "vocals", cut=cut, strengths=(0.1, 1.0))
    alone = study(Blocks(0.1), tracks, "vocals", cut=Settings(batch_size=2), strengths=(0.1, 1.0))
    for name, each in alone.scores.items():
        for place, values in each.items():
            assert found.scores[name][place] == pytest.approx(values, abs=1e-3)


# --- a codec of the family ---------------------------------------------------------------------------------


def test_the_family_has_coders():
    assert isinstance(tiny(), Coder) and not isinstance(Split(), Coder)
    entries = read_catalog(bundled_catalog())
    assert [name for name, entry in entries.items() if codes(entry)] == ["encodec-48k"]


@torch.inference_mode()
def test_one_window_by_hand():
    codec = tiny(codebooks=3, codebook_size=8)
    places, strengths = list(PLACES), (0.0, 0.5)
    mix, noise = torch.randn(2, 2, 960), Noise(7, [960, 0], [0, 0])
    stems = Contaminated(codec, places, strengths)(mix, noise=noise)
    made = dict(zip([(place, each) for place in places for each in strengths], stems.unbind(1), strict=True))
    assert torch.equal(made["identity", 0.0], mix)
    assert torch.equal(made["unquantised", 0.0], codec(mix)[:, 0])
    z, scale = codec.encode(mix)
    plain = codec.decode(codec.dequantize(codec.quantize(z)), scale, 960)
    assert torch.equal(made["before", 0.0], plain) and torch.equal(made["after", 0.0], plain)
    eps = Noise(7, [120, 0], [0, 0]).normal(0, "latent", 6, 120)
    std = z.flatten(1).std(1, correction=0)[:, None, None]
    assert torch.allclose(made["unquantised", 0.5], codec.decode(z + 0.5 * std * eps, scale, 960), atol=1e-6)
    assert not torch.equal(made["after", 0.5], plain) and stems.isfinite().all()


@pytest.mark.slow
def test_a_bandwidth_is_fewer_codebooks(tracks):
    codec = tiny(samplerate=RATE, codebooks=3, codebook_size=8)  # 1000 latents a second of 3 bits
    whole, less, same = (
        study(codec, tracks, "vocals", strengths=(0.0,), bandwidth=bandwidth).means()
        for bandwidth in (None, 3.0, 9.0)
    )
    assert whole == same and whole["unquantised"] == less["unquantised"] and whole["before"] != less["before"]


def test_without_codebooks_half_is_left_out_and_said(tracks):
    told, codec = [], tiny(samplerate=RATE)
    found = study(codec, tracks, "vocals", model="mine", strengths=(0.0, 1.0), notice=told.append)
    assert list(found.means()) == ["identity", "unquantised"] and "no codebooks" in told[0]
    assert [row[0] for row in table(found)] == ["NOISE", "0", "1"]
    with pytest.raises(UsageError, match="no bandwidth"):
        study(codec, tracks, "vocals", bandwidth=3.0)


# --- tracks ------------------------------------------------------------------------------------------------


def test_rates_channels_and_lengths(tmp_path):
    """Everything is at the codec's rate, where nothing is lost on the way; one channel is given to both."""
    make_track(tmp_path, "mono", {"vocals": 0.1}, channels=1, mixture=False)
    make_track(tmp_path, "fast", {"vocals": 0.1}, seconds=1.3, samplerate=2 * RATE, mixture=False)
    found = study(Blocks(), find_sounds(tmp_path, "auto", "vocals"), "vocals", strengths=(0.0, 0.1))
    for each in found.scores.values():
        assert each["identity"][0] > 60 and each["unquantised"][0] > 60
        assert each["unquantised"][1] == pytest.approx(20, abs=0.5)


def test_a_track_shorter_than_a_window(tmp_path):
    """It is centred in silence, which the deviation of its latents is taken over too."""
    make_track(tmp_path, "short", {"vocals": 0.1}, seconds=0.05, mixture=False)  # 400 of 1000 samples
    found = study(Blocks(), find_sounds(tmp_path, "auto", "vocals"), "vocals", strengths=(0.1,))
    assert found.means()["unquantised"][0] == pytest.approx(20 + 10 * math.log10(1000 / 400), abs=0.3)


def test_only_the_beginning(tracks):
    found = study(Blocks(), tracks, "vocals", strengths=(0.1,), seconds=0.2)
    assert found.settings["seconds"] == 0.2
    assert found.scores != study(Blocks(), tracks, "vocals", strengths=(0.1,)).scores


def test_silent_tracks_are_left_out(tmp_path, tracks):
    make_track(tmp_path / "data", "quiet", {"vocals": 0.0}, mixture=False)
    told = []
    every = find_sounds(tmp_path / "data", "auto", "vocals")
    assert list(study(Blocks(), every, "vocals", notice=told.append).scores) == ["song0", "song1"]
    assert any("quiet is left out" in text for text in told)
    with pytest.raises(InputError, match="silent"):
        study(Blocks(), [track for track in every if track.name == "quiet"], "vocals")


def test_a_stem_that_is_not_there(tmp_path, tracks):
    with pytest.raises(UsageError, match="there are drums, vocals"):
        find_sounds(tmp_path / "data", "auto", "bass")


@pytest.mark.parametrize("strengths", [(), (0.1, 0.1), (-1.0,), (math.nan,), (math.inf,)])
def test_strengths_that_can_not_be(strengths):
    with pytest.raises(UsageError):
        check_strengths(strengths)


# --- what is written ---------------------------------------------------------------------------------------


def test_numbers_and_a_picture(tmp_path):
    found = Study(
        "toy",
        "vocals",
        (0.0, 0.1),
        {
            "a": {"identity": (100.0, 10.0), "unquantised": (12.0, 8.0)},
            "b": {"identity": (90.0, 20.0), "unquantised": (10.0, 9.0)},
        },
        {"seed": 0},
    )
    assert found.means() == {"identity": (95.0, 15.0), "unquantised": (11.0, 8.5)}
    assert [path.name for path in write(found, tmp_path / "out")] == [NUMBERS_NAME, PICTURE_NAME]
    said = json.loads((tmp_path / "out" / NUMBERS_NAME).read_text())
    assert said["mean"]["unquantised"] == [11.0, 8.5] and said["scores"]["b"]["identity"] == [90.0, 20.0]
    assert (tmp_path / "out" / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")
    assert list(table(found)) == [
        ["NOISE", "NO CODEC", "NO QUANTISER"],
        ["0", "95.00", "11.00"],
        ["0.1", "15.00", "8.50"],
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write(found, tmp_path / "file")


def test_lines_and_levels():
    values = dict.fromkeys(PLACES, (10.0, 5.0, 1.0))
    lines, levels = _lines(Study("toy", "vocals", (0.0, 0.1, 1.0), {"a": values}))
    assert lines == {name: {"0.1": 5.0, "1": 1.0} for name in PLACES.values()}
    assert levels == {"no quantiser, no noise": 10.0, "quantiser, no noise": 10.0}


def test_without_noise_there_is_nothing_to_draw(tmp_path):
    found = Study("toy", "vocals", (0.0,), {"a": {"identity": (1.0,), "unquantised": (2.0,)}})
    assert [path.name for path in write(found, tmp_path)] == [NUMBERS_NAME]
