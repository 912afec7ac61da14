"""BS-RNN: tiny networks for the contract, equality with the original program and its walk, and checkpoints."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.bsrnn import FAMILY, network
from sepcli.models.bsrnn.checkpoint import targets
from sepcli.models.bsrnn.config import BASS, DRUMS, JOINT, VOCALS, BSRNNConfig
from sepcli.models.bsrnn.network import BSRNN
from sepcli.models.config import make_config
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.bsrnns import as_published
from tests.contracts import Case, check_reduced, peak_error, run

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "bsrnn").glob("*.json"))}
FOLDERS = [TESTS / "golden", *map(Path, filter(None, [os.environ.get("SEPCLI_GOLDEN")]))]
GOLDEN = {path.parent.name: path.parent for folder in FOLDERS for path in folder.glob("bsrnn/*/case.json")}

TINY = dict(nfft=64, hop=20, bands=(2, 2, 2, 5, 5, 17), dim=8, depth=2, mask_expansion=2, chunk=500)


def tiny(*sources, **other):
    """With every norm, slope and bias off its trivial value."""
    torch.manual_seed(0)
    model = BSRNN(BSRNNConfig(**{"sources": sources, **TINY, **other}))
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "beta", "bias", "slope")) or "gammas" in name or "betas" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


FULL = dict(tac="prelu", heads=2, dim_head=3)
LENGTHS = [1, 300]
NETWORKS = {
    "BSRNN": {
        "one stem": Case(partial(tiny, "vocals", channels=1), LENGTHS),
        "TAC, attention": Case(partial(tiny, "a", "b", "c", **FULL), LENGTHS),
        "tanh, subtracted": Case(partial(tiny, "a", "b", "c", tac="tanh", subtract=True), LENGTHS),
    }
}


# --- equality with the original program ----------------------------------------------------------------------


def settings_of(listed):
    """The Config of a golden case or a list of keys."""
    theirs = listed["config"]
    return BSRNNConfig(
        sources=tuple(theirs["targets"]),
        bands=tuple(listed["band_width"]),
        dim=theirs["feature_dim"],
        depth=theirs["num_repeat"],
        nfft=theirs["n_fft"],
        hop=theirs["n_hop"],
        mask_expansion=theirs["fac_mask"],
        tac=theirs["act_tac"] if theirs["stereo"] else "",
        heads=theirs["n_att_head"],
        dim_head=theirs["attn_enc_dim"] or 16,
        subtract=theirs["subtract_last_trgt"],
    )


def golden(name):
    folder = GOLDEN[name]
    case, io = json.loads((folder / "case.json").read_text()), load_file(folder / "io.safetensors")
    model = BSRNN(settings_of(case)).eval()
    model.load_state_dict(FAMILY.convert(read_checkpoint(folder / "weights.safetensors"), model))
    return model, io, case


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    model, io, case = golden(name)
    error = (run(model, io["chunk.wave"]) - io["chunk.out"]).abs().max()
    assert error < case["tolerance_by_group"]["chunk"]["tolerance"]


def walk(model, mix, seconds, overlap):
    """The original's: calls end at multiples of (1 + overlap) segments, with linear fades of an overlap."""
    length, fade = int(seconds * (1 + overlap) * 44100), round(seconds * overlap * 44100, 3)
    out, ramp = torch.zeros(len(model.sources), *mix.shape), torch.linspace(0, 1, int(fade))
    for end in range(length, mix.shape[-1] + length - int(fade), length):
        start = int(end - length - fade) if end > length else 0
        stems = run(model, mix[None, :, start:end])[0].clone()
        if start:
            stems[..., : len(ramp)] *= ramp
        if end < mix.shape[-1]:
            stems[..., -len(ramp) :] *= ramp.flip(0)
        out[..., start:end] += stems
    return out


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_original(name):
    model, io, case = golden(name)
    stems = walk(model, io["track.mix"], case["config"]["segment_len"], case["config"]["overlap"])
    assert (stems - io["track.fader"]).abs().max() < case["tolerance_by_group"]["track"]["tolerance"]


def test_the_overlap_add_of_the_original():
    """Many calls, without weights: their sum, times the share of a call from one to the next."""
    model, io, case = golden("paper_vocals")
    mix, seconds, hop = io["track.mix"], case["config"]["segment_len"], case["config"]["ola_hop"]
    size = int(seconds * 44100)
    padded = torch.nn.functional.pad(mix, (size, size))
    total = torch.zeros(len(model.sources), *padded.shape)
    for start in range(0, padded.shape[-1] - size + 1, int(hop * 44100)):
        total[..., start : start + size] += run(model, padded[None, :, start : start + size])[0]
    stems = total[..., size : size + mix.shape[-1]] * (hop / seconds)
    tolerance = case["tolerance_by_group"]["track"]["tolerance"]
    assert (stems - io["track.ola_not_normalised"]).abs().max() < tolerance


def test_a_quiet_track(monkeypatch):
    """It is raised, since the eps of the norms would count."""
    model, mix = tiny("a", "b", **FULL), torch.randn(1, 2, 600)
    expected = run(model, mix)
    assert peak_error(run(model, 1e-4 * mix), 1e-4 * expected) < 1e-4
    assert run(model, 0 * mix).abs().max() == 0
    monkeypatch.setattr(network, "QUIET", 0.0)
    assert peak_error(run(model, mix), expected) == 0
    assert peak_error(run(model, 1e-4 * mix), 1e-4 * expected) > 1e-2


# --- the network ---------------------------------------------------------------------------------------------


def test_masks_of_one_let_the_mix_pass():
    model, mix = tiny("vocals", **FULL), torch.randn(2, 2, 777)
    for last in model.maskers[0].last:
        last.weight.data.zero_()
        values, gates = last.bias.data.chunk(2, dim=1)
        values.copy_(torch.tensor([1.0, 0.0]).repeat(values.shape[1] // 2))  # real and imaginary part
        gates.fill_(100.0)
    assert peak_error(run(model, mix)[:, 0], mix) < 1e-5


def test_stems_that_are_subtracted_add_up():
    model, mix = tiny("a", "b", "c", subtract=True), torch.randn(1, 2, 400)
    assert peak_error(run(model, mix).sum(1), mix) < 1e-5
    kept = [len(model.select(stems).maskers) for stems in (["a"], ["b", "a"], ["c"], ["a", "c"])]
    assert kept == [1, 2, 2, 2]


def test_channels_know_of_each_other_by_tac_only():
    mix = torch.randn(1, 2, 400)
    other = torch.stack([mix[:, 0], torch.randn(1, 400)], 1)
    for model, same in ((tiny("a"), True), (tiny("a", tac="tanh"), False)):
        error = peak_error(run(model, other)[:, :, 0], run(model, mix)[:, :, 0])
        assert (error < 1e-5) == same


def test_pieces_change_nothing(monkeypatch):
    """One sequence at a time, all at once, and as gradients need it."""
    from sepcli.models.bsrnn import blocks
    from sepcli.nn import pieces

    model, mix = tiny("a", "b", **FULL), torch.randn(2, 2, 300)
    whole = model(mix).detach()
    monkeypatch.setattr(blocks, "SEQUENCES", 1)
    for tokens in (20, 10**9):
        monkeypatch.setattr(pieces, "TOKENS", tokens)
        assert peak_error(run(model, mix), whole) < 1e-5


@pytest.mark.parametrize("dtype, decibels", [(torch.bfloat16, 25), (torch.float16, 40)])
def test_reduced_precision(dtype, decibels):
    check_reduced(tiny("a", "b", **FULL), torch.randn(1, 2, 1000), dtype, decibels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_silence_in_a_band(dtype):
    model, mix = tiny("a", "b", **FULL), torch.zeros(2, 2, 1000)
    mix[0, 0, 500:] = torch.sin(torch.arange(500) * 0.3)
    model.prepare(1000, torch.device("cpu"), dtype)
    assert run(model, mix).isfinite().all()


def test_every_part_has_a_gradient():
    model = tiny("a", "b", **FULL).train()
    stems = torch.randn(2, 2, 2, 300)
    (model(stems.sum(1)) - stems).abs().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(
    "config, words",
    [
        ({"bands": (1, 2)}, "3 bins together, the spectrogram has 33"),
        ({"tac": "relu"}, "must be prelu, tanh or empty"),
        ({"heads": 3}, "must be a multiple of heads = 3"),
        ({"subtract": True}, "needs a stem beside the last one"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny("a", **config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(BSRNNConfig()) == dict(
        sources=("vocals",),
        samplerate=44100,
        channels=2,
        bands=VOCALS,
        dim=128,
        depth=12,
        nfft=2048,
        hop=512,
        mask_expansion=4,
        tac="",
        heads=0,
        dim_head=16,
        subtract=False,
        chunk=529200,
    )
    assert [len(bands) for bands in (VOCALS, BASS, DRUMS, JOINT)] == [41, 30, 55, 57]
    assert {sum(bands) for bands in (VOCALS, BASS, DRUMS, JOINT)} == {1025}


# --- checkpoints ---------------------------------------------------------------------------------------------


QUICK = ("large_vocals", "simo_small")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in KEYS if k not in QUICK)]
)
def test_published_files(name):
    """The network is found by the tensors and the stems' names, takes all tensors, and gives them back."""
    listed = json.loads(KEYS[name].read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in listed["shapes"].items()}
    payload = {"state_dict": tensors, "hyper_parameters": {"targets": listed["config"]["targets"]}}
    checkpoint = Checkpoint(Path(name), payload, format="torch")
    told, expected = FAMILY.detect(checkpoint), settings_of(listed)
    with torch.device("meta"):
        model = BSRNN(make_config(FAMILY.archs["BSRNN"], {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert model.config == expected
    slopes = 2 * model.config.depth if model.config.tac == "prelu" else 0  # two more copies of each in the file
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == listed["parameters"] == listed["elements"] - 2 * 2048 - slopes
    back = {key: tensor.shape for key, tensor in as_published(model).items()}
    assert back == {key: tensor.shape for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_there_and_back(name):
    model, _, _ = golden(name)
    file, theirs = load_file(GOLDEN[name] / "weights.safetensors"), as_published(model)
    assert theirs.keys() == file.keys() and all(torch.equal(theirs[key], file[key]) for key in file)


def saved(path, model, names=None, old=False):
    """A file of PyTorch Lightning, with the names of stems among its settings or without settings."""
    state = as_published(model)
    if old:
        state = {key.replace("maskers.0.", ""): tensor for key, tensor in state.items()}
    torch.save(
        {"state_dict": state, **({} if names is None else {"hyper_parameters": {"targets": names}})}, path
    )
    return path


def test_stems_in_another_order(tmp_path):
    """Each mask goes to the stem that the file says it is of; other stems are refused."""
    model, mix = tiny("a", "b", "c"), torch.randn(1, 2, 300)
    checkpoint = read_checkpoint(saved(tmp_path / "m.ckpt", model, ["a", "b", "c"]))
    other = BSRNN(replace(model.config, sources=("c", "a", "b"))).eval()
    other.load_state_dict(FAMILY.convert(checkpoint, other))
    assert torch.equal(run(other, mix), run(model, mix)[:, [2, 0, 1]])
    wrong = BSRNN(replace(model.config, sources=("a", "b", "d")))
    with pytest.raises(ModelError, match="has the stems a, b, c, not a, b, d"):
        FAMILY.convert(checkpoint, wrong)
    last = BSRNN(replace(model.config, sources=("a", "c", "b"), subtract=True))
    with pytest.raises(ModelError, match="has the stems"):
        FAMILY.convert(checkpoint, last)


def test_a_file_of_its_own(tmp_path):
    model, notices = tiny("a", "b", **FULL), []
    loaded = load_model(str(saved(tmp_path / "m.ckpt", model, ["a", "b"])), notice=notices.append)
    config = loaded.model.config
    assert config == replace(model.config, hop=512, chunk=529200)
    assert "tensors are those of BSRNN" in notices[0] and "hop = 512" in notices[0]


@pytest.mark.parametrize(
    "count, bands, stems",
    [
        (1, TINY["bands"], ("stem1",)),
        (4, TINY["bands"], ("vocals", "bass", "drums", "other")),
        (1, BASS, ("bass",)),
    ],
)
def test_a_file_without_names(count, bands, stems, tmp_path):
    nfft = 2 * (sum(bands) - 1)
    model = tiny(*map(str, range(count)), bands=bands, nfft=nfft, depth=1)
    path = saved(tmp_path / "m.ckpt", model, old=count == 1)
    assert load_model(str(path)).sources == stems


def test_the_slope_of_tac_stands_three_times(tmp_path):
    model = tiny("a", **FULL)
    state = as_published(model)
    state["separator.1.tac_module.concat.1.weight"] += 1
    with pytest.raises(ModelError, match=r"should be equal are not: 'separator\.1\.tac_module"):
        FAMILY.convert(Checkpoint(tmp_path / "m.ckpt", state), model)


CATALOG = """
[two]
family = "bsrnn"
arch = "BSRNN"
sources = ["a", "b"]
samplerate = 44100
channels = 2
config = { nfft = 64, hop = 20, bands = [2, 2, 2, 5, 5, 17], dim = 8, depth = 2, mask_expansion = 2 }
members = [
    { file = "a", weights = { a = 1 }, config = { sources = ["a"] } },
    { file = "b", weights = { b = 1 }, config = { sources = ["b"] } },
]
files.a = { url = "https://x.invalid/two.zip/content", bytes = 7, member = "a.ckpt" }
files.b = { url = "https://x.invalid/two.zip/content", bytes = 7, member = "b.ckpt" }
"""


def test_several_networks_in_one_archive(tmp_path):
    """Each stem has a network; both lie in one file, which is fetched and counted once."""
    from sepcli.weights.catalog import load_catalog

    (tmp_path / "catalog.toml").write_text(CATALOG)
    catalog, models = load_catalog([tmp_path / "catalog.toml"]), [tiny("a"), tiny("b", chunk=400)]
    models[1].split.linears[0].bias.data += 1
    with zipfile.ZipFile(tmp_path / "two.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for model in models:
            (name,) = model.sources
            archive.write(saved(tmp_path / f"{name}.ckpt", model, [name]), f"two/{name}.ckpt")
    entry, mix = catalog["two"], torch.randn(1, 2, 300)
    assert (len(entry.files), entry.size, entry.files[0].filename) == (1, 7, "two.zip")
    loaded = load_model(f"two={tmp_path / 'two.zip'}", catalog=catalog)
    expected = torch.cat([run(model, mix) for model in models], 1)
    assert loaded.sources == ("a", "b") and torch.equal(run(loaded.model, mix), expected)
    with pytest.raises(ModelError, match=r"several checkpoints: two/a\.ckpt, two/b\.ckpt"):
        load_model(str(tmp_path / "two.zip"))
    with pytest.raises(ModelError, match=r"holds no c\.ckpt: two/a\.ckpt, two/b\.ckpt"):
        read_checkpoint(tmp_path / "two.zip", member="c.ckpt")


@pytest.mark.parametrize("whole", [False, True])
def test_names_in_containers_of_omegaconf(whole, tmp_path):
    """Its classes are read as inert markers: nothing of it runs, and it need not be installed."""
    omegaconf = pytest.importorskip("omegaconf")
    settings = omegaconf.OmegaConf.create({"targets": ["a", "b"], "optim": {"lr": 1e-3}})
    model = tiny("a", "b")
    settings = settings if whole else {"targets": settings.targets, "optim": settings.optim}
    torch.save({"state_dict": as_published(model), "hyper_parameters": settings}, tmp_path / "m.ckpt")
    checkpoint = read_checkpoint(tmp_path / "m.ckpt", foreign=FAMILY.packages)
    assert targets(checkpoint) == ("a", "b")
    assert load_model(str(tmp_path / "m.ckpt")).sources == ("a", "b")
