"""A listening test: what is drawn, what is heard, what is asked; and what its answers come to."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sepcli import loading
from sepcli.cli.app import main
from sepcli.data.layouts import find_tracks
from sepcli.evaluation.evaluator import EvaluationListener
from sepcli.evaluation.listening import experiment
from sepcli.evaluation.listening.experiment import LOUDNESS, draw, equally_loud, find_excerpt
from sepcli.evaluation.listening.key import read_key
from sepcli.evaluation.listening.opinions import read_opinions
from sepcli.evaluation.listening.webmushra import QUESTIONS
from sepcli.evaluation.runs import EvaluationRequest
from sepcli.metrics import voice
from sepcli.metrics.loudness import loudness
from tests import fake_model
from tests.needs import need
from tests.tracks import RATE, make_track, read

MODELS = ["fake", "vox", "mixture", "oracle:irm1", "reference"]
SECONDS = 40.0


def heard_as_voice(wave):
    """In place of pYIN, which would take minutes here: what reaches -26 dBFS is a voice."""
    hops = wave[: len(wave) // voice.PITCH_HOP * voice.PITCH_HOP].reshape(-1, voice.PITCH_HOP)
    tones = np.where((hops**2).mean(axis=1) > 0.0025, 200.0, np.nan)
    return np.append(tones, tones[-1:])


@pytest.fixture(scope="module", autouse=True)
def fake(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_model", fake_model.load_model)
        patch.setattr(voice, "pitch", heard_as_voice)
        patch.setenv("SEPCLI_CATALOG", str(fake_model.catalog_file(tmp_path_factory.mktemp("models"))))
        patch.delenv("SEPCLI_DEBUG", raising=False)
        yield


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def sing(track, *parts, channels=2, seed=0):
    """vocals that are loud (0.1) between these seconds, and murmur (0.01) elsewhere."""
    path = track / "vocals.wav"
    level = np.full(int(SECONDS * RATE), 0.01)
    for begin, end in parts:
        level[int(begin * RATE) : int(end * RATE)] = 0.1
    noise = np.random.default_rng(seed).standard_normal((len(level), channels))
    soundfile.write(path, (level[:, None] * noise).astype(np.float32), RATE, "FLOAT")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    parts = {"a": [(0, 40)], "b": [(0, 16)], "c": [(24, 40)], "quiet": [(0, 5)]}
    for k, (name, sung) in enumerate(parts.items()):
        sing(
            make_track(folder, name, {"drums": 0.1, "vocals": 0.1}, seconds=SECONDS, mixture=False, seed=k),
            *sung,
            seed=10 + k,
        )
    make_track(folder, "short", {"drums": 0.1, "vocals": 0.1}, seconds=20, mixture=False)
    make_track(folder, "wordless", {"drums": 0.1, "bass": 0.1}, seconds=SECONDS, mixture=False)
    return folder


def evaluate(capfd, *arguments):
    """(exit code, standard output, standard error)."""
    code = main(["evaluate", *map(str, arguments)])
    return code, *capfd.readouterr()


def make(capfd, data, *more, models=MODELS):
    named = [word for model in models for word in ("-m", model)]
    need("librosa")  # it hears where somebody sings
    return evaluate(capfd, *named, "--data", data, "--listening-test", "test", *more)


class Notices(EvaluationListener):
    def __init__(self):
        self.said = []

    def notice(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """(key, folder, what was said) of a test of all models; nobody writes there."""
    need("librosa")
    notices, folder = Notices(), tmp_path_factory.mktemp("whole")
    made = experiment.make(EvaluationRequest(models=tuple(MODELS), data=data), folder, listener=notices)
    assert made.key == read_key(folder)
    return made.key, folder, notices.said


def sounds(folder, key):
    return folder / "webmushra/configs/resources" / key.test


# --- making ---


@pytest.mark.slow
def test_what_is_drawn(whole):
    key, _, said = whole
    assert {item.track for item in key.items.values()} == {"a", "b", "c"}
    for name in ("quiet", "short"):
        assert f"{name} is passed over: no 30 s of it are voiced in the vocals over more than half." in said
    assert "Tracks with an excerpt: 3; 6 were wanted." in said and "wordless" not in str(said)
    starts = {item.track: item.start for item in key.items.values()}
    assert starts["b"] == 0 and starts["c"] == 10 and starts["a"] in (0, 10)
    voiced = {item.track: item.voiced for item in key.items.values()}
    assert voiced["a"] > 0.99 and voiced["b"] == pytest.approx(16 / 30, abs=0.01)
    for item in key.items.values():
        assert sorted(item.stimuli) == [f"stimulus{k}" for k in range(1, 6)]
        assert sorted(item.stimuli.values()) == sorted(MODELS)
    assert len({tuple(item.stimuli.values()) for item in key.items.values()}) > 1  # shuffled anew


def test_what_is_heard(whole, data):
    key, folder, _ = whole
    for name, item in key.items.items():
        cut = slice(int(item.start * RATE), int((item.start + 30) * RATE))
        vocals, drums = (read(data / item.track / f"{stem}.wav")[:, cut] for stem in ("vocals", "drums"))
        mix = read(sounds(folder, key) / name / "mixture.wav")
        assert mix.shape == (2, 30 * RATE)
        for each, model in item.stimuli.items():
            path = sounds(folder, key) / name / f"{each}.wav"
            wave = read(path)
            assert soundfile.info(path).subtype == "PCM_16"
            assert loudness(wave, RATE) == pytest.approx(LOUDNESS, abs=0.05)
            real = {"reference": vocals, "oracle:irm1": None}.get(model, vocals + drums)  # fakes: shares of it
            if real is not None:
                gain = np.vdot(wave, real) / np.vdot(real, real)
                off = np.std(wave - gain * real) / np.std(wave)  # a sample late, noise is 1.4 off
                assert off < (0.3 if model in ("fake", "vox") else 1e-3), model  # 44.1 kHz and back
        np.testing.assert_allclose(mix / mix.std(), (vocals + drums) / (vocals + drums).std(), atol=1e-2)


def test_what_is_asked(whole):
    key, folder, _ = whole
    path = folder / "webmushra/configs" / f"{key.test}.yaml"
    text = path.read_text()
    assert not any(word in text for word in ("fake", "vox", "oracle", "irm", "reference", "key"))
    said = yaml.safe_load(text)
    assert said["testId"] == key.test and said["showButtonPreviousPage"] is False
    assert said["remoteService"] == "service/write.php"
    first, (word, *items), last = said["pages"]
    assert first["type"] == "generic" and last["type"] == "finish" and last["writeResults"] is True
    assert word == "random" and len(items) == 3
    root = folder / "webmushra"
    for (name, item), pages in zip(key.items.items(), items, strict=True):
        asked = ["intelligibility", "isolation", "quality"]
        assert [page["id"] for page in pages] == [f"{name}_{each}" for each in asked]
        for page in pages:
            assert page["type"] == "likert_multi_stimulus" and page["mustRate"] is True
            assert [each["value"] for each in page["response"]] == [1, 2, 3, 4, 5]
            assert list(page["stimuli"]) == list(item.stimuli)
            assert all((root / place).is_file() for place in page["stimuli"].values())
            mixture = page["content"].split("src='")[1].split("'")[0]
            assert (root / mixture).is_file()


def test_what_is_compared(whole):
    """All pairs but those with the mixture, of each excerpt; the same samples as in webMUSHRA's files."""
    key, folder, _ = whole
    data = json.loads(re.search(r'id="data">(.*?)</script>', (folder / "abx/index.html").read_text())[1])
    trials = [trial for pair in data["pairs"] for trial in pair]
    compared = [{key.items[item].stimuli[each] for each in two} for (item, *two) in trials]
    named = [model for model in MODELS if model != "mixture"]
    pairs = [set(pair) for pair in itertools.combinations(named, 2)]
    assert len(compared) == 18 and all(compared.count(pair) == 3 for pair in pairs)
    assert not re.search("fake|vox|oracle|irm|reference", json.dumps({**data, "items": list(data["items"])}))
    found = data["items"]["item2"]["sounds"]
    assert {key.items["item2"].stimuli[stimulus] for stimulus in found} == set(named)
    stimulus, (_, file) = next(iter(found.items()))
    script = (folder / "abx" / file).read_text()
    heard = soundfile.read(io.BytesIO(base64.b64decode(script.split('"')[1])), dtype="int16")[0]
    true = soundfile.read(sounds(folder, key) / f"item2/{stimulus}.wav", dtype="int16")[0]
    np.testing.assert_array_equal(heard, true)


@pytest.mark.slow
def test_the_same_command_goes_on(capfd, data, monkeypatch):
    made = make(capfd, data, models=["fake", "mixture"])
    assert made[0] == 0
    assert [row.split()[0] for row in made[1].splitlines()] == ["ITEM", "item1", "item2", "item3"]
    assert "fake" not in made[1] and "Keep test/key.json to yourself" in made[2]
    key = read_key(Path("test"))
    files = {path: path.stat().st_mtime_ns for path in Path("test").rglob("*.wav")}
    gone = next(path for path in files if path.name == "stimulus1.wav")
    before = gone.read_bytes()
    gone.unlink()
    monkeypatch.setattr(voice, "pitch", lambda wave: pytest.fail("excerpts are drawn once"))
    code, out, _ = make(capfd, data, models=["fake", "mixture"])
    assert code == 0 and out == made[1] and read_key(Path("test")) == key
    assert gone.read_bytes() == before
    assert all(path.stat().st_mtime_ns == time for path, time in files.items() if path != gone)


@pytest.mark.slow
def test_another_test_is_not_overwritten(capfd, data):
    make(capfd, data, models=["mixture"])
    before = Path("test/key.json").read_bytes()
    for more in (["--seed", "1"], ["--listening-tracks", "2"], ["-m", "silence"]):
        code, _, err = make(capfd, data, *more, models=["mixture"])
        assert code == 2 and "holds another listening test" in err
    assert Path("test/key.json").read_bytes() == before


def test_number_and_json(capfd, data):
    code, out, _ = make(capfd, data, "--listening-tracks", "2", "--json", "-q", models=["mixture"])
    said = json.loads(out)
    assert code == 0 and [each["item"] for each in said["items"]] == ["item1", "item2"]
    assert set(said) == {"test", "target", "config", "page", "items"} and Path(said["config"]).is_file()
    assert said["page"] is None  # for one model there is nothing to compare
    assert "mixture" not in out


def test_seeds_draw_tracks_places_and_orders(data, monkeypatch):
    monkeypatch.setattr(experiment, "voiced_seconds", lambda material, stem: material.seconds)
    tracks = {track.name: track for track in find_tracks(data) if "vocals" in track.stems}
    drawn = [
        draw(tracks, "vocals", MODELS, count=1, seconds=30, seed=seed, listener=EvaluationListener())
        for seed in range(24)
    ]
    assert {each["item1"].track for each in drawn} == {"a", "b", "c", "quiet"}
    assert {each["item1"].start for each in drawn} == {0, 10}
    assert len({tuple(each["item1"].stimuli.values()) for each in drawn}) > 12
    assert drawn[3] == draw(
        tracks, "vocals", MODELS, count=1, seconds=30, seed=3, listener=EvaluationListener()
    )


def test_half_is_not_more_than_half(data, tmp_path):
    place = make_track(tmp_path / "even", "even", {"drums": 0.1, "vocals": 0.1}, seconds=SECONDS)
    sing(place, (10, 24.5))
    track = find_tracks(tmp_path / "even")[0]
    assert find_excerpt(track, "vocals", 30, random.Random(0)) is None
    sing(place, (10, 25.5))
    assert find_excerpt(track, "vocals", 30, random.Random(0))[1] == pytest.approx(15.5 / 30, abs=0.01)


def test_a_stretch_is_looked_at_once(data, monkeypatch):
    looked = Counter()
    real = experiment.voiced_seconds
    monkeypatch.setattr(
        experiment,
        "voiced_seconds",
        lambda material, stem: looked.update([material._start]) or real(material, stem),
    )
    quiet = next(track for track in find_tracks(data) if track.name == "quiet")
    assert find_excerpt(quiet, "vocals", 30, random.Random(0)) is None
    assert looked == {0.0: 1, 10.0: 1, 20.0: 1, 30.0: 1}


def test_loudness_without_clipping_and_without_blowing_up_silence():
    wave = np.random.default_rng(0).standard_normal((2, 5 * RATE)).astype(np.float32) * 0.01
    assert loudness(equally_loud(wave, RATE), RATE) == pytest.approx(LOUDNESS, abs=1e-3)
    np.testing.assert_allclose(equally_loud(wave, RATE, 6.0), wave * 10**0.3, rtol=1e-5)
    clicks = wave / 100
    clicks[:, ::RATE] = 0.5
    assert np.abs(equally_loud(clicks, RATE)).max() <= 1
    silence = np.zeros_like(wave)
    np.testing.assert_array_equal(equally_loud(silence, RATE), silence)


def test_silence_and_one_channel(capfd, tmp_path):
    place = make_track(
        tmp_path / "mono", "mono", {"drums": 0.1, "vocals": 0.1}, seconds=SECONDS, channels=1, mixture=False
    )
    sing(place, (0, 40), channels=1)
    assert make(capfd, tmp_path / "mono", models=["silence", "reference"])[0] == 0
    key = read_key(Path("test"))
    waves = {
        model: read(sounds(Path("test"), key) / "item1" / f"{each}.wav")
        for each, model in key.items["item1"].stimuli.items()
    }
    assert not waves["silence"].any() and waves["silence"].shape == waves["reference"].shape
    np.testing.assert_array_equal(waves["reference"][0], waves["reference"][1])  # or only the left would sound


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "mdx"], "--protocol is for scores"),
        (["-o", "out"], "--out is for scores"),
        (["--seed", "0,1"], "one seed"),
        (["-t", "vocals", "-t", "drums"], "of one stem"),
        (["-t", "choir"], "No track has the stem choir"),
        (["-m", "oracle:none"], "There is no oracle"),
        (["-m", "unhashed", "-t", "bass"], "makes drums, vocals"),
    ],
)
def test_what_can_not_be_made(capfd, data, arguments, words):
    code, _, err = make(capfd, data, *arguments, models=["mixture"])
    assert code == 2 and words in err.replace("\n", " ") and not Path("test/key.json").exists()


def test_no_voice_anywhere(capfd, data, tmp_path):
    sing(make_track(tmp_path / "none", "x", {"drums": 0.1, "vocals": 0.1}, seconds=SECONDS))
    code, _, err = make(capfd, tmp_path / "none", models=["mixture"])
    assert code == 1 and "No track has 30 s that are voiced" in err


def test_options_that_miss_another(capfd, data):
    assert "Missing option '--model'" in evaluate(capfd, "--data", data)[2]
    assert "Missing option '--data'" in evaluate(capfd, "-m", "fake")[2]
    assert "needs --listening-test" in evaluate(capfd, "-m", "fake", "--data", data, "--listening-tracks", 2)[2]
    assert "needs --listening-test" in evaluate(capfd, "--listening-results", "lms.csv")[2]
    code, _, err = make(capfd, data, "--listening-results", "lms.csv")
    assert code == 2 and "neither --model nor --data" in err


# --- reading ---

HEAD = ["session_test_id", "listener", "trial_id", "stimuli_rating", "stimuli", "rating_time"]


@pytest.fixture
def key(capfd, data):
    assert make(capfd, data, models=["mixture", "reference"])[0] == 0
    return read_key(Path("test"))


def answers(key, listener, score):
    """Rows as webMUSHRA writes them; score(model, question, item): 1 to 5 or NA."""
    for name, item in key.items.items():
        for question in QUESTIONS:
            for stimulus, model in reversed(item.stimuli.items()):
                yield [
                    key.test,
                    listener,
                    f"{name}_{question.name}",
                    f" {score(model, question.name, name)} ",
                    stimulus,
                    "5123",
                ]


def write(*rows, head=HEAD):
    with open("lms.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return Path("lms.csv")


def results(capfd, *more):
    return evaluate(capfd, "--listening-test", "test", "--listening-results", "lms.csv", *more)


@pytest.mark.slow
def test_answers_come_back_to_their_models(capfd, key):
    """Two listeners, who differ by 2 about the quality of the mixture: their interval is 12.706."""

    def score(who):
        def of(model, question, item):
            if model == "reference":
                return 5
            return {"intelligibility": 2, "isolation": 1, "quality": 2 + 2 * who}[question]

        return of

    write(*answers(key, "ann", score(0)), *answers(key, "bob", score(1)))
    code, out, _ = results(capfd)
    assert code == 0
    title, head, *rows = out.splitlines()
    assert title == (
        "Mean opinion scores of vocals, 1 to 5; listeners: 2, excerpts: 3; ± 95 % interval over listeners"
    )
    assert head.split() == ["MODEL", "INTELLIGIBILITY", "ISOLATION", "SIGNAL", "QUALITY"]
    assert rows[0].split() == ["mixture", "2.00", "±", "0.00", "1.00", "±", "0.00", "3.00", "±", "12.71"]
    assert rows[1].split() == ["reference", *["5.00", "±", "0.00"] * 3]
    said = json.loads(results(capfd, "--json")[1])
    assert said["listeners"] == 2 and said["items"] == 3 and said["test"] == key.test
    mean = said["models"]["mixture"]["quality"]
    assert mean == {"value": 3.0, "ci95": pytest.approx(12.706205, abs=1e-5), "answers": 6}


@pytest.mark.slow
def test_one_listener_has_no_interval_and_no_answer_is_none(capfd, key):
    write(*answers(key, "ann", lambda model, question, item: "NA" if question == "isolation" else 4))
    rows = results(capfd)[1].splitlines()[2:]
    assert rows[0].split() == ["mixture", "4.00", "-", "4.00"]
    said = json.loads(results(capfd, "--json")[1])["models"]["mixture"]
    assert said["isolation"] == {"value": None, "ci95": None, "answers": 0}


@pytest.mark.slow
@pytest.mark.parametrize("column", [True, False])
def test_listeners_of_one_name_are_told_apart(key, column):
    rows = [row for score in (1, 3, 5) for row in answers(key, "me", lambda *_, score=score: score)]
    random.Random(0).shuffle(rows)
    path = write(
        *(row if column else [row[0], *row[2:]] for row in rows), head=HEAD if column else [HEAD[0], *HEAD[2:]]
    )
    found = read_opinions(path, key)
    assert found.listeners == 3 and found.mean("mixture", "quality").value == 3


@pytest.mark.slow
def test_pages_of_ones_own_are_left_out(capfd, key):
    own = [key.test, "ann", "training", " 3 ", "stimulus1", "1"]
    write(own, *answers(key, "ann", lambda *_: 4))
    code, out, err = results(capfd)
    assert code == 0 and "not the test's own: 1." in err and "4.00" in out


@pytest.mark.slow
def test_what_is_no_result(capfd, key):
    rows = list(answers(key, "ann", lambda *_: 4))

    def said(*rows, head=HEAD):
        write(*rows, head=head)
        code, _, err = results(capfd)
        assert code == 1
        return err.replace("\n", " ")

    assert "lacks columns" in said(*rows, head=["x", *HEAD[1:]])
    assert "no answers of this" in said()
    assert "Line 2" in (text := said(["other", *rows[0][1:]])) and "of the test 'other'" in text
    assert "item1 has no 'stimulus9'" in said([*rows[0][:4], "stimulus9", "1"])
    for wrong in ("6", "0", "x", "", "4.5"):
        assert f"'{wrong}' is no answer from 1 to 5" in said([*rows[0][:3], wrong, *rows[0][4:]])
    assert "Line 3" in (text := said(rows[0], rows[1][:-1])) and "5 values, but the head 6" in text
    Path("lms.csv").unlink()
    assert "'lms.csv' does not exist." in results(capfd)[2]
    Path("test/key.json").write_text("{}")
    assert "it is not what sepcli wrote there" in results(capfd)[2]
    Path("test/key.json").unlink()
    assert "holds no listening test" in results(capfd)[2]
