"""LaSAFT's checkpoints: files as Lightning writes them, and ours, through the loader of every model."""

import argparse
import hashlib
import json
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.lasaft import FAMILY
from sepcli.weights.catalog import bundled_catalog, read_catalog
from sepcli.weights.checkpoint import read_checkpoint
from tests.bench.sound import CLIP
from tests.contracts import peak_error, run
from tests.fakehub import FakeHub
from tests.models.test_lasaft import TINY, tiny


def foreign_class(monkeypatch, dotted: str) -> type:
    """A class that pickles under a name of a program that is not installed."""
    module, _, name = dotted.rpartition(".")
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    klass = type(name, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], name, klass, raising=False)
    return klass


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    """Writes a model as Lightning would: optimiser, callbacks by class, settings of OmegaConf."""

    def write(model, name="model.ckpt", n_fft=None, legacy=False):
        with monkeypatch.context() as patch:
            callback = foreign_class(patch, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
            node = foreign_class(patch, "omegaconf.nodes.AnyNode")()
            config = foreign_class(patch, "omegaconf.dictconfig.DictConfig")()
            config._content = {"n_blocks": node}
            config._metadata = {"ref_type": Any, "element_type": dict, "cache": defaultdict(dict)}
            state = OrderedDict((f"spec2spec.{key}", value) for key, value in model.state_dict().items())
            state["stft.stft.window"] = torch.hann_window(n_fft or model.config.n_fft)
            package = {
                "epoch": 709,
                "global_step": 1,
                "pytorch-lightning_version": "1.4.2",
                "state_dict": state,
                "callbacks": {callback: {"best_model_score": torch.tensor(0.5)}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
                "hyper_parameters": config,
                "hparams": argparse.Namespace(n_blocks=7),
            }
            torch.save(package, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return write


def catalogued(tmp_path, monkeypatch, arch: str, config: dict) -> None:
    """A catalogue entry `toy` of that network."""
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in config.items()]
    (tmp_path / "catalog.toml").write_text(
        f'[toy]\nfamily = "lasaft"\narch = "{arch}"\nsources = ["vocals", "drums", "bass", "other"]\n'
        'samplerate = 44100\nchannels = 2\nfiles.model = { url = "https://example.org/a.ckpt" }\n[toy.config]\n'
        + "\n".join(lines)
        + "\n"
    )
    monkeypatch.setenv("SEPCLI_CATALOG", str(tmp_path / "catalog.toml"))


@pytest.mark.parametrize("variant", ["v1", "v1.1", "v2 query_key"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_lightning_file_is_the_model(variant, legacy, lightning, tmp_path, monkeypatch):
    model = tiny(variant)
    changes = {"analyser": "light"} if variant == "v1.1" else {}
    catalogued(tmp_path, monkeypatch, type(model).__name__, {**TINY, **changes})
    loaded = load_model(f"toy={lightning(model, legacy=legacy)}", targets=["drums"])
    mix = torch.randn(1, 2, 960)
    assert loaded.model.sources == ("drums",)
    assert peak_error(run(loaded.model, mix), run(model, mix)[:, 1:2]) < 1e-5


@pytest.mark.slow
def test_a_lightning_file_without_a_catalogue_entry_is_known_by_its_tensors(lightning):
    """Its window has as many bins as the network; what shapes do not tell is said."""
    model, notices = tiny("v2 none"), []
    loaded = load_model(str(lightning(model)), notice=notices.append)
    assert loaded.sources == model.sources and loaded.model.config.n_fft == model.config.n_fft
    assert "does not say" in notices[0] and "LaSAFTv2" in notices[0] and "activation = relu" in notices[0]
    with pytest.raises(ModelError, match="which network"):
        load_model(str(lightning(model, n_fft=512)))


@pytest.mark.slow
def test_another_window_is_refused(lightning):
    """The number of bins alone does not tell windows apart that are cut at the same frequency."""
    model = tiny("v2 none")
    file = read_checkpoint(lightning(model, n_fft=512), foreign=FAMILY.packages)
    with pytest.raises(ModelError, match="512 samples"):
        FAMILY.convert(file, model)


@pytest.mark.slow
def test_other_weights_are_refused(lightning, tmp_path, monkeypatch):
    catalogued(tmp_path, monkeypatch, "LaSAFTv2", {**TINY, "num_tdfs": 4})
    with pytest.raises(ModelError, match="do not fit"):
        load_model(f"toy={lightning(tiny('v2 query_key'))}")


def test_a_file_without_a_state_is_refused(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="no network state"):
        FAMILY.convert(read_checkpoint(tmp_path / "a.ckpt"), tiny("v2 none"))


LIGHT = """
[lasaft-v2-light]
family = "lasaft"
arch = "LaSAFTv2"
sources = ["vocals", "drums", "bass", "other"]
samplerate = 44100
channels = 2
config = {{ internal_channels = 20, num_tdfs = 12, activation = "leaky_relu" }}
files.model = {{ url = "{url}", git_sha1 = "{git}" }}
"""


@pytest.mark.slow
def test_a_published_file_from_its_url_to_a_stem(lightning, tmp_path):
    """The program, a network of full size, a file as Lightning writes it, known by the id of its git blob."""
    bundled = read_catalog(bundled_catalog())["lasaft-v2-light"]
    arch, member = FAMILY.archs["LaSAFTv2"], bundled.members[0]
    torch.manual_seed(0)
    model = arch.build(make_config(arch, {"sources": bundled.sources, **member.config})).eval()
    content = lightning(model).read_bytes()
    clip, samplerate = soundfile.read(CLIP, dtype="float32", frames=50_000)
    soundfile.write(tmp_path / "clip.wav", clip, samplerate, "FLOAT")

    with FakeHub() as hub:
        url = hub.add_url("v2_light/epoch=669.ckpt", content)["url"]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        (tmp_path / "catalog.toml").write_text(LIGHT.format(url=url, git=git))
        entry = read_catalog(tmp_path / "catalog.toml")["lasaft-v2-light"]
        assert entry.members[0].config == member.config and entry.members[0].file.check == "full"
        command = [sys.executable, "-m", "sepcli", "separate", "clip.wav", "-t", "vocals"]
        command += ["--model", "lasaft-v2-light", "--catalog", "catalog.toml", "--device", "cpu", "--json"]
        command += ["--bit-depth", "32f", "--clip", "none"]
        env = hub.env(tmp_path / "home", PYTHONPATH=str(Path(__file__).parents[2]))
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert list(outputs) == ["vocals"] and len(list(tmp_path.rglob("clip/*.wav"))) == 1

    engine = Engine(model.select(["vocals"]), Settings(), torch.device("cpu"), torch.float32)
    expected = torch.cat(list(engine.separate(iter([torch.from_numpy(clip.T.copy())[None]]))), dim=-1)[0, 0]
    vocals, rate = soundfile.read(tmp_path / outputs["vocals"], dtype="float32")
    assert rate == samplerate and peak_error(torch.from_numpy(vocals.T), expected) < 1e-5
