"""`sepcli inspect` as a user meets it: a picture of a network's attention, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from sepcli.cli.app import main
from sepcli.loading import save_model
from tests.models.test_lasaft import VARIANTS, tiny
from tests.sounds import music

ROOT = Path(__file__).parents[1]
MINI = ROOT / "sepcli" / "models" / "bandsplit" / "mini.safetensors"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEPCLI_DEBUG", raising=False)
    soundfile.write("song.wav", music(22050).T, 44100)
    save("tiny.safetensors", "v2 query_key")


def save(path, variant):
    model = tiny(variant)
    save_model(model.state_dict(), Path(path), family="lasaft", arch=VARIANTS[variant][0], config=model.config)


def inspect(capfd, *arguments, model="tiny.safetensors", song="song.wav"):
    """(exit code, standard output, standard error)"""
    code = main(["inspect", song, "-m", model, *arguments])
    return code, *capfd.readouterr()


def refused(capfd, *arguments, code=2, **more):
    """The error of a run that draws nothing."""
    before = set(os.listdir())
    got, out, err = inspect(capfd, *arguments, "--json", **more)
    assert got == code, err
    problem = json.loads(out)["error"]
    assert problem["message"] in err.replace("\n", " ") and problem["remedy"] and set(os.listdir()) == before
    return problem


@pytest.mark.slow
def test_a_picture_and_its_numbers(capfd):
    code, out, err = inspect(capfd, "-o", "maps/map.png", "--json", "--start", "0.1")
    assert code == 0 and "The picture is maps" in err
    assert Path("maps/map.png").read_bytes().startswith(b"\x89PNG") and os.listdir("maps") == ["map.png"]
    said = json.loads(out)
    assert (said["status"], said["model"], said["level"], said["start"]) == ("done", "tiny", 1, 0.1)
    assert said["seconds"] == 0.4 and said["frames"] * said["frame_seconds"] == pytest.approx(0.4, abs=0.002)
    assert list(said["stems"]) == ["vocals", "drums", "bass", "other"]
    for stem in said["stems"].values():
        assert sum(stem["mean"]) == pytest.approx(1, abs=1e-4) and max(stem["deviation"]) > 0


@pytest.mark.slow
def test_targets_level_and_the_default_name(capfd):
    code, out, _ = inspect(capfd, "-t", "bass", "-t", "vocals", "--level", "2", "--json", "--duration", "0.2")
    said = json.loads(out)
    assert code == 0 and list(said["stems"]) == ["bass", "vocals"] and said["level"] == 2
    assert said["output"] == "song.attention.png" and Path("song.attention.png").exists()


@pytest.mark.slow
def test_a_constant_attention(capfd):
    save("still.safetensors", "v1")
    code, out, err = inspect(capfd, "--json", "-q", model="still.safetensors")
    assert code == 0 and not err
    assert all(max(stem["deviation"]) < 1e-6 for stem in json.loads(out)["stems"].values())


@pytest.mark.slow
def test_queries(capfd):
    save("asked.safetensors", "query")
    soundfile.write("hum.wav", music(30000, 1, seed=1).T, 44100)
    code, out, err = inspect(capfd, "--query", "hum.wav", "-t", "drums", "--json", model="asked.safetensors")
    assert code == 0, err
    assert list(json.loads(out)["stems"]) == ["drums", "hum"]
    shutil.copy("hum.wav", "hum.png")
    problem = refused(capfd, "--query", "hum.png", "-o", "hum.png", "--force", model="asked.safetensors")
    assert problem["code"] == "input_is_output" and "query 'hum'" in problem["message"]
    assert refused(capfd, "--query", "hum.wav", "--force")["code"] == "no_queries"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mini", "htdemucs", str(MINI)])
def test_models_without_attention_name_those_that_have_it(capfd, model):
    """Said before a download; of a checkpoint, when it is read."""
    problem = refused(capfd, model=model)
    assert problem["code"] == "no_attention" and "lasaft-v2-large" in problem["remedy"]


@pytest.mark.slow
def test_other_refusals(capfd):
    assert refused(capfd, "-t", "guitar")["code"] == "unknown_stem"
    assert "1 (the last before its output) to 2" in refused(capfd, "--level", "9")["message"]
    assert refused(capfd, "-o", "map.jpg")["message"] == "'map.jpg' has no ending of a picture."
    assert refused(capfd, "--duration", "0")["code"] == "usage"
    assert "not a time" in refused(capfd, "--start", "soon")["message"]
    assert refused(capfd, song="missing.wav", code=1)["code"] == "missing"
    assert refused(capfd, "--start", "9", code=1)["code"] == "start"
    assert refused(capfd, model="lasaft-v2", code=3)["code"] == "unknown_model"
    assert refused(capfd, "--device", "cuda:99", code=4)["remedy"]


@pytest.mark.slow
def test_nothing_is_overwritten_unasked(capfd):
    shutil.copy("song.wav", "song.png")  # audio, whatever its name
    before = Path("song.png").read_bytes()
    assert refused(capfd, "-o", "song.png", "--force", song="song.png")["code"] == "input_is_output"
    assert refused(capfd, "-o", "song.png")["code"] == "exists" and Path("song.png").read_bytes() == before
    assert inspect(capfd, "-o", "song.png", "--force")[0] == 0
    assert Path("song.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_as_a_program():
    words = "inspect song.wav -m tiny.safetensors -o map.svg".split()
    done = subprocess.run(
        [sys.executable, "-m", "sepcli", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "map.svg" in done.stderr and not done.stdout, done.stderr
    assert "<svg" in Path("map.svg").read_text()
