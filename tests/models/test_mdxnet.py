"""MDX-Net: tiny networks for the contract, equality with the original programs and onnxruntime, checkpoints."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from sepcli.engine.combine import Combiner
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model
from sepcli.models.config import make_config, plain_config
from sepcli.models.detection import entry_config
from sepcli.models.mdxnet import FAMILY, table
from sepcli.models.mdxnet.config import MDXNetConfig, MDXNetOptions
from sepcli.models.mdxnet.network import MDXNet
from sepcli.nn.norm import Norm
from sepcli.weights import download
from sepcli.weights.catalog import load_catalog
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.download import Fetched
from tests import needs, onnxfiles
from tests.contracts import Case, peak_error, run

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "mdxnet").glob("*.json"))}
GOLDEN = TESTS / "golden" / "mdxnet"
ONNX = {f"{path.parent.name} {path.stem}": path for path in sorted(GOLDEN.glob("*/*.onnx"))}
CPU = torch.device("cpu")
TINY = dict(nfft=96, hop=16, bins=32, frames=16, growth=4, scales=2, convs=2, bottleneck=4)


def tiny(*sources, **other):
    """With every norm off its trivial value."""
    torch.manual_seed(0)
    model = MDXNet(MDXNetConfig(**{"sources": sources or ("vocals",), **TINY, **other}))
    for module in model.modules():
        if isinstance(module, Norm):
            for tensor in (module.weight.data, module.bias.data, module.mean):
                tensor += 0.3 * torch.randn_like(tensor)
            module.variance.uniform_(0.3, 3)
    return model.eval()


def denoising():
    model = tiny("drums", folded=True, deaf=3, compensate=1.03)
    model.options = MDXNetOptions(denoise=True)
    return model


NETWORKS = {
    "MDXNet": {
        "norms": Case(tiny, [1, 300]),
        "mono": Case(partial(tiny, channels=1, scales=3), [240]),
        "folded, denoising": Case(denoising, [700]),
    }
}


# --- equality with the original programs ---------------------------------------------------------------------


def case_of(name):
    return json.loads((GOLDEN / name / "case.json").read_text()), load_file(GOLDEN / name / "io.safetensors")


def config_of(case, **other):
    theirs = case["config"]
    settings = dict(
        sources=(theirs.get("target", "vocals"),),
        nfft=theirs["n_fft"],
        hop=theirs.get("hop"),
        bins=theirs["dim_f"],
        frames=theirs.get("dim_t"),
        growth=theirs["g"],
        scales=theirs["num_blocks"] // 2,
        convs=theirs["l"],
        bottleneck=theirs["bn"],
    )
    return MDXNetConfig(**{**settings, **other})


def filled(config, path):
    model = MDXNet(config)
    model.load_state_dict(FAMILY.convert(read_checkpoint(path), model), strict=True)
    return model.eval()


@pytest.mark.parametrize("name", ["v2_net", "v2_net_depth4"])
@pytest.mark.parametrize("how", ["as trained", "prepared", "folded"])
def test_a_chunk(name, how):
    case, io = case_of(name)
    config = config_of(case, folded=how == "folded")
    model = filled(config, GOLDEN / name / "weights.safetensors")
    if how != "as trained":
        model.prepare(case["config"]["chunk_size"], CPU, torch.float32)
    tolerance = {group: values["tolerance"] for group, values in case["tolerance_by_group"].items()}
    with torch.inference_mode():
        spec = model.network(io["chunk.spec"].mT).mT
        wave = model(io["chunk.wave"])[:, 0]
    assert (spec - io["chunk.spec_out"]).abs().max() < tolerance["network"]
    assert (wave - io["chunk.wave_out"]).abs().max() < tolerance["wave"]


def by_engine(model, mix, overlap):
    engine = Engine(model, Settings(overlap=overlap), CPU, torch.float32)
    return torch.cat(list(engine.separate(iter([mix[None]]))), dim=-1)[0, 0]


@pytest.mark.parametrize("name", ["v2_net", "v2_net_depth4"])
def test_the_walk_of_the_submission(name):
    """The engine without overlap; only a short last chunk has real audio before it, not zeros behind it."""
    case, io = case_of(name)
    model = filled(config_of(case), GOLDEN / name / "weights.safetensors")
    expected = io["track.submission"]
    step = case["config"]["chunk_size"] - 2 * case["config"]["trim"]
    same = expected.shape[-1] // step * step
    result = by_engine(model, io["track.mix"], 0.0)
    assert result.shape == expected.shape
    error = (result - expected)[:, :same].abs().max()
    assert error < case["tolerance_by_group"]["track"]["tolerance"]


def uvr_walk(model, mix, chunk, overlap):
    """As UVR walks: Hann weights of each piece's length; overlap None: a step that leaves half a window out."""
    trim, samples = model.config.nfft // 2, mix.shape[-1]
    step = chunk - 2 * trim if overlap is None else int((1 - overlap) * chunk)
    behind = chunk - 2 * trim + trim - samples % (chunk - 2 * trim)
    padded = torch.cat([mix.new_zeros(2, trim), mix, mix.new_zeros(2, behind)], dim=-1)
    total, weights = torch.zeros_like(padded), torch.zeros_like(padded)
    for start in range(0, padded.shape[-1], step):
        piece = padded[:, start : start + chunk]
        length = piece.shape[-1]
        piece = torch.nn.functional.pad(piece, (0, chunk - length))
        weight = torch.hann_window(length, periodic=False, dtype=torch.float64).float()
        if overlap == 0:
            weight = torch.ones(length)
        total[:, start : start + length] += run(model, piece[None])[0, 0, :, :length] * weight
        weights[:, start : start + length] += weight
    return (total / weights)[:, trim:-trim][:, :samples]


@pytest.mark.parametrize(
    "name, overlap, denoise",
    [
        ("v2_net", "0.25", False),
        ("v2_net", "0.75", True),
        ("v2_net", "default", True),
        ("v2_net_depth4", "default", False),
        ("v2_net_depth4", "default", True),
    ],
)
def test_the_walk_of_uvr(name, overlap, denoise):
    """The network with three silent bins, gain and the pass upside down; the engine's own walk is near it."""
    case, io = case_of(name)
    config = config_of(case, deaf=3, compensate=case["compensate"])
    model = filled(config, GOLDEN / name / "weights.safetensors")
    model.options = MDXNetOptions(denoise=denoise)
    expected = io[f"track.uvr.overlap_{overlap}{'.denoise' * denoise}"]
    share = None if overlap == "default" else float(overlap)
    result = uvr_walk(model, io["track.mix"], case["config"]["chunk_size"], share)
    assert (result - expected).abs().max() < case["tolerance_by_group"]["uvr"]["tolerance"]


def test_four_windows():
    """The networks of KUIELab's ensemble, each with its own window, over a track."""
    case, io = case_of("v2_mixer_blend")
    weights = load_file(GOLDEN / "v2_mixer_blend" / "weights.safetensors")
    for number, stem in enumerate(case["config"]["stems_order"]):
        own = dict(case, config={**case["config"], "n_fft": case["config"]["n_fft"][stem]})
        model = MDXNet(config_of(own, frames=case["config"]["frames_per_chunk"]))
        prefix = f"{stem}."
        state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        model.load_state_dict(FAMILY.convert(Checkpoint(Path(stem), state), model), strict=True)
        result = by_engine(model.eval(), io["mix"], 0.0)
        step = case["config"]["chunk_size"] - model.config.nfft
        same = io["mix"].shape[-1] // step * step
        error = (result - io["base"][number]).abs()[:, :same].max()
        assert error < case["tolerance_by_group"]["base"]["tolerance"]


def test_the_mixer_of_the_ensemble(tmp_path):
    """From the files, by a catalogue; the mixer's stems are in another order than the entry's."""
    case, io = case_of("v2_mixer_blend")
    weights = load_file(GOLDEN / "v2_mixer_blend" / "weights.safetensors")
    stems, sizes = case["config"]["stems_order"], case["config"]
    members, files = [], {"mixer": tmp_path / "mixer.ckpt"}
    torch.save({"linear.weight": weights["mixer.linear.weight"]}, files["mixer"])
    for stem in stems:
        prefix, files[stem] = f"{stem}.", tmp_path / f"{stem}.ckpt"
        torch.save({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, files[stem])
        own = dict(case, config={**sizes, "n_fft": sizes["n_fft"][stem]})
        config = plain_config(config_of(own, frames=sizes["frames_per_chunk"], sources=(stem,)))
        config = {key: value for key, value in config.items() if value is not None}
        members.append({"file": stem, "weights": {stem: 1}, "config": config})
    entry = {
        "family": "mdxnet", "arch": "MDXNet", "sources": sorted(stems), "samplerate": 44100, "channels": 2,
        "members": members, "mixer": {"file": "mixer", "stems": stems},
        "files": {name: {"url": f"https://x.invalid/{name}"} for name, path in files.items()},
    }  # fmt: skip
    (tmp_path / "catalog.toml").write_text(tomli_w.dumps({"a": entry}))
    with pytest.MonkeyPatch.context() as patch:
        fetched = {name: Fetched(path, "0" * 64, "full", "here") for name, path in files.items()}
        patch.setattr(download, "fetch", lambda file, **_: fetched[file.name])
        loaded = load_model("a", catalog=load_catalog([tmp_path / "catalog.toml"]), targets=["drums", "bass"])
    assert len(loaded.hashes) == 5 and loaded.model.sources == ("drums", "bass")
    engine = Engine(loaded.model, Settings(overlap=0.0), CPU, torch.float32)
    result = torch.cat(list(engine.separate(iter([io["mix"][None]]))), dim=-1)[:, 0]
    # Up to the first short chunk of a network, as in test_four_windows.
    steps = [sizes["chunk_size"] - nfft for nfft in sizes["n_fft"].values()]
    same = min(io["mix"].shape[-1] // step * step for step in steps)
    expected = io["mixed"][[stems.index("drums"), stems.index("bass")]]
    assert (result - expected).abs()[..., :same].max() < case["tolerance_by_group"]["mixed"]["tolerance"]
    assert same > 3 * max(steps)


@pytest.mark.parametrize(
    ("name", "ours", "blended"),
    [
        ("mdx-kuielab-a-complete", "mixed", "blend_A"),
        ("mdx-kuielab-b-complete", "base", "blend_B_without_mixer"),
    ],
)
def test_the_weights_of_both_ensembles(name, ours, blended):
    """Beside stand-ins for the stems of Demucs."""
    case, io = case_of("v2_mixer_blend")
    entry, bound = load_catalog()[name], case["tolerance_by_group"][blended]["tolerance"]
    for number, stem in enumerate(case["config"]["stems_order"]):
        weights = [part.weights[entry.sources.index(stem)] for part in entry.parts]
        both = torch.stack([io[ours][number], io["demucs.bass_drums_other_vocals"][number]])
        result = Combiner(entry.blend, weights).process(both)
        assert (result - io[blended][number]).abs().max() < bound


# --- .onnx files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file(name):
    """As three exporters write it; the network takes more frames than the file declares."""
    path = ONNX[name]
    case, io = case_of(path.parent.name)
    model = filled(config_of(case, folded=True), path)
    model.prepare(100, CPU, torch.float32)
    with torch.inference_mode():
        result = model.network(io["input"].mT).mT
        longer = model.network(io["long.input"].mT).mT
    assert (result - io[f"output_ort.{path.stem}"]).abs().max() < case["tolerance"]
    assert peak_error(longer, io["long.output_torch"]) < 5e-5
    told = FAMILY.detect(read_checkpoint(path).shapes_only())
    wanted = config_of(case, folded=True)
    assert told.config == {key: getattr(wanted, key) for key in told.config} and len(told.config) == 7
    assert told.assumed == {"frames": case["config"]["dim_t"]} and told.missing == ("nfft", "sources")


def test_what_onnxruntime_makes_of_ours(tmp_path):
    """The files that the tests write are files that its graph checks accept, and it computes the same."""
    runtime = needs.package("onnxruntime")
    model = tiny(folded=True)
    path = onnxfiles.write(tmp_path / "tiny.onnx", model)
    x = torch.randn(2, 4, 16, 32)
    (theirs,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"input": x.mT.contiguous().numpy()}
    )
    with torch.inference_mode():
        assert peak_error(model.network(x).mT, torch.from_numpy(theirs)) < 1e-5
    assert (
        peak_error(run(filled(model.config, path), torch.randn(1, 2, 400)), run(model, torch.randn(1, 2, 400)))
        > 0
    )


def test_an_exporter_that_folds_nothing(tmp_path):
    """Norms behind convolutions, matrices turned in the graph: the same network, folded as it is read."""
    model = tiny()
    (tmp_path / "plain.onnx").write_bytes(onnxfiles.mdxnet(model, turned=False))
    folded = filled(replace(model.config, folded=True), tmp_path / "plain.onnx")
    mix = torch.randn(1, 2, 500)
    assert peak_error(run(folded, mix), run(model, mix)) < 1e-5
    assert peak_error(run(filled(model.config, tmp_path / "plain.onnx"), mix), run(model, mix)) < 1e-6


def graph_of(tmp_path, change, config=None):
    """A tiny network's file after a change of its bytes' makers; then what reading it as MDX-Net says."""
    model = tiny(folded=True, **(config or {}))
    data = change(onnxfiles.mdxnet(model))
    (tmp_path / "changed.onnx").write_bytes(data)
    return lambda: FAMILY.convert(read_checkpoint(tmp_path / "changed.onnx"), model)


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"\x03Mul", b"\x03Add", "a Add in the place of Mul|Add in the place of Mul"),
        (b"\x04Relu", b"\x04Tanh", "Tanh in the place of"),
        (b"\x07strides", b"\x07stridez", "other strides"),
        (b"\x04perm@\x00@\x01@\x03@\x02", b"\x04perm@\x00@\x03@\x01@\x02", "another perm"),
    ],
)
def test_another_graph_is_refused(old, new, words, tmp_path):
    def change(data):
        assert old in data
        return data.replace(old, new)

    with pytest.raises(ModelError, match=words):
        graph_of(tmp_path, change)()


def test_other_bins_than_declared(tmp_path):
    declared = onnxfiles.field(1, onnxfiles.field(1, 32)), onnxfiles.field(1, onnxfiles.field(1, 33))
    with pytest.raises(ModelError, match="33 bins declared, but tensors for 32"):
        graph_of(tmp_path, lambda data: data.replace(*declared))()


def test_a_tensor_without_use_is_refused(tmp_path):
    model = tiny(folded=True)
    path = onnxfiles.write(tmp_path / "m.onnx", model)
    found = read_checkpoint(path)
    more = replace(found, payload={**found.payload, "left": torch.ones(1)})
    with pytest.raises(ModelError, match="tensors without use, such as \\['left'\\]"):
        FAMILY.convert(more, model)


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_published_sizes(name):
    """Found by the tensors alone; all are taken, and come back under their names."""
    listed = json.loads(KEYS[name].read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in listed["shapes"].items()}
    found = Checkpoint(Path(name), tensors, format="torch")
    told = FAMILY.detect(found)
    assert told.config["nfft"] == listed["config"]["n_fft"] and told.missing == ("sources",)
    with torch.device("meta"):
        model = MDXNet(make_config(FAMILY.archs["MDXNet"], {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(found, model), strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == listed["parameters"]
    assert (model.config.bins, model.config.growth) == (listed["config"]["dim_f"], listed["config"]["g"])
    back = FAMILY.export(model).tensors
    kept = {k: v.shape for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in back.items()} == kept


def mine(tmp_path, **config):
    return onnxfiles.write(tmp_path / "mine.onnx", tiny(folded=True, **config))


def test_what_a_file_does_not_tell_is_asked_for(tmp_path):
    path = mine(tmp_path)
    with pytest.raises(ModelError, match="They do not tell nfft and sources") as caught:
        load_model(str(path))
    assert caught.value.code == "unknown_settings" and "NAME=FILE" in str(caught.value.remedy)


@pytest.fixture
def in_the_table(tmp_path, monkeypatch):
    """A tiny file that UVR's table knows."""
    path = mine(tmp_path)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(table.TABLE, digest, table.Known("reverb", 96, 16, 1.25))
    return path


def test_a_file_that_is_known_by_its_hash(in_the_table):
    notices = []
    loaded = load_model(str(in_the_table), notice=notices.append)
    assert loaded.sources == ("reverb",)
    assert (loaded.model.config.nfft, loaded.model.config.frames, loaded.model.config.deaf) == (96, 16, 3)
    assert loaded.model.used() == {"denoise": False, "compensate": 1.25}
    assert load_model(str(in_the_table), options={"compensate": "1", "denoise": "true"}).model.used() == {
        "denoise": True,
        "compensate": 1.0,
    }


def test_an_entry_of_another_window_is_refused(in_the_table):
    with pytest.raises(ModelError, match="is for windows of 96 samples, not 128"):
        filled(MDXNetConfig(**{**TINY, "nfft": 128, "folded": True}), in_the_table)


def test_the_gain():
    mix = torch.randn(1, 2, 300)
    plain, louder = run(tiny(), mix), run(tiny(compensate=1.5), mix)
    assert peak_error(louder, 1.5 * plain) < 5e-6
    with pytest.raises(UsageError, match="compensate is -1"):
        MDXNetOptions(compensate=-1)


def test_the_table():
    assert len(table.TABLE) == 44 and all(len(digest) == 32 for digest in table.TABLE)
    assert table.TABLE["970b3f9492014d18fefeedfe4773cb42"] == table.Known("vocals", 7680, 256, 1.009)


def test_training_is_not_folded():
    """`prepare` has set up what an evaluation needs; training goes on with the norms."""
    model = tiny()
    model.prepare(300, CPU, torch.float32)
    before = run(model, torch.ones(1, 2, 300))
    model.train()
    model(torch.randn(2, 2, 300)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval().prepare(300, CPU, torch.float32)
    assert peak_error(run(model, torch.ones(1, 2, 300)), before) > 1e-3


@pytest.mark.parametrize(
    "config, words",
    [
        ({"sources": ("a", "b")}, "exactly one"),
        ({"bins": 34}, "bins must be a multiple of 4"),
        ({"frames": 15}, "frames must be"),
        ({"bottleneck": 16}, "at most 8"),
        ({"bins": 64}, "49 bins"),
        ({"nfft": 480}, "longer than a window"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        MDXNet(MDXNetConfig(**{**TINY, **config}))


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(MDXNetConfig()) == dict(
        sources=("vocals",), samplerate=44100, channels=2, nfft=6144, hop=1024, bins=2048, frames=256,
        growth=32, scales=5, convs=3, bottleneck=8, folded=False, deaf=0, compensate=None,
    )  # fmt: skip
    assert vars(MDXNetOptions()) == dict(denoise=False, compensate=None)


def test_the_catalogue_has_the_sizes_of_its_files():
    """Four bytes a value, and some 20 kB of names. Another width, depth or number of bins is another file."""
    entries = [entry for entry in load_catalog(()).values() if entry.family == "mdxnet"]
    networks = {
        (entry_config(FAMILY.archs["MDXNet"], entry, member), member.file.bytes)
        for entry in entries
        for member in entry.members
        if member.file.bytes
    }
    other = dict(sources=("x",), nfft=16384, deaf=0, frames=512, compensate=1.0)  # what shapes no tensor
    shapes = {(replace(config, **other), size) for config, size in networks}
    assert len(entries) > 20 and len({config for config, _ in shapes}) == 5
    for config, size in shapes:
        with torch.device("meta"):
            state = MDXNet(config).state_dict()
        assert 10_000 < size - 4 * sum(tensor.numel() for tensor in state.values()) < 60_000
    tabled = {known.nfft for known in table.TABLE.values()}
    assert {config.nfft for config, _ in networks} == tabled
