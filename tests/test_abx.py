"""Blind comparisons: which models are compared, what the page holds, and what files of answers come to."""

import base64
import itertools
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepcli.cli.app import main
from sepcli.cli.open import find_page
from sepcli.evaluation.listening.abx import model_pairs, read_comparisons, stimulus_pairs
from sepcli.evaluation.listening.key import Item, Key
from sepcli.metrics.binomial import p_value
from sepcli.player.abx import Excerpt, write_abx

MODELS = ("one", "two", "three")
STIMULI = {"stimulus1": "two", "stimulus2": "one", "stimulus3": "three"}


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = {f"item{k}": Item("a song", 0.0, 1.0, STIMULI) for k in (1, 2)}
    made = Key("sepcli-0123abcd", "vocals", 0, 1.0, {model: {} for model in MODELS}, items)
    made.write(Path("test"))
    return made


def trial(pair=("stimulus1", "stimulus2"), right=True, item="item1", x=0, note=""):
    a, b = pair
    answer = "AB"[x if right else 1 - x]
    return {"item": item, "a": a, "b": b, "x": pair[x], "answer": answer, "note": note, "took": 5}


def session(name, *trials, **changed):
    """A file as the page saves it; changed: after that, what somebody has changed."""
    said = {
        "kind": "sepcli-abx", "version": 1, "test": "sepcli-0123abcd", "session": name, "listener": "Änn",
        "began": "2026-11-28T10:00:00.000Z", "trials": list(trials), "ended": "2026-11-28T11:00:00.000Z",
    }  # fmt: skip
    said |= {each: changed.pop(each) for each in ("test", "version") if each in changed}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    path = Path(f"{name}.json")
    path.write_text(json.dumps({**said, "check": f"{zlib.crc32(text.encode()):08x}", **changed}, indent=1))
    return path


def results(capfd, *files, more=()):
    named = [word for file in files for word in ("--listening-results", str(file))]
    code = main(["evaluate", "--listening-test", "test", *named, *more])
    return code, *capfd.readouterr()


# --- the test ---


@pytest.mark.parametrize("trials", [1, 2, 7, 16])
def test_a_p_value_is_the_share_of_guesses_that_are_as_good(trials):
    guesses = [sum(each) for each in itertools.product((0, 1), repeat=trials)]
    for right in range(trials + 1):
        assert p_value(right, trials) == sum(each >= right for each in guesses) / len(guesses)


def test_a_p_value_of_many_trials():
    assert p_value(12, 16) == pytest.approx(0.0384063720703125, abs=0)
    assert p_value(0, 5000) == 1 and p_value(5000, 5000) == 0
    assert p_value(2500, 5000) > 0.5 > p_value(2501, 5000)


# --- the page ---


def test_each_model_is_compared_with_each_but_anchors_only_without_another_pair():
    assert model_pairs(["a", "mixture", "b", "reference", "silence"]) == [
        ("a", "b"),
        ("a", "reference"),
        ("b", "reference"),
    ]
    assert model_pairs(["mixture", "a"]) == [("mixture", "a")] and model_pairs(["a"]) == []


def test_trials_are_of_stimuli_whose_order_says_nothing(key):
    assert stimulus_pairs(key) == [
        [(item, *pair) for item in ("item1", "item2")]
        for pair in (("stimulus1", "stimulus2"), ("stimulus2", "stimulus3"), ("stimulus1", "stimulus3"))
    ]


def test_the_page_has_all_samples_and_no_model_and_fetches_nothing(key):
    lot = np.random.default_rng(0)
    excerpts, true = {}, {}
    for item in key.items:
        Path(item).mkdir()
        for name in ("mixture", *STIMULI):
            true[item, name] = lot.integers(-32768, 32768, (3000, 2)).astype(np.int16)
            soundfile.write(Path(item, f"{name}.wav"), true[item, name], 44100, "PCM_16")
        excerpts[item] = Excerpt(
            Path(item, "mixture.wav"), {each: Path(item, f"{each}.wav") for each in STIMULI}
        )
    page = write_abx(Path("test/abx"), key.test, "vocals", excerpts, stimulus_pairs(key))
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert data["pairs"] == [[list(each) for each in pair] for pair in stimulus_pairs(key)]
    for item, told in data["items"].items():
        assert (told["rate"], told["seconds"]) == (44100, 3000 / 44100) and told["peak"] > 0.9
        for name, (number, file) in told["sounds"].items():
            script = (page.parent / file).read_text()
            head, sound = re.fullmatch(r'sepcliSound\((\d+), "(.*)"\);', script).groups()
            assert int(head) == number
            Path("sound.flac").write_bytes(base64.b64decode(sound))
            np.testing.assert_array_equal(soundfile.read("sound.flac", dtype="int16")[0], true[item, name])
    assert len({number for told in data["items"].values() for number, _ in told["sounds"].values()}) == 6
    assert not {"two", "three"} & set(re.findall(r'"(\w+)"', json.dumps(data)))
    assert not re.search(r"https?:|\bfetch\(|@import|url\(", text)
    files = {path: path.stat().st_mtime_ns for path in page.parent.glob("sounds/*.js")}
    assert write_abx(Path("test/abx"), key.test, "vocals", excerpts, stimulus_pairs(key)).read_text() == text
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert find_page(Path("test")) == find_page(Path("test/abx")) == page.resolve()


# --- the answers ---


def test_answers_of_several_sessions_are_counted_together(key, capfd):
    one, other = ("stimulus2", "stimulus1"), ("stimulus3", "stimulus1")
    files = [
        session(
            "a", trial(one), trial(other, right=False, x=1, note="both hiss"), trial(one, item="item2", x=1)
        ),
        session("b", trial(one, x=1), trial(one, right=False, item="item2")),
    ]
    code, out, err = results(capfd, *files)
    title, head, *rows = out.splitlines()
    assert code == 0 and "sessions: 2, trials: 5" in title and head.split() == ["MODELS", "RIGHT", "P"]
    assert [re.split(r"\s{2,}", row.strip()) for row in rows] == [
        ["one - two", "3 of 4", "0.31"],
        ["one - three", "0 of 0", "-"],
        ["two - three", "0 of 1", "1"],
    ]
    assert "Notes of listeners: 1" in err
    said = json.loads(results(capfd, *files, more=["--json"])[1])
    assert said["sessions"] == 2 and said["pairs"][0] == {
        "models": ["one", "two"], "right": 3, "trials": 4, "sessions": 2, "p": 0.3125,
    }  # fmt: skip
    assert said["pairs"][1]["p"] is None
    note = {"listener": "Änn", "item": "item1", "models": ["two", "three"], "right": False, "note": "both hiss"}
    assert said["notes"] == [note]


def test_a_session_that_was_saved_twice_counts_once(key, capfd):
    folder = Path("answers")
    folder.mkdir()
    whole = session("a", trial(), trial(item="item2"))
    whole.rename(folder / "whole.json")
    session("a", trial()).rename(folder / "half.json")
    code, out, err = results(capfd, folder)
    assert code == 0 and "2 of 2" in out and "of another file: 1" in err
    session("a", trial(right=False)).rename(folder / "other.json")
    assert "has other answers" in results(capfd, folder)[2].replace("\n", " ")


def test_what_is_no_file_of_answers(key, capfd):
    def said(path):
        code, _, err = results(capfd, path)
        assert code == 1
        return err.replace("\n", " ")

    changed = session("a", trial(right=False))
    changed.write_text(changed.read_text().replace('"answer": "B"', '"answer": "A"'))
    assert "it was changed after the page had saved it" in said(changed)
    assert "it was changed" in said(session("a", trial(), check=None))
    assert "of the test 'other', but the key of 'sepcli-0123abcd'" in said(session("a", trial(), test="other"))
    assert "its version is 2" in said(session("a", trial(), version=2))
    for wrong in (
        trial(item="item9"),
        trial(("stimulus1", "stimulus9")),
        trial(("stimulus1", "stimulus1")),
        {**trial(), "x": "stimulus3"},
        {**trial(), "answer": "X"},
        {},
        7,
    ):
        assert "not about the sounds of this test" in said(session("a", wrong))
    assert "has no answers" in said(session("a"))
    for text in ("{", "{}", "{" * 100000, '{"kind": 3}', '{"a":' * 100000):
        Path("b.json").write_text(text)
        assert "is not what the page of blind comparisons saves" in said("b.json")
    assert "does not exist" in said("missing.json")
    Path("empty").mkdir()
    assert "has no answers" in said("empty")


def test_files_of_both_kinds(key, capfd):
    Path("lms.csv").write_text("x\n")
    assert "takes one file of webMUSHRA's" in results(capfd, "lms.csv", "lms.csv")[2].replace("\n", " ")
    assert "is not what the page" in results(capfd, "lms.csv", session("a", trial()))[2].replace("\n", " ")


def test_indentation_and_escapes_are_no_change(key):
    path = session("a", trial(note='a "b" \\ \x07 \u2028 日'))
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert read_comparisons([path], key).sessions[0].trials[0].note == 'a "b" \\ \x07 \u2028 日'
