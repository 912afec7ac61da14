"""`sepcli separate --query` as a user meets it: stems by example, every refusal, what is done again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sepcli import loading
from sepcli.cli.app import main
from tests import fake_model
from tests.test_jobs import song, tree
from tests.test_queries import hum, save, toys  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
REAL_LOAD = loading.load_model
MINI = ROOT / "sepcli" / "models" / "bandsplit" / "mini.safetensors"


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    song("song.wav")
    hum()


def separate(capfd, *arguments, model="asked"):
    """(exit code, standard output, standard error) of `sepcli separate song.wav -m asked ...`"""
    code = main(["separate", "song.wav", "-m", model, *arguments])
    return code, *capfd.readouterr()


def refused(capfd, *arguments, model="asked"):
    """The error of a run that ends with 2 before any work."""
    code, out, err = separate(capfd, *arguments, "--json", model=model)
    assert code == 2 and not fake_model.loads and not Path("separated").exists()
    problem = json.loads(out.splitlines()[0])["error"]
    assert problem["message"] in err.replace("\n", " ") and problem["remedy"]
    return problem


def share(stem, track="song"):
    """How loud a stem is in the mix, as toys.Asked makes it."""
    (path,) = Path("separated").glob(f"*/{track}/{stem}.wav")
    mix, found = soundfile.read("song.wav")[0], soundfile.read(path)[0]
    assert mix.shape == found.shape
    return np.abs(found).max() / np.abs(mix).max()


# --- what comes out ---


def test_a_query_becomes_the_stem_of_its_files_name(capfd):
    hum("my voice.wav", 0.25, seconds=0.7, samplerate=22050, channels=1)
    code, out, err = separate(capfd, "--query", "my voice.wav")
    assert code == 0 and not out and "Model asked: my voice." in err
    assert tree("separated/asked") == ["song/my voice.wav"] and share("my voice") == pytest.approx(
        0.25, rel=0.01
    )


def test_queries_and_named_stems_together(capfd):
    hum("b.flac.wav", 0.25)
    code, *_ = separate(capfd, "--query", "hum.wav", "--query", "b=b.flac.wav", "-t", "other", "--json")
    assert code == 0 and tree("separated/asked") == ["song/b.wav", "song/hum.wav", "song/other.wav"]
    assert [share(stem) for stem in ("hum", "b", "other")] == pytest.approx([0.5, 0.25, 0.125], rel=0.01)


def test_a_query_may_take_the_place_of_a_named_stem(capfd):
    assert separate(capfd, "--query", "bass=hum.wav")[0] == 0
    assert tree("separated/asked") == ["song/bass.wav"] and share("bass") == pytest.approx(0.5, rel=0.01)
    code, _, err = separate(capfd, "-t", "bass")  # the model's own is another stem
    assert code == 0 and "other settings (queries): bass is replaced" in err.replace("\n", " ")
    assert share("bass") == pytest.approx(0.25, rel=0.01)


def test_without_queries_the_named_stems(capfd):
    assert separate(capfd)[0] == 0 and tree("separated/asked") == ["song/bass.wav", "song/other.wav"]


def test_what_the_queries_leave(capfd):
    assert separate(capfd, "--query", "hum.wav", "--rest")[0] == 0
    assert tree("separated/asked") == ["song/hum.wav", "song/no_hum.wav"]
    assert separate(capfd, "--query", "hum.wav", "-t", "bass", "--sum", "exact", "-o", "two")[0] == 0
    assert tree("two/asked") == ["song/bass.wav", "song/hum.wav", "song/rest.wav"]


def test_a_model_of_queries_alone(capfd):
    assert separate(capfd, "--query", "hum.wav", model="hummed")[0] == 0 and share("hum") > 0.49


@pytest.mark.slow
def test_a_dry_run_and_standard_output(capfd):
    code, out, _ = separate(capfd, "--query", "hum.wav", "--dry-run")
    assert code == 0 and f"song{os.sep}hum.wav" in out and not fake_model.loads
    done = subprocess.run(
        [
            *fake_model.PROGRAM,
            "separate",
            "song.wav",
            "-m",
            "asked",
            "--query",
            "hum.wav",
            "-o",
            "-",
        ],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and done.stdout.startswith(b"RIFF"), done.stderr


# --- refusals: before any work, without the model ---


def test_models_that_take_none_name_those_that_do(capfd):
    problem = refused(capfd, "--query", "hum.wav", model="fake")
    assert problem["code"] == "no_queries" and "drums, bass, other, vocals" in problem["message"]
    assert "asked (2 MB), hummed (unknown size)" in problem["remedy"]


def test_a_model_of_queries_alone_needs_one(capfd):
    problem = refused(capfd, model="hummed")
    assert problem["code"] == "needs_query" and "--query [NAME=]FILE" in problem["remedy"]
    problem = refused(capfd, "--query", "hum.wav", "-t", "vocals", model="hummed")
    assert problem["code"] == "unknown_stem" and "none of its own" in problem["message"]


def test_silent_short_and_unreadable_queries(capfd):
    soundfile.write("silent.wav", np.zeros((44100, 2)), 44100)
    assert refused(capfd, "--query", "silent.wav")["code"] == "silent_query"
    hum("short.wav", seconds=0.4)
    problem = refused(capfd, "--query", "short.wav")
    assert problem["code"] == "short_query" and "0.40 s" in problem["message"] and "0.5 s" in problem["message"]
    Path("text.wav").write_text("this is no audio at all\n")
    assert refused(capfd, "--query", "text.wav")["code"] == "not_audio"
    assert refused(capfd, "--query", "x=missing.wav")["code"] == "missing"


def test_names_that_are_equal_or_impossible(capfd):
    shutil.copy("hum.wav", "b.wav")
    assert "'hum'" in refused(capfd, "--query", "hum.wav", "--query", "hum=b.wav")["message"]
    assert refused(capfd, "--query", "bass=hum.wav", "-t", "bass")["code"] == "equal_names"
    assert "residual" in refused(capfd, "--query", "hum.wav", "--query", "rest=b.wav", "--rest")["message"]
    assert refused(capfd, "--query", "a/b=hum.wav")["code"] == "query_name"
    assert refused(capfd, "--query", "=hum.wav")["code"] == "query_name"


def test_a_query_is_never_overwritten(capfd):
    Path("separated/asked/song").mkdir(parents=True)
    query = Path("separated/asked/song/hum.wav")
    shutil.copy("hum.wav", query)
    before = query.read_bytes()
    code, _, err = separate(capfd, "--query", str(query), "--force")
    assert code == 2 and "is the query 'hum'" in err and query.read_bytes() == before


def test_refused_without_torch():
    code = (
        "import sys; from sepcli.cli.app import main\n"
        "assert main(['separate', 'song.wav', '-m', 'asked', '--query', 'short.wav']) == 2\n"
        "assert main(['separate', 'song.wav', '-m', 'hummed']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    hum("short.wav", seconds=0.4)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what is done again ---


def status(capfd, *arguments, code=0):
    got, out, err = separate(capfd, *arguments, "--json")
    assert got == code, err
    return json.loads(out)["status"]


def test_a_changed_query_is_separated_again(capfd):
    asked = "--query", "hum.wav"
    assert status(capfd, *asked) == "done" and status(capfd, *asked) == "skipped"
    os.utime("hum.wav", ns=(1, 1))
    os.rename("hum.wav", "elsewhere.wav")
    assert status(capfd, "--query", "hum=elsewhere.wav") == "skipped"  # the same sound
    hum("hum.wav", 0.25)
    assert status(capfd, *asked) == "done" and share("hum") == pytest.approx(0.25, rel=0.01)
    assert status(capfd, *asked) == "skipped"
    hum("other.wav", 0.125)
    code, _, err = separate(capfd, "--query", "hum=other.wav")
    assert code == 2 and "made with another query 'hum'" in err and "hum.wav" in err
    assert status(capfd, "--query", "hum=other.wav", "--force") == "done"
    assert share("hum") == pytest.approx(0.125, rel=0.01)


def test_only_the_changed_one_of_two_matters(capfd):
    hum("b.wav", 0.25)
    asked = "--query", "hum.wav", "--query", "b.wav"
    assert status(capfd, *asked) == "done"
    hum("b.wav", 0.3)
    assert status(capfd, *asked) == "done" and share("b") == pytest.approx(0.3, rel=0.01)


def test_the_manifest_has_names_and_hashes(capfd):
    from sepcli.system.files import content_sha256

    separate(capfd, "--query", "voice=hum.wav")
    lines = list(map(json.loads, Path("separated/.sepcli.jsonl").read_text().splitlines()))
    (settings,) = (line for line in lines if line["kind"] == "settings")
    last = lines[-1]
    assert settings["made_with"]["queries"] == ["voice"] and settings["settings"] == last["settings"]
    assert last["queries"] == {
        "voice": {"path": os.path.realpath("hum.wav"), "sha256": content_sha256(Path("hum.wav"))}
    }
    separate(capfd, "-t", "bass", "-o", "named")  # nothing of it where there is none
    assert "queries" not in Path("named/.sepcli.jsonl").read_text()


# --- the catalogue ---


def test_models_say_that_they_take_queries(capfd):
    assert main(["models", "info", "asked"]) == 0
    out = capfd.readouterr().out
    assert "bass, other, (queries)" in out and "0.5 s or more: separate --query" in out
    main(["models", "list"])
    assert "separation: bass, other, (queries)" in capfd.readouterr().out
    main(["models", "info", "hummed", "--json"])
    assert json.loads(capfd.readouterr().out)["min_query"] == 0.5


# --- a checkpoint file: what it is shows only when it is loaded ---


@pytest.fixture
def checkpoints(monkeypatch, toys):  # noqa: F811
    monkeypatch.setattr(loading, "load_model", REAL_LOAD)


def test_a_checkpoint_file_takes_queries(capfd, checkpoints):
    path = save("mine.safetensors")
    arguments = "--query", "hum.wav", "-t", "vocals", "--query", "x=hum.wav"
    assert separate(capfd, *arguments, model=path)[0] == 0
    assert tree("separated/mine") == ["song/hum.wav", "song/vocals.wav", "song/x.wav"]
    assert [share(stem) for stem in ("hum", "vocals")] == pytest.approx([0.5, 0.125], rel=0.01)
    assert "skipped" in separate(capfd, *arguments, model=path)[2]
    assert separate(capfd, "--query", "hum.wav", "-o", "two", model=path)[0] == 0
    assert tree("two/mine") == ["song/hum.wav"]
    hum("short.wav", seconds=0.4)
    code, _, err = separate(capfd, "--query", "short.wav", "-o", "three", model=path)
    assert code == 2 and "'mine' needs 0.5 s" in err and not Path("three").exists()


def test_a_checkpoint_file_without_stems_of_its_own(capfd, checkpoints):
    path = save("mine.safetensors", sources=())
    code, _, err = separate(capfd, model=path)
    assert code == 2 and "'mine' has no stems of its own" in err and not Path("separated").exists()
    assert separate(capfd, "--query", "hum.wav", model=path)[0] == 0
    assert tree("separated/mine") == ["song/hum.wav"]


def test_a_checkpoint_file_that_takes_none(capfd, monkeypatch):
    monkeypatch.setattr(loading, "load_model", REAL_LOAD)
    code, _, err = separate(capfd, "--query", "hum.wav", model=str(MINI))
    assert code == 2 and "takes no queries; its stems are drums" in err
