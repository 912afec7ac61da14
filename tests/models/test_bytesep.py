"""bytesep: tiny networks for the contract, equality with the original, the filter bank, and checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model
from sepcli.models.bytesep import FAMILY
from sepcli.models.bytesep.checkpoint import published_names
from sepcli.models.bytesep.config import ResUNetConfig
from sepcli.models.bytesep.filters import FilterBank
from sepcli.models.bytesep.network import ResUNet
from sepcli.models.config import make_config
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, peak_error, run
from tests.toys import unsettled

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "bytesep").glob("*.json"))}
GOLDEN = {path.parent.name: path.parent for path in sorted(TESTS.glob("golden/bytesep/*/case.json"))}
ARCH = FAMILY.archs["ResUNet"]
TINY = dict(bands=2, taps=16, nfft=32, hop=7, widths=(3, 5), blocks=2, middle=2, chunk=500)


def tiny(*sources, **other):
    """With every norm off its trivial value."""
    torch.manual_seed(0)
    model = ResUNet(ResUNetConfig(**{"sources": sources, **TINY, **other}))
    return unsettled(model)


NETWORKS = {
    "ResUNet": {
        "plain": Case(partial(tiny, "vocals"), [1, 300]),
        "separable, two stems": Case(partial(tiny, "a", "b", separable=True, blocks=1, middle=1), [301]),
        "mono": Case(partial(tiny, "a", channels=1), [200]),
    }
}


# --- equality with the original ------------------------------------------------------------------------------


def golden(name):
    folder = GOLDEN[name]
    checkpoint = read_checkpoint(folder / "weights.safetensors")
    config = make_config(ARCH, {"sources": ["vocals"], **FAMILY.detect(checkpoint).config})
    model = ResUNet(config).eval()
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return model, load_file(folder / "io.safetensors"), json.loads((folder / "case.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    model, io, case = golden(name)
    counted = sum(tensor.numel() for tensor in model.parameters())
    assert counted == case["parameters"]
    assert (run(model, io["input"])[:, 0] - io["forward"]).abs().max() < case["tolerance"]
    assert peak_error(model.filters.split(io["input"]), io["pqmf_analysis"]) < 1e-6
    assert peak_error(model.filters.join(io["pqmf_analysis"]), io["pqmf_synthesis"]) < 1e-6


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_original(name):
    """Calls begin at every half of one, their middle half is kept; of the first and the last the end too."""
    model, io, case = golden(name)
    mix, size = io["input"], case["segment_samples"]
    starts = range(0, mix.shape[-1] - size + 1, size // 2)
    pieces = []
    for start in starts:
        first = 0 if start == 0 else size // 4
        last = size if start == starts[-1] else 3 * size // 4
        pieces.append(run(model, mix[..., start : start + size])[0, 0, :, first:last])
    assert (torch.cat(pieces, dim=-1) - io["separator"]).abs().max() < case["tolerance"]


# --- the filter bank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bands", "taps"), [(4, 64), (2, 32), (8, 128)])
def test_a_fresh_bank_joins_what_it_splits(bands, taps):
    bank, wave = FilterBank(bands, taps), torch.randn(2, 2, 40 * bands)
    split = bank.split(wave)
    assert split.shape == (2, 2 * bands, 40 + taps // bands)
    assert peak_error(bank.join(split), wave) < 3e-3


def test_each_band_has_its_range_of_frequencies():
    bank, time = FilterBank(4, 64), torch.arange(4000) / 4000
    for band in range(4):
        wave = torch.sin(2 * torch.pi * (250 + 500 * band) * time)[None, None]  # of 2000 Hz
        energy = bank.split(wave)[0, :, 50:-50].square().mean(dim=-1)
        assert energy.argmax() == band and energy[band] > 1e6 * (energy.sum() - energy[band])


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_published_files(name):
    """The network is found by the tensors alone and takes all of them, but for the Fourier matrices."""
    listed = json.loads(KEYS[name].read_text())
    kinds = {"float32": torch.float32, "int64": torch.int64}
    tensors = {
        key: torch.empty(shape, dtype=kinds[kind], device="meta") for key, (kind, shape) in listed.items()
    }
    checkpoint = Checkpoint(Path(name), {"model": tensors, "iteration": 500000}, format="torch")
    told = FAMILY.detect(checkpoint)
    assert told.missing == ("sources",)
    with torch.device("meta"):
        model = ResUNet(make_config(ARCH, {"sources": ["vocals"], **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    published = {"resunet143": {}, "mobilenet": MOBILE}[name]
    assert model.config == ResUNetConfig(**published)
    assert len(published_names(model)) == len(tensors) - 5  # stft and istft
    assert (
        sum(tensor.numel() for tensor in model.parameters())
        == {"resunet143": 102572466, "mobilenet": 306418}[name]
    )


MOBILE = dict(widths=(32, 64, 64, 64, 64, 64), blocks=1, middle=1, separable=True)


def test_a_file_of_ones_own(tmp_path):
    """It must be said which stem it makes, unless it has the name of a published one."""
    state = ResUNet(ResUNetConfig(**MOBILE)).state_dict()
    stored = {theirs: state[ours] for theirs, ours in published_names(ResUNet(ResUNetConfig(**MOBILE))).items()}
    mine = tmp_path / "mine.pth"
    torch.save({"model": stored}, mine)
    with pytest.raises(ModelError, match="do not tell sources.* in mobilenet-subband[.]"):
        load_model(str(mine))
    with pytest.raises(UsageError, match="made of 2 files"):
        load_model(f"mobilenet-subband={mine}")
    loaded = load_model(f"mobilenet-subband={mine}", targets=["accompaniment"]).model
    assert loaded.sources == ("accompaniment",) and loaded.whole == ("vocals", "accompaniment")
    assert torch.equal(loaded.state_dict()["head.weight"], state["head.weight"])
    called = tmp_path / load_catalog()["mobilenet-subband"].files[1].filename
    mine.rename(called)
    assert load_model(str(called)).model.sources == ("accompaniment",)
