"""Every model of the catalogue with its published weights: `pytest -m network`, where the hub can be reached.

All of them are more than 60 GB. The walk itself is tried here, on random weights in published layouts from a
hub on loopback.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from sepcli.models.detection import entry_config
from sepcli.models.family import get_family
from sepcli.models.scnet import checkpoint as scnet_checkpoint
from sepcli.weights.catalog import bundled_catalog, read_catalog
from sepcli.weights.checkpoint import Checkpoint
from sepcli.weights.entryfile import entry_tables
from tests import bsrnns, bundles
from tests.bench.weights import make
from tests.fakehub import FakeHub
from tests.models.test_spleeter import as_tensorflow
from tests.needs import need
from tests.roformers import as_published
from tests.walk import ROOT, walk

ENTRIES = read_catalog(bundled_catalog())


@pytest.mark.network
@pytest.mark.parametrize("name", ENTRIES)
def test_published_weights(name, tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_HUB_OFFLINE", "SEPCLI_"))}
    walk(ENTRIES[name], env=env, cwd=tmp_path)


# --- the same with random weights --------------------------------------------------------------------------


def elsewhere(name: str, file: dict, folder: Path) -> Path:
    """A catalogue with the bundled entry `name`, whose file is another one."""
    table = entry_tables(bundled_catalog().read_text(encoding="utf-8"))[name]
    member = table["files"]["model"].get("member")
    table["files"]["model"] = {**file, **({"member": member} if member else {})}
    path = folder / "catalog.toml"
    path.write_text(tomli_w.dumps({name: table}), encoding="utf-8")
    return path


def htdemucs(hub: FakeHub, folder: Path) -> dict:
    need("demucs")
    return hub.add("someone/HTDemucs", "955717e8.safetensors", make("htdemucs", folder).file)


def built(name: str) -> Any:
    """The network of an entry, with fresh weights."""
    (member,), family = ENTRIES[name].members, get_family(ENTRIES[name].family)
    torch.manual_seed(0)
    return family.arch(member.arch).build(entry_config(family.arch(member.arch), ENTRIES[name], member))


def lasaft(hub: FakeHub, folder: Path) -> dict:
    """A file of PyTorch Lightning."""
    model = built("lasaft-v2-light")
    state = {f"spec2spec.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 669}, folder / "epoch=669.ckpt")
    return hub.add_url("epoch=669.ckpt", folder / "epoch=669.ckpt")


def spleeter(hub: FakeHub, folder: Path) -> dict:
    """An archive with a checkpoint of TensorFlow."""
    files = bundles.bundle(as_tensorflow(built("spleeter-5stems"), slots=False))
    archive = bundles.write_tar(folder / "5stems.tar.gz", files, level=0)
    return hub.add_url(archive.name, archive)


def roformer(hub: FakeHub, folder: Path) -> dict:
    """A file of the training toolkit, in float16 as this one is."""
    state = {name: tensor.half() for name, tensor in as_published(built("guitar-becruily")).items()}
    torch.save(state, folder / "a.ckpt")
    return hub.add("someone/guitar", "becruily_guitar.ckpt", folder / "a.ckpt")


def bsrnn(hub: FakeHub, folder: Path) -> dict:
    """A file of PyTorch Lightning in a zip archive."""
    model = built("bsrnn-simo-opt")
    hyper = {"targets": list(model.sources)}
    torch.save({"state_dict": bsrnns.as_published(model), "hyper_parameters": hyper}, folder / "separator.ckpt")
    with zipfile.ZipFile(folder / "simo.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
        archive.write(folder / "separator.ckpt", "simo-bsrnn-opt/separator.ckpt")
    return hub.add_url("simo.zip", folder / "simo.zip")


def scnet(hub: FakeHub, folder: Path) -> dict:
    """A file of the authors' trainer: a network that ran on several GPUs, in a wrapper."""
    state = scnet_checkpoint.as_published(built("scnet-small"))
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"best_state": state, "epoch": 130}, folder / "scnet.ckpt")
    return hub.add_url("scnet.ckpt", folder / "scnet.ckpt")


def mdx23c(hub: FakeHub, folder: Path) -> dict:
    """A file of the training toolkit."""
    torch.save({"state_dict": built("drumsep-aufr33-jarredou").state_dict()}, folder / "kit.ckpt")
    return hub.add_url("kit.ckpt", folder / "kit.ckpt")


def tasnet(hub: FakeHub, folder: Path) -> dict:
    """A file of Demucs v2: bare tensors."""
    model = built("tasnet-v2")
    names = json.loads((ROOT / "tests" / "keys" / "demucs_early" / "tasnet.json").read_text())
    numbers = {name: torch.tensor(number) for number, name in enumerate(names)}
    ours = get_family("demucs").convert(Checkpoint(folder, numbers), model)
    theirs = {list(names)[int(number)]: model.state_dict()[name] for name, number in ours.items()}
    torch.save(theirs, folder / "tasnet-beb46fac.th")
    return hub.add_url("tasnet-beb46fac.th", folder / "tasnet-beb46fac.th")


LAYOUTS = {
    "drumsep-aufr33-jarredou": mdx23c,
    "bsrnn-simo-opt": bsrnn,
    "guitar-becruily": roformer,
    "htdemucs": htdemucs,
    "lasaft-v2-light": lasaft,
    "scnet-small": scnet,
    "spleeter-5stems": spleeter,
    "tasnet-v2": tasnet,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_walk(name, tmp_path):
    with FakeHub() as hub:
        catalog = elsewhere(name, LAYOUTS[name](hub, tmp_path), tmp_path)
        more, seconds = (
            ["--catalog", str(catalog)],
            1 if LAYOUTS[name] in (roformer, bsrnn, scnet, mdx23c, tasnet) else 4,
        )
        walk(ENTRIES[name], env=hub.env(tmp_path / "home"), cwd=tmp_path, more=more, seconds=seconds)
        assert hub.count("GET") == 1
