"""Checkpoints of the training toolkit with their YAML: what is read, what is refused, and where it is found."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import soundfile
import torch

from sepcli.cli.app import main
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model
from sepcli.weights.toolkit import beside, read_toolkit, stem_name
from tests.fakehub import FakeHub
from tests.models.test_roformer import tiny
from tests.roformers import as_published

YAML = """
audio:
  chunk_size: 8820
  sample_rate: 44100
  num_channels: 2
model:
  dim: 12
  depth: 2
  stereo: true
  num_stems: 1
  time_transformer_depth: 1
  freq_transformer_depth: 1
  heads: 2
  dim_head: 6
  mlp_expansion_factor: 2
  stft_n_fft: 256
  stft_hop_length: 100
  freqs_per_bands: !!python/tuple [BANDS]
  flash_attn: true
  skip_connection: false
training:
  instruments: ["Lead Vocals", other]
  target_instrument: Lead Vocals
  lr: 1.0e-05
inference:
  num_overlap: 4
"""


@pytest.fixture
def made(tmp_path):
    """A tiny BS-RoFormer as the toolkit saves it, and the text of its YAML."""
    model = tiny("vocals", nfft=256, hop=100, bands=(4,) * 16 + (16,) * 3 + (17,))
    torch.save(as_published(model), tmp_path / "my.ckpt")
    yaml = YAML.replace("BANDS", ", ".join(map(str, model.config.bands)))
    (tmp_path / "other.yaml").write_text(yaml)
    return tmp_path / "my.ckpt", yaml, model


def test_the_yaml_says_what_tensors_do_not(made):
    path, _, original = made
    notices = []
    loaded = load_model(str(path), config=str(path.parent / "other.yaml"), notice=notices.append)
    assert loaded.sources == ("lead_vocals", "other") and loaded.model.samplerate == 44100
    assert loaded.network.config.hop == original.config.hop and loaded.model.segment.samples == 8820
    assert len(loaded.hashes) == 2 and "'other.yaml'" in " ".join(notices)
    mix = torch.randn(1, 2, 700)
    with torch.inference_mode():
        lead, other = loaded.model(mix).unbind(1)
        assert torch.equal(lead, original.eval()(mix)[:, 0]) and torch.equal(other, mix - lead)
    narrowed = load_model(str(path), config=str(path.parent / "other.yaml"), targets=["other"])
    assert narrowed.model.sources == ("other",) and narrowed.model.whole == loaded.sources


def test_one_beside_it_is_found(made):
    path, yaml, _ = made
    assert load_model(str(path)).sources != ("lead_vocals", "other")
    (path.parent / "my.yaml").write_text(yaml)
    assert load_model(str(path)).sources == ("lead_vocals", "other")


def test_on_the_command_line(made, monkeypatch, capfd):
    """A run knows the YAML: with another one the stems are made again."""
    path, yaml, _ = made
    monkeypatch.chdir(path.parent)
    soundfile.write("song.wav", np.random.default_rng(0).uniform(-0.3, 0.3, (3000, 2)), 44100)

    def run():
        command = "separate song.wav -m my.ckpt --config other.yaml -o out --device cpu --json".split()
        assert main(command) == 0
        (result,) = map(json.loads, capfd.readouterr().out.splitlines())
        return result["status"], sorted(result["outputs"])

    assert run() == ("done", ["lead_vocals", "other"])
    assert run()[0] == "skipped"
    (path.parent / "other.yaml").write_text(yaml.replace("skip_connection: false", "skip_connection: true"))
    assert run()[0] == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dim: 12", "dim: 16", "'my.yaml' gives dim as 16, but by the tensors of 'my.ckpt' it is 12"),
        ("depth: 2", "depth: 3", "gives depth as 3"),
        ("  flash_attn: true", "  hyper_connections: 4", "does not know: hyper_connections"),
        ("  target_instrument: Lead Vocals", "  target_instrument: null", "number of stems as 2"),
        ("target_instrument: Lead Vocals", "target_instrument: bass", "'bass', is none of the instruments"),
        ("model:", "mode:", "has no part `model`"),
        ('["Lead Vocals", other]', "3", "`training.instruments` is not a list"),
        ('["Lead Vocals", other]', '["Lead Vocals", lead-vocals, "***"]', "no different names"),
        ("chunk_size: 8820", "chunk_size: all", "`chunk_size` is 'all'"),
        ("lr: 1.0e-05", "lr: !!python/object/apply:os.system [true]", "python/object/apply:os.system"),
        ("lr: 1.0e-05", "lr: &x [1]\n  b: *x", "aliases"),
        ("lr: 1.0e-05", "lr: [", "line"),
        ("lr: 1.0e-05", "lr: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("training:", "# " + "x" * (1 << 20) + "\ntraining:", "larger than 1 MB"),
    ],
)
def test_what_is_refused_by_name(made, old, new, words):
    path, yaml, _ = made
    assert old in yaml
    (path.parent / "my.yaml").write_text(yaml.replace(old, new, 1))
    with pytest.raises(ModelError) as failure:
        load_model(str(path))
    assert words in failure.value.message and failure.value.remedy


def test_a_file_of_another_kind(made):
    path, _, _ = made
    yaml = str(path.parent / "other.yaml")
    state = torch.load(path, weights_only=True)
    torch.save({"encoder.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"roformer.*It begins with 'encoder.weight'"):
        load_model(str(path), config=yaml)
    torch.save({**state, "encoder.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"Unexpected key.*encoder.weight"):
        load_model(str(path), config=yaml)
    name = "band_split.to_features.0.1.bias"
    torch.save({**state, name: torch.zeros(13)}, path)
    with pytest.raises(ModelError, match="do not fit"):
        load_model(str(path), config=yaml)
    with pytest.raises(ModelError, match="There is no file"):
        load_model(str(path), config="absent.yaml")
    with pytest.raises(UsageError, match="is a model of the catalogue"):
        load_model("htdemucs", config=yaml)


def test_on_the_hub(made, tmp_path, monkeypatch):
    path, _, _ = made
    with FakeHub() as hub:
        for name, value in hub.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        for name in set(os.environ) - set(hub.env(tmp_path / "home")):
            monkeypatch.delenv(name)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        hub.add("someone/model", "deep/my.ckpt", path)
        hub.add("someone/model", "other.yaml", path.parent / "other.yaml")
        assert load_model("hf://someone/model/deep/my.ckpt").sources != ("lead_vocals", "other")
        named = load_model("hf://someone/model/deep/my.ckpt", config="hf://someone/model/other.yaml")
        assert named.sources == ("lead_vocals", "other")
        hub.add("someone/model", "deep/config_my.yaml", path.parent / "other.yaml")
        found = load_model("hf://someone/model/deep/my.ckpt")
        assert found.sources == ("lead_vocals", "other") and len(found.hashes) == 2


def test_a_file_of_the_catalogue_is_known_by_its_hash(made, tmp_path):
    from sepcli.weights.catalog import load_catalog
    from sepcli.weights.download import file_sha256

    path, _, original = made
    config = ", ".join(
        f"{name} = {list(value) if isinstance(value, tuple) else value}"
        for name in ("nfft", "hop", "dim", "depth", "heads", "dim_head", "mask_expansion", "chunk", "bands")
        for value in [getattr(original.config, name)]
    )
    (tmp_path / "c.toml").write_text(
        f'[known]\nfamily = "roformer"\narch = "BSRoformer"\nsources = ["male"]\ncounterpart = "female"\n'
        f'samplerate = 44100\nchannels = 2\naliases = ["my.ckpt"]\nconfig = {{ {config} }}\n'
        f'files.model = {{ url = "https://e.org/x", sha256 = "{file_sha256(path)}" }}\n'
    )
    notices = []
    loaded = load_model(str(path), catalog=load_catalog([tmp_path / "c.toml"]), notice=notices.append)
    assert loaded.name == "known" and loaded.sources == ("male", "female") and "'known'" in notices[0]


def test_names():
    assert [stem_name(text) for text in ("Vocals", "Lead Vocals", " hi-hat ", "***")] == [
        "vocals",
        "lead_vocals",
        "hi-hat",
        "",
    ]
    assert beside("a.b.ckpt") == ("a.b.yaml", "a.b.yml", "config_a.b.yaml", "config.yaml")


def test_only_a_target(made):
    path, yaml, _ = made
    file = path.parent / "my.yaml"
    for names, target, sources, counterpart in (
        ("[vocals]", "vocals", ("vocals",), "instrumental"),
        ("[vocals, instrumental]", "instrumental", ("instrumental",), "vocals"),
        ("[drums, bass, other]", "bass", ("bass",), ""),
        ("[drums, bass]", "null", ("drums", "bass"), ""),
    ):
        text = yaml.replace('["Lead Vocals", other]', names).replace(": Lead Vocals", f": {target}")
        file.write_text(text)
        toolkit = read_toolkit(file)
        assert (toolkit.sources, toolkit.counterpart, toolkit.chunk) == (sources, counterpart, 8820)
