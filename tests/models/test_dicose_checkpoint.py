"""DiCoSe's checkpoints: published names and shapes, files as Lightning writes them, and ours."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from sepcli.errors import ModelError
from sepcli.loading import load_model, save_model
from sepcli.models.config import make_config
from sepcli.models.dicose import FAMILY
from sepcli.models.dicose.checkpoint import PUBLISHED, join
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import peak_error, run
from tests.models.test_dicose import TINY, tiny
from tests.models.test_dicose_unet import published_shapes
from tests.models.test_lasaft_checkpoint import foreign_class

# Of each network: what stands before the names in a published file, and whose names they are.
BASE = ("pre_trained_mixture_feature_extractor_model.model.unet.", "deterministic")
FILES = {
    "Deterministic": [("model.unet.", "deterministic")],
    "Diffusion": [("model.unet.", "diffusion"), ("model.diffusion.net.", "diffusion"), BASE],
    "Consistency": [
        ("net.model.unet.", "diffusion"),
        ("net.model.diffusion.net.", "diffusion"),
        BASE,
        ("target_model.model.unet.", "diffusion"),
        ("teacher_model.model.unet.", "diffusion"),
    ],
    "MSDM": [("model.diffusion.net.", "msdm"), ("model.unet.", "msdm")],
    "ISDM": [("model.unet.", "isdm"), ("model.diffusion.net.", "isdm")],
}
WEIGHTS = {
    "Deterministic": 405_231_900,
    "Diffusion": 810_728_120,
    "Consistency": 810_728_120,
    "MSDM": 405_497_700,
    "ISDM": 4 * 405_491_100,
}


def published(arch: str) -> Checkpoint:
    """A file of the published names and shapes, without memory."""
    with torch.device("meta"):
        state = {
            prefix + name: torch.empty(shape)
            for prefix, names in FILES[arch]
            for name, shape in published_shapes(names).items()
        }
    return Checkpoint(Path("published"), {"state_dict": state, "epoch": 1}, {}, "torch")


def full_size(arch: str, **config):
    with torch.device("meta"):
        return FAMILY.archs[arch].build(make_config(FAMILY.archs[arch], config))


def test_all_networks_are_here():
    assert PUBLISHED.keys() == FILES.keys() - {"ISDM"}


@pytest.mark.parametrize("arch", FILES)
def test_converts_and_loads(arch):
    model, file = full_size(arch), published(arch)
    tensors = join([file] * 4) if arch == "ISDM" else FAMILY.convert(file, model)
    model.load_state_dict(tensors, strict=True)
    assert sum(p.numel() for p in model.parameters()) == WEIGHTS[arch]


def test_the_student_is_what_samples():
    """Of a distillation's four networks, and of the two names of each tensor."""
    file = published("Consistency")
    tensors = FAMILY.convert(file, full_size("Consistency"))
    state = file.payload["state_dict"]
    for ours, theirs in (("unet.", "net.model.unet."), ("base.", BASE[0])):
        assert all(
            tensors[ours + name.removeprefix(theirs)] is value
            for name, value in state.items()
            if name.startswith(theirs)
        )


def test_the_catalogue():
    entries = [entry for entry in load_catalog().values() if entry.family == FAMILY.name]
    assert [entry.name for entry in entries] == ["dicose-det", "dicose-diffusion", "dicose-cd"]
    for entry in entries:
        (member,) = entry.members
        model = full_size(member.arch, sources=entry.sources, **member.config)
        assert (model.sources, model.samplerate, model.channels) == (
            entry.sources,
            entry.samplerate,
            entry.channels,
        )
        assert member.arch in PUBLISHED and member.file.check == "none" and len(member.file.revision) == 40


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    """Writes networks as the authors' programs would: by prefix, among what else stands in such a file."""

    def write(*networks, name="model.ckpt", more=(), legacy=False):
        with monkeypatch.context() as patch:
            data = foreign_class(patch, "main.data.MultiSourceDataset")()
            data.folder, data.starts, data.bounds = Path("slakh"), np.arange(3), defaultdict(dict)
            state = {
                prefix + key: value
                for prefix, network in networks
                for key, value in network.state_dict().items()
            }
            package = {
                "epoch": 239,
                "pytorch-lightning_version": "2.3.1",
                "state_dict": {**state, **dict(more)},
                "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_score": torch.tensor(0.5)}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
                "hyper_parameters": {
                    "sigma": foreign_class(patch, "audio_diffusion_pytorch_.diffusion.LogNormalDistribution")(),
                    "config": argparse.Namespace(channels=1),
                    "beta1": np.float64(0.9),
                },
                "datamodule_hyper_parameters": {"train_dataset": data},
            }
            torch.save(package, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return write


@pytest.fixture
def catalogued(tmp_path, monkeypatch):
    """A catalogue entry `toy` of that network, of tiny shape."""

    def write(arch, sources=("bass", "drums", "guitar", "piano")):
        lines = [
            f"{key} = {list(value) if isinstance(value, tuple) else value}".lower()
            for key, value in TINY.items()
        ]
        (tmp_path / "catalog.toml").write_text(
            f'[toy]\nfamily = "dicose"\narch = "{arch}"\nsources = {list(sources)}\nsamplerate = 22050\n'
            'channels = 1\nfiles.model = { url = "https://example.org/a.ckpt" }\n[toy.config]\n'
            + "\n".join(lines)
            + "\n"
        )
        monkeypatch.setenv("SEPCLI_CATALOG", str(tmp_path / "catalog.toml"))

    return write


@pytest.mark.parametrize("legacy", [False, True])
def test_a_lightning_file_is_the_model(legacy, lightning, catalogued):
    catalogued("Deterministic")
    model = tiny("Deterministic")
    loaded = load_model(f"toy={lightning(('model.unet.', model.unet), legacy=legacy)}", targets=["guitar"])
    mix = torch.randn(1, 1, 640)
    assert loaded.model.sources == ("guitar",)
    assert peak_error(run(loaded.model, mix), run(model, mix)[:, 2:3]) < 1e-5


def test_another_networks_file_is_refused(lightning, catalogued):
    catalogued("Deterministic")
    model = tiny("Deterministic")
    with pytest.raises(ModelError, match="nothing in it is called model.unet"):
        load_model(f"toy={lightning(('net.model.unet.', model.unet))}")
    with pytest.raises(ModelError, match="do not fit"):
        load_model(f"toy={lightning(('model.unet.', tiny('Deterministic', heads=4).unet))}")
    catalogued("DoubleDeterministic")
    with pytest.raises(ModelError, match="its networks are not called base or unet"):
        load_model(f"toy={lightning(('model.unet.', model.unet))}")


def test_a_file_without_a_state_is_refused(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="no network state"):
        FAMILY.convert(read_checkpoint(tmp_path / "a.ckpt"), tiny("Deterministic"))


@pytest.mark.parametrize("name", ["Deterministic", "DoubleDeterministic"])
def test_a_file_of_ours_that_lacks_a_tensor_is_refused(name, tmp_path):
    model = tiny(name)
    path = tmp_path / "model.safetensors"
    state = model.state_dict()
    del state["unet.bottleneck.attention.fn.norm.g"]
    save_model(state, path, family="dicose", arch=name, config=model.config)
    with pytest.raises(ModelError, match="do not fit"):
        load_model(str(path))


SMAPS = Path("/proc/self/smaps")


def resident(path: Path) -> int:
    """Bytes of that mapped file which are in memory."""
    found, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(not SMAPS.exists(), reason="asks Linux which pages were read")
def test_only_the_wanted_tensors_are_read(lightning):
    """Of a file of 64 MB, of which a few hundred kB are the network."""
    model = tiny("Deterministic")
    teacher = {f"teacher_model.model.unet.{n}": torch.ones(4 << 20) for n in range(4)}
    path = lightning(("model.unet.", model.unet), more=teacher)
    assert path.stat().st_size > 64 << 20
    checkpoint = read_checkpoint(path, foreign=FAMILY.packages)
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    assert 0 < resident(path) < 8 << 20
    assert checkpoint.payload["state_dict"]["teacher_model.model.unet.3"].sum() == 4 << 20
    assert resident(path) > 16 << 20


@pytest.mark.slow
def test_local_files_of_msdm_and_isdm(lightning, tmp_path):
    """As docs/dicose.md has it: turned into files that say what they are."""
    mix = torch.randn(1, 1, 640)
    for name in ("MSDM", "ISDM"):
        model = tiny(name)
        networks = [model.unet] if name == "MSDM" else model.unets
        paths = [
            lightning(("model.unet.", network), ("model.diffusion.net.", network), name=f"{k}.ckpt")
            for k, network in enumerate(networks)
        ]
        files = [read_checkpoint(path, foreign=FAMILY.packages) for path in paths]
        tensors = join(files) if name == "ISDM" else FAMILY.convert(files[0], model)
        save_model(tensors, tmp_path / "own.safetensors", family="dicose", arch=name, config=model.config)
        loaded = load_model(str(tmp_path / "own.safetensors"), options={"steps": "2"})
        model.options = loaded.model.options
        assert torch.equal(run(loaded.model, mix), run(model, mix))
