"""Blind comparisons in a real browser, from file://: what A, B and X sound like, and what is saved."""

import json

import numpy as np
import pytest
import soundfile

from sepcli.cli.app import main
from sepcli.evaluation.listening.abx import read_comparisons, stimulus_pairs
from sepcli.evaluation.listening.key import Item, Key
from sepcli.player.abx import Excerpt, write_abx
from tests import browsing
from tests.browsing import RATE, sine, wait_for_tones

pytestmark = pytest.mark.slow
browser, visit = browsing.browser, browsing.visit

MODELS = {"one": 700, "two": 1500, "three": 3100}  # Hz, a sine each
READY = "!document.getElementById('welcome').hidden"
PLACES = {0: 400, 2: 1000, 4: 2200}  # seconds: Hz, in what tells where it is


def make(folder, models=MODELS, items=2, more=None):
    """(key, page) of a test. more: samples that all sounds have, too."""
    lot = np.random.default_rng(0)
    drawn = {
        f"item{k}": {f"stimulus{n}": str(model) for n, model in enumerate(lot.permutation(list(models)), 1)}
        for k in range(1, items + 1)
    }
    key = Key(
        "sepcli-0123abcd", "vocals", 0, 6.0, {model: {} for model in models},
        {name: Item("a song", 0.0, 1.0, stimuli) for name, stimuli in drawn.items()},
    )  # fmt: skip
    key.write(folder)
    excerpts = {}
    for name, stimuli in drawn.items():
        place = folder / name
        place.mkdir()
        soundfile.write(place / "mixture.wav", lot.uniform(-0.2, 0.2, (6 * RATE, 2)), RATE, "PCM_16")
        for stimulus, model in stimuli.items():
            samples = sine(models[model], 6) + (0 if more is None else more)
            soundfile.write(place / f"{stimulus}.wav", samples, RATE, "PCM_16")
        excerpts[name] = Excerpt(place / "mixture.wav", {each: place / f"{each}.wav" for each in stimuli})
    return key, write_abx(folder / "abx", key.test, key.stem, excerpts, stimulus_pairs(key))


def sounding_model(tab, models=MODELS):
    """The model that is heard, once it is just one."""
    tones = [*models.values()]
    loud = "(tones) => tones.filter((hz) => window.heard(hz, 0) > -45)"
    tab.wait_for_function(f"(tones) => window.ears.length && ({loud})(tones).length === 1", arg=tones)
    (hz,) = tab.evaluate(loud, tones)
    return next(model for model, each in models.items() if each == hz)


def hear(tab, letter):
    """The model of A, B or X."""
    tab.get_by_role("button", name=letter, exact=True).click()
    tab.wait_for_timeout(150)  # the one before has faded out
    return sounding_model(tab)


def saved(tab, folder):
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save answers").click()
    path = folder / download.value.suggested_filename
    path.write_bytes(download.value.path().read_bytes())
    return path


def test_a_whole_session(visit, tmp_path, capfd):
    """A listener who tells `one` from the others, and never the others from each other."""
    key, page = make(tmp_path)
    tab = visit(page, wait=READY)
    assert "vocals" in tab.locator("#what").inner_text() and "6 trials" in tab.locator("#many").inner_text()
    tab.get_by_role("button", name="Begin").click()
    seen = []
    for number in range(1, 7):
        tab.wait_for_function("ready")
        assert tab.locator("#count").inner_text() == f"Trial {number} of 6"
        assert tab.get_by_role("button", name="X is A").is_disabled()
        heard = {letter: hear(tab, letter) for letter in "ABX"}
        assert heard["A"] != heard["B"] and heard["X"] in (heard["A"], heard["B"])
        assert "stimulus" not in tab.evaluate("document.querySelector('main').outerHTML + localStorage[KEPT]")
        right = "A" if heard["X"] == heard["A"] else "B"
        knows = "one" in (heard["A"], heard["B"])
        said = right if knows else "AB"["BA".index(right)]
        if number == 1:
            tab.get_by_label("Note").fill('Clear "x", ü 日')
        tab.get_by_role("button", name=f"X is {said}").click()
        seen.append({heard["A"], heard["B"]})
        if number == 3:
            assert all(seen.count(pair) == 1 for pair in seen)  # a round: each pair once
        if number == 4:  # goes on at the same trial
            tab.reload()
            tab.wait_for_function("ready")
            assert {hear(tab, letter) for letter in "AB"} == seen.pop()
            assert hear(tab, "X") == heard["X"]
            tab.get_by_role("button", name=f"X is {said}").click()
            seen.append({heard["A"], heard["B"]})
        tab.get_by_role("button", name="Finish" if number == 6 else "Next").click()
    assert "all 6 trials" in tab.locator("#thanks").inner_text()
    tab.get_by_label("Your name").fill("Ann")
    file = saved(tab, tmp_path)
    assert "You were right in 4 of 6" in tab.locator("#saved").inner_text()

    found = read_comparisons([file], key)
    assert found.sessions[0].listener == "Ann" and found.sessions[0].trials[0].note == 'Clear "x", ü 日'
    told = {pair: found.told(pair) for pair in (("one", "two"), ("one", "three"), ("two", "three"))}
    assert [(each.right, each.trials) for each in told.values()] == [(2, 2), (2, 2), (0, 2)]
    assert main(["evaluate", "--listening-test", str(tmp_path), "--listening-results", str(file)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert [row.split() for row in out[2:]] == [
        ["one", "-", "two", "2", "of", "2", "0.25"],
        ["one", "-", "three", "2", "of", "2", "0.25"],
        ["two", "-", "three", "0", "of", "2", "1"],
    ]
    tab.get_by_role("button", name="Begin a new test").click()
    tab.wait_for_function("ready")
    assert tab.locator("#count").inner_text() == "Trial 1 of 6"


def test_the_keys_go_to_the_other_sound_at_the_same_place(visit, tmp_path):
    tones = np.concatenate([sine(hz, 2) for hz in PLACES.values()])
    models = {"one": 3100, "two": 4500}
    key, page = make(tmp_path, models, items=1, more=tones)
    tab = visit(page, wait=READY)
    tab.get_by_role("button", name="Begin").click()
    tab.wait_for_function("ready")
    exact = """(number) => [0, 1].map((side) => Array.from(
      sounding.buffers[number].getChannelData(side).subarray(0, 20000), (each) => Math.round(each * 32768)))"""
    files = [tmp_path / "item1" / f"{each}.wav" for each in key.items["item1"].stimuli]
    true = [soundfile.read(file, dtype="int16", frames=20000)[0].T.tolist() for file in files]
    decoded = [tab.evaluate(exact, number) for number in (0, 1)]
    assert decoded in (true, true[::-1])  # FLAC: not a sample is another, or late

    def wait_for(place, letter):
        hz = [*PLACES.values()]
        tab.keyboard.press(letter)
        tab.wait_for_timeout(150)
        wait_for_tones(tab, [[each, each == PLACES[place], 0] for each in hz])
        return sounding_model(tab, models)

    tab.get_by_label("Position").fill("2.05")
    tab.keyboard.press("[")
    tab.get_by_label("Position").fill("3.9")
    tab.keyboard.press("]")
    first = wait_for(2, "a")
    tab.keyboard.press("Shift+B")
    assert (
        tab.locator("#next").is_disabled() and "Still to hear: B and X" in tab.locator("#status").inner_text()
    )
    assert {first, wait_for(2, "b")} == set(models)
    assert wait_for(2, "x") == wait_for(2, "x")  # around the loop
    assert 2 <= tab.evaluate("now()") <= 4
    tab.keyboard.press("Shift+B")
    assert tab.locator("[data-answer=B]").get_attribute("aria-pressed") == "true"
    tab.get_by_label("Note").focus()
    tab.keyboard.type("ab x [")  # keys are letters there
    assert tab.evaluate("trial.answer") == "B" and tab.get_by_label("Note").input_value() == "ab x ["
    tab.keyboard.press("Enter")
    assert tab.locator("#thanks").is_visible()
    file = saved(tab, tmp_path)
    assert json.loads(file.read_text())["trials"][0]["note"] == "ab x ["


def test_a_browser_that_keeps_nothing_is_told_of_and_half_a_test_is_saved(visit, tmp_path):
    key, page = make(tmp_path)
    tab = visit(page, wait="true")
    tab.add_init_script("Storage.prototype.setItem = () => { throw new Error('no'); }")
    tab.reload()
    tab.wait_for_function(READY)
    assert tab.locator("#forgets").is_visible()
    tab.get_by_role("button", name="Begin").click()
    for letter in "abx":
        tab.wait_for_function("ready")
        tab.keyboard.press(letter)
    tab.keyboard.press("Shift+A")
    tab.keyboard.press("Enter")
    tab.wait_for_function("ready")
    tab.get_by_role("button", name="Stop and save").click()
    assert "1 of 6" in tab.locator("#thanks").inner_text()
    file = saved(tab, tmp_path)
    assert len(read_comparisons([file], key).sessions[0].trials) == 1
    assert "right" not in tab.locator("#saved").inner_text()
    tab.get_by_role("button", name="Go on with the test").click()
    tab.wait_for_function("ready")
    assert tab.locator("#count").inner_text() == "Trial 2 of 6"


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window_and_every_control_has_a_name(visit, tmp_path, width):
    tab = visit(make(tmp_path)[1], wait=READY, viewport={"width": width, "height": 844}, color_scheme="dark")
    nameless = (
        "[...document.querySelectorAll('button, input')].filter((each) => "
        "!each.textContent.trim() && !each.getAttribute('aria-label') && !each.labels?.length).length"
    )
    for step in ("#begin", "#stop"):
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.click(step)
        tab.wait_for_timeout(200)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(nameless) == 0
