"""Every command on every page is known to the real command line, and the small ones do what their page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fakehub import FakeHub
from tests.recipes import (
    FOUR,
    PAGES,
    PUBLISHED,
    ROOT,
    SLAKH,
    Command,
    Kitchen,
    Model,
    commands,
    mentions,
    parse,
    unknown,
)
from tests.tracks import read

INSTALLING = "python3 -m venv .venv && .venv/bin/pip install"
# How a command begins -> why no test here runs it. It is parsed all the same.
NOT_RUN = {
    INSTALLING: ".ci/run types the tests' line; it installs the wheel by another",
    ".ci/run": "it runs this test",
    ".venv/bin/": ".ci/run has these tools",
    "sepcli dataset render": "needs a synthesiser and minutes; tests/test_data_render.py has the command",
    "pip install 'sepcli[ray]'": "the extra; tests/test_cluster.py has what it brings",
    "sepcli separate albums/ -m htdemucs -o stems/ --ray auto": "wants a cluster; the same",
    "pip install 'sepcli[ray,remote]'": "the extras; tests/test_cluster_remote.py",
    "docker ": "another program, as Kubernetes is; tests/test_deploy.py reads what they are given",
    "kubectl ": "the same",
    "ray start": "another program; tests/test_cluster.py starts clusters",
    "torchrun": "wants eight GPUs; tests/test_training_loop.py starts two processes",
    "python docs/mini_data.py": "wants gigabytes of recordings",
    "sepcli train --preset mini ": "needs those recordings",
    "python docs/duo_data.py": "the same",
    "sepcli train --preset duo-": "the same",
    "python docs/duo_weights.py": "needs what they give, and a release",
    "sepcli separate albums/ -m duo-vocals": "the next step of these",
    "sepcli evaluate -m ldm -m htdemucs": "wants songs in which someone sings; tests/test_listening.py",
    "sepcli evaluate --model student --model det --data valid": "takes half a minute; evaluation.md has it too",
    "sepcli separate inbox/ --watch": "it does not end; tests/test_watch.py",
    "sepcli separate s3://bucket/albums/": "needs a server; tests/test_remote.py",
    "sepcli open test": "the next step of that",
    "cp -r test/webmushra": "the same",
    "sepcli evaluate --listening-test test --listening-results": "wants the answers of listeners; the same",
}


def page(name: str) -> list[Command]:
    (path,) = (path for path in PAGES if path.name == name)
    return [command for command in commands(path) if not command.line.startswith(tuple(NOT_RUN))]


def trained_first(ran: list[Command]) -> list[Command]:
    """Some pages begin with the use of what they train at their end."""
    return sorted(ran, key=lambda command: command.words[1] not in ("train", "distill"))


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    with FakeHub() as hub:
        yield Kitchen(tmp_path, hub, monkeypatch)


def stems(folder):
    """{name: [C, T]} of the sounds in a folder."""
    return {path.stem: read(path) for path in folder.iterdir() if path.suffix in (".wav", ".flac")}


def separated(kitchen):
    """{name: [C, T]} of the stems of song.wav, by whatever models."""
    folders = (kitchen.folder / "separated").glob("*/song")
    return {name: sound for folder in folders for name, sound in stems(folder).items()}


def test_every_command_is_one():
    wrong = []
    for path in PAGES:
        for command in commands(path):
            given = list(command.arguments())
            if not given and not command.line.startswith(tuple(NOT_RUN)):
                wrong.append(f"{path.name}: {command.line}: what is that?")
            wrong += [f"{path.name}: {command.line}: {why}" for words in given if (why := parse(words))]
        wrong += [
            f"{path.name}: {' '.join(words)}: {why}" for words in mentions(path) if (why := unknown(words))
        ]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_run_is_there():
    lines = [command.line for path in PAGES for command in commands(path)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []


@pytest.mark.parametrize(
    "line, why",
    [
        ("sepcli separate song.wav --modle htdemucs", "No such option"),
        ("sepcli seperate song.wav", "is no command"),
        ("sepcli separate song.wav --shifts many", "--shifts"),
        ("sepcli train --preset demucs9 --data x -o y", "no preset demucs9"),
        ("sepcli separate --model mini | less", "Missing argument"),
        ("torchrun --nnodes 2 -m sepcli train --oops", "No such option"),
    ],
)
def test_a_command_that_is_none_is_found(line, why):
    (given,) = Command("a page", line).arguments()
    assert why in (parse(given) or "")


def test_a_mention_that_is_none_is_found():
    assert unknown(["sepcli", "train", "--bass", "RUN"]) == ["--bass"]
    assert unknown(["sepcli", "models", "lsit"]) and unknown(["--shfits", "2"]) == ["--shfits"]
    assert not unknown(["sepcli", "models"]) and not unknown(["sepcli", "train", "--base", "RUN"])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["mini_data.py", "duo_data.py"])
def test_options_of_the_scripts_that_gather_music_for_the_bundled_model(script):
    (line,) = (command.line for path in PAGES for command in commands(path) if f"{script} ." in command.line)
    asked = subprocess.run(
        [sys.executable, str(ROOT / "docs" / script), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = re.findall(r"--\w+", line)
    assert wanted and not [option for option in wanted if option not in asked.stdout]


@pytest.mark.slow
def test_the_readme(kitchen):
    """All its recipes, one after another in one folder."""
    kitchen.models("htdemucs", "htdemucs_ft")
    kitchen.files("song.wav", "riff.flac", "albums/one/a.wav", "albums/b.flac")
    kitchen.files("hum.wav", samplerate=22050, channels=1)
    kitchen.songs("musdb18hq/train", FOUR)
    kitchen.songs("musdb18hq/train/more", FOUR)
    kitchen.songs("musdb18hq/test", FOUR)
    kitchen.cook(page("README.md"))
    assert soundfile.info("played").frames == 44100  # what came through a pipe
    assert set(stems(kitchen.folder / "separated" / "duo" / "song (preview)")) == set(FOUR)
    results = [json.loads(line) for line in (kitchen.folder / "results.jsonl").read_text().splitlines()]
    assert {Path(result["input"]).name for result in results if "input" in result} == {"a.wav", "b.flac"}
    assert len(list((kitchen.folder / "stems").rglob("*.flac"))) == 8
    assert set(kitchen.hub.repos["owner/name"].files("main")) >= {"README.md", "model.safetensors"}


@pytest.mark.slow
def test_the_python_of_the_readme(kitchen):
    kitchen.models("htdemucs", "htdemucs_ft")
    kitchen.files("song.wav")
    kitchen.files("hum.wav", samplerate=22050, channels=1)
    kitchen.trained("asked", Model("lasaft", "LaSAFTQuery", FOUR))
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    given = {"audio": read("song.wav").astype(np.float32)}
    exec(code, given)
    assert list(given["stems"]) == ["voice"] and given["stems"]["voice"].shape == given["audio"].shape
    assert [path.name for path in given["result"].outputs.values()] == ["vocals.wav"]


@pytest.mark.slow
def test_lasaft(kitchen):
    kitchen.models("lasaft-v2-large")
    kitchen.songs("songs", FOUR)
    kitchen.songs("valid", FOUR)
    kitchen.files("song.wav")
    kitchen.files("hum.wav", samplerate=22050, channels=1)
    ran = trained_first(page("lasaft.md"))
    assert {command.words[1] for command in ran} == {"separate", "train", "inspect", "evaluate"}
    kitchen.cook(ran)
    made = separated(kitchen)
    assert set(made) == {*FOUR, "hum", "voice"}
    assert {sound.shape for sound in made.values()} == {(2, 44100)}
    assert (kitchen.folder / "map.png").stat().st_size > 10_000


@pytest.mark.slow
def test_dicose(kitchen):
    kitchen.models("dicose-det", "dicose-diffusion", "dicose-cd")
    kitchen.songs("songs", SLAKH, samplerate=22050, channels=1)
    kitchen.songs("valid", SLAKH, samplerate=22050, channels=1)
    kitchen.files("song.wav", samplerate=22050, channels=1)
    ran = trained_first(page("dicose.md"))
    assert [command.words[1] for command in ran[:3]] == ["train", "train", "distill"]
    kitchen.cook(ran)
    made = separated(kitchen)
    assert set(made) == set(SLAKH) and {sound.shape for sound in made.values()} == {(1, 22050)}


@pytest.mark.slow
def test_ldm(kitchen):
    kitchen.models("encodec-48k")
    kitchen.songs("songs", ["vocals", "band"], samplerate=8000)
    (kitchen.folder / "songs" / "noise" / "band.wav").unlink()  # vocals and the mixture are enough
    kitchen.files("song.wav", samplerate=8000)
    ran = trained_first(page("ldm.md"))
    assert [command.words[1] for command in ran[:3]] == ["train"] * 3
    kitchen.cook(ran)
    assert set(separated(kitchen)) == {"vocals", "no_vocals", "reconstruction"}
    made = sorted(path.name for path in (kitchen.folder / "noise").iterdir())
    assert made == ["robustness.json", "robustness.png"]
    assert list((kitchen.folder / "latents").rglob("*.safetensors"))


@pytest.mark.slow
def test_training(kitchen):
    kitchen.models("htdemucs")
    kitchen.songs("songs", ["drums", "bass", "other"])
    kitchen.songs("songs/more", ["drums", "bass", "other"])
    kitchen.songs("valid", FOUR)
    kitchen.songs("DIR", FOUR)
    kitchen.files("song.wav", "music/a.wav", "music/b.wav")
    kitchen.cook(page("training.md"))
    assert set(separated(kitchen)) == set(FOUR)


@pytest.mark.slow
def test_evaluation(kitchen):
    kitchen.models("htdemucs")
    for folder in ("musdb18hq/test", "DIR"):
        kitchen.songs(folder, FOUR)
    kitchen.songs("VALID", SLAKH, samplerate=22050, channels=1)
    for run in ("mine", "a", "b", "c"):
        kitchen.trained(f"runs/{run}", PUBLISHED["htdemucs"])
    kitchen.trained("student", PUBLISHED["dicose-cd"])
    kitchen.trained("det", PUBLISHED["dicose-det"])
    kitchen.cook(page("evaluation.md"))
    assert list((kitchen.folder / "scores").iterdir())
