"""`sepcli separate` as a user meets it: options, streams, exit codes, dry runs, standard input and output."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from sepcli import loading
from sepcli.cli.app import main
from sepcli.cli.options import parse_batch_size, parse_options, parse_time
from sepcli.errors import ModelError, UsageError
from sepcli.sound.formats import FORMATS
from tests import fake_model
from tests.test_jobs import STEMS, song, tree

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)


def separate(capfd, *arguments):
    """(exit code, standard output, standard error) of `sepcli separate -m fake ...` in this process."""
    model = () if "-m" in arguments else ("-m", "fake")
    code = main(["separate", *model, *arguments])
    return code, *capfd.readouterr()


def process(*arguments, **more):
    return subprocess.run(
        [*fake_model.PROGRAM, "separate", "-m", "fake", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        **more,
    )


# --- the ordinary run ---


def test_stems_go_to_separated_and_everything_said_to_standard_error(capfd):
    song("a.wav")
    code, out, err = separate(capfd, "a.wav")
    assert code == 0 and not out
    assert tree("separated/fake") == sorted(f"a/{stem}.wav" for stem in STEMS)
    assert "Model fake: drums, bass, other, vocals. Licence of the weights: MIT." in err
    assert re.search(r"Device cpu: .+\. Precision float32: .+\.", err)
    assert "1 done" in err and "x realtime" in err and "The stems are in separated." in err


def test_two_stems_is_target_and_rest(capfd):
    song("a.wav")
    assert separate(capfd, "a.wav", "--two-stems", "vocals")[0] == 0
    assert tree("separated/fake") == ["a/no_vocals.wav", "a/vocals.wav"]
    assert separate(capfd, "a.wav", "-t", "vocals", "--rest")[0] == 0  # the same: skipped
    assert separate(capfd, "a.wav", "--two-stems", "vocals", "-t", "bass")[0] == 2


def test_a_part_of_the_input(capfd):
    song("a.wav", seconds=1)
    assert separate(capfd, "a.wav", "--start", "0.25", "--duration", "0:0.5", "-t", "bass")[0] == 0
    assert soundfile.info("separated/fake/a/bass.wav").frames == 22050


def test_a_template_and_a_format(capfd):
    song("a.wav")
    template = "{model}/{track} - {stem}.{ext}"
    code, *_ = separate(capfd, "a.wav", "--template", template, "--format", "flac", "-o", "o")
    assert code == 0 and "fake/a - bass.flac" in tree("o")


def test_layouts_and_numbers(capfd):
    song("in/A/a.wav"), song("in/b.wav", seed=1)
    expected = {
        "stems-by-track": ["A/a/bass.wav", "A/a/drums.wav", "b/bass.wav", "b/drums.wav"],
        "tracks-by-stem": ["bass/A/a.wav", "bass/b.wav", "drums/A/a.wav", "drums/b.wav"],
        "flat": ["A/a - bass.wav", "A/a - drums.wav", "b - bass.wav", "b - drums.wav"],
    }
    for layout, files in expected.items():
        arguments = ("in", "-t", "bass", "-t", "drums", "--layout", layout, "-o", layout)
        assert separate(capfd, *arguments)[0] == 0
        assert tree(f"{layout}/fake") == files
        assert "2 skipped" in separate(capfd, *arguments)[2]
    template = "{tracknumber} {track}/{stemnumber} {stem}.{ext}"
    numbered = ("in", "-t", "bass", "-t", "drums", "--template", template, "-o", "o")
    assert (
        separate(capfd, *numbered, "--shard", "1/2")[0] == separate(capfd, *numbered, "--shard", "2/2")[0] == 0
    )
    assert tree("o") == ["01 b/1 drums.wav", "01 b/2 bass.wav", "A/02 a/1 drums.wav", "A/02 a/2 bass.wav"]


def test_a_layout_and_what_it_can_not_go_with(capfd):
    song("a.wav")
    code, _, err = separate(capfd, "a.wav", "--layout", "flat", "--template", "{track}.{ext}")
    assert code == 2 and "--layout flat is short for --template {model}/{track} - {stem}.{ext}" in err
    code, _, err = separate(capfd, "a.wav", "--layout", "tracks-by-stem", "--player")
    assert code == 2 and "page into each track's own folder" in err
    code, _, err = separate(capfd, "a.wav", "--layout", "folders")
    assert code == 2 and "stems-by-track" in err


@pytest.mark.parametrize("format", ["aiff", "caf"])
def test_aiff_and_caf_add_up_to_the_input_and_are_kept_when_the_run_goes_on(capfd, format):
    song("a.wav")
    arguments = ("a.wav", "--format", format, "--sum", "exact")
    assert separate(capfd, *arguments)[0] == 0
    assert tree("separated/fake") == sorted(f"a/{stem}.{format}" for stem in STEMS)
    stems = [
        soundfile.read(f"separated/fake/a/{stem}.{format}", dtype="int16")[0].astype(int) for stem in STEMS
    ]
    mix, _ = soundfile.read("a.wav", dtype="int16")
    assert soundfile.info("a.wav").subtype == "PCM_16" and np.array_equal(sum(stems), mix)
    assert soundfile.info(f"separated/fake/a/bass.{format}").subtype == "PCM_16"
    code, _, err = separate(capfd, *arguments)
    assert code == 0 and "1 skipped" in err


def test_an_exact_sum_of_one_stem_has_the_rest_in_a_file_of_its_own(capfd):
    song("a.wav")
    assert separate(capfd, "a.wav", "-m", "solo", "--sum", "exact")[0] == 0
    assert tree("separated/solo") == ["a/no_vocals.wav", "a/vocals.wav"]
    code, _, err = separate(capfd, "a.wav", "-m", "solo", "--sum", "exact")
    assert code == 0 and "1 skipped" in err


def test_a_format_or_depth_that_is_unknown_names_those_there_are(capfd):
    song("a.wav")
    code, _, err = separate(capfd, "a.wav", "--format", "wma")
    assert code == 2 and all(format in err for format in FORMATS)
    code, _, err = separate(capfd, "a.wav", "--bit-depth", "20")
    assert code == 2 and "'20' is none of keep, 16, 24, 32f." in err
    code, _, err = separate(capfd, "a.wav", "--format", "flac", "--bit-depth", "32f")
    assert code == 2 and "--bit-depth 32f is more than flac holds: it takes keep, 16 or 24." in err
    assert "Choose wav, aiff or caf with --format." in err


def test_quiet_says_nothing_but_errors(capfd):
    song("a.wav")
    assert separate(capfd, "a.wav", "-q") == (0, "", "")
    code, out, err = separate(capfd, "missing.wav", "-q")
    assert code == 1 and not out and "missing.wav" in err


def test_json_prints_one_object_for_each_input(capfd):
    song("a.wav"), song("b.wav", seed=1)
    separate(capfd, "a.wav")
    code, out, err = separate(capfd, "a.wav", "b.wav", "missing.wav", "--json")
    results = {result["input"]: result for result in map(json.loads, out.splitlines())}
    assert code == 1 and len(out.splitlines()) == 3
    assert {name: result["status"] for name, result in results.items()} == {
        "a.wav": "skipped",
        "b.wav": "done",
        "missing.wav": "failed",
    }
    done = results["b.wav"]
    assert done["outputs"] == {stem: f"separated/fake/b/{stem}.wav" for stem in STEMS}
    assert done["device"] == "cpu" and done["precision"] == "float32" and done["gain"] == 1.0
    assert done["audio_seconds"] == pytest.approx(0.2, abs=1e-3) and done["realtime"] > 0
    assert results["missing.wav"]["error"]["code"] == "missing"
    assert "1 done, 1 skipped, 1 failed" in err
    last = json.loads(Path("separated/.sepcli.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "done" and last["origin"] and last["device"] == "cpu"


def test_progress_json_makes_all_of_standard_error_json(capfd, monkeypatch):
    monkeypatch.setattr("sepcli.cli.reporting.JSON_INTERVAL", 0.0)
    song("x/a.wav", seconds=2), song("y/a.wav", seed=1)
    code, out, err = separate(capfd, "x/a.wav", "y/a.wav", "missing.wav", "--progress", "json")
    events = [json.loads(line) for line in err.splitlines()]
    kinds = [event["event"] for event in events]
    assert code == 1 and not out
    assert kinds.count("result") == 3 and kinds[-1] == "summary" and "start" in kinds and "notice" in kinds
    moved = [event for event in events if event["event"] == "progress" and event["input"] == "x/a.wav"]
    assert moved and moved[-1]["total_seconds"] == pytest.approx(2)
    assert [event["done_seconds"] for event in moved] == sorted(event["done_seconds"] for event in moved)
    code, out, err = separate(capfd, "a.wav", "--progress", "json", "-m", "fkae")
    assert code == 3 and json.loads(err)["event"] == "error"


def test_plain_lines_where_there_is_no_terminal(capfd, monkeypatch):
    monkeypatch.setattr("sepcli.cli.reporting.PLAIN_INTERVAL", 0.0)
    song("a.wav", seconds=2)
    _, _, err = separate(capfd, "a.wav")
    assert re.search(r"\[1/1\] a\.wav: 0:0[12] of 0:02, \d+\.\dx realtime, 0:0\d left", err)
    assert "\x1b" not in err
    song("b.wav", seconds=2)
    _, _, err = separate(capfd, "b.wav", "--progress", "none")
    assert "[1/1]" not in err and "1 done" in err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no pseudo terminals")
def test_bars_on_a_terminal_of_80_columns():
    import fcntl
    import pty
    import struct
    import termios

    import pyte

    title = "A title that never ends, with many words (日本語の題, remastered at the Royal Albert Hall)"
    names = [f"{title} {number}.wav" for number in (1, 2)]
    for seed, name in enumerate(names):
        song(name, seconds=2, seed=seed)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    running = subprocess.Popen(
        [*fake_model.PROGRAM, "separate", "-m", "fake", *names],
        stderr=follower,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.1", "TERM": "xterm"},
    )
    os.close(follower)
    screen = pyte.Screen(80, 40)
    stream = pyte.ByteStream(screen)
    rows = set()
    try:
        while block := os.read(leader, 65536):
            stream.feed(block)
            rows.update(row.rstrip() for row in screen.display)
    except OSError:  # Linux says so when the last writer has closed it
        pass
    os.close(leader)
    assert running.wait() == 0
    figures = r"\d:\d\d of \d:\d\d  \d+\.\dx  \d:\d\d left$"
    assert any(re.search(rf"^All tracks +\S*━{{5,}}\S* +2/2  {figures}", row) for row in rows), rows
    assert any(re.search(rf"^A title.*… +\S*━{{5,}}\S* +{figures}", row) for row in rows), rows
    last = [row.rstrip() for row in screen.display]
    assert any(row.startswith("2 done") for row in last) and not any("━" in row for row in last)
    words = {word for row in last for word in row.split()}
    assert set(names[0].split()[:-1]) <= words  # folded, but within no word


def test_sentences_and_tables_fold_between_words_on_a_terminal_only(capfd, monkeypatch):
    from sepcli.cli import console

    words = "Every word of this sentence is whole, and so is 'a quoted name of two lines, whatever is in it'."
    for columns in (30, 41, 80, 200):
        lines = console.folded(words, columns, indent=4)
        assert " ".join(line.strip() for line in lines) == words
        assert all(console.cells(line) <= columns or "'a quoted name" in line for line in lines)
        assert all(line.startswith("    ") for line in lines[1:])
    assert console.folded(words, None) == [words]
    rows = [("NAME", "WHAT IT IS"), ("one", words), ("日本語", "short")]
    monkeypatch.setenv("COLUMNS", "60")
    console.print_columns(rows)
    assert [line.split("  ", 1)[1].strip() for line in capfd.readouterr().out.splitlines()][1] == words
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    console.print_columns(rows)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) > 3 and all(console.cells(line) <= 60 for line in lines)
    assert lines[2].startswith(" " * 8) and lines[-1].startswith("日本語  short")


def test_every_style_has_a_colour_on_a_terminal(capfd, monkeypatch):
    from sepcli.cli import console

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console.out, "cache_info", lambda: type("", (), {"currsize": 0}), raising=False)
    source = "".join(path.read_text() for path in (ROOT / "sepcli" / "cli").glob("*.py"))
    used = set(
        re.findall(r'(?:style=|_say\(.*, |": )"((?:bold )?(?:red|green|yellow|blue|cyan|bold|dim))"', source)
    )
    assert {"yellow", "bold", "green", "bold red"} <= used
    for style in used - {"dim"}:  # of rich's tables
        console.line("text", style=style)
        assert re.fullmatch(r"\x1b\[[0-9;]+mtext\x1b\[0m\n", capfd.readouterr().out)


def test_the_licence_is_said_once_a_model(capfd):
    song("a.wav")
    said = "Licence of the weights: MIT."
    assert "licence   MIT\n" in separate(capfd, "a.wav", "--dry-run")[1]  # which is none of the times
    assert [said in separate(capfd, "a.wav", "--no-resume", "-q")[2] for _ in range(2)] == [False, False]
    assert [said in separate(capfd, "a.wav", "--no-resume")[2] for _ in range(2)] == [True, False]
    assert "Licence of the weights: unspecified." in separate(capfd, "a.wav", "-m", "vox")[2]  # another model
    events = map(json.loads, separate(capfd, "a.wav", "--no-resume", "--progress", "json")[2].splitlines())
    assert [event["license"] for event in events if event["event"] == "start"] == ["MIT"]  # for programs always


CHATTY = """
import ctypes, logging, os, sys, warnings
from tests import fake_model
from tests.toys import Split

forward = Split.forward

def chatty(self, mix, *, noise=None):
    print("print on stdout"); print("print on stderr", file=sys.stderr)
    os.write(1, b"C on stdout\\n"); os.write(2, b"C on stderr\\n")
    logging.getLogger("a library").warning("logged"); warnings.warn("warned")
    return forward(self, mix, noise=noise)

Split.forward = chatty
sys.argv = ["sepcli", *{arguments!r}]
fake_model.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--json"], ["-t", "bass", "-o", "-"]])
def test_words_of_libraries_never_get_between(arguments):
    path = song("a.wav", seconds=0.5)
    arguments = ["separate", "-m", "fake", path, "--progress", "json", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", CHATTY.format(arguments=arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert all("event" in json.loads(line) for line in done.stderr.splitlines())
    if "--json" in arguments:
        assert json.loads(done.stdout)["status"] == "done"
    else:
        assert len(soundfile.read(io.BytesIO(done.stdout))[0]) == 22050


def damaged_song(name="bad.flac"):
    """2 s of FLAC with one bad byte in the middle."""
    song(name, seconds=2)
    data = bytearray(Path(name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    Path(name).write_bytes(data)
    return name


def test_a_damaged_input_gives_its_stems_exit_code_1_and_a_last_line(capfd):
    song("good.wav"), damaged_song()
    code, _, err = separate(capfd, "good.wav", "bad.flac")
    assert code == 1
    assert Path("separated/fake/bad/vocals.wav").exists() and Path("separated/fake/good/vocals.wav").exists()
    lines = err.splitlines()
    assert any(line.startswith("1 done, 1 damaged") for line in lines)
    assert "bad.flac: Damaged: 0." in lines[-2] and "silence stands there" in lines[-2]
    # The next run skips both, and there is nothing to complain about.
    code, _, err = separate(capfd, "good.wav", "bad.flac")
    assert code == 0 and "2 skipped" in err


def test_damage_as_json(capfd):
    damaged_song()
    code, out, _ = separate(capfd, "bad.flac", "--json")
    result = json.loads(out)
    assert (code, result["status"], result["error"]) == (1, "damaged", None)
    assert 0.01 < result["damaged_seconds"] < 0.3 and result["audio_seconds"] == 2
    (warning,) = result["warnings"]
    assert warning["code"] == "damaged" and warning["message"].startswith("Damaged: ")
    assert soundfile.info(result["outputs"]["vocals"]).frames == 2 * 44100


def test_levels_as_json_are_those_of_the_written_files_also_where_they_are_skipped(capfd):
    samples = np.random.default_rng(0).uniform(-1, 1, (44100, 2)) * [9.0, 1.0]  # beyond full scale: a gain
    soundfile.write("loud.wav", samples, 44100, "FLOAT")
    arguments = ("loud.wav", "--json", "--bit-depth", "24")
    first, again = (json.loads(separate(capfd, *arguments)[1]) for _ in range(2))
    assert first["status"] == "done" and list(first["levels"]) == list(STEMS) and first["gain"] < 1
    for stem, levels in first["levels"].items():
        written, _ = soundfile.read(first["outputs"][stem])
        assert levels["peak_dbfs"] == pytest.approx(20 * np.log10(np.abs(written).max()), abs=0.006)
        assert levels["rms_dbfs"] == pytest.approx(10 * np.log10((written**2).mean()), abs=0.006)
        assert levels["lufs"] < 0 and levels["silence"] == 0
    assert again["status"] == "skipped" and again["levels"] == first["levels"]


def soft_song(name="soft.wav", rms=0.006):
    """bass, a quarter of it, is heard (-56.5 dBFS); other and vocals, an eighth, are silent (-62.5 dBFS)."""
    samples = np.random.default_rng(0).choice([-rms, rms], (22050, 2))
    soundfile.write(name, samples, 44100, "PCM_24")
    return name


def stems_there(folder="separated/fake/soft"):
    return sorted(path.stem for path in Path(folder).glob("*.wav"))


def test_silent_stems_are_left_out_and_not_made_again(capfd):
    path = soft_song()
    code, out, err = separate(capfd, path, "--skip-silent", "--json")
    first = json.loads(out)
    assert (code, first["status"], first["silent"]) == (0, "done", ["other", "vocals"])
    assert list(first["outputs"]) == stems_there()[::-1] == ["drums", "bass"]
    assert first["levels"]["vocals"]["silence"] == 1 and first["levels"]["bass"]["silence"] == 0
    assert "soft.wav: other, vocals are silent and were left out." in err and "soft.wav: 2 files" in err
    fake_model.loads.clear()
    assert "skip      soft.wav" in separate(capfd, path, "--skip-silent", "--dry-run")[1]
    again = json.loads(separate(capfd, path, "--skip-silent", "--json")[1])
    assert again["status"] == "skipped" and not fake_model.loads and stems_there() == ["bass", "drums"]
    assert all(again[key] == first[key] for key in ("outputs", "silent", "levels"))
    # A stem that is gone though it was heard is made again, alone.
    Path(first["outputs"]["bass"]).unlink()
    third = json.loads(separate(capfd, path, "--skip-silent", "--json")[1])
    assert third["status"] == "done" and all(third[key] == first[key] for key in ("silent", "levels"))
    assert fake_model.loads == ["fake"] and stems_there() == ["bass", "drums"]
    # Without the option what was left out is missing, and nothing else is.
    _, out, err = separate(capfd, path, "--json")
    full = json.loads(out)
    assert full["silent"] == [] and "soft.wav has drums, bass already" in err
    assert stems_there() == sorted(STEMS) and full["levels"] == first["levels"]
    assert json.loads(separate(capfd, path, "--skip-silent", "--json")[1])["status"] == "skipped"


def test_where_a_stem_is_silent_only_a_file_of_ours_gives_way(capfd):
    path = soft_song()
    separate(capfd, path, "--shifts", "1")
    assert stems_there() == sorted(STEMS)
    assert separate(capfd, path, "--skip-silent")[0] == 0 and stems_there() == ["bass", "drums"]
    Path("separated/fake/soft/vocals.wav").write_bytes(b"mine")
    code, _, err = separate(capfd, path, "--skip-silent")
    assert code == 2 and "sepcli did not make it" in err and stems_there() == ["bass", "drums", "vocals"]
    assert separate(capfd, path, "--skip-silent", "--force")[0] == 0 and stems_there() == ["bass", "drums"]


def test_a_track_without_any_sound_leaves_nothing_and_is_done(capfd):
    soundfile.write("soft.wav", np.zeros((4410, 2)), 44100)
    arguments = ("soft.wav", "--skip-silent", "--json", "-t", "vocals", "--rest")
    first, again = (json.loads(separate(capfd, *arguments)[1]) for _ in range(2))
    assert (first["status"], first["silent"], first["outputs"]) == ("done", ["vocals", "no_vocals"], {})
    assert again["status"] == "skipped" and not stems_there()


@pytest.mark.slow
def test_no_decoder_writes_words_of_its_own():
    """Standard error is JSON to the last byte, also where an MP3 is full of damage."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * 44100, 2))
    soundfile.write("bad.mp3", samples, 44100)
    data = bytearray(Path("bad.mp3").read_bytes())
    for at in range(3000, len(data), 2000):
        data[at : at + 300] = bytes(range(256)) + bytes(44)
    Path("bad.mp3").write_bytes(data)
    done = process("bad.mp3", "--json", "--progress", "json")
    assert done.returncode == 1 and json.loads(done.stdout)["status"] == "damaged"
    lines = done.stderr.splitlines()
    assert len(lines) > 3 and all("event" in json.loads(line) for line in lines)


def test_strict_writes_nothing_for_a_damaged_input(capfd):
    song("good.wav"), damaged_song()
    code, out, _ = separate(capfd, "bad.flac", "good.wav", "--strict", "--json")
    bad, good = sorted(map(json.loads, out.splitlines()), key=lambda result: result["input"])
    assert (code, bad["status"], bad["error"]["code"]) == (1, "failed", "damaged") and bad["outputs"] == {}
    assert good["status"] == "done" and good["damaged_seconds"] == 0
    assert not Path("separated/fake/bad").exists()
    # Without --strict it is separated after all.
    assert separate(capfd, "bad.flac", "good.wav")[0] == 1 and Path("separated/fake/bad/vocals.wav").exists()


def test_an_audio_track_that_is_not_there_is_an_input_error(capfd):
    song("good.wav")
    code, out, _ = separate(capfd, "good.wav", "--audio-track", "Music", "--json")
    error = json.loads(out)["error"]
    assert code == 1 and error["code"] == "audio_track" and "--audio-track Music" in error["message"]


def test_clipping_is_reported(capfd):
    soundfile.write("loud.wav", np.full((4410, 2), 0.9), 44100, subtype="PCM_16")
    code, out, err = separate(capfd, "loud.wav", "--two-stems", "drums", "--json")
    assert code == 0 and json.loads(out)["gain"] == 1.0
    soundfile.write("over.wav", np.full((4410, 2), 3.0), 44100, subtype="FLOAT")
    code, out, err = separate(capfd, "over.wav", "--bit-depth", "16", "--json")
    assert code == 0 and json.loads(out)["gain"] == pytest.approx(1 / 1.5, rel=1e-3)
    assert "lowered by 3.5" in err


# --- exit codes and messages ---


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.wav"], 1, "does not exist"),
        (["text.wav"], 1, "text.wav"),
        (["empty.wav"], 1, "empty"),
        (["nothing"], 1, "no audio file"),
        (["a.wav", "-t", "choir"], 2, "it has drums, bass, other, vocals"),
        (["a.wav", "--overlap", "1"], 2, "less than 1"),
        (["a.wav", "--segment", "0"], 2, "--segment"),
        (["a.wav", "--start", "1:75"], 2, "59"),
        (["a.wav", "--duration", "0"], 2, "--duration"),
        (["a.wav", "--shard", "3/2"], 2, "I/N"),
        (["a.wav", "--batch-size", "0"], 2, "--batch-size"),
        (["a.wav", "-O", "steps"], 2, "KEY=VALUE"),
        (["a.wav", "--sample-rate", "high"], 2, "--sample-rate"),
        (["a.wav", "--template", "{artist}/{stem}"], 2, "{artist}"),
        (["a.wav", "--template", "{track}.{ext}"], 2, "{stem}"),
        (["a.wav", "--format", "mp3", "--sum", "exact"], 2, "exact"),
        (["a.wav", "--format", "mp3", "--bitrate", "9999"], 2, "9999"),
        (["a.wav", "--catalog", "none.toml"], 2, "none.toml"),
        (["a.wav", "-o", "-"], 2, "one stem"),
        (["a.wav", "-o", "-", "--json"], 2, "--json"),
        (["a.wav", "-o", "-", "-t", "bass", "--skip-silent"], 2, "--skip-silent"),
        (["a.wav", "--skip-silent", "--sum", "exact"], 2, "needs all stems"),
        (["a.wav", "b.wav", "-o", "-", "-t", "bass"], 2, "one input"),
        (["a.wav", "-o", "-", "-t", "bass", "--format", "flac"], 2, "WAV"),
        (["a.wav", "-m", "fkae"], 3, "Did you mean fake"),
        (["a.wav", "-m", "runs/mine"], 3, "no model file or run folder 'runs/mine'"),
        (["a.wav", "-m", "mine.th"], 3, "no model file"),
        (["a.wav", "-m", "hf://nobody"], 2, "hf://"),
        (["a.wav", "--device", "cuda:99"], 4, "cuda:99"),
        (["a.wav", "--device", "tpu"], 2, "tpu"),
        (["a.wav", "-o", "a.wav/x"], 5, "a.wav/x"),
    ],
)
def test_each_mistake_has_its_exit_code_and_a_sentence(capfd, monkeypatch, arguments, code, said):
    song("a.wav"), song("b.wav", seed=1)
    Path("text.wav").write_text("no audio")
    Path("empty.wav").touch()
    Path("nothing").mkdir()
    found, out, err = separate(capfd, *arguments)
    assert found == code, err
    assert said in err and "Traceback" not in err
    assert not Path("separated").exists()
    if "--json" not in arguments and "-" not in arguments:
        found, out, err = separate(capfd, *arguments, "--json")
        said = [json.loads(line) for line in out.splitlines()]
        assert found == code and len(said) == 1
        assert said[0]["status"] == "failed" and said[0]["error"]["message"]
        known = code in (1, 4, 5) or "tpu" in arguments
        assert (said[0]["input"] is None) == (not known)  # wrong before the inputs were even looked for


def test_a_model_that_cannot_be_had_ends_the_run_with_3(capfd, monkeypatch):
    def fails(*rest, **named):
        raise ModelError("The hub can't be reached.", remedy="Try later.")

    monkeypatch.setattr(loading, "load_model", fails)
    song("a.wav")
    code, out, err = separate(capfd, "a.wav", "missing.wav", "--json")
    results = {result["input"]: result["error"]["code"] for result in map(json.loads, out.splitlines())}
    assert code == 3 and results == {"missing.wav": "missing", "a.wav": "model"}
    assert err.count("The hub can't be reached.") == 1 and not Path("separated").exists()


def test_a_format_that_cannot_be_written_here_is_found_before_the_model_is_loaded(capfd, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", frozenset())
    song("a.wav")
    code, _, err = separate(capfd, "a.wav", "--format", "m4a")
    assert code == 5 and "without aac" in err and not fake_model.loads


def test_refused_files_end_the_run_before_any_work(capfd):
    song("a.wav"), song("b.wav", seed=1)
    separate(capfd, "a.wav")
    os.utime("separated/fake/a/drums.wav", ns=(1, 1))
    code, _out, err = separate(capfd, "b.wav", "a.wav", "--overlap", "0.5")
    assert code == 2 and "was changed after" in err and "--force" in err and "--template" in err
    assert not Path("separated/fake/b").exists()


# --- standard input and output ---


@pytest.mark.slow
def test_standard_input_is_a_track_known_by_its_content():
    song("a.wav"), song("b.wav", seed=1)

    def piped(name, *arguments):
        with open(name, "rb") as file:
            done = process("-", "--json", *arguments, stdin=file)
        return done.returncode, json.loads(done.stdout)

    code, result = piped("a.wav")
    assert (code, result["status"], result["input"]) == (0, "done", "-")
    assert tree("separated/fake") == sorted(f"stdin/{stem}.wav" for stem in STEMS)
    assert piped("a.wav")[1]["status"] == "skipped"
    code, result = piped("b.wav")
    assert code == 2 and "another input" in result["error"]["message"]
    assert piped("b.wav", "--force")[0] == 0
    assert not list(Path("separated").glob(".sepcli-work*"))


@pytest.mark.slow
def test_one_stem_goes_to_standard_output_as_wav_and_nothing_else():
    path = song("a.wav", seconds=0.5)
    done = process(path, "-o", "-", "-t", "bass")
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    mix, _ = soundfile.read(path)
    assert rate == 44100 and np.abs(samples - mix * 0.25).max() < 1e-4
    assert os.listdir() == ["a.wav"] and b"1 done" in done.stderr


@pytest.mark.slow
def test_standard_output_gets_the_stem_while_it_is_separated():
    """The model waits before each call. What comes first has come long before the end, and no file is made."""
    path = song("a.wav", seconds=30)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.1", "TMPDIR": os.getcwd()}
    arguments = ["separate", "-m", "fake", path, "-o", "-", "-t", "bass", "-q"]
    program = [*fake_model.PROGRAM, *arguments]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as running:
        first = running.stdout.read(1 << 20)
        assert running.poll() is None  # what is left does not fit into the pipe, so this is no race
        made = [path for path in Path().rglob("*") if path.is_file() and path.name != "a.wav"]
        assert sum(file.stat().st_size for file in made) < 10_000, made
        everything = io.BytesIO(first + running.stdout.read())
    assert running.returncode == 0
    samples, rate = soundfile.read(everything, always_2d=True)
    mix, _ = soundfile.read(path, always_2d=True)
    assert (rate, len(samples)) == (44100, len(mix)) and np.abs(samples - mix * 0.25).max() < 1e-6
    everything.seek(0)
    assert soundfile.info(everything).subtype == "FLOAT"


@pytest.mark.parametrize(
    "arguments, subtype, peak",
    [
        ((), "FLOAT", 2.25),  # as the model gave it
        (("--bit-depth", "24"), "PCM_24", 1),  # cut off, and said
        (("--bit-depth", "16", "--clip", "gain"), "PCM_16", 1),  # waits for its peak
        (("--strict",), "FLOAT", 2.25),  # waits for the end of the input
    ],
)
def test_levels_on_standard_output(arguments, subtype, peak, capfdbinary):
    samples = np.random.default_rng(0).uniform(-9, 9, (44100, 2))
    samples[5] = 9
    soundfile.write("loud.wav", samples, 44100, "FLOAT")
    code, out, err = separate(capfdbinary, "loud.wav", "-o", "-", "-t", "bass", *arguments)
    assert code == 0, err
    written, _ = soundfile.read(io.BytesIO(out), always_2d=True)
    assert soundfile.info(io.BytesIO(out)).subtype == subtype and len(written) == 44100
    assert written.max() == pytest.approx(peak, abs=1e-4)
    assert (b"clamped" in err) == ("24" in arguments)
    for word in (b"The stems are in", b"sepcli-", b"tmp", b"0 files"):
        assert word not in err
    assert os.listdir() == ["loud.wav"]


def test_the_rest_also_goes_to_standard_output(capfdbinary):
    path = song("a.wav", seconds=0.5)
    code, out, err = separate(capfdbinary, path, "-o", "-", "-t", "instrumental", "--progress", "json")
    samples, _ = soundfile.read(io.BytesIO(out), always_2d=True)
    mix, _ = soundfile.read(path, always_2d=True)
    assert code == 0 and np.abs(samples - mix * 0.875).max() < 1e-6
    events = [json.loads(line) for line in err.splitlines()]
    assert events[-1]["event"] == "summary" and events[-1]["out"] == "-"


@pytest.mark.slow
def test_a_reader_that_leaves_is_an_error_with_its_reason():
    path = song("a.wav", seconds=30)
    program = [
        *fake_model.PROGRAM,
        "separate",
        "-m",
        "fake",
        path,
        "-o",
        "-",
        "-t",
        "bass",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.read(1000)
        running.stdout.close()
        said = running.stderr.read().decode()
    assert (
        running.returncode == 5
        and "Standard output was closed by its reader" in said
        and "Traceback" not in said
    )


@pytest.mark.skipif(os.name == "nt", reason="opens a file as a shell does")
@pytest.mark.parametrize("mode", ["w", "a"])
def test_standard_output_may_be_a_file_with_something_in_it(mode, monkeypatch):
    path = song("a.wav", seconds=0.5)
    with open("all.bin", mode) as file:
        file.write("before")
        file.flush()
        monkeypatch.setattr(sys, "stdout", file)
        assert main(["separate", "-m", "fake", path, "-o", "-", "-t", "bass", "-q"]) == 0
        file.write("after")
    data = Path("all.bin").read_bytes()
    assert data.startswith(b"beforeRIFF") and data.endswith(b"after")
    assert len(soundfile.read(io.BytesIO(data[6:-5]))[0]) == 22050


@pytest.mark.slow
def test_a_pipe_from_end_to_end():
    path = song("a.wav")
    with open(path, "rb") as file:
        done = process("-", "-o", "-", "--two-stems", "bass", stdin=file)
    assert done.returncode == 2 and not done.stdout  # two files
    with open(path, "rb") as file:
        done = process("-", "-o", "-", "-t", "bass", "-q", stdin=file)
    assert done.returncode == 0 and done.stdout[:4] == b"RIFF" and not done.stderr


@pytest.mark.slow
def test_empty_standard_input_is_a_bad_input():
    done = process("-", "--json", input=b"")
    assert done.returncode == 1 and json.loads(done.stdout)["status"] == "failed"


# --- dry runs ---


def test_a_dry_run_says_what_would_be_done_and_does_nothing(capfd):
    song("a.wav"), song("b.wav", seed=1)
    code, out, _err = separate(capfd, "a.wav", "missing.wav", "--dry-run")
    assert code == 1 and not Path("separated").exists() and not fake_model.loads
    assert "separate  a.wav" in out and "-> separated/fake/a/vocals.wav" in out
    assert "1.0 MB to download" in out and "MIT" in out and "fail      missing.wav" in out
    separate(capfd, "a.wav")
    before = os.stat("separated").st_mtime_ns, Path("separated/.sepcli.jsonl").read_bytes()
    fake_model.loads.clear()
    code, out, _err = separate(capfd, "a.wav", "b.wav", "--dry-run")
    assert code == 0 and "skip      a.wav" in out and "separate  b.wav" in out
    code, out, _err = separate(capfd, "a.wav", "b.wav", "--dry-run", "--shifts", "1")
    assert code == 0 and "replace   a.wav" in out and "was separated with other settings (shifts)" in out
    code, out, _err = separate(capfd, "a.wav", "--dry-run", "-t", "vocals", "--rest")
    assert code == 0 and "on this machine" in out and "without the model" in out
    assert "stays separated/fake/a/vocals.wav" in out and "-> separated/fake/a/no_vocals.wav" in out
    code, out, _err = separate(capfd, "a.wav", "b.wav", "--dry-run", "--shifts", "1", "--force")
    assert code == 0 and "replace   a.wav" in out
    date = os.stat("separated/fake/a/bass.wav").st_mtime_ns
    os.utime("separated/fake/a/bass.wav", ns=(1, 1))
    code, out, _err = separate(capfd, "a.wav", "b.wav", "--dry-run", "--shifts", "1")
    assert code == 2 and "refuse    a.wav" in out and "was changed after" in out and "--force" in out
    os.utime("separated/fake/a/bass.wav", ns=(date, date))
    assert before == (os.stat("separated").st_mtime_ns, Path("separated/.sepcli.jsonl").read_bytes())
    assert not fake_model.loads


def test_a_dry_run_as_json(capfd):
    song("a.wav"), song("b.wav", seed=1)
    separate(capfd, "a.wav")
    _code, out, _ = separate(capfd, "a.wav", "b.wav", "missing.wav", "--dry-run", "--json", "-q")
    found = {result["input"]: result for result in map(json.loads, out.splitlines())}
    assert {name: result["status"] for name, result in found.items()} == {
        "a.wav": "skipped",
        "b.wav": "planned",
        "missing.wav": "failed",
    }
    assert found["b.wav"]["outputs"]["bass"] == "separated/fake/b/bass.wav"
    assert found["b.wav"]["download_bytes"] == 1_000_000 and found["b.wav"]["license"] == "MIT"


# --- values ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90.5", 90.5),
        (".5", 0.5),
        ("5.", 5),
        ("1:30", 90),
        ("1:30.25", 90.25),
        ("90:00", 5400),
        ("1:00:01", 3601),
        ("00:01:30.5", 90.5),
    ],
)
def test_times(text, seconds):
    assert parse_time(text, "--start") == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1:60", "1:60:00", "1:2:3:4", "1:", ":30", "1.5:30", "nan", "1e3"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError):
        parse_time(text, "--start")


def test_batch_sizes_and_options():
    assert parse_batch_size("auto") is None and parse_batch_size("8") == 8
    assert parse_options(["steps=4", "name=a=b"]) == {"steps": "4", "name": "a=b"}
    for text in ("=4", "steps"):
        with pytest.raises(UsageError):
            parse_options([text])


# --- names of files ---

HOSTILE = (
    "new\nline",
    "colour\x1b[31m",
    "title\x1b]0;x\x07",
    "c1\x9b2J",
    "reversed\u202egnp",
    "two\u2028lines",
)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_what_a_name_holds_never_acts_on_the_terminal_and_is_true_in_json_and_on_the_disk(capfd):
    for seed, name in enumerate(HOSTILE):
        song(f"in/{name}.wav", seed=seed)
    song("other/new\nline.wav", seed=9)
    (Path("in") / "bad\x1b[2J.wav").write_bytes(b"RIFF")
    code, out, err = separate(capfd, "in", "other", "missing\x1b[2J.wav", "-t", "bass")
    assert code == 1 and not out
    plan = separate(capfd, "in", "other", "--dry-run", "-t", "bass", "-o", "o2")[1]
    for text in (err, plan):
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2028") and "\nline" not in text
        assert r"new\nline" in text and r"colour\x1b[31m" in text and r"reversed\u202egnp" in text
    assert r"missing\x1b[2J.wav' does not exist" in err and r"bad\x1b[2J" in err
    results = [json.loads(line) for line in separate(capfd, "in", "-t", "bass", "--json")[1].splitlines()]
    names = {result["input"] for result in results}
    assert names >= {f"in/{name}.wav" for name in HOSTILE} and all(Path(name).exists() for name in names)


def test_names_are_printed_in_one_place():
    """Whatever a command prints as text goes through `shown`: no other file prints on the consoles itself."""
    for file in (ROOT / "sepcli" / "cli").glob("*.py"):
        if file.name != "console.py":
            assert not re.search(r"(out|err)\(\)\.print|\bprint\(", file.read_text()), file.name


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_results_go_to_the_file_where_bars_are_on_the_terminal(tmp_path):
    import pty

    song("a.wav")
    ours, terminal = pty.openpty()
    try:
        with open(tmp_path / "results", "wb") as results:
            program = [*fake_model.PROGRAM, "separate", "-m", "fake", "a.wav", "--json"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
            done = subprocess.run(program, stdout=results, stderr=terminal, env=environment, timeout=120)
        assert done.returncode == 0 and json.loads((tmp_path / "results").read_text())["status"] == "done"
    finally:
        os.close(ours), os.close(terminal)
