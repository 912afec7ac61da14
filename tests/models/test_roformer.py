"""RoFormers: tiny networks for the contract, equality with the original programs, bands, and checkpoints."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.roformer import FAMILY
from sepcli.models.roformer.bands import mel, side_by_side
from sepcli.models.roformer.checkpoint import as_published
from sepcli.models.roformer.config import BSRoformerConfig, MelBandRoformerConfig
from sepcli.models.roformer.network import BSRoformer, MelBandRoformer
from sepcli.models.roformer.toolkit import read_settings, write_settings
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, check_reduced, peak_error, run

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "roformer").glob("*.json"))}
FOLDERS = [TESTS / "golden", *map(Path, filter(None, [os.environ.get("SEPCLI_GOLDEN")]))]
GOLDEN = {path.parent.name: path.parent for folder in FOLDERS for path in folder.glob("roformer/*/case.json")}

BANDS = (2, 2, 3, 6, 20)
TINY = dict(nfft=64, hop=20, dim=12, depth=2, heads=2, dim_head=6, mask_expansion=2, chunk=500)


def shaken(model):
    """With every norm, gate and bias off its trivial value."""
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name or name.endswith("gamma"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def tiny(*sources, **other):
    torch.manual_seed(0)
    return shaken(BSRoformer(BSRoformerConfig(**{"sources": sources, "bands": BANDS, **TINY, **other})))


def tiny_mel(*sources, **other):
    torch.manual_seed(0)
    return shaken(MelBandRoformer(MelBandRoformerConfig(**{"sources": sources, "bands": 5, **TINY, **other})))


LENGTHS = [1, 300]
NETWORKS = {
    "BSRoformer": {
        "skip, no DC": Case(partial(tiny, "drums", "bass", skip=True, zero_dc=True, depth=3), LENGTHS),
        "variants": Case(partial(tiny, "a", "b", polar=True, value_residual=True, refiner=1), LENGTHS),
        "head": Case(partial(tiny, "a", depth=1, head=(4, 16, 12, 16, 20)), [300], tolerance=1e-3, shortest=33),
    },
    "MelBandRoformer": {
        "mono": Case(partial(tiny_mel, "a", "b", channels=1, samplerate=48000, normalized=True), LENGTHS)
    },
}


# --- equality with the original programs ---------------------------------------------------------------------


def settings_of(case):
    """(network, Config) of a golden case."""
    arch = "MelBandRoformer" if case["arch"].startswith("Mel") else "BSRoformer"
    kwargs = case["upstream_kwargs"]
    found = FAMILY.archs[arch]
    more = {
        "sources": [f"stem{number}" for number in range(kwargs["num_stems"])],
        "value_residual": "value residual" in case["arch"],
        "refiner": case.get("refiner", {}).get("blocks", 0),
        "head": [int(width) for width in re.findall(r" (\d+)", case.get("head", {}).get("widths", ""))],
    }
    return found, make_config(found, {**read_settings(arch, kwargs), **more})


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    folder = GOLDEN[name]
    case, io = json.loads((folder / "case.json").read_text()), load_file(folder / "io.safetensors")
    arch, config = settings_of(case)
    model = arch.build(config)
    model.load_state_dict(FAMILY.convert(read_checkpoint(folder / "weights.safetensors"), model))
    expected = io["y"] if io["y"].dim() == 4 else io["y"][:, None]
    stems = run(model.eval(), io["x"])
    assert peak_error(stems[..., : expected.shape[-1]], expected) < case["tolerance"]["rel_to_max"]
    if config.head:  # rounding errors grow there
        stems = run(model.double(), io["x"].double()).float()
        assert peak_error(stems, expected) < 2e-6
    opposite = arch.build(replace(config, zero_dc=not config.zero_dc)).eval()
    opposite.load_state_dict(model.state_dict())
    assert peak_error(run(opposite, io["x"])[..., : expected.shape[-1]], expected) > 1e-3


# --- bands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bands, nfft, samplerate, total",
    [(60, 2048, 44100, 1979), (60, 4096, 44100, 3957), (60, 2048, 48000, 1978)],
)
def test_mel_bands(bands, nfft, samplerate, total):
    layout = mel(bands, nfft, samplerate)
    assert len(layout.bands) == bands and sum(layout.widths) == total
    assert set(layout.covers().tolist()) == {1, 2}
    assert sum(count * width for _, count, width in layout.runs) == total


def test_the_usual_mel_bands():
    bands = mel(60, 2048, 44100).bands
    assert bands[:3] == ((0, 7), (4, 10), (7, 13)) and bands[-2:] == ((836, 958), (895, 1025))
    assert bands[15] == (46, 53)


def test_bands_that_can_not_be():
    with pytest.raises(ValueError, match="128 bins together, the spectrogram has 129"):
        side_by_side([64, 64], 129)
    with pytest.raises(ValueError, match="100 bands are too many"):
        mel(100, 128, 44100)


@pytest.mark.parametrize("make", [tiny, tiny_mel])
def test_masks_of_one_let_the_mix_pass(make):
    """Whatever the bands: a bin in two of them has the mean of their masks."""
    model = make("vocals", mask_hidden=0)
    for last in model.estimators[0].masks.last:
        last.weight.data.zero_()
        values = last.bias.data.shape[1] // 2
        last.bias.data[:, :values] = torch.tensor([1.0, 0.0]).repeat(values // 2)  # real and imaginary part
        last.bias.data[:, values:] = 100.0  # the gate is open
    mix = torch.randn(2, 2, 777)
    assert peak_error(run(model, mix)[:, 0], mix) < 1e-5


# --- the network ---------------------------------------------------------------------------------------------


def test_pieces_change_nothing(monkeypatch):
    """A token at a time, all at once, and as gradients need it."""
    from sepcli.nn import pieces

    for make in (tiny, tiny_mel, partial(tiny, value_residual=True, refiner=1)):
        model, mix = make("a", "b", skip=True), torch.randn(2, 2, 300)
        whole = model(mix).detach()
        for tokens in (20, 10**9):
            monkeypatch.setattr(pieces, "TOKENS", tokens)
            assert peak_error(run(model, mix), whole) < 1e-5


def test_only_what_is_wanted_is_computed():
    assert [len(tiny("a", "b", "c").select(stems).estimators) for stems in (["c"], ["c", "a"])] == [1, 2]


@pytest.mark.parametrize("dtype, decibels", [(torch.bfloat16, 25), (torch.float16, 40)])
@pytest.mark.parametrize("make", [tiny, tiny_mel, partial(tiny, polar=True, value_residual=True, refiner=1)])
def test_reduced_precision(make, dtype, decibels):
    check_reduced(make("a", "b"), torch.randn(1, 2, 1000), dtype, decibels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny, tiny_mel])
def test_silence_in_a_band(make, dtype):
    """A tone leaves the bands far from it at nothing at all, and the second item of the batch is silent."""
    model = make("a", "b")
    mix = torch.zeros(2, 2, 1000)
    mix[0, 0, 500:] = torch.sin(torch.arange(500) * 0.3)
    model.prepare(1000, torch.device("cpu"), dtype)
    assert run(model, mix).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        partial(tiny, value_residual=True, refiner=1, skip=True),
        partial(tiny_mel, polar=True, dropout=0.1),
        partial(tiny, head=(4, 16, 8, 16, 8)),
    ],
)
def test_every_part_has_a_gradient(model):
    model = model("a", "b").train()
    stems = torch.randn(2, 2, 2, 600)
    (model(stems.sum(1)) - stems).abs().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still


@pytest.mark.parametrize(
    "config, words",
    [
        ({"dim_head": 5}, "must be even"),
        ({"head": (1, 2)}, "2 widths, but must have 5"),
        ({"bands": (1, 2)}, "3 bins together"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny("a", **config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    shared = dict(
        sources=("vocals",),
        samplerate=44100,
        channels=2,
        layers=1,
        heads=8,
        dim_head=64,
        nfft=2048,
        normalized=False,
        zero_dc=False,
        skip=False,
        mask_expansion=4,
        polar=False,
        value_residual=False,
        refiner=0,
        head=(),
        chunk=352800,
        dropout=0.0,
    )
    bands = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
    assert vars(BSRoformerConfig()) == {
        **shared, "dim": 256, "depth": 12, "hop": 512, "mask_hidden": 1, "bands": bands
    }  # fmt: skip
    assert vars(MelBandRoformerConfig()) == {
        **shared, "dim": 384, "depth": 6, "hop": 441, "mask_hidden": 2, "bands": 60
    }  # fmt: skip


# --- checkpoints ---------------------------------------------------------------------------------------------


def published(name):
    """The tensors of a published file, without memory, and what is written of it."""
    listed = json.loads(KEYS[name].read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in listed["shapes"].items()}, listed


@pytest.mark.parametrize("name", KEYS)
def test_published_files(name):
    """The network is found by the tensors alone, takes all of them, and gives all of them back."""
    tensors, listed = published(name)
    checkpoint = Checkpoint(Path(name), tensors, format="torch")
    told = FAMILY.detect(checkpoint)
    arch = FAMILY.archs[told.arch]
    with torch.device("meta"):
        model = arch.build(make_config(arch, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert told.arch == ("MelBandRoformer" if name.startswith("mel") else "BSRoformer")
    repeated = {key for key in tensors if "embed" in key}
    ours = {key: p.numel() for key, p in model.named_parameters() if "positions" not in key}
    assert sum(ours.values()) == sum(t.numel() for key, t in tensors.items() if key not in repeated)
    back = as_published(model)
    assert {key: t.shape for key, t in back.items()} == {key: t.shape for key, t in tensors.items()}
    kwargs = listed["kwargs"]
    assert (model.config.dim, model.config.depth) == (kwargs["dim"], kwargs["depth"])
    assert len(model.sources) == kwargs["num_stems"] and model.channels == 2


@pytest.mark.parametrize("name", GOLDEN)
def test_weights_there_and_back(name):
    folder = GOLDEN[name]
    case, file = json.loads((folder / "case.json").read_text()), load_file(folder / "weights.safetensors")
    arch, config = settings_of(case)
    model = arch.build(config)
    model.load_state_dict(FAMILY.convert(Checkpoint(folder, file), model))
    theirs = as_published(model)
    assert theirs.keys() == file.keys()
    assert all(torch.allclose(theirs[key], value, rtol=1e-6, atol=0) for key, value in file.items())
    if not (config.value_residual or config.refiner or config.head):
        settings = write_settings(config)
        assert make_config(arch, {**read_settings(arch.name, settings), "sources": config.sources}) == config
    else:
        with pytest.raises(ModelError, match="toolkit has no network with"):
            write_settings(config)


FILE = GOLDEN["bs_mono_normalized"] / "weights.safetensors"


@pytest.mark.parametrize("container", [None, "state", "state_dict", "model_state_dict"])
def test_a_file_of_its_own(container, tmp_path):
    """What the tensors don't tell is said: above all the hop, which no tensor depends on."""
    state = load_file(FILE)
    torch.save({container: state} if container else state, tmp_path / "mine.ckpt")
    notices = []
    loaded = load_model(str(tmp_path / "mine.ckpt"), notice=notices.append)
    assert (loaded.name, loaded.sources) == ("mine", ("stem1", "stem2"))
    assert "tensors are those of BSRoformer" in notices[0] and "hop = 512" in notices[0]
    assert loaded.model.config.bands == (2,) * 8 + (4,) * 8 + (8,) * 4 + (16, 17, 16)
    assert loaded.model.config.channels == 1


CATALOG = """
[mine]
family = "roformer"
arch = "BSRoformer"
sources = ["vocals"]
counterpart = "other"
samplerate = 44100
channels = 1
files.model = { url = "https://x.invalid/m" }

[mine.config]
channels = 1
nfft = 256
hop = 100
dim = 12
depth = 2
layers = 2
heads = 3
dim_head = 6
mask_hidden = 0
bands = [2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 16, 17, 16]
"""


def test_a_catalogue_entry_with_a_file(tmp_path):
    from sepcli.weights.catalog import load_catalog

    (tmp_path / "catalog.toml").write_text(CATALOG)
    one = {key: value for key, value in load_file(FILE).items() if not key.startswith("mask_estimators.1.")}
    save_file(one, tmp_path / "m.safetensors")
    catalog = load_catalog([tmp_path / "catalog.toml"])
    loaded = load_model(f"mine={tmp_path / 'm.safetensors'}", catalog=catalog)
    mix = torch.randn(1, 1, 3000)
    stems = run(loaded.model, mix)
    assert loaded.sources == ("vocals", "other") and peak_error(stems.sum(1), mix) < 1e-5
    assert peak_error(stems[:, 1], mix) > 0.1
    save_file({**one, "more": torch.ones(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="more"):
        load_model(f"mine={tmp_path / 'm.safetensors'}", catalog=catalog)
    del one["band_split.to_features.3.1.bias"]
    save_file(one, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"band_split\.to_features\.3\.1\.bias"):
        load_model(f"mine={tmp_path / 'm.safetensors'}", catalog=catalog)


def test_files_of_one_shape_are_told_apart_by_name():
    from sepcli.models.detection import find_network
    from sepcli.weights.catalog import load_catalog

    tensors, _ = published("bs_256x12")
    files = {
        "bs_roformer_anvuew_sdr_12.45.ckpt": "bs-roformer-anvuew",
        "bs_roformer_instrumental_resurrection_unwa.ckpt": "bs-roformer-resurrection-inst",
    }
    entries = [load_catalog()[entry] for entry in files.values()]
    for name, entry in files.items():
        found = find_network(Checkpoint(Path(name), tensors), [FAMILY], entries)
        assert f"'{entry}'" in found.notice and found.config.hop == (441 if "inst" in entry else 512)
    with pytest.raises(ModelError, match="differ in chunk, hop, sources"):
        find_network(Checkpoint(Path("mine.ckpt"), tensors), [FAMILY], entries)


def test_stored_frequencies():
    """Rounded ones are computed anew, others are refused."""
    state, config = (
        load_file(FILE),
        make_config(FAMILY.archs["BSRoformer"], FAMILY.detect(read_checkpoint(FILE)).config),
    )
    model = BSRoformer(replace(config, sources=("a", "b")))
    name = next(key for key in state if key.endswith("freqs"))
    state[name] = state[name].half()
    FAMILY.convert(Checkpoint(FILE, state), model)
    with pytest.raises(ModelError, match="other constants"):
        FAMILY.convert(Checkpoint(FILE, {**state, name: 1.01 * state[name]}), model)


def test_an_empty_place_for_linear_attention():
    state = load_file(FILE)
    model = BSRoformer(
        make_config(
            FAMILY.archs["BSRoformer"], {**FAMILY.detect(read_checkpoint(FILE)).config, "sources": ("a", "b")}
        )
    )
    moved = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if parts[0] == "layers":
            parts[2] = str(int(parts[2]) + 1)
        moved[".".join(parts)] = tensor
    assert FAMILY.detect(Checkpoint(FILE, moved)) == FAMILY.detect(Checkpoint(FILE, state))
    ours, theirs = (FAMILY.convert(Checkpoint(FILE, each), model) for each in (state, moved))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) and ours.keys() == theirs.keys()


# --- the toolkit's settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"colour": 1, "dim": 8}, "does not know: colour"),
        ({"linear_transformer_depth": 1}, "linear attention"),
        ({"time_transformer_depth": 1}, "different depths"),
        ({"stft_win_length": 512}, "shorter than stft_n_fft"),
    ],
)
def test_settings_of_the_toolkit_that_are_refused(settings, words):
    with pytest.raises(ModelError, match=words):
        read_settings("BSRoformer", settings)


def test_the_toolkit_counts_mask_layers_in_two_ways():
    assert read_settings("BSRoformer", {"mask_estimator_depth": 2})["mask_hidden"] == 1
    assert read_settings("MelBandRoformer", {"mask_estimator_depth": 2})["mask_hidden"] == 2
    assert (
        read_settings("BSRoformer", {})["mask_hidden"]
        == read_settings("MelBandRoformer", {})["mask_hidden"]
        == 1
    )


# --- whole tracks ---


@pytest.mark.parametrize("make", [tiny, tiny_mel])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
def test_a_track_of_several_calls_is_their_cross_fade(make, overlap):
    """Each call by hand, weighted by a triangle; a short last chunk is in the middle of a call."""
    model = make("a", "b").eval()
    size = model.config.chunk
    stride = round(size * (1 - overlap))
    mix = torch.randn(1, 2, 2 * stride + size + 40, generator=torch.Generator().manual_seed(5)) / 4
    engine = Engine(model.select(model.sources), Settings(overlap=overlap), torch.device("cpu"), torch.float32)
    made = torch.cat([*engine.separate(iter(mix.split(333, -1)))], dim=-1)[:, 0]
    triangle = torch.cat([torch.arange(1, size // 2 + 1), torch.arange(size - size // 2, 0, -1)])
    total, weights = torch.zeros_like(made), torch.zeros(mix.shape[-1])
    for start in range(0, mix.shape[-1], stride):
        length = min(size, mix.shape[-1] - start)
        before = (size - length) // 2
        heard = torch.nn.functional.pad(mix, (0, size))[..., start - before : start - before + size]
        with torch.inference_mode():
            stems = model(heard)[0, ..., before : before + length]
        total[..., start : start + length] += stems * triangle[:length]
        weights[start : start + length] += triangle[:length]
    assert peak_error(made, total / weights) < 1e-5
