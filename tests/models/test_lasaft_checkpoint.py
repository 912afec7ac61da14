"""LaSAFT's checkpoints: files as Lightning writes them, and ours, through the loader of every model."""

import sys
import types
from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch

from sepcli.checkpoint import read_checkpoint
from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from sepcli.models.lasaft import FAMILY
from tests.contracts import peak_error, run
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
                "epoch": 709, "global_step": 1, "pytorch-lightning_version": "1.4.2", "state_dict": state,
                "callbacks": {callback: {"best_model_score": torch.tensor(0.5)}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
                "hyper_parameters": config,
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
        + "\n".join(lines) + "\n")
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


def test_a_lightning_file_without_a_catalogue_entry_says_nothing(lightning):
    with pytest.raises(ModelError, match="which network"):
        load_model(str(lightning(tiny("v2 none"))))


def test_another_window_is_refused(lightning):
    """The number of bins alone does not tell windows apart that are cut at the same frequency."""
    model = tiny("v2 none")
    file = read_checkpoint(lightning(model, n_fft=512), foreign=FAMILY.packages)
    with pytest.raises(ModelError, match="512 samples"):
        FAMILY.convert(file, model)


def test_other_weights_are_refused(lightning, tmp_path, monkeypatch):
    catalogued(tmp_path, monkeypatch, "LaSAFTv2", {**TINY, "num_tdfs": 4})
    with pytest.raises(ModelError, match="do not fit"):
        load_model(f"toy={lightning(tiny('v2 query_key'))}")


def test_a_file_without_a_state_is_refused(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="no network state"):
        FAMILY.convert(read_checkpoint(tmp_path / "a.ckpt"), tiny("v2 none"))


@pytest.mark.parametrize("variant", ["v1.1", "v2 leaky"])
def test_ours_says_what_it_is(variant, tmp_path):
    model = tiny(variant)
    path = tmp_path / "model.safetensors"
    save_model(model.state_dict(), path, family="lasaft", arch=type(model).__name__, config=model.config)
    loaded = load_model(str(path))
    mix = torch.randn(1, 2, 960)
    assert loaded.model.config == model.config and torch.equal(run(loaded.model, mix), run(model, mix))
