"""From models and tracks to rows, on a toy model of known output; and uSDR for whoever trains."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from sepcli import loading
from sepcli.data.layouts import find_tracks
from sepcli.engine.separator import Segment
from sepcli.errors import DeviceError, InputError, ModelError, UsageError
from sepcli.evaluation.evaluate import evaluate
from sepcli.evaluation.evaluator import EvaluationListener, Evaluator
from sepcli.evaluation.rows import ROWS_NAME
from sepcli.evaluation.runs import EvaluationRequest, expand
from sepcli.evaluation.validation import mean_scores
from tests import fake_model
from tests.toys import Split
from tests.tracks import RATE, make_track, read

FOUR = {"drums": 0.2, "bass": 0.1, "other": 0.1, "vocals": 0.1}


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load_model", fake_model.load_model)
    monkeypatch.setenv("SEPCLI_CATALOG", str(fake_model.catalog_file(tmp_path)))
    fake_model.loads.clear()


@pytest.fixture
def data(tmp_path):
    make_track(tmp_path / "data", "a", FOUR)
    make_track(tmp_path / "data", "b", {"drums": 0.1, "vocals": 0.3}, mixture=False, seed=1)
    return tmp_path / "data"


def rows(*models, listener=None, **options):
    return list(evaluate(EvaluationRequest(models, **options), listener))


# --- rows ---


def test_a_row_for_every_model_and_track_with_the_stems_that_both_have(data):
    found = rows("fake", "mixture", data=data)
    assert [(row.model, row.track, row.status) for row in found] == [
        ("fake", "a", "done"),
        ("fake", "b", "done"),
        ("mixture", "a", "done"),
        ("mixture", "b", "done"),
    ]
    assert [sorted(row.stems) for row in found] == [sorted(FOUR), ["drums", "vocals"]] * 2
    mix = read(data / "a" / "mixture.wav")
    reference = read(data / "a" / "bass.wav")
    expected = usdr_of(reference, Split.SHARES["bass"] * mix)
    assert found[0].stems["bass"]["usdr"] == pytest.approx(expected, abs=2e-3)  # by way of 44.1 kHz
    assert found[0].audio_seconds == 2.5 and found[0].frames == 2


def test_stems_of_the_data_that_the_model_lacks_are_not_scored_and_targets_narrow_the_work(data):
    found = rows("vox", data=data)
    assert [list(row.stems) for row in found] == [["vocals"], ["vocals"]]
    found = rows("fake", "silence", data=data, targets=("bass",))
    assert [(row.model, row.track, list(row.stems)) for row in found] == [
        ("fake", "a", ["bass"]),
        ("silence", "a", ["bass"]),
    ]  # b has no bass
    assert found[0].settings["model"] == "fake"


def test_nothing_in_common(data):
    with pytest.raises(UsageError, match="'vox' makes vocals, choir; wanted are bass"):
        rows("vox", data=data, targets=("bass",))
    with pytest.raises(UsageError, match="No track has the stem flute; there are bass, drums"):
        rows("fake", data=data, targets=("flute",))


def test_a_mistake_in_the_last_model_shows_before_the_first_track(data, monkeypatch):
    def load(spec, **options):
        if spec == "bad":
            raise ModelError("There is no model 'bad'.")
        return fake_model.load_model(spec, **options)

    monkeypatch.setattr(loading, "load_model", load)
    with pytest.raises(ModelError):
        next(evaluate(EvaluationRequest(("fake", "bad"), data)))
    with pytest.raises(UsageError, match="no oracle 'oracle:irm3'; there are oracle:irm1"):
        rows("oracle:irm3", data=data)
    with pytest.raises(UsageError, match="No model"):
        rows(data=data)


def test_a_broken_file_fails_its_track_only(data):
    (data / "a" / "bass.wav").write_bytes(b"RIFF nonsense")
    soundfile.write(data / "b" / "vocals.wav", np.zeros((100, 2)), 2 * RATE)
    make_track(data, "c", FOUR)
    found = rows("mixture", data=data)
    assert [(row.track, row.status) for row in found] == [("a", "failed"), ("b", "failed"), ("c", "done")]
    assert "bass.wav" in found[0].error.message and found[0].error.code == "broken"
    assert "16000 Hz" in found[1].error.message


def test_samples_that_are_not_numbers_fail_their_track(data):
    signal = read(data / "a" / "drums.wav")
    signal[0, 5] = np.nan
    soundfile.write(data / "a" / "drums.wav", signal.T, RATE, "FLOAT")
    found = rows("mixture", data=data)
    assert [row.status for row in found] == ["failed", "done"] and found[0].error.code == "not_finite"


def test_data_without_anything_to_separate(tmp_path):
    for name in ("x", "y"):
        make_track(tmp_path / "pool", name, {"vocals": 0.1}, mixture=False)
    with pytest.raises(InputError, match="one stem each"):
        rows("mixture", data=tmp_path / "pool")
    make_track(tmp_path / "pool", "z", FOUR)
    notices = []
    listener = EvaluationListener()
    listener.notice = notices.append
    assert [row.track for row in rows("mixture", data=tmp_path / "pool", listener=listener)] == ["z"]
    assert notices == ["2 tracks of a single stem without a mixture are left out."]
    with pytest.raises(InputError, match="does not exist"):
        rows("mixture", data=tmp_path / "nowhere")


def test_memory_that_ran_out_is_the_runs_failure(data, monkeypatch):
    def explode(self, run):
        raise MemoryError

    monkeypatch.setattr(Evaluator, "estimator", explode)
    with pytest.raises(DeviceError, match="Memory ran out"):
        rows("mixture", data=data)


# --- runs ---


def test_runs_are_models_times_seeds_times_sweeps(data):
    sweeps = {"overlap": ("0", "0.5"), "steps": ("4",)}
    runs = expand(EvaluationRequest(("m,n", "mixture"), data, seeds=(0, 1), sweeps=sweeps))
    assert len(runs) == 2 * 2 * 2 + 1
    assert {run.group for run in runs} == {
        ("m,n", (("overlap", "0"), ("steps", "4"))),
        ("m,n", (("overlap", "0.5"), ("steps", "4"))),
        ("mixture", ()),
    }
    assert str(runs[0]) == "m overlap=0 steps=4" and str(runs[1]) == "m overlap=0 steps=4 seed 1"


def test_a_file_with_a_comma_in_its_name_is_one_model(tmp_path, data):
    path = tmp_path / "a,b.th"
    path.write_text("")
    assert [run.spec for run in expand(EvaluationRequest((str(path),), data))] == [str(path)]


def test_what_is_swept_reaches_the_engine_and_the_model(data, monkeypatch):
    seen = []

    def load(spec, *, options=None, **rest):
        seen.append(options)
        return fake_model.load_model(spec, **rest)

    monkeypatch.setattr(loading, "load_model", load)
    found = rows(
        "fake",
        data=data,
        options={"sigma": "1", "steps": "9"},
        seeds=(3,),
        sweeps={"steps": ("2", "4"), "overlap": ("0", "0.5"), "shifts": ("1",), "segment": ("0.25",)},
    )
    settings = [row.settings for row in found if row.track == "a"]
    assert [(each["overlap"], each["options"]["steps"]) for each in settings] == [
        (0, "2"),
        (0.5, "2"),
        (0, "4"),
        (0.5, "4"),
    ]
    assert all((each["shifts"], each["segment"], each["seed"]) == (1, 0.25, 3) for each in settings)
    assert all(each["options"]["sigma"] == "1" for each in settings)
    assert {json.dumps(options) for options in seen} == {
        '{"sigma": "1", "steps": "2"}',
        '{"sigma": "1", "steps": "4"}',
    }
    assert found[0].swept == {"steps": "2", "overlap": "0", "shifts": "1", "segment": "0.25"}
    with pytest.raises(UsageError, match="overlap: 'x' is not a number"):
        rows("fake", data=data, sweeps={"overlap": ("x",)})


class Sampled(Split):
    """Split, with options of its own."""

    OPTIONS: dict = {}

    def __init__(self, options, **more):
        super().__init__(segment=Segment(samples=22050), **more)
        self.options = {**self.OPTIONS, **options}

    def used(self):
        return self.options

    def select(self, sources):
        return self


def test_a_model_without_a_swept_option_is_run_once(data, monkeypatch):
    """And of what is given with -O every model gets what it has."""
    loads = []

    def load(spec, *, options=None, **rest):
        loads.append((spec, tuple(options)))
        has = {"student": {"steps": "1", "sigma": "9", "churn": "0"}, "msdm": {"steps": "150"}, "det": {}}[spec]
        if unknown := set(options) - set(has):
            raise UsageError(f"{spec} has no option {unknown}.")
        return loading.Loaded(spec, Sampled({**has, **options}), tuple(Split.SHARES), ("0" * 64,), "here")

    monkeypatch.setattr(loading, "load_model", load)
    sweeps = {"steps": ("2", "4"), "sigma": ("0.1", "0.2"), "overlap": ("0",)}
    found = rows(
        "student", "det", "msdm", "mixture", data=data, sweeps=sweeps, options={"churn": "1"}, targets=("bass",)
    )
    assert [(row.model, *row.swept.values()) for row in found] == [
        ("student", "2", "0.1", "0"),
        ("student", "2", "0.2", "0"),
        ("student", "4", "0.1", "0"),
        ("student", "4", "0.2", "0"),
        ("det", "0"),
        ("msdm", "2", "0"),
        ("msdm", "4", "0"),
        ("mixture",),
    ]
    assert found[0].settings["options"] == {"steps": "2", "sigma": "0.1", "churn": "1"}
    assert [row.settings["options"] for row in found[4:6]] == [{}, {"steps": "2"}]
    for wrong in ({"options": {"step": "1"}}, {"sweeps": {"step": ("1",)}}):
        with pytest.raises(UsageError, match="has no option {'step'}"):
            rows("student", "det", data=data, **wrong)
    with pytest.raises(UsageError, match="det has no option {'steps'}"):
        rows("det", data=data, sweeps={"steps": ("1", "2")})


def test_the_options_that_were_used_are_in_the_row_and_in_its_key(data, monkeypatch):
    """A model fills in what follows from others; where it would fill in something else, rows are made again."""
    level = 0.01

    def load(spec, *, options=None, **rest):
        loaded = fake_model.load_model(spec, **rest)
        loaded.model.used = lambda: {"steps": int(options.get("steps", 1)), "sigma_max": level}
        return loaded

    monkeypatch.setattr(loading, "load_model", load)
    first = rows("fake", data=data, options={"steps": "4"})[0]
    assert first.settings["options"] == {"steps": 4, "sigma_max": 0.01}
    level = 0.02
    assert rows("fake", data=data, options={"steps": "4"})[0].key != first.key


def test_the_published_overlap_is_used_unless_another_is_asked_for(data, monkeypatch):
    def load(spec, **options):
        loaded = fake_model.load_model(spec, **options)
        return replace(loaded, entry=replace(loaded.entry, published_overlap=0.5))

    assert rows("fake", data=data)[0].settings["overlap"] == 0.25
    monkeypatch.setattr(loading, "load_model", load)
    assert rows("fake", data=data)[0].settings["overlap"] == 0.5
    assert rows("fake", data=data, overlap=0.1)[0].settings["overlap"] == 0.1


def test_seeds_matter_where_shifts_are_random_and_the_same_seed_repeats(data):
    def scores(seed):
        return rows("fake", data=data, seeds=(seed,), shifts=1, duration=1.0)[0].stems

    assert scores(1) == scores(1)


# --- going on ---


def test_finished_tracks_are_kept_by_settings_model_and_files(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = rows("fake", data=data, out=out)

    def statuses(**changes):
        return [row.status for row in rows("fake", **{"data": data, "out": out, **changes})]

    again = rows("fake", data=data, out=out)
    assert [row.status for row in again] == ["kept", "kept"]
    assert [(row.stems, row.frames, row.seconds) for row in again] == [
        (row.stems, row.frames, pytest.approx(row.seconds, abs=1e-3)) for row in first
    ]
    for change in ({"duration": 1.0}, {"targets": ("drums",)}, {"resume": False}):
        assert statuses(**change) == ["done", "done"], change
    make_track(data, "c", FOUR, seed=2)
    assert sorted(statuses()) == ["done", "kept", "kept"]
    signal = read(data / "a" / "bass.wav")
    soundfile.write(data / "a" / "bass.wav", signal.T[:-1], RATE, "FLOAT")
    assert [(row.track, row.status) for row in rows("fake", data=data, out=out)] == [
        ("b", "kept"),
        ("c", "kept"),
        ("a", "done"),
    ]

    def other_weights(spec, **options):
        return replace(fake_model.load_model(spec, **options), hashes=("0" * 64,))

    monkeypatch.setattr(loading, "load_model", other_weights)
    assert statuses() == ["done", "done", "done"]


def test_all_that_changes_scores_changes_a_rows_key(data):
    def identity(**changes):
        request = EvaluationRequest(("fake",), data, **changes)
        return Evaluator(request, frozenset(FOUR)).prepare(expand(request)[0], EvaluationListener()).identity

    same = identity()
    assert identity(jobs=2) == identity(batch_size=3) == same
    for change in (
        {"overlap": 0.1},
        {"extra": True},
        {"duration": 1.0},
        {"seeds": (1,)},
        {"segment": 0.2},
        {"options": {"x": "1"}},
        {"sweeps": {"x": ("1",)}},
        {"shifts": 1},
        {"zero_mean": True},
        {"precision": "bfloat16"},
    ):
        assert identity(**change) != same, change


def test_a_run_that_was_stopped_goes_on(data, tmp_path):
    stopped = evaluate(EvaluationRequest(("mixture",), data, out=tmp_path / "out"))
    next(stopped)
    stopped.close()
    found = rows("mixture", data=data, out=tmp_path / "out")
    assert [(row.track, row.status) for row in found] == [("a", "kept"), ("b", "done")]
    assert len((tmp_path / "out" / ROWS_NAME).read_text().splitlines()) == 2


def test_failed_tracks_are_tried_again(data, tmp_path):
    good = (data / "a" / "bass.wav").read_bytes()
    (data / "a" / "bass.wav").write_bytes(b"x")
    assert rows("mixture", data=data, out=tmp_path / "out")[0].status == "failed"
    (data / "a" / "bass.wav").write_bytes(good)
    found = rows("mixture", data=data, out=tmp_path / "out")
    assert sorted((row.track, row.status) for row in found) == [("a", "done"), ("b", "kept")]


# --- what it costs ---


def test_a_single_model_is_loaded_once(data):
    rows("fake", data=data)
    assert fake_model.loads == ["fake"]


def test_progress_is_reported_in_seconds_of_audio(data):
    class Hears(EvaluationListener):
        def __init__(self):
            self.seen, self.plan = [], None

        def planned(self, runs, tracks):
            self.plan = [str(each.run) for each in runs], [track.name for track in tracks]

        def progress(self, run, track, done, total):
            self.seen.append((str(run), track.name, done))

    hears = Hears()
    rows("fake", data=data, listener=hears)
    assert hears.plan == (["fake"], ["a", "b"])
    assert {(run, track) for run, track, _ in hears.seen} == {("fake", "a"), ("fake", "b")}
    assert max(done for *_, done in hears.seen) == pytest.approx(2.5, abs=0.01)


# --- uSDR for training ---


def split(**options):
    return Split(segment=Segment(samples=3000), samplerate=RATE, **options)


def usdr_of(reference, estimate):
    return 10 * np.log10(((reference**2).sum() + 1e-7) / (((reference - estimate) ** 2).sum() + 1e-7))


def test_usdr_is_the_mean_over_the_tracks_that_have_the_stem(data):
    make_track(data, "c", {"flute": 0.1, "harp": 0.3}, seed=2)  # none of the model's
    tracks = find_tracks(data)
    found = mean_scores(split(), tracks, torch.device("cpu"))
    expected = {stem: [] for stem in Split.SHARES}
    for track in tracks[:2]:
        mix = sum(read(path) for path in track.stems.values())
        for stem, path in track.stems.items():
            expected[stem].append(usdr_of(read(path), Split.SHARES[stem] * mix))
    assert list(found) == list(Split.SHARES)  # the model's order
    assert found == pytest.approx({stem: np.mean(values) for stem, values in expected.items()}, abs=1e-4)


def test_usdr_leaves_the_model_as_it_is_and_takes_only_so_many_seconds(data):
    model = split().train()
    track = find_tracks(data)[0]
    found = mean_scores(model, [track], torch.device("cpu"), seconds_limit=1.0)
    assert model.training and not model.calls
    mix = read(track.mixture)[:, :RATE]
    expected = usdr_of(read(track.stems["bass"])[:, :RATE], Split.SHARES["bass"] * mix)
    assert found["bass"] == pytest.approx(expected, abs=1e-4)


def test_usdr_leaves_out_what_is_silent(tmp_path):
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.0})
    assert list(mean_scores(split(), find_tracks(tmp_path), torch.device("cpu"))) == ["drums"]


def test_the_absolute_error_is_the_mean_over_tracks_channels_and_time(data):
    tracks = find_tracks(data)
    found = mean_scores(split(), tracks, torch.device("cpu"), seconds_limit=1.0, metric="l1")
    expected = {stem: [] for stem in Split.SHARES}
    for track in tracks:
        mix = sum(read(path) for path in track.stems.values())
        for stem, path in track.stems.items():
            expected[stem].append(np.abs(read(path) - Split.SHARES[stem] * mix)[:, :RATE].mean())
    assert found == pytest.approx({stem: np.mean(values) for stem, values in expected.items()}, rel=1e-4)


def test_the_spectral_distance_is_that_of_the_frames_that_sound(tmp_path):
    """The model gives a share of the mix: with nothing else in it, the logarithm of the share."""
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.0})
    track = find_tracks(tmp_path)[0]
    found = mean_scores(split(), [track], torch.device("cpu"), metric="lsd")
    assert found == pytest.approx({"drums": np.log10(4)}, abs=1e-4)  # half the amplitude
    vocals = 0.1 * np.random.default_rng(5).standard_normal((int(2.5 * RATE), 2))
    vocals[RATE:] = 0
    soundfile.write(track.stems["vocals"], vocals, RATE, "FLOAT")
    found = mean_scores(split(), [track], torch.device("cpu"), metric="lsd", seconds_limit=0.9)["vocals"]
    whole = mean_scores(split(), [track], torch.device("cpu"), metric="lsd")["vocals"]
    assert whole == pytest.approx(found, rel=0.15)  # what it gives while nobody sings doesn't count


def test_usdr_at_another_rate_and_channel_count_is_taken_at_the_tracks_own(tmp_path):
    """The model sees 8 kHz stereo; the track is 16 kHz mono, and its upper half is lost on the way."""
    make_track(tmp_path, "a", {"drums": 0.2, "vocals": 0.1}, channels=1, samplerate=2 * RATE)
    found = mean_scores(split(), find_tracks(tmp_path), torch.device("cpu"))
    assert found["drums"] == pytest.approx(10 * np.log10(0.04 / (0.02 + 0.02 * 0.25 + 0.005 * 0.25)), abs=0.2)
