"""The page docs/ldm.md: its commands run, shrunk and cut to two steps; its tables name what there is."""

import json
import re
import shlex
from pathlib import Path

import pytest
import soundfile

from sepcli.cli.app import main
from sepcli.loading import save_model
from sepcli.training.config import preset_names
from sepcli.training.run import RunFolder
from tests.fakehub import FakeHub
from tests.models.test_ldm_codec import tiny
from tests.tracks import make_track, read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ldm.md"
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
    "data.examples=4",
]
CODEC = ["samplerate=8000", "filters=2", "latent=4", "ratios=[2,2]", "lstm_layers=1"]
SHRUNK = {
    "Codec": [*CODEC, "window=640"],
    "LatentDiffusion": [
        *CODEC,
        "widths=[8,16]",
        "factors=[1,2]",
        "blocks=[1,1]",
        "attentions=[false,true]",
        "injections=[false,true]",
        "heads=2",
        "head_features=4",
        "groups=2",
        "features=8",
        "segment=640",
    ],
}

CATALOG = """
[encodec-48k]
family = "ldm"
arch = "Codec"
sources = ["reconstruction"]
samplerate = 8000
channels = 2
published_overlap = 0.01
config = {{ {config} }}
files.model = {{ {pin} }}
"""


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    lines = [shlex.split(line, comments=True)[1:] for block in blocks for line in block.splitlines()]
    return sorted(lines, key=lambda words: words[0] != "train")  # what is used must be trained first


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The song on which the page trains: vocals and the mixture."""
    song = make_track(tmp_path / "songs", "noise", {"vocals": 0.1, "band": 0.1}, seconds=1)
    (song / "band.wav").unlink()
    soundfile.write(tmp_path / "song.wav", read(song / "mixture.wav").T[:3000], 8000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda run: None)  # curves take longer than these networks
    return tmp_path


@pytest.fixture
def encodec(place, monkeypatch):
    """`encodec-48k` small, in a catalogue of its own."""
    model = tiny(samplerate=8000, codebooks=16, codebook_size=8)  # 1000 latents a second, 3 kbit/s a codebook
    path = place / "encodec.safetensors"
    save_model(model.state_dict(), path, family="ldm", arch="Codec", config=model.config)
    config = ", ".join(f"{name} = {json.dumps(value)}" for name, value in vars(model.config).items())
    with FakeHub() as hub:
        pin = hub.add_url(path.name, path)
        (place / "catalog.toml").write_text(
            CATALOG.format(
                config=config, pin=", ".join(f"{key} = {json.dumps(value)}" for key, value in pin.items())
            )
        )
        for name, value in hub.env(place / "home", SEPCLI_CATALOG=str(place / "catalog.toml")).items():
            monkeypatch.setenv(name, value)
        yield


def test_the_chain_as_documented(place, encodec, capsys):
    ran = [words for words in commands() if words[0] in ("train", "separate", "robustness")]
    assert [words[0] for words in ran[:3]] == ["train"] * 3 and len(ran) >= 11
    for words in ran:
        more = [] if words[0] == "robustness" else ["--force"]
        if words[0] == "train":
            arch = "Codec" if "codec" in words[words.index("--preset") + 1] else "LatentDiffusion"
            more = [*SHORT, *(word for text in SHRUNK[arch] for word in ("--set", f"model.config.{text}"))]
        code = main([*words, "--device", "cpu", *more])
        assert code == 0, f"sepcli {shlex.join(words)}\n{capsys.readouterr().err}"
    made = {path.stem for path in (place / "separated" / "song").glob("*.wav")}
    assert made == {"vocals", "no_vocals", "reconstruction"}
    assert sorted(path.name for path in (place / "noise").iterdir()) == ["robustness.json", "robustness.png"]
    assert list((place / "latents").rglob("*.safetensors"))


def test_the_tables_name_what_there_is():
    from sepcli.models.ldm import FAMILY

    page = PAGE.read_text(encoding="utf-8")
    names = [name for name in preset_names() if name.startswith("ldm-")]
    names += [name for arch in FAMILY.archs.values() for name in arch.options.__dataclass_fields__]
    assert names and all(f"`{name}`" in page or f" {name} " in page for name in names)
