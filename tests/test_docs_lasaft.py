"""The tutorial docs/lasaft.md: every command in it runs, on small noise and with training cut to two steps."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile

from sepcli.cli.app import main
from tests.tracks import make_track, read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "lasaft.md"
PUBLISHED = ("lasaft-v2-large", "lasaft-v2-light", "lasaft-v1-large", "lightsaft-v1.1")  # would be downloaded
SHORT = [
    "--max-steps",
    "2",
    "--workers",
    "0",
    "--set",
    "run.steps_per_epoch=2",
    "--set",
    "run.batch_size=2",
    "--set",
    "run.valid_seconds=1",
    "--set",
    "data.skip_silent=0",
]


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    # What is trained at the end of the page is used at its beginning.
    return sorted(lines, key=lambda words: words[1] != "train")


@pytest.fixture
def place(tmp_path, monkeypatch):
    levels = {"vocals": 0.1, "drums": 0.2, "bass": 0.1, "other": 0.1}
    for k, folder in enumerate(["songs", "valid"]):
        make_track(tmp_path / folder, "noise", levels, seconds=3, samplerate=44100, seed=k)
    song = read(tmp_path / "songs" / "noise" / "mixture.wav")
    soundfile.write(tmp_path / "song.wav", song.T[:44100], 44100)
    soundfile.write(tmp_path / "hum.wav", song[0, :20000], 22050)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(place, capsys):
    ran = commands()
    assert len(ran) >= 10 and {words[1] for words in ran} == {"separate", "train", "inspect", "evaluate"}
    for words in ran:
        words = ["run" if word in PUBLISHED else word for word in words[1:]]
        more = {"train": SHORT, "separate": ["--force"]}.get(words[0], [])
        code = main([*words, *more])
        assert code == 0, f"sepcli {shlex.join(words)}\n{capsys.readouterr().err}"
    stems = {path.stem for path in (place / "separated" / "song").iterdir() if path.suffix == ".wav"}
    assert stems >= {"vocals", "hum", "voice", "drums"} and (place / "map.png").stat().st_size > 10_000
    assert all(len(read(path).T) == 44100 for path in (place / "separated" / "song").glob("*.wav"))


def test_the_tables_name_what_there_is():
    from sepcli.training.config import preset_names
    from sepcli.weights.catalog import load_catalog

    page = PAGE.read_text(encoding="utf-8")
    families = {name for name, entry in load_catalog().items() if entry.family == "lasaft"}
    for name in {*families, *(name for name in preset_names() if name.startswith("lasaft"))}:
        assert f"`{name}`" in page, name
