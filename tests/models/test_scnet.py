"""SCNet: tiny networks for the contract, equality with the originals, rows and padding, and checkpoints."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.scnet import FAMILY
from sepcli.models.scnet.checkpoint import as_published
from sepcli.models.scnet.config import SCNetConfig
from sepcli.models.scnet.levels import row_plan, rows_made
from sepcli.models.scnet.network import SCNet
from sepcli.models.scnet.toolkit import read_settings, write_settings
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, check_reduced, peak_error, run
from tests.toolkitwalk import toolkit_walk

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "scnet").glob("*.json"))}
FOLDERS = [TESTS / "golden", *map(Path, filter(None, [os.environ.get("SEPCLI_GOLDEN")]))]
GOLDEN = {path.parent.name: path.parent for folder in FOLDERS for path in folder.glob("scnet/*/case.json")}
GOLDEN = {name: folder for name, folder in GOLDEN.items() if name != "tran"}  # a network that is not here
OTHERS = (
    "chunk_size",
    "num_overlap",
    "normalize_track",
    "input_norm",
)  # of a case's settings, beside the model's

TINY = dict(
    dims=(4, 8, 12),
    nfft=64,
    hop=16,
    shares=(0.2, 0.35, 0.45),
    strides=(1, 2, 4),
    kernels=(3, 2, 4),
    depths=(2, 1, 1),
    compress=2,
    layers=2,
    chunk=500,
)
MASKED = dict(hann=True, positions=True, mask_hidden=64)


def tiny(*sources, **other):
    """With every norm and bias off its trivial value."""
    torch.manual_seed(0)
    model = SCNet(SCNetConfig(**{"sources": sources, **TINY, **other}))
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


LENGTHS = [1, 300]
NETWORKS = {
    "SCNet": {
        "plain": Case(partial(tiny, "drums", "bass", "other", normalize=True), LENGTHS),
        "masked": Case(partial(tiny, "a", "b", **MASKED), LENGTHS),
        "mono, standardised": Case(
            partial(tiny, "a", "b", channels=1, dims=(2, 8, 12), expand=2, standardize=True), LENGTHS
        ),
    }
}


# --- equality with the original programs ---------------------------------------------------------------------


def read_case(name):
    """(a golden case, the network with its weights, its tensors)."""
    folder = GOLDEN[name]
    case, checkpoint = (
        json.loads((folder / "case.json").read_text()),
        read_checkpoint(folder / "weights.safetensors"),
    )
    config, told = case["config"], FAMILY.detect(checkpoint)
    model = {key: value for key, value in config.items() if key not in OTHERS}
    more = {
        "sources": config["sources"],
        "chunk": config["chunk_size"],
        "standardize": config["input_norm"],
        "normalize": config["normalize_track"],
    }
    settings = {**told.assumed, **read_settings("SCNet", model), **told.config, **more}
    network = SCNet(make_config(FAMILY.archs["SCNet"], settings))
    network.load_state_dict(FAMILY.convert(checkpoint, network))
    return case, network.eval(), load_file(folder / "io.safetensors")


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    """Calls of every case of the padding rule; each switch does something."""
    case, model, io = read_case(name)
    calls = [key.removesuffix(".wave") for key in io if key.endswith(".wave")]
    assert len(calls) == 4
    for call in calls:
        stems, expected = run(model, io[f"{call}.wave"]), io[f"{call}.out"]
        assert (stems - expected).abs().max() < case["tolerance_by_group"]["chunk"]["tolerance"]
        assert stems.shape == expected.shape
    for switch in ("hann", "standardize"):
        other = SCNet(replace(model.config, **{switch: not getattr(model.config, switch)})).eval()
        other.load_state_dict(model.state_dict())
        assert peak_error(run(other, io["chunk.wave"]), io["chunk.out"]) > 1e-3


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_toolkit(name):
    case, model, io = read_case(name)
    config = case["config"]
    stems = toolkit_walk(
        partial(run, model),
        io["track.mix"],
        config["chunk_size"],
        config["num_overlap"],
        standardise=config["normalize_track"],
    )
    assert (stems - io["track.msst"]).abs().max() < case["tolerance_by_group"]["track.msst"]["tolerance"]


# --- rows and frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({}, [616, 186, 57]),
        ({"shares": (0.225, 0.372, 0.403)}, [705, 243, 85]),
        ({"shares": (0.23, 0.37, 0.4)}, [714, 249, 88]),
        ({"shares": (0.23, 0.37, 0.4), "strides": (1, 4, 4), "kernels": (3, 4, 4)}, [867, 368, 156]),
    ],
)
def test_rows_of_published_networks(settings, levels):
    rows = 2049
    for expected in levels:
        plan = row_plan(rows, SCNetConfig(**settings))
        assert plan[0].start == 0 and plan[-1].stop == rows
        assert all(low.stop == high.start for low, high in pairwise(plan))
        rows = rows_made(plan)
        assert rows == expected


@pytest.mark.parametrize("samples", [1, 15, 16, 31, 32, 33, 47, 48, 64, 500, 512])
def test_frames_are_even_and_padding_is_never_nothing(samples):
    model = tiny("a")
    padding = model.padding(samples)
    assert padding >= 1 and (samples + padding) % 16 == 0 and ((samples + padding) // 16 + 1) % 2 == 0
    assert samples + padding > 32  # more than half a window
    assert samples < 32 or padding <= 32


def test_the_padding_of_a_published_call():
    with torch.device("meta"):
        model = SCNet(SCNetConfig())
    assert 485100 + model.padding(485100) == 486400 and model.padding(1024 * 473) == 2048


# --- the network ---------------------------------------------------------------------------------------------


def test_a_fusion_is_the_published_one():
    """Both halves of its convolution get the same."""
    fusion = tiny("a").fusions[0]
    x, skip = torch.randn(2, 12, 5, 7), torch.randn(2, 12, 5, 7)
    twice = fusion.conv((x + skip).repeat(1, 2, 1, 1))
    assert peak_error(fusion(x, skip), torch.nn.functional.glu(twice, dim=1)) < 1e-5


def test_slabs_change_nothing(monkeypatch):
    from sepcli.models.scnet import levels

    model, mix = tiny("a", "b"), torch.randn(2, 2, 300)
    whole = run(model, mix)
    for size in (1, 4000):
        monkeypatch.setattr(levels, "SLAB_BYTES", size)
        assert peak_error(run(model, mix), whole) < 1e-5


def test_only_what_is_wanted_is_computed():
    assert [len(tiny("a", "b", "c").select(stems).heads) for stems in (["c"], ["c", "a"])] == [1, 2]
    masked = tiny("a", "b", "c", **MASKED).select(["b"])
    assert (len(masked.heads), len(masked.masks.outs)) == (3, 1)


@pytest.mark.parametrize(("dtype", "decibels"), [(torch.bfloat16, 25), (torch.float16, 40)])
@pytest.mark.parametrize("make", [tiny, partial(tiny, **MASKED), partial(tiny, standardize=True)])
def test_reduced_precision(make, dtype, decibels):
    check_reduced(make("a", "b"), torch.randn(1, 2, 1000), dtype, decibels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny, partial(tiny, **MASKED), partial(tiny, standardize=True)])
def test_silence(make, dtype):
    """Of a whole item beside a tone, and of the first half of that one."""
    model, mix = make("a", "b"), torch.zeros(2, 2, 1000)
    mix[0, 0, 500:] = torch.sin(torch.arange(500) * 0.3)
    model.prepare(1000, torch.device("cpu"), dtype)
    assert run(model, mix).isfinite().all()


@pytest.mark.parametrize("make", [tiny, partial(tiny, **MASKED)])
def test_every_part_has_a_gradient(make):
    model = make("a", "b").train()
    stems = torch.randn(2, 2, 2, 600)
    (model(stems.sum(1)) - stems).abs().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layers": 3}, "layers must be even"),
        ({"channels": 1}, r"must be 2 \* channels"),
        ({"depths": (1, 1)}, "one value for each band"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"strides": (1, 4, 4)}, "no smaller than strides"),
        ({"shares": (0.5, 0.5, 0.0)}, "rows are too few"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny("a", **config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(SCNetConfig()) == dict(
        sources=("drums", "bass", "other", "vocals"),
        samplerate=44100,
        channels=2,
        dims=(4, 32, 64, 128),
        nfft=4096,
        hop=1024,
        normalized=True,
        hann=False,
        shares=(0.175, 0.392, 0.433),
        strides=(1, 4, 16),
        kernels=(3, 4, 16),
        depths=(3, 2, 1),
        compress=4,
        kernel=3,
        layers=6,
        expand=1,
        positions=False,
        mask_hidden=0,
        standardize=False,
        normalize=False,
        chunk=485100,
    )


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_published_files(name):
    """The network is found by the tensors alone, takes all of them, and gives all of them back."""
    listed = json.loads(KEYS[name].read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in listed["shapes"].items()}
    checkpoint = Checkpoint(Path(name), tensors, format="torch")
    told, arch = FAMILY.detect(checkpoint), FAMILY.archs["SCNet"]
    with torch.device("meta"):
        model = SCNet(make_config(arch, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == listed["parameters"]
    back = as_published(model)
    assert {key: t.shape for key, t in back.items()} == {key: t.shape for key, t in tensors.items()}
    settings = make_config(arch, read_settings("SCNet", listed["config"]))
    switches = {"hann": True, "positions": True, "mask_hidden": 64} if "masked" in name else {}
    assert model.config == replace(settings, **switches)


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_there_and_back(name):
    _, model, _ = read_case(name)
    file, theirs = load_file(GOLDEN[name] / "weights.safetensors"), as_published(model)
    assert theirs.keys() == file.keys() and all(torch.equal(theirs[key], value) for key, value in file.items())
    config = replace(model.config, standardize=False)
    said = make_config(FAMILY.archs["SCNet"], read_settings("SCNet", write_settings(config)))
    names = ("sources", "hann", "positions", "mask_hidden", "chunk", "normalize")
    assert replace(said, **{key: getattr(config, key) for key in names}) == config


FILE = GOLDEN["plain"] / "weights.safetensors"


@pytest.mark.parametrize("container", [None, "best_state", "state", "state_dict", "model_state_dict"])
def test_a_file_of_its_own(container, tmp_path):
    """What the tensors don't tell is said. Some files are of a network in a wrapper."""
    state = {
        f"module.{key}" if container == "best_state" else key: value for key, value in load_file(FILE).items()
    }
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "mine.ckpt")
    notices = []
    loaded = load_model(str(tmp_path / "mine.ckpt"), notice=notices.append)
    assert (loaded.name, loaded.sources) == ("mine", ("drums", "bass", "other", "vocals"))
    assert "tensors are those of SCNet" in notices[0] and "hop = 1024" in notices[0]
    assert "normalize = False" in notices[0] and loaded.model.config.dims == (4, 8, 12, 16)


def test_a_file_with_more_or_less_is_refused():
    _, model, _ = read_case("plain")
    state = load_file(FILE)
    for changed in ({**state, "decoder.0.0.norm": torch.ones(1)}, dict(list(state.items())[1:])):
        with pytest.raises(RuntimeError):
            model.load_state_dict(FAMILY.convert(Checkpoint(FILE, changed), model))


# --- the toolkit's settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"colour": 1, "nfft": 8}, "does not know: colour"), ({"win_size": 512}, "shorter than nfft")],
)
def test_settings_of_the_toolkit_that_are_refused(settings, words):
    with pytest.raises(ModelError, match=words):
        read_settings("SCNet", settings)


@pytest.mark.parametrize("other", [{"standardize": True}, {"hann": True}, {**MASKED, "mask_hidden": 32}])
def test_networks_that_the_toolkit_lacks(other):
    with pytest.raises(ModelError, match="no network with these settings"):
        write_settings(tiny("a", **other).config)
