"""The page docs/dicose.md: its commands run, shrunk and with training cut to two steps."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile

from sepcli.cli.app import main
from sepcli.training.run import RunFolder
from tests.tracks import make_track, read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "dicose.md"
STEMS = {"bass": 0.1, "drums": 0.2, "guitar": 0.1, "piano": 0.1}
# What would be downloaded, and what is used in its place.
PUBLISHED = {"dicose-det": "det", "dicose-diffusion": "diffusion", "dicose-cd": "student"}
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
    "run.valid_seconds=0.1",
    "--set",
    "data.segment=0.1",
]
SHRUNK = [
    "width=16",
    "patch=4",
    "multipliers=[1,2,2]",
    "factors=[4,2]",
    "blocks=[1,1]",
    "attentions=[false,true]",
    "heads=2",
    "head_features=4",
    "segment=4096",
]


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    lines = [words[1:] for words in lines if words[1] != "dataset"]  # needs a SoundFont
    return sorted(lines, key=lambda words: words[0] == "separate")  # after what it uses is trained


@pytest.fixture
def place(tmp_path, monkeypatch):
    for k, folder in enumerate(["songs", "valid"]):
        make_track(tmp_path / folder, "noise", STEMS, seconds=1, channels=1, samplerate=22050, seed=k)
    song = read(tmp_path / "valid" / "noise" / "mixture.wav")
    soundfile.write(tmp_path / "song.wav", song.T[:8000], 22050)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda run: None)  # curves take longer than these networks
    return tmp_path


def test_the_chain_as_documented(place, capsys):
    ran = commands()
    assert [words[0] for words in ran[:3]] == ["train", "train", "distill"] and len(ran) >= 8
    for words in ran:
        more = ["--force", "--device", "cpu"]
        if words[0] != "separate":
            more = ["--device", "cpu", *SHORT]
            more += [word for text in SHRUNK for word in ("--set", f"model.config.{text}")]
        words = [PUBLISHED.get(word, word) for word in words]
        code = main([*words, *more])
        assert code == 0, f"sepcli {shlex.join(words)}\n{capsys.readouterr().err}"
    stems = {path.stem: read(path) for path in (place / "separated" / "song").glob("*.wav")}
    assert set(stems) == set(STEMS) and all(stem.shape == (1, 8000) for stem in stems.values())


def test_the_tables_name_what_there_is():
    from sepcli.models.dicose import FAMILY
    from sepcli.training.config import preset_names, read_preset
    from sepcli.weights.catalog import load_catalog

    page = PAGE.read_text(encoding="utf-8")
    names = [name for name, entry in load_catalog().items() if entry.family == FAMILY.name]
    names += [name for name in preset_names() if name.startswith(("dicose", "msdm", "isdm"))]
    names += [
        option for arch in FAMILY.archs.values() if arch.options for option in arch.options.__dataclass_fields__
    ]
    assert names and all(f"`{name}`" in page for name in names), [n for n in names if f"`{n}`" not in page]
    assert all(read_preset(name)["about"] for name in preset_names())


def test_the_levels_are_those_that_are_used():
    from sepcli.models.dicose.refined import ConsistencyOptions, DiffusionOptions

    page = PAGE.read_text(encoding="utf-8")
    for steps in (1, 2, 4):
        assert f"| Consistency | {steps} | {ConsistencyOptions(steps=steps).level} |" in page
    assert f"| Consistency | any other | {ConsistencyOptions(steps=7).level} |" in page
    assert f"| Diffusion | any | {DiffusionOptions().sigma_max} |" in page
