"""D3Net: tiny networks for the contract, equality with the original program, and its checkpoints."""

from __future__ import annotations

import json
import re
import zipfile
from functools import partial
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from sepcli.errors import ModelError
from sepcli.loading import load_model
from sepcli.models.config import make_config, plain_config
from sepcli.models.d3net import FAMILY, D3Net, D3NetConfig, D3NetOptions
from sepcli.models.d3net.dense import D2
from sepcli.models.detection import entry_config, find_network
from sepcli.models.family import all_families
from sepcli.nn.norm import Norm
from sepcli.weights.catalog import bundled_catalog, load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.entryfile import entry_tables
from tests.contracts import Case, peak_error, run
from tests.needs import package

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "d3net").glob("*.json"))}
GOLDEN = TESTS / "golden" / "d3net"
STEMS = ("vocals", "drums")
TINY = dict(
    nfft=64,
    hop=16,
    bins=24,
    patch=(16, 8),
    split=(8, 4),
    features=(3, 2, 2),
    low_growth=((3, 4, 3),),
    low_layers=((2, 1, 1),),
    high_growth=((2, 2, 2),),
    high_layers=((1, 1, 1),),
    full_growth=((2, 3, 2), (2, 2, 2)),
    full_layers=((1, 2, 1), (1, 1, 1)),
    final_growth=2,
    final_layers=2,
)

# What no tensor tells as published, so that a file of such a network can be found out.
PLAIN = dict(
    TINY,
    nfft=1024,
    hop=256,
    bins=384,
    patch=(256,),
    split=(256,),
    full_growth=((2, 3, 2),),
    full_layers=((1, 2, 1),),
)


def tiny(options=None, **other):
    """With every norm and scale off its trivial value."""
    torch.manual_seed(0)
    model = D3Net(D3NetConfig(**{"sources": STEMS, **TINY, **other})).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(("bias", "offset")):
            parameter.data += 0.3 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, Norm):
            module.mean.uniform_(-0.3, 0.3)
            module.variance.uniform_(0.5, 2)
    model.options = options or D3NetOptions()
    return model


LENGTHS = [1, 100]
NETWORKS = {
    "D3Net": {
        "plain": Case(tiny, LENGTHS),
        "magnitudes only": Case(partial(tiny, D3NetOptions(mwf=False, flip=False)), LENGTHS),
    }
}


def test_a_dense_block_is_what_the_paper_draws():
    """Layer i sees what every layer before it made, with a dilation of 2^i."""
    torch.manual_seed(0)
    block, x = D2(5, growth=2, layers=3), torch.randn(1, 5, 20, 20)
    with torch.inference_mode():
        first = block.first(x).split(
            2, dim=1
        )  # what it adds to the inputs of layers 1 and 2, and to the result
        one = block.layers[0](first[0]).split(2, dim=1)
        two = block.layers[1](first[1] + one[0])
        assert peak_error(block(x), first[2] + one[1] + two) < 1e-6
    assert [layer.conv.dilation[0] for layer in block.layers] == [2, 4]


def test_what_is_above_the_estimated_bins_is_shared():
    """Each estimate is the mix there; the filter gives each of two stems a half."""
    mix = torch.sin(torch.arange(1000) * torch.pi * 0.9).expand(1, 2, -1)  # 24 of 33 bins are estimated
    stems = run(tiny(), mix)
    assert peak_error(stems[..., 100:900], (mix / 2)[:, None, ..., 100:900].expand(-1, 2, -1, -1)) < 0.02


def test_without_the_filter_one_network_runs_for_one_stem(monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch.nn.Module, "__call__", lambda self, *x: calls.append(type(self).__name__) or self.forward(*x)
    )
    for options, nets in ((D3NetOptions(mwf=False, flip=False), 1), (D3NetOptions(flip=False), 2)):
        model = tiny(options, patch=(16,)).select(["drums"])
        calls.clear()
        with torch.inference_mode():
            model.forward(torch.randn(1, 2, 16 * 15))  # 16 frames: three patches
        assert calls.count("Net") == 3 * nets


def test_swapped_channels_are_heard_alike():
    mix = torch.randn(1, 2, 300)
    whole = run(tiny(), mix)
    assert peak_error(run(tiny(), mix.flip(1)), whole.flip(2)) < 1e-5
    plain = tiny(D3NetOptions(flip=False))
    assert peak_error(run(plain, mix.flip(1)), run(plain, mix).flip(2)) > 1e-3


def test_the_options_a_model_ran_with():
    assert tiny().used() == dict(flip=True, mwf=True)


@pytest.mark.parametrize(
    "config, words",
    [
        ({"split": (16, 8, 8)}, "split has 3 entries, but must have one, or 2"),
        ({"split": (24,)}, "split is 24 of 24"),
        ({"split": (7,)}, "low band has 7 bins"),
        ({"patch": (6,)}, "patch is 6 frames, but must be a multiple of 4"),
        ({"low_growth": ((3, 4),), "low_layers": ((1, 1),)}, "equal, odd number"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny(**config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    config = D3NetConfig()
    assert (config.sources, config.samplerate) == (("vocals", "drums", "bass", "other"), 44100)
    assert (config.nfft, config.hop, config.bins) == (4096, 1024, 1600)
    assert (config.patch, config.split) == ((256, 256, 384, 256), (256, 128, 192, 256))
    assert (config.features, config.blocks) == ((32, 8, 32), (2, 1, 2))
    assert (config.final_growth, config.final_layers) == (12, 3)  # the rest: test_published_files


# --- the original program -----------------------------------------------------------------------------------


def golden_config(case):
    said = case["config"]
    return D3NetConfig(
        sources=tuple(case["targets"]),
        nfft=said["fft_size"],
        hop=said["hop_size"],
        bins=said["valid_signal_idx"],
        patch=(said["test_patch_len"],),
        split=tuple(said["band_split_idxs"]),
        features=(*said["num_init_features"], said["f_num_init_features"]),
        blocks=(said["b_n_blocks"][0][0], said["b_n_blocks"][1][0], said["f_n_blocks"][0]),
        low_growth=(said["dens_k"][0],),
        low_layers=(said["num_layer_blocks"][0],),
        high_growth=(said["dens_k"][1],),
        high_layers=(said["num_layer_blocks"][1],),
        full_growth=(said["f_dens_k"],),
        full_layers=(said["f_num_layer_block"],),
        final_growth=said["ttl_dens_k"],
        final_layers=said["ttl_num_layer_block"],
    )


@pytest.fixture(scope="module")
def golden():
    case = json.loads((GOLDEN / "case.json").read_text())
    assert case["config"]["out_shift"] * 2 == case["config"]["test_patch_len"]
    model = D3Net(golden_config(case)).eval().requires_grad_(False)
    weights = Checkpoint(GOLDEN, load_file(GOLDEN / "weights.safetensors"), format="nnabla")
    model.load_state_dict(FAMILY.convert(weights, model), strict=True)
    return model, load_file(GOLDEN / "io.safetensors")


def test_against_nnabla(golden):
    model, io = golden
    mix = torch.view_as_complex(io["mix"]).permute(1, 0, 2)[None]
    stems = run_stems(model, mix)
    for number, stem in enumerate(model.sources):
        frames = len(io[f"patch.{stem}"])
        expected = {kind: io[f"{kind}.{stem}"].permute(1, 0, 2)[None] for kind in ("patch", "overlap_flip")}
        patch = model.nets[number](mix.abs()[:, :, :frames])
        assert peak_error(patch, expected["patch"][..., : model.config.bins]) < 2e-5
        assert peak_error(model.magnitudes(mix.abs(), stem), expected["overlap_flip"]) < 2e-5
        filtered = io[f"mwf.{stem}"].permute(1, 0, 2, 3)[None]
        assert peak_error(torch.view_as_real(stems[:, number]), filtered) < 1e-4


def run_stems(model, spec):
    with torch.inference_mode():
        return model.stems(spec)


def test_a_file_that_nnabla_wrote(golden, tmp_path):
    """Of one stem, by its name in the file; settings that no tensor tells are those published for the stem."""
    package("h5py")
    model, _ = golden
    with zipfile.ZipFile(GOLDEN / "vocals.zip") as archive:
        archive.extract("vocals.h5", tmp_path)
    found = read_checkpoint(tmp_path / "vocals.h5")
    told = FAMILY.detect(found.shapes_only())
    assert told.config["sources"] == ("vocals",) and told.assumed["split"] == (256,) and not told.missing
    untold = {"hop": 32, "patch": [32], "split": [16]}
    one = D3Net(make_config(FAMILY.archs["D3Net"], {**told.assumed, **told.config, **untold}))
    one.load_state_dict(FAMILY.convert(found, one), strict=True)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


# --- checkpoints --------------------------------------------------------------------------------------------


def published(*stems):
    """The tensors of the published files, without memory."""
    return {
        key: torch.empty(shape, dtype=getattr(torch, kind), device="meta")
        for stem in stems
        for key, (kind, shape) in json.loads(KEYS[stem].read_text()).items()
    }


SIZES = {"vocals": 2_975_489, "drums": 2_881_270, "bass": 2_427_050, "other": 2_975_489}


@pytest.mark.slow
def test_published_files():
    """All names, through our conversion into the catalogue's network; and found out by the tensors alone."""
    entry = load_catalog()["d3net"]
    config = entry_config(FAMILY.archs["D3Net"], entry, entry.members[0])
    assert config == D3NetConfig()
    with torch.device("meta"):
        model = D3Net(config)
    checkpoint = Checkpoint(Path("d3net-mss.zip"), published(*reversed(SIZES)), format="nnabla")
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    for net, size in zip(model.nets, SIZES.values(), strict=True):
        assert sum(tensor.numel() for tensor in net.state_dict().values()) == size
    found = find_network(checkpoint, all_families(), [entry])
    assert (found.family.name, found.config) == ("d3net", config) and "'d3net'" in found.notice


@pytest.mark.slow
@pytest.mark.parametrize("stem", SIZES)
def test_a_published_file_of_one_stem(stem):
    checkpoint = Checkpoint(Path(f"{stem}.h5"), published(stem), format="nnabla")
    found = find_network(checkpoint, [FAMILY], [load_catalog()["d3net"]])
    index = list(SIZES).index(stem)
    for name in ("patch", "split", "low_growth", "low_layers", "high_growth", "full_growth", "full_layers"):
        assert getattr(found.config, name) == (getattr(D3NetConfig(), name)[index],), name
    assert found.config.sources == (stem,) and "split" in found.notice


NAMES = [  # from our names to NNabla's, one after another: the way back, told another way
    (r"^bands\.(\d)\.first\.", r"features_init/\1/conv/"),
    (r"^full\.first\.", "features_init_full/conv/"),
    (r"^bands\.(\d)\.", r"dense_band/\1/"),
    (r"^full\.", "dense_full/"),
    (r"^match\.(\d)\.norm\.", r"match_fm_conv/\1/norm/bn/"),
    (r"^match\.(\d)\.conv\.", r"match_fm_conv/\1/conv/conv/"),
    (r"^final\.", "final_dense/"),
    (r"^norm\.", "out_gate/bn/bn/"),
    (r"^gate\.", "out_gate/conv_gate/conv/conv/"),
    (r"^filter\.", "out_gate/conv_filt/conv/conv/"),
    (r"^(offset|scale)$", r"in_\1"),
    (r"^out_(scale|bias)$", r"decode_\1"),
    (r"down\.(\d)\.", r"ds_layers/dense_block\1/"),
    (r"bottom\.", "bottleneck_block/"),
    (r"up\.(\d)\.norm\.", r"us_layers/upsample\1/upsample/norm/bn/"),
    (r"up\.(\d)\.conv\.", r"us_layers/upsample\1/upsample/transconv/deconv/"),
    (r"first\.first\.", "initial_block/initial_layer/bottleneck/"),
    (r"first\.layers", "initial_block/layers"),
    (r"first\.", "initial_layer/bottleneck/"),
    (r"bottleneck/norm\.", "bottleneck/norm1/bn/"),
    (r"bottleneck/conv\.", "bottleneck/conv1/conv/"),
]


def as_nnabla(model):
    """{name of NNabla: tensor}, as float64 like its files."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        _, number, name = name.split(".", 2)
        net = model.nets[int(number)]
        for before, after in NAMES:
            name = re.sub(before, after, name)
        if found := re.search(r"(dense_band/(\d)|dense_full)/up\.(\d)\.block\.", name):
            band = net.bands[int(found[2])] if found[2] else net.full
            block = len(band.down) + 1 + int(found[3])
            name = name.replace(f"up.{found[3]}.block.", f"us_layers/dense_block{block}/")
        name = re.sub(
            r"layers\.(\d)\.(?=norm|conv)", lambda m: f"layers/layer{int(m[1]) + 1}/bottleneck/", name
        )
        name = re.sub(r"layers\.(\d)\.", lambda m: f"layers/layer{int(m[1]) + 1}/", name)
        for before, after in NAMES[-2:]:
            name = re.sub(before, after, name)
        path, slash, part = name.rpartition("/")
        norm = {"weight": "gamma", "bias": "beta", "mean": "mean", "variance": "var"}
        part = (norm if path.endswith("bn") else {"weight": "W", "bias": "b"}).get(part, part)
        around = tensor[None, None, None] if not slash else tensor[None, :, None, None]
        tensors[f"{model.known[int(number)]}/{path}{slash}{part}"] = (
            around if not slash or path.endswith("bn") else tensor
        ).double()
    return tensors


def write(path, tensors):
    h5py = package("h5py")
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name] = tensor.numpy()
    return path


def archived(path, model):
    """All stems' files in an archive, as published."""
    tensors = as_nnabla(model)
    with zipfile.ZipFile(path, "w") as archive:
        for stem in model.known:
            part = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{stem}/")}
            archive.write(write(path.with_name(f"{stem}.h5"), part), f"d3net-mss/{stem}.h5")
    return path


@pytest.mark.slow
def test_an_archive_in_the_place_of_the_catalogues(tmp_path):
    """All networks of it become one model, by the entry whose settings are made small."""
    model = tiny(sources=D3NetConfig().sources, **{**PLAIN, "patch": (8,)})
    table = entry_tables(bundled_catalog().read_text(encoding="utf-8"))["d3net"]
    settings = {name: value for name, value in plain_config(model.config).items() if name != "sources"}
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(tomli_w.dumps({"d3net": {**table, "config": settings}}), encoding="utf-8")
    path = archived(tmp_path / "mine.zip", model)
    loaded = load_model(f"d3net={path}", catalog=load_catalog([catalog]), options={"mwf": "false"})
    assert loaded.sources == model.sources and loaded.model.options == D3NetOptions(mwf=False)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.slow
def test_one_file_of_the_archive(tmp_path):
    """What its tensors don't tell is said."""
    model, notices = tiny(sources=("other",), **PLAIN), []
    path = write(tmp_path / "other.h5", as_nnabla(model))
    loaded = load_model(str(path), notice=notices.append)
    assert loaded.sources == ("other",) and loaded.model.config.split == (256,) and "hop = 256" in notices[0]
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.slow
def test_stems_that_nobody_published(tmp_path):
    path = write(tmp_path / "a.h5", as_nnabla(tiny(sources=("piano",), **PLAIN)))
    with pytest.raises(ModelError, match="do not tell split and patch"):
        load_model(str(path))


def test_other_files_of_nnabla_are_not_ours(tmp_path):
    path = write(tmp_path / "a.h5", {"fc1/affine/W": torch.ones(2, 2)})
    with pytest.raises(ModelError, match="does not say which network"):
        load_model(str(path))
    with pytest.raises(ModelError, match="affine/W"):
        FAMILY.convert(read_checkpoint(path), tiny())
    other = Checkpoint(path, as_nnabla(tiny(sources=("piano",), **PLAIN)), format="nnabla")
    with pytest.raises(ModelError, match="a network for 'piano', but this model's stems are vocals, drums"):
        FAMILY.convert(other, tiny())
