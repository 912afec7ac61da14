"""The player's page: what stands in it, and when it is written. A browser has it in test_player_browser.py."""

import base64
import io
import json
import re
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sepcli
from sepcli.batch import jobs, pages
from sepcli.batch.names import Stems
from sepcli.batch.pages import doubled
from sepcli.batch.request import Request
from sepcli.cli.app import main
from sepcli.errors import OutputError, UsageError
from sepcli.player import page, sounds
from sepcli.player.overview import write_overview
from sepcli.player.page import About, Stem, remove_page, shown, write_page
from sepcli.sound.submix import Submix
from tests import fake_model
from tests.sounds import music
from tests.test_jobs import song, tree
from tests.toys import Split

NASTY = "</script><img src=x onerror=alert(1)> {{data}} <!-- sounds --> \u2028 Ünïcode 日本語 \udcff"
RATE = 44100


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)


def stems_of(folder, names=("drums", "vocals"), seconds=0.5, channels=2, rate=RATE):
    """Stems as files: ([Stem], {name: [T, C]})."""
    folder.mkdir(parents=True, exist_ok=True)
    found, samples = [], {}
    for number, name in enumerate(names):
        samples[name] = 0.3 * music(round(seconds * rate), channels, rate, seed=number).T
        file = folder / f"{number}.wav"
        soundfile.write(file, samples[name], rate, subtype="FLOAT")
        found.append(Stem(name, file, file.name, f"key{number}"))
    return found, samples


def written(folder, stems, title="A song", **about):
    folder.mkdir(parents=True)
    files = write_page(folder, About(title, "fake", **about), stems)
    assert files[-1] == folder / "index.html" and {
        file.relative_to(folder).as_posix() for file in files
    } == set(tree(folder))
    return files[-1].read_text(encoding="utf-8")


class Tags(HTMLParser):
    """The tags of a page, and what is in its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.title, self._in = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in == "title":
            self.title += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


def sound_in(script):
    """Samples [T, C] of the MP3 that a script hands over, and the stem's number."""
    number, text = re.fullmatch(r'sepcliSound\((\d+), "([A-Za-z0-9+/=]+)"\);', script).groups()
    return int(number), soundfile.read(io.BytesIO(base64.b64decode(text, validate=True)), always_2d=True)[0]


def close_to(decoded, samples, decibels=20):
    """Whether the codec's error is so far below the sound, wherever the decoder lets it begin."""
    mono, true = decoded.mean(axis=1), samples.mean(axis=1)
    if len(mono) < len(true):
        mono = np.pad(mono, (0, len(true) - len(mono)))
    lag = int(np.argmax(np.correlate(mono, true, "valid"))) if len(mono) > len(true) else 0
    error = decoded[lag : lag + len(samples)] - samples[: len(decoded) - lag]
    return 10 * np.log10((samples**2).mean() / (error**2).mean()) > decibels


# --- sounds ---


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 1000, 4096, 4097, 50_000])
@pytest.mark.parametrize("bins", [4, 5])
def test_peaks_are_the_maxima_of_the_samples(frames, bins):
    samples = np.random.default_rng(frames).uniform(-1, 1, (2, frames)).astype(np.float32)
    peaks, at = sounds.Peaks(bins), 0
    for size in np.random.default_rng(1).integers(0, 3000, 1000):
        peaks.add(samples[:, at : at + size]) if at < frames and size else None
        at += size
    heard = np.abs(samples).max(axis=0)
    expected = [heard[start : start + peaks.hop].max() for start in range(0, frames, peaks.hop)]
    assert list(peaks.values()) == expected
    assert len(expected) <= 2 * bins and (peaks.hop == 64 or len(expected) >= bins)


def test_a_fold_down_keeps_the_sides_apart_and_never_clips():
    for layout in (("FL", "FR", "FC", "LFE", "BL", "BR"), ("FL", "FR", "BL", "BR"), ("FC", "BC", "SL", "SR")):
        matrix = sounds.fold_down(layout, len(layout))
        assert matrix.shape == (2, len(layout)) and matrix.sum(axis=1).max() == pytest.approx(1)
        for index, name in enumerate(layout):
            left, right = matrix[:, index]
            assert (left > 0, right > 0) == (
                name[-1] in "LC" and name != "LFE",
                name[-1] in "RC" and name != "LFE",
            )
    assert (sounds.fold_down((), 2) == np.eye(2)).all() and sounds.fold_down((), 1) == 1
    assert (sounds.fold_down((), 12).sum(axis=1) == pytest.approx(1)) and not sounds.fold_down((), 12)[0, 1]


def test_a_surround_stem_of_a_high_rate_becomes_stereo_that_browsers_take(tmp_path):
    file = tmp_path / "stem.wav"
    soundfile.write(file, 0.1 * music(9600, 6, 96000).T, 96000, subtype="FLOAT")
    sound = sounds.encode(file, tmp_path / "stem.mp3")
    assert (sound.samplerate, sound.channels, sound.frames, sound.seconds) == (48000, 2, 4800, 0.1)
    assert sound.folded and soundfile.info(tmp_path / "stem.mp3").channels == 2


@pytest.mark.parametrize("channels", [1, 2])
def test_a_click_is_where_it_is_said_to_be(tmp_path, channels):
    frame = sounds.click(tmp_path / "click.mp3", RATE, channels)
    heard, _ = soundfile.read(tmp_path / "click.mp3", always_2d=True)
    assert heard.shape[1] == channels and abs(int(np.argmax(np.abs(heard[:, 0]))) - frame) <= 1152 + 1105


# --- the page ---


def test_a_short_track_is_one_file_with_sounds_and_waveforms(tmp_path):
    stems, samples = stems_of(tmp_path / "stems")
    tags = Tags(written(tmp_path / "page", stems, license="MIT", settings={"Overlap": "0.25"}))
    data = tags.data
    assert (data["mode"], data["title"], data["model"], data["license"]) == ("inline", "A song", "fake", "MIT")
    assert data["settings"] == [["Overlap", "0.25"]] and data["seconds"] == 0.5 and data["rate"] == RATE
    found = dict(sound_in(script) for script in tags.scripts[2:])
    assert sorted(found) == [0, 1]
    for number, stem in enumerate(data["stems"]):
        true = samples[stem["name"]]
        assert close_to(found[number], true)
        steps = np.frombuffer(base64.b64decode(stem["peaks"]), np.uint8)
        hop = round(stem["bin"] * RATE)
        maxima = [np.abs(true[start : start + hop]).max() for start in range(0, len(true), hop)]
        assert stem["peak"] == pytest.approx(max(maxima), abs=1e-6)
        assert np.allclose(steps * stem["peak"] / 255, maxima, atol=1.01 * stem["peak"] / 255)


def test_a_longer_track_has_its_sounds_beside_the_page(tmp_path, monkeypatch):
    stems, samples = stems_of(tmp_path / "stems")
    monkeypatch.setattr(page, "SHORT", 0.1)
    tags = Tags(written(tmp_path / "page", stems))
    assert len(tags.scripts) == 2 and [stem["file"] for stem in tags.data["stems"]] == [
        "player/drums.js",
        "player/vocals.js",
    ]
    for number, name in enumerate(samples):
        script = (tmp_path / "page/player" / f"{name}.js").read_text()
        of, heard = sound_in(script)
        assert of == number and close_to(heard, samples[name])


def test_a_very_long_track_has_files_for_media_elements(tmp_path, monkeypatch):
    stems, samples = stems_of(tmp_path / "stems")
    monkeypatch.setattr(page, "LONG", 0.1)
    monkeypatch.setattr(page, "SHORT", 0.1)
    tags = Tags(written(tmp_path / "page", stems))
    assert len(tags.scripts) == 2 and "click" not in tags.data
    for stem in tags.data["stems"]:
        assert close_to(soundfile.read(tmp_path / "page" / stem["file"])[0], samples[stem["name"]])


@pytest.mark.parametrize("mode", ["inline", "files", "long"])
def test_nothing_is_fetched_from_anywhere(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(page, "SHORT", 60 if mode == "inline" else 0.1)
    monkeypatch.setattr(page, "LONG", 0.1 if mode == "long" else 60)
    text = written(tmp_path / "page", stems_of(tmp_path / "stems")[0], NASTY)
    assert Tags(text).data["mode"] == mode
    write_overview(tmp_path)
    for each in (text, (tmp_path / "index.html").read_text()):
        without_sounds = re.sub(r"[A-Za-z0-9+/=]{200,}", "", each)
        assert not re.search(r"https?:|\bimport\b|@import|url\(|//cdn|fetch\(", without_sounds)
        assert not [tag for tag, attrs in Tags(each).tags if "src" in attrs or tag in ("link", "iframe", "img")]


def test_names_are_text_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHORT", 0.1)
    plain = Tags(written(tmp_path / "a" / "plain", stems_of(tmp_path / "stems")[0]))
    stems, _ = stems_of(tmp_path / "stems", (NASTY, "CON", "con", "日本", 'a"b'))
    tags = Tags(written(tmp_path / "a" / "nasty", stems, NASTY, license=NASTY, settings={NASTY: NASTY}))
    assert [tag for tag, _ in tags.tags] == [tag for tag, _ in plain.tags]
    nasty = NASTY.replace("\udcff", "?")
    assert tags.title == tags.data["title"] == tags.data["stems"][0]["name"] == nasty
    files = [stem["file"] for stem in tags.data["stems"]]
    assert len(set(files)) == 5 and all(re.fullmatch(r"player/[a-z0-9_-]+\.js", file) for file in files)
    assert not {"player/con.js", "player/.js"} & set(files)
    found = shown(tmp_path / "a" / "nasty")
    assert found is not None and found.title == nasty and found.is_of(stems)
    overview = Tags(write_overview(tmp_path / "a").read_text(encoding="utf-8"))
    assert [tag for tag, _ in overview.tags].count("script") == 2 and overview.data["tracks"][0][
        "title"
    ] == nasty


def test_a_page_is_known_again_until_something_is_missing_or_other(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHORT", 0.1)
    stems, _ = stems_of(tmp_path / "stems")
    written(tmp_path / "page", stems)
    folder = tmp_path / "page"
    assert (
        shown(folder).is_of(stems)
        and not shown(folder).is_of(stems[:1])
        and not shown(folder).is_of(stems[::-1])
    )
    assert not shown(folder).is_of([stems[0], Stem("vocals", stems[1].file, stems[1].called, "other")])
    (folder / "player/drums.js").unlink()
    assert not shown(folder).is_of(stems)
    (folder / "player/mine.txt").write_text("")
    remove_page(folder)
    assert tree(folder) == ["player/mine.txt"] and shown(folder) is None
    (folder / "index.html").write_text('<meta name="sepcli-player" content="{}">')
    assert shown(folder) is None


def test_a_page_that_names_files_elsewhere_removes_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHORT", 0.1)
    text = written(tmp_path / "page", stems_of(tmp_path / "stems")[0])
    (tmp_path / "page/index.html").write_text(text.replace("player/drums.js", "../mine.js"))
    (tmp_path / "mine.js").write_text("")
    remove_page(tmp_path / "page")
    assert (tmp_path / "mine.js").exists() and not (tmp_path / "page/index.html").exists()


# --- a run ---


def separate(capfd, *arguments):
    code = main(["separate", "-m", "fake", "-o", "out", "--json", *arguments])
    out, err = capfd.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


FOLDER = Path("out/fake/a")


def test_player_writes_a_page_beside_the_stems(capfd):
    song("a.wav")
    code, (result,), err = separate(capfd, "a.wav", "--player")
    assert code == 0 and result["player"] == str(FOLDER / "index.html") and "sepcli open out" in err
    data = Tags((FOLDER / "index.html").read_text()).data
    assert (
        [stem["name"] for stem in data["stems"]]
        == list(result["outputs"])
        == ["drums", "bass", "other", "vocals"]
    )
    assert data["license"] == "MIT" and ["Overlap", "0.25"] in data["settings"]
    assert Tags(Path("out/index.html").read_text()).data["tracks"][0]["page"] == "fake/a/index.html#../../"


@pytest.mark.parametrize("mode", ["inline", "files", "long"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_page_takes_as_much_as_was_said(tmp_path, monkeypatch, mode, channels):
    seconds = 10.0
    monkeypatch.setattr(page, "SHORT", 60 if mode == "inline" else 0.1)
    monkeypatch.setattr(page, "LONG", 0.1 if mode == "long" else 60)
    file = tmp_path / "stem.wav"
    soundfile.write(file, 0.1 * music(round(seconds * RATE), channels).T, RATE)
    (tmp_path / "page").mkdir()
    write_page(tmp_path / "page", About("a", "fake"), [Stem(name, file, name) for name in ("one", "two")])
    taken = sum(path.stat().st_size for path in (tmp_path / "page").rglob("*") if path.is_file())
    said, making = page.page_bytes(seconds, channels, 2)
    assert 0.8 * said < taken <= said and making == 2 * seconds * 12_000 * channels


def test_the_check_of_the_disk_counts_pages_and_a_dry_run_names_them(capfd, monkeypatch):
    song("a.wav"), song("b.wav", seed=1)
    separate(capfd, "a.wav")
    needed = []
    monkeypatch.setattr(jobs, "check_space", lambda folder, size: needed.append(size))
    _, found, _ = separate(capfd, "a.wav", "b.wav", "--player", "--dry-run")
    assert [result["player"] for result in found] == [str(FOLDER / "index.html"), "out/fake/b/index.html"]
    assert main(["separate", "b.wav", "-o", "out", "-m", "fake", "--player", "--dry-run"]) == 0
    assert "-> out/fake/b/index.html\n" in capfd.readouterr().out and not Path("out/fake/b").exists()
    separate(capfd, "b.wav", "--player")
    separate(capfd, "b.wav", "--force")
    kept, making = page.page_bytes(soundfile.info("b.wav").duration, 2, 4)
    assert kept <= needed[0] - needed[1] <= kept + making  # another temporary file may be the larger one


def test_a_page_is_added_to_stems_that_stand_without_separating_them_again(capfd):
    song("a.wav")
    _, (result,), _ = separate(capfd, "a.wav", "-t", "vocals", "--rest")
    assert result["player"] is None and not (FOLDER / "index.html").exists()
    before, loads = {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()}, len(fake_model.loads)
    code, (result,), _ = separate(capfd, "a.wav", "-t", "vocals", "--rest", "--player")
    assert code == 0 and (result["status"], result["player"]) == ("skipped", str(FOLDER / "index.html"))
    assert len(fake_model.loads) == loads
    assert {path: path.stat().st_mtime_ns for path in before} == before
    names = [stem["name"] for stem in Tags((FOLDER / "index.html").read_text()).data["stems"]]
    assert names == ["vocals", "no_vocals"]
    made = (FOLDER / "index.html").stat().st_mtime_ns
    separate(capfd, "a.wav", "-t", "vocals", "--rest", "--player")
    assert (FOLDER / "index.html").stat().st_mtime_ns == made  # it is right as it is


def test_a_page_goes_when_a_stem_that_it_shows_is_replaced(capfd):
    song("a.wav")
    separate(capfd, "a.wav", "--player")
    separate(capfd, "a.wav", "-t", "vocals", "--rest")  # vocals stand, the rest is new: the page is right
    assert shown(FOLDER) is not None
    _, (result,), err = separate(capfd, "a.wav", "--seed", "1")
    assert shown(FOLDER) is None and result["player"] is None and "--player makes it again" in err
    separate(capfd, "a.wav", "--seed", "2", "--player")
    assert shown(FOLDER) is not None


def test_a_page_that_is_not_ours_stays_and_costs_no_stem(capfd):
    song("a.wav")
    FOLDER.mkdir(parents=True)
    (FOLDER / "index.html").write_text("mine")
    code, (result,), err = separate(capfd, "a.wav", "--player")
    assert code == 0 and result["status"] == "done" and result["player"] is None and len(result["outputs"]) == 4
    assert [warning["code"] for warning in result["warnings"]] == ["player"] and "did not make it" in err
    assert (FOLDER / "index.html").read_text() == "mine"
    separate(capfd, "a.wav", "--player", "--force")
    assert shown(FOLDER) is not None


def test_a_page_that_fails_costs_no_stem_and_the_next_run_writes_it(capfd, monkeypatch):
    song("a.wav")

    def full(*_):
        raise OutputError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(page, "write_page", full)
        code, (result,), _ = separate(capfd, "a.wav", "--player")
    assert (
        code == 0 and result["status"] == "done" and [each["code"] for each in result["warnings"]] == ["player"]
    )
    assert len(tree("out/fake")) == 4
    _, (result,), _ = separate(capfd, "a.wav", "--player")
    assert (result["status"], result["warnings"]) == ("skipped", []) and shown(FOLDER) is not None


def test_a_page_shows_no_stem_that_was_left_out(capfd):
    Path("a.wav").unlink(missing_ok=True)
    soundfile.write("a.wav", np.zeros((8820, 2)), RATE)
    code, (result,), _ = separate(capfd, "a.wav", "--player", "--skip-silent")
    assert code == 0 and result["player"] is None and not tree("out/fake")


@pytest.mark.parametrize("template", ["{track} - {stem}.{ext}", "{model}/{stem}/{track}.{ext}"])
def test_a_template_without_a_track_s_folder_is_refused(capfd, template):
    song("a.wav")
    code, (result,), _ = separate(capfd, "a.wav", "--player", "--template", template)
    assert code == 2 and "--player" in result["error"]["message"] and not Path("out").exists()


def test_two_tracks_in_one_folder_are_refused(capfd):
    song("x/a.wav"), song("x/a.flac")
    template = "{track}/{trackext}/{stem}.{ext}"
    assert separate(capfd, "x", "--player", "--template", template)[0] == 2
    code, results, _ = separate(capfd, "x", "--player")  # told apart by their suffix
    assert code == 0 and len({result["player"] for result in results}) == 2


def test_the_page_is_in_the_last_folder_with_the_track(capfd):
    song("a.wav")
    code, (result,), _ = separate(capfd, "a.wav", "--player", "--template", "{track}/{model}/{stem}.{ext}")
    assert code == 0 and result["player"] == str(Path("out/a/index.html"))


def test_a_stream_has_no_page(capfd):
    song("a.wav")
    assert main(["separate", "-m", "fake", "a.wav", "-t", "vocals", "-o", "-", "--player"]) == 2
    assert "--player" in capfd.readouterr().err


def test_a_submix_of_stems_that_play_is_muted_at_first(capfd):
    song("a.wav")
    separate(capfd, "a.wav", *"-t vocals -t bass --rest --player --submix two=vocals*0.5+bass".split())
    stems = Tags((FOLDER / "index.html").read_text()).data["stems"]
    assert {stem["name"]: stem["muted"] for stem in stems} == {
        "bass": False,
        "vocals": False,
        "two": True,
        "rest": False,
    }
    alone = Stems(("vocals",), (), (Submix("a", 1.0), Submix("b", 0.5)), hidden=("vocals",))
    assert doubled(alone) == {"b"}


def test_python_writes_the_page_too():
    song("a.wav")
    done = sepcli.separate_file("a.wav", "out", model=Split(), player=True, targets=["bass"], rest=True)
    assert done.player == Path("out/split/a/index.html") and not done.warnings
    assert [stem["name"] for stem in Tags(done.player.read_text()).data["stems"]] == ["bass", "no_bass"]
    done.player.write_text("mine")
    again = sepcli.separate_file("a.wav", "out", model=Split(), player=True, targets=["drums"])
    assert again.player is None and [each.code for each in again.warnings] == ["player"]
    with pytest.raises(UsageError, match="player="):
        sepcli.separate_file("a.wav", "out", model=Split(), player=True, template="{track}-{stem}.{ext}")


def test_settings_that_matter_are_shown():
    request = Request(model="fake", out=Path("out"), start=3)
    assert pages.settings_text(request, "float32") == {
        "Overlap": "0.25",
        "Shifts": "0",
        "Precision": "float32",
        "From": "3 s",
    }


# --- the overview, and `sepcli open` ---


def opened(capfd, monkeypatch, *arguments, browser=True):
    """(exit code, the address that the browser got, standard output, standard error)."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(addresses.append(address)) or browser)
    code = main(["open", *arguments])
    return code, addresses, *capfd.readouterr()


def test_open_shows_the_page_of_a_track_or_the_overview_of_several(capfd, monkeypatch):
    song("in/Ünï #1.wav"), song("in/b.wav")
    main(["separate", "-m", "fake", "-o", "out", "in/b.wav", "--player"])
    assert opened(capfd, monkeypatch, "out")[1] == [Path("out/fake/b/index.html").resolve().as_uri()]
    main(["separate", "-m", "fake", "-o", "out", "in", "--player"])
    Path("out/index.html").unlink()
    for where in ("out", "out/fake"):
        assert opened(capfd, monkeypatch, where)[1] == [Path(where, "index.html").resolve().as_uri()]
    tracks = Tags(Path("out/fake/index.html").read_text()).data["tracks"]
    assert [track["title"] for track in tracks] == ["b", "Ünï #1"]
    assert tracks[1]["page"] == "%C3%9Cn%C3%AF%20%231/index.html#../"
    assert opened(capfd, monkeypatch, "out/fake/b/vocals.wav")[1][0].endswith("/b/index.html")


def test_open_says_the_path_where_there_is_no_browser(capfd, monkeypatch):
    song("a.wav")
    main(["separate", "-m", "fake", "-o", "out", "a.wav", "--player"])
    code, _, out, err = opened(capfd, monkeypatch, "out", browser=False)
    assert not code, err
    assert code == 0 and out == f"{(FOLDER / 'index.html').resolve()}\n" and "No browser" in err


def test_open_has_a_sentence_where_there_is_nothing_to_show(capfd, monkeypatch):
    song("a.wav")
    code, addresses, _, err = opened(capfd, monkeypatch, "nowhere")
    assert code == 1 and not addresses and "does not exist" in err
    Path("empty").mkdir()
    assert "has no stems" in opened(capfd, monkeypatch, "empty")[3]
    main(["separate", "-m", "fake", "-o", "out", "a.wav"])
    assert "with --player" in opened(capfd, monkeypatch, "out")[3]


def test_an_overview_leaves_another_index_alone(capfd, monkeypatch):
    song("a.wav"), song("b.wav")
    Path("out").mkdir()
    Path("out/index.html").write_text("mine")
    code, _, _ = separate(capfd, "a.wav", "b.wav", "--player")
    assert code == 0 and Path("out/index.html").read_text() == "mine"
    code, addresses, _, err = opened(capfd, monkeypatch, "out")
    assert code == 1 and not addresses and "in the way" in err
