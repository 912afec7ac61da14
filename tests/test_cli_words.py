"""How a command line may be written otherwise: the command left out, and the options of other separators."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import typer

from sepcli.cli.app import app, main
from sepcli.cli.peers import PEERS, names_and_value, translated
from sepcli.cli.program import completed
from sepcli.errors import UsageError
from tests import fake_model
from tests.test_jobs import song, tree

ROOT = Path(__file__).parents[1]
GROUP = typer.main.get_command(app)
SEPARATE = GROUP.commands["separate"]
OPTIONS = [param for param in SEPARATE.params if param.param_type_name == "option"]
OURS = {name: param for param in OPTIONS for name in (*param.opts, *param.secondary_opts)}


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)


def run(capfd, *arguments):
    code = main(list(arguments))
    return code, *capfd.readouterr()


# --- the command left out ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.wav", "-m", "fake"],
        ["-m", "fake", "a.wav"],
        ["--model=fake", "a.wav"],
        ["-mfake", "a.wav"],
        ["-m", "fake", "--", "a.wav"],
        ["folder", "-m", "fake"],
        ["-n", "fake", "a.wav"],
    ],
)
def test_separate_may_be_left_out(capfd, arguments):
    song("a.wav"), song("folder/a.wav")
    assert run(capfd, *arguments)[0] == 0
    assert len(tree("separated/fake")) == 4


def test_a_file_named_like_a_command_needs_a_path(capfd):
    song("train.wav")
    os.rename("train.wav", "train")
    assert run(capfd, "./train", "-m", "fake")[0] == 0
    assert len(tree("separated/fake")) == 4
    code, _, err = run(capfd, "train", "-m", "fake")
    assert code == 2 and "sepcli train" in err


def test_what_is_no_input_and_no_command_is_answered_with_a_near_command(capfd):
    song("a.wav")
    code, out, err = run(capfd, "seperate", "a.wav")
    assert code == 2 and not out and "Did you mean sepcli separate?" in err
    code, _, err = run(capfd, "xyzzy", "a.wav")
    assert code == 2 and "'xyzzy' is no command" in err and "Did you mean" not in err
    code, out, err = run(capfd, "seperate", "--json")
    assert code == 2 and json.loads(out)["error"]["code"] == "unknown_command"
    song("seperate/a.wav")  # a folder is an input, whatever it looks like
    assert run(capfd, "seperate", "-m", "fake")[0] == 0


@pytest.mark.parametrize(
    ("word", "said"),
    [("missing.wav", "does not exist"), ("albums/missing", "does not exist"), ("https://a.b/c", "address")],
)
def test_what_is_written_like_a_file_is_an_input(capfd, word, said):
    code, _, err = run(capfd, word, "-m", "fake")
    assert code == 1 and said in err


def test_an_option_before_a_command_is_refused(capfd):
    code, _, err = run(capfd, "--json", "models", "list")
    assert code == 2 and "sepcli models" in err and "./models" in err
    code, _, err = run(capfd, "--modle", "fake", "a.wav")  # separate's own complaint
    assert code == 2 and "--modle" in err and "sepcli separate --help" in err


def test_the_programs_own_options_stay_its_own(capfd):
    assert run(capfd, "--version")[1].startswith("sepcli ")
    assert "Commands:" in run(capfd, "--help")[1]
    assert run(capfd)[0] == 2
    assert completed([], ["separate"], []) == []
    assert completed(["-"], ["separate"], []) == ["separate", "-"]


def test_the_help_says_it(capfd):
    assert "`sepcli song.wav`" in run(capfd, "--help")[1]


def test_the_shell_completes_options_where_the_command_is_left_out():
    done = subprocess.run(
        [sys.executable, "-m", "sepcli"],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_SEPCLI_COMPLETE": "complete_bash",
            "COMP_WORDS": "sepcli song.wav --two",
            "COMP_CWORD": "2",
        },
    )
    assert done.stdout.split() == ["--two-stems"], done.stderr


GONE = """
import sys
from sepcli.cli import app, runs

def left(*given):
    raise BrokenPipeError

runs.look_up_batch = left
sys.exit(app.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["a.wav"], 5), (["-m", "mini", "a.wav"], 5), (["a.wav", "--dry-run"], 0)]
)
def test_a_reader_that_leaves_is_told_of_where_separate_is_left_out_too(arguments, code):
    done = subprocess.run([sys.executable, "-c", GONE, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and ("closed by its reader" in done.stderr) == (code == 5)


# --- options of other separators ---

ROWS = [(peer, theirs, ours) for peer, rows in PEERS.items() for theirs, ours in rows.items()]
VALUES = {
    "NAME": "fake", "DEVICE": "cpu", "KBITS": "128", "TEXT": "{track}.{stem}.{trackext}.{ext}", "DIR": "out",
    "FORMAT": "MP3", "WAY": "max_fft", "HZ": "48000", "STEM": "bass", "N": "2", "SHARE": "0.5", "SECONDS": "2",
}  # fmt: skip


@pytest.mark.parametrize(("peer", "theirs", "ours"), ROWS, ids=[row[1] for row in ROWS])
def test_each_row_is_taken_for_ours_or_answered_with_what_is_there(peer, theirs, ours, capfd):
    valued = {name for name, param in OURS.items() if not (param.is_flag or param.count)}
    for text in theirs.split(", "):
        name, value = names_and_value(text, theirs)
        name = name.replace("*", "anything")
        given = [name, *([VALUES.get(value, value)] if value else [])]
        assert name not in OURS, "ours would never be reached"
        if ours and not ours.startswith("-"):
            with pytest.raises(UsageError) as caught:
                translated([*given, "a.wav"], valued)
            assert caught.value.remedy == ours and peer in caught.value.message and name in caught.value.message
            for option in re.findall(r"(?<!\w)--?[a-zA-Z][a-z-]*", ours.replace("models list --", "")):
                assert option in OURS or option in ("-vv", "--target", "--json"), option
        else:
            words = translated([*given, "a.wav"], valued)
            assert words[-1] == "a.wav" and len(words) == 1 + len(ours.split())
            assert all(word in OURS for word in words if word.startswith("-"))
            SEPARATE.make_context("separate", words)  # ours takes the value


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("-n htdemucs", "-m htdemucs"),
        ("-nhtdemucs", "-m htdemucs"),
        ("--name=htdemucs", "-m htdemucs"),
        ("--filename={track}/{stem}.{ext}", "--template {model}/{track}/{stem}.{ext}"),
        ("--mp3 --mp3-bitrate 320", "--format mp3 --bitrate 320"),
        ("--output_format WAV", "--format wav"),
        ("--output_bitrate 320k", "--bitrate 320"),
        ("-p spleeter:2stems -c mp3 -b 128k", "-m spleeter:2stems --format mp3 --bitrate 128"),
        ("-f {filename}/{instrument}.{codec}", "--template {track}/{stem}.{ext}"),
        ("--model_filename htdemucs_ft.yaml", "-m htdemucs_ft"),
        ("--two-stems vocals --other-method minus", "--two-stems vocals"),
        ("-o -n", "-o -n"),  # the value of an option of ours
        ("-o out -d cpu", "-o out --device cpu"),
        ("-- -d", "-- -d"),
        ("--name", "-m"),  # and ours says what it lacks
        ("--modle x", "--modle x"),
        ("-", "-"),
        ("a=b.wav -O k=v", "a=b.wav -O k=v"),
    ],
)
def test_how_they_are_written(theirs, ours):
    assert translated(theirs.split(), {"-o", "-O", "--two-stems"}) == ours.split()


def test_a_command_of_demucs_runs(capfd):
    song("a.wav")
    code, _, err = run(
        capfd, *"-n fake --two-stems vocals --flac --int24 -d cpu --filename {track}.{stem}.{ext} a.wav".split()
    )
    assert code == 0, err
    assert tree("separated") == ["fake/a.no_vocals.flac", "fake/a.vocals.flac"]
    assert soundfile.info("separated/fake/a.vocals.flac").subtype == "PCM_24"


def test_a_command_of_audio_separator_runs(capfd):
    song("a.wav")
    words = "a.wav --model_filename fake.yaml --output_dir out --output_format FLAC --single_stem bass"
    assert run(capfd, *words.split())[0] == 0
    assert tree("out") == ["fake/a/bass.flac"]


def test_an_answer_comes_before_any_work(capfd):
    song("a.wav")
    code, _, err = run(capfd, "a.wav", "-m", "fake", "--no-split")
    assert code == 2 and "an option of demucs" in err and "--segment" in err and not Path("separated").exists()
    code, _, err = run(capfd, "a.wav", "--clip-mode", "soft")
    assert code == 2 and "clamp, none, rescale" in err


def test_other_commands_and_the_help_page_know_none_of_them(capfd):
    assert "--no-split" not in run(capfd, "separate", "--help")[1]
    assert run(capfd, "doctor", "--no-split")[0] == 2
