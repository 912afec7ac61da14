"""The player in a real browser (Debian's chromium), from file://: what is heard is what the controls say."""

import io
import math

import numpy as np
import pytest
import soundfile

from sepcli.player import page as player
from sepcli.player.overview import write_overview
from sepcli.player.page import About, Stem, write_page
from tests import browsing
from tests.browsing import RATE, sine, wait_for_tones

pytestmark = pytest.mark.slow
browser, visit = browsing.browser, browsing.visit

TONES = {"drums": 3100, "bass": 300, "other": 1500, "vocals": 700}  # Hz, a sine each
STEPS = [900, 1300, 1800, 2400, 3300, 4300]  # Hz, one after another
STEP = 4  # seconds of each: a slow machine needs some time to listen
NASTY = "</script><img src=x onerror=alert(1)> ünï 日本"


def make(folder, stems, title="A song"):
    """A page of stems {name: [T, C]}; its address."""
    place = folder / "stems"
    place.mkdir(parents=True)
    found = []
    for number, (name, samples) in enumerate(stems.items()):
        file = place / f"{number}.wav"
        soundfile.write(file, samples, RATE, subtype="FLOAT")
        found.append(Stem(name, file, file.name))
    (folder / "page").mkdir()
    return write_page(folder / "page", About(title, "fake", "MIT"), found)[-1]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Four sines, as scripts beside the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(player, "SHORT", 1)
        return make(tmp_path_factory.mktemp("tones"), {name: sine(hz, 6) for name, hz in TONES.items()})


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """One mono stem that tells its place by its pitch, inside the page."""
    return make(
        tmp_path_factory.mktemp("steps"), {"steps": np.concatenate([sine(hz, STEP, 1) for hz in STEPS])}
    )


def heard(tab, hz, side=0):
    return tab.evaluate("([hz, side]) => window.heard(hz, side)", [hz, side])


def settled(tab, hz):
    """The level once it stays: a page fades, and the analyser smooths over its last looks."""
    before, now = -math.inf, heard(tab, hz)
    for _ in range(50):
        tab.wait_for_timeout(200)
        before, now = now, heard(tab, hz)
        if abs(now - before) < 0.2:
            break
    return now


def wait_for_mix(tab, *names, side=0):
    """Waits until just these stems are heard."""
    tones = [[hz, name in names, side] for name, hz in TONES.items()]
    wait_for_tones(tab, tones)


def wait_for_step(tab, step):
    """Waits until just this step of `steps` is heard."""
    wait_for_tones(tab, [[hz, number == step, 0] for number, hz in enumerate(STEPS)])


def test_all_stems_play_and_the_keys_mute_and_solo(visit, tones):
    tab = visit(tones)
    assert tab.title() == "A song" and tab.locator("#end").inner_text() == "0:06"
    tab.keyboard.press("l")  # it never ends
    tab.keyboard.press("Space")
    wait_for_mix(tab, *TONES)
    assert tab.locator("#play").get_attribute("aria-label") == "Pause"
    tab.keyboard.press("2")
    wait_for_mix(tab, "drums", "other", "vocals")
    tab.keyboard.press("Shift+Digit4")
    wait_for_mix(tab, "vocals")
    tab.keyboard.press("Shift+Digit2")  # soloed and muted: muted
    wait_for_mix(tab, "vocals")
    tab.keyboard.press("2")
    wait_for_mix(tab, "vocals", "bass")
    tab.get_by_role("button", name="Solo vocals").click()
    tab.get_by_role("button", name="Solo bass").click()
    tab.get_by_role("button", name="Mute drums").click()
    wait_for_mix(tab, "bass", "other", "vocals")
    tab.keyboard.press("Space")
    wait_for_mix(tab)
    place = tab.evaluate("now()")
    tab.keyboard.press("Space")
    wait_for_mix(tab, "bass", "other", "vocals")
    assert tab.evaluate("sounding.from") == place > 0


def test_level_and_pan(visit, tones):
    tab = visit(tones)
    tab.keyboard.press("l")
    tab.get_by_role("button", name="Play").click()
    wait_for_mix(tab, *TONES)
    full = settled(tab, TONES["bass"])
    tab.get_by_label("Level of bass").fill("-12")
    assert settled(tab, TONES["bass"]) == pytest.approx(full - 12, abs=1)
    tab.get_by_label("Level of bass").fill("-40")
    wait_for_mix(tab, "drums", "other", "vocals")
    tab.get_by_label("Pan of vocals").fill("100")
    wait_for_mix(tab, "drums", "other")
    wait_for_mix(tab, "drums", "other", "vocals", side=1)
    assert tab.get_by_label("Pan of vocals").get_attribute("aria-valuetext") == "100 right"


def test_seek_and_loop(visit, steps):
    tab = visit(steps)
    tab.keyboard.press("Space")
    wait_for_step(tab, 0)
    tab.get_by_label("Position").fill(f"{3.1 * STEP}")
    wait_for_step(tab, 3)
    box = tab.locator(".wave").bounding_box()
    places = [box["x"] + box["width"] * share / len(STEPS) for share in (4.1, 1.2, 1.7)]
    tab.mouse.click(places[0], box["y"] + 10)
    wait_for_step(tab, 4)
    tab.keyboard.press("Home")
    wait_for_step(tab, 0)
    tab.mouse.move(places[1], box["y"] + 10)
    tab.mouse.down()
    tab.mouse.move(places[2], box["y"] + 10, steps=4)
    tab.mouse.up()
    assert tab.get_by_role("button", name="Loop from 0:04 to 0:06").get_attribute("aria-pressed") == "true"
    for _ in range(4):  # more than one time through it
        wait_for_step(tab, 1)
        assert 1.15 * STEP < tab.evaluate("now()") < 1.75 * STEP
        tab.wait_for_timeout(600)
    tab.keyboard.press("l")
    wait_for_step(tab, 2)


def test_the_keys_for_a_loop(visit, steps):
    tab = visit(steps)
    tab.get_by_label("Position").fill("8")
    tab.keyboard.press("[")
    assert tab.evaluate("loop") == {"from": 8, "to": len(STEPS) * STEP, "on": True}
    tab.get_by_label("Position").fill("9")
    tab.keyboard.press("]")
    assert tab.evaluate("loop") == {"from": 8, "to": 9, "on": True} and tab.evaluate("now()") == 8
    tab.keyboard.press("Space")
    for _ in range(4):
        wait_for_step(tab, 2)
        assert 8 <= tab.evaluate("now()") <= 9
        tab.wait_for_timeout(400)


def test_it_stops_at_the_end(visit, steps):
    tab = visit(steps)
    tab.get_by_label("Position").fill(f"{len(STEPS) * STEP - 0.3}")
    tab.keyboard.press("Space")
    tab.wait_for_function("document.body.classList.contains('playing')")
    tab.wait_for_function("!document.body.classList.contains('playing')")
    assert tab.locator("#now").inner_text() == tab.locator("#end").inner_text() == "0:24"


def saved(tab):
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save mix").click()
    assert download.value.suggested_filename.endswith("(mix).wav")
    return soundfile.read(io.BytesIO(download.value.path().read_bytes()))


def test_the_saved_mix_is_the_stems_together_to_the_sample(visit, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 2 * RATE, 2))
    smooth = np.array([[np.convolve(side, np.hanning(12) / 6, "same") for side in stem.T] for stem in noise])
    stems = dict(zip(("one", "two", "three"), smooth.transpose(0, 2, 1), strict=True))
    tab = visit(make(tmp_path, stems))
    mix, rate = saved(tab)
    assert rate == RATE and mix.shape == (2 * RATE, 2)
    lags = range(-3, 4)
    true = sum(stems.values())
    errors = [np.square(np.roll(mix, lag, axis=0) - true)[100:-100].mean() for lag in lags]
    assert lags[int(np.argmin(errors))] == 0 and min(errors) < 0.02 * np.square(true).mean()
    tab.get_by_label("Level of one").fill("-6")
    tab.get_by_role("button", name="Mute two").click()
    tab.evaluate("[loop.from, loop.to, loop.on] = [0.5, 1, true]")
    part, _ = saved(tab)
    true = (stems["one"] * 10 ** (-6 / 20) + stems["three"])[RATE // 2 : RATE]
    assert part.shape == true.shape and np.square(part - true)[100:-100].mean() < 0.02 * np.square(true).mean()


def test_a_long_track_plays_by_media_elements(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(player, "SHORT", 1)
    monkeypatch.setattr(player, "LONG", 1)
    tab = visit(make(tmp_path, {name: sine(hz, 6) for name, hz in TONES.items()}))
    assert tab.locator("#hint").is_visible() and not tab.locator("#download").is_visible()
    assert not tab.get_by_label("Pan of bass").is_visible()
    tab.get_by_label("Position").fill("2")
    tab.keyboard.press("Space")
    tab.wait_for_function("sounding.players.every((player) => player.currentTime > 2.3 && !player.paused)")
    tab.keyboard.press("1")
    assert tab.evaluate("sounding.players.map((player) => player.muted)") == [True, False, False, False]
    tab.evaluate("[loop.from, loop.to, loop.on] = [1, 2, true]; seek(1)")
    for _ in range(5):
        tab.wait_for_timeout(400)
        tab.wait_for_function(
            "sounding.players.every((player) => player.currentTime > 0.9 && player.currentTime < 2.4)"
        )
    assert tab.evaluate("sounding.players.every((player) => !player.paused)")


def test_names_do_nothing_but_stand_there(visit, tmp_path):
    tab = visit(make(tmp_path, {NASTY: sine(300, 0.5)}, NASTY))
    assert tab.title() == NASTY and tab.locator("h1").inner_text() == NASTY
    assert tab.locator(".name").inner_text() == NASTY and tab.locator("img").count() == 0
    write_overview(tmp_path)
    overview = visit(tmp_path / "index.html", wait="true")
    assert overview.locator(".title").inner_text() == NASTY and overview.locator("img").count() == 0


def test_the_overview_finds_tracks_and_leads_there_and_back(visit, tmp_path):
    for title in ("Café Müller", "Blue", "Green & #1?"):
        make(tmp_path / title, {"vocals": sine(300, 0.2)}, title)
    write_overview(tmp_path)
    tab = visit(tmp_path / "index.html", wait="true")
    shown = tab.locator("#tracks li:visible .title")
    assert shown.all_inner_texts() == ["Blue", "Café Müller", "Green & #1?"]
    tab.get_by_label("Search tracks").fill("CAFE voc")
    assert shown.all_inner_texts() == ["Café Müller"] and tab.locator("#found").inner_text() == "1 of 3 tracks"
    tab.get_by_label("Search tracks").fill("green")
    shown.click()
    tab.wait_for_function("document.title === 'Green & #1?'")
    tab.get_by_text("All tracks").click()
    tab.wait_for_selector("#search")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window_and_every_control_has_a_name(visit, tones, width):
    tab = visit(tones, viewport={"width": width, "height": 844}, color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    nameless = (
        "[...document.querySelectorAll('button, input')].filter((each) => "
        "!each.textContent.trim() && !each.getAttribute('aria-label')).length"
    )
    assert tab.evaluate(nameless) == 0
