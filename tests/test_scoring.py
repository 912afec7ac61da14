"""One track under one model, with its files as they come: other rates, mono stems, silence, no mixture."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from sepcli.data.layouts import find_tracks
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.errors import InputError
from sepcli.evaluation.scoring import PSEUDO_MODELS, InStep, Material, Model, score
from sepcli.metrics.sdr import Sums
from tests.toys import Split
from tests.tracks import RATE, make_track, read


def model(**options):
    separator = Split(segment=Segment(samples=3000), samplerate=RATE, **options)
    return Model(Engine(separator, Settings(), torch.device("cpu"), torch.float32))


def one(folder):
    (track,) = find_tracks(folder)
    return track


def test_every_metric_of_a_known_estimate(tmp_path):
    """The model's estimates are shares of the mix, so all is known."""
    make_track(tmp_path, "a", {"drums": 0.2, "bass": 0.1, "other": 0.05, "vocals": 0.1}, seconds=3.3)
    track, names = one(tmp_path), ["bass", "vocals"]
    found = score(Material(track), model(), names)
    references = np.stack([read(track.stems[name]) for name in names])
    mix = read(track.mixture)
    sums, before = Sums(2, 2, RATE), Sums(2, 2, RATE)
    sums.add(references, np.stack([Split.SHARES[name] * mix for name in names]))
    before.add(references, np.stack([mix, mix]))
    assert (found.frames, found.silent_frames) == (3, 0)
    for k, name in enumerate(names):
        assert found.stems[name] == pytest.approx(
            {
                "sdr": np.median(sums.museval_sdr()[k]),
                "usdr": sums.usdr()[k],
                "si_sdr": sums.si_sdr()[k],
                "si_sdri": (sums.si_sdr() - before.si_sdr())[k],
            },
            abs=1e-4,
        )


def test_extra_metrics(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, channels=1)
    found = score(Material(one(tmp_path)), PSEUDO_MODELS["oracle:irm2"], ["drums", "vocals"], extra=True)
    for scores in found.stems.values():
        assert scores["sir"] > scores["sdr"] - 1 and np.isfinite([scores["isr"], scores["sar"]]).all()


def test_the_mix_is_the_sum_where_there_is_no_mixture_and_then_as_long_as_the_shortest_stem(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, mixture=False)
    track = one(tmp_path)
    drums = read(track.stems["drums"])[:, : RATE + 7]
    soundfile.write(track.stems["drums"], drums.T, RATE, "FLOAT")
    material = Material(one(tmp_path))
    mix = np.concatenate([*material.mix()], axis=1)
    np.testing.assert_allclose(mix, drums + read(track.stems["vocals"])[:, : RATE + 7], atol=1e-6)
    assert score(material, PSEUDO_MODELS["mixture"], ["drums"]).frames == 1


def test_only_the_beginning(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1})
    for name in ("mixture", "oracle:mwf"):
        assert score(Material(one(tmp_path), 1.0), PSEUDO_MODELS[name], ["drums"]).frames == 1


@pytest.mark.parametrize("mixture", [True, False])
def test_a_part_is_that_part_of_the_whole(tmp_path, mixture):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, mixture=mixture)
    track = one(tmp_path)
    if mixture:  # a stem that ends before the part begins
        soundfile.write(track.stems["drums"], read(track.stems["drums"])[:, :RATE].T, RATE, "FLOAT")
    whole, part = Material(one(tmp_path)), Material(one(tmp_path), 0.5, start=1.5)
    assert part.frames == RATE // 2 and Material(one(tmp_path), 9.0, start=2.0).frames == RATE // 2
    for name in ("mixture", "oracle:irm1"):
        assert score(part, PSEUDO_MODELS[name], ["vocals"]).stems
    cut = slice(3 * RATE // 2, 2 * RATE)
    np.testing.assert_array_equal(
        np.concatenate([*part.mix()], axis=1), np.concatenate([*whole.mix()], axis=1)[:, cut]
    )
    np.testing.assert_array_equal(
        part.references(["drums", "vocals"]).take(RATE // 2),
        whole.references(["drums", "vocals"]).take(2 * RATE)[..., cut],
    )


def test_a_mono_stem_in_a_stereo_track_is_on_both_sides(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, mixture=False)
    track = one(tmp_path)
    mono = read(track.stems["drums"])[:1]  # the first of the stems, whose channels layouts.py goes by
    soundfile.write(track.stems["drums"], mono.T, RATE, "FLOAT")
    material = Material(one(tmp_path))
    assert material.channels == 2
    both = np.repeat(mono[:, :1000], 2, axis=0)
    np.testing.assert_allclose(material.references(["drums"]).take(1000)[0], both)
    np.testing.assert_allclose(
        next(material.mix())[:, :1000], (mono + read(track.stems["vocals"]))[:, :1000], atol=1e-6
    )


def test_a_stem_shorter_than_the_mixture_ends_in_silence(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1})
    track = one(tmp_path)
    soundfile.write(track.stems["drums"], read(track.stems["drums"])[:, :RATE].T, RATE, "FLOAT")
    found = score(Material(one(tmp_path)), PSEUDO_MODELS["mixture"], ["drums", "vocals"])
    assert (found.frames, found.silent_frames) == (2, 1)


@pytest.mark.slow
def test_a_silent_stem_is_not_scored_and_spoils_no_other(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "bass": 0.0, "vocals": 0.1})
    for model, extra in {"oracle:irm2": False, "mixture": True}.items():  # silent estimates of it, and not
        names = ["bass", "drums", "vocals"]
        found = score(Material(one(tmp_path)), PSEUDO_MODELS[model], names, extra=extra)
        assert list(found.stems) == ["drums", "vocals"] and (found.frames, found.silent_frames) == (2, 0)
        assert np.isfinite([list(scores.values()) for scores in found.stems.values()]).all()


def test_pseudo_models(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "bass": 0.1, "vocals": 0.1})
    material = Material(one(tmp_path))
    found = {name: score(material, each, ["drums"]).stems["drums"] for name, each in PSEUDO_MODELS.items()}
    assert found["silence"]["usdr"] == pytest.approx(0, abs=1e-9) and np.isnan(found["silence"]["sdr"])
    assert found["mixture"]["usdr"] == pytest.approx(10 * np.log10(0.04 / 0.02), abs=0.3)
    assert found["mixture"]["si_sdri"] == 0
    oracles = [scores["usdr"] for name, scores in found.items() if name.startswith("oracle:")]
    assert len(oracles) == 4 and min(oracles) > found["mixture"]["usdr"] + 1


@pytest.mark.parametrize("name", [name for name in PSEUDO_MODELS if name.startswith("oracle:")])
def test_oracles_know_what_a_mixture_has_besides_its_stems(tmp_path, name):
    """Vocals and a mixture: as good as vocals and all else in one stem."""
    two = make_track(tmp_path / "two", "a", {"drums": 0.2, "vocals": 0.1})
    one_stem = tmp_path / "one" / "a"
    one_stem.mkdir(parents=True)
    for file in ("vocals.wav", "mixture.wav"):
        (one_stem / file).write_bytes((two / file).read_bytes())
    scores = [
        score(Material(one(tmp_path / each)), PSEUDO_MODELS[name], ["vocals"]).stems["vocals"]
        for each in ("two", "one")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
    assert scores[1]["si_sdri"] > 0.3  # white noise: little to mask


def test_files_that_do_not_fit_together(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1})
    track = one(tmp_path)
    soundfile.write(track.stems["drums"], read(track.stems["drums"]).T, 2 * RATE)
    with pytest.raises(InputError, match="drums.wav at 16000 Hz"):
        Material(track)
    soundfile.write(track.stems["drums"], np.zeros((100, 3)), RATE)
    with pytest.raises(InputError, match="drums.wav has 3"):
        Material(track)


def test_in_step_gives_any_stream_in_any_lengths():
    signal = np.arange(20, dtype=np.float32).reshape(2, 10)

    def blocks():
        yield signal[:, :3]
        yield signal[:, 3:3]
        yield signal[:, 3:]

    for lengths in ([10, 2], [1] * 12, [4, 8], [3, 0, 9]):
        stream = InStep(blocks(), 2)
        whole = np.concatenate([stream.take(length) for length in lengths], axis=1)
        np.testing.assert_array_equal(whole, np.pad(signal, ((0, 0), (0, 2))))
