"""MDX23C: tiny networks for the contract, equality with the original program, and checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError
from sepcli.models.config import make_config
from sepcli.models.mdx23c import FAMILY
from sepcli.models.mdx23c.config import MDX23CConfig
from sepcli.models.mdx23c.network import MDX23C
from sepcli.models.mdx23c.toolkit import read_audio, read_settings, write_settings
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.toolkit import read_toolkit
from tests.contracts import Case, check_reduced, peak_error, run
from tests.toolkitwalk import toolkit_walk

TESTS = Path(__file__).parents[1]
KEYS = {path.stem: path for path in sorted((TESTS / "keys" / "mdx23c").glob("*.json"))}
GOLDEN = {path.parent.name: path.parent for path in sorted((TESTS / "golden" / "mdx23c").glob("*/case.json"))}

TINY = dict(nfft=128, hop=32, bins=64, subbands=2, width=6, growth=2, scales=2, bottleneck=4, chunk=480)


def tiny(*sources, **other):
    torch.manual_seed(0)
    model = MDX23C(MDX23CConfig(**{"sources": sources, **TINY, **other}))
    for module in model.modules():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if "norm" in type(module).__name__.lower() and tensor.is_floating_point():
                tensor.data += 0.3 * torch.rand_like(tensor)
    return model.eval()


LENGTHS = [1, 300, 480]
NETWORKS = {
    "MDX23C": {
        "instance norm": Case(partial(tiny, "a", "b", "c"), LENGTHS),
        "batch norm, scale": Case(
            partial(tiny, "a", "b", norm="BatchNorm", act="elu0.5", scale=(2, 4)), LENGTHS
        ),
        "group norm, mono": Case(
            partial(tiny, "a", channels=1, norm="GroupNorm2", act="relu", subbands=1, blocks=1), LENGTHS
        ),
        "no norm": Case(partial(tiny, "a", "b", norm="none"), LENGTHS),
    }
}


# --- equality with the original program ----------------------------------------------------------------------


def golden(name):
    """(the network with the case's weights, what it is given and gives, the tolerances by group)."""
    folder = GOLDEN[name]
    case, io = json.loads((folder / "case.json").read_text()), load_file(folder / "io.safetensors")
    theirs = case["config"]
    audio = {**theirs["audio"], "chunk_size": None, "dim_t": theirs["inference"]["dim_t"]}
    settings = {**read_settings("MDX23C", theirs["model"]), **read_audio(audio)}
    sources = [name.lower() for name in case["stems_order"]]
    model = MDX23C(make_config(FAMILY.archs["MDX23C"], {**settings, "sources": sources}))
    model.load_state_dict(FAMILY.convert(read_checkpoint(folder / "weights.safetensors"), model))
    tolerances = {group: values["tolerance"] for group, values in case["tolerance_by_group"].items()}
    return model.eval(), io, tolerances, theirs


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    model, io, tolerances, _ = golden(name)
    for group in ("chunk", "long"):
        wave, out = io[f"{group}.wave"], io[f"{group}.out"]
        assert model.valid_length(wave.shape[-1]) == wave.shape[-1]
        stems = run(model, wave)
        assert (stems - out.view(stems.shape)).abs().max() < tolerances["chunk"]
    whole = model(io["chunk.wave"]).detach()  # as training computes it
    assert (whole - io["chunk.out"].view(whole.shape)).abs().max() < tolerances["chunk"]


@pytest.mark.parametrize("name", GOLDEN)
def test_values_on_the_way(name):
    model, io, _, _ = golden(name)
    found = {}

    def keep(key):
        return lambda module, inputs, output: found.update({key: output.clone()})

    model.encoder_blocks[0].tfc_tdf.blocks[0].register_forward_hook(keep("chunk.after_first_block"))
    model.encoder_blocks[0].tfc_tdf.register_forward_hook(keep("level"))
    model.bottleneck_block.register_forward_hook(keep("chunk.after_bottleneck"))
    run(model, io["chunk.wave"])
    for key in ("chunk.after_first_block", "chunk.after_bottleneck"):
        candidates = [found[key], found["level"]]
        errors = [peak_error(each, io[key]) for each in candidates if each.shape == io[key].shape]
        assert min(errors) < 1e-5, key


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_original(name):
    """A plain average of as many calls as overlap, with silence around the track."""
    model, io, tolerances, theirs = golden(name)
    mix, size = io["track.mix"], model.config.chunk
    step = size // theirs["inference"]["num_overlap"]
    pad = step - (mix.shape[-1] - size) % step
    padded = torch.nn.functional.pad(mix, (size - step, pad + size - step))
    total = torch.zeros(len(model.sources), *padded.shape)
    for start in range(0, padded.shape[-1] - size + 1, step):
        total[..., start : start + size] += run(model, padded[None, :, start : start + size])[0]
    average = total[..., size - step :][..., : mix.shape[-1]] / theirs["inference"]["num_overlap"]
    assert (average - io["track.kuielab"].view(average.shape)).abs().max() < tolerances["track"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_walk_of_the_toolkit(name):
    model, io, tolerances, theirs = golden(name)
    chunk, overlap = theirs["audio"]["chunk_size"], theirs["inference"]["num_overlap"]
    stems = toolkit_walk(partial(run, model), io["track.mix"], chunk, overlap)
    assert (stems - io["track.msst"].view(stems.shape)).abs().max() < tolerances["track.msst"]


# --- the network ---------------------------------------------------------------------------------------------


def test_every_call_has_one_length():
    """Also of the last chunk and of a shorter segment: the norms hear all of a call."""
    model = tiny("a")
    lengths = []
    model.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[-1]))
    for seconds, expected in ((None, 480), (200 / 44100, 224)):
        lengths.clear()
        engine = Engine(model, Settings(segment=seconds), torch.device("cpu"), torch.float32)
        blocks = list(engine.separate(iter([torch.randn(1, 2, 1333)])))
        assert sum(block.shape[-1] for block in blocks) == 1333 and set(lengths) == {expected}
    assert [model.valid_length(n) for n in (1, 96, 97, 224, 225, 480)] == [96, 96, 224, 224, 352, 480]


def test_pieces_change_nothing(monkeypatch):
    from sepcli.models.mdx23c import blocks

    model, mix = tiny("a", "b"), torch.randn(2, 2, 480)
    whole = run(model, mix)
    for piece in (1, 3 * 16 * 32):
        monkeypatch.setattr(blocks, "PIECE", piece)
        assert peak_error(run(model, mix), whole) < 1e-6


def test_only_what_is_wanted_is_computed():
    rows = 2 * 2 * 2
    last = tiny("a", "b", "c").select(["c"]).final_conv[2]
    assert last.weight.shape == (rows, 6, 1, 1) and last.out_channels == rows


def test_bins_that_are_not_estimated_are_silent():
    model = tiny("a", bins=32)
    mix = torch.randn(1, 2, 480)
    low = torch.stft(run(model, mix)[0, 0], 128, 32, window=model.window, return_complex=True)
    inner = low[..., 4:-4].abs()  # at the ends the audio is mirrored, with a kink
    assert inner[:, 40:].max() < 1e-3 * inner.max()


@pytest.mark.parametrize("dtype, decibels", [(torch.bfloat16, 25), (torch.float16, 40)])
@pytest.mark.parametrize("norm", ["InstanceNorm", "BatchNorm"])
def test_reduced_precision(norm, dtype, decibels):
    check_reduced(tiny("a", "b", norm=norm), torch.randn(1, 2, 480), dtype, decibels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_silence_on_one_side(dtype):
    model, mix = tiny("a", "b"), torch.zeros(2, 2, 480)
    mix[0, 0, 240:] = torch.sin(torch.arange(240) * 0.3)
    model.prepare(480, torch.device("cpu"), dtype)
    assert run(model, mix).isfinite().all()


@pytest.mark.parametrize("norm", ["InstanceNorm", "BatchNorm", "GroupNorm2", "none"])
def test_every_part_has_a_gradient(norm):
    model = tiny("a", "b", norm=norm).train()
    stems = torch.randn(2, 2, 2, 480)
    (model(stems.sum(1)) - stems).abs().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not still


@pytest.mark.parametrize(
    "config, words",
    [
        ({"subbands": 3}, r"64 bins can't be divided by 3 \(subbands"),
        ({"scales": 6}, "32 bins can't be divided by 64"),
        ({"bins": 128}, "128 bins are more than a window of 128"),
        ({"norm": "LayerNorm"}, "must be InstanceNorm, BatchNorm"),
        ({"act": "tanh"}, "must be gelu, relu"),
    ],
)
def test_what_a_network_can_not_be(config, words):
    with pytest.raises(ValueError, match=words):
        tiny("a", **config)


def test_defaults_never_change():
    """Catalogue entries are differences from them."""
    assert vars(MDX23CConfig()) == dict(
        sources=("vocals", "instrumental"),
        samplerate=44100,
        channels=2,
        nfft=8192,
        hop=1024,
        bins=4096,
        subbands=4,
        width=128,
        growth=128,
        scales=5,
        scale=(2, 2),
        blocks=2,
        bottleneck=4,
        norm="InstanceNorm",
        act="gelu",
        chunk=261120,
    )


# --- checkpoints and the toolkit's settings ------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
def test_published_files(name):
    """The network is found by the tensors, takes all of them, and gives all of them back."""
    listed = json.loads(KEYS[name].read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in listed["shapes"].items()}
    checkpoint = Checkpoint(Path(name), tensors, format="torch")
    told = FAMILY.detect(checkpoint)
    arch = FAMILY.archs["MDX23C"]
    with torch.device("meta"):
        model = arch.build(make_config(arch, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == listed["parameters"]
    assert {key: t.shape for key, t in model.state_dict().items()} == {k: t.shape for k, t in tensors.items()}
    said = {**read_settings("MDX23C", listed["config"]["model"]), **read_audio(listed["config"]["audio"])}
    known = {key: value for key, value in said.items() if key not in ("nfft", "hop", "chunk")}
    assert known == {key: getattr(model.config, key) for key in known}
    assert model.config.nfft == said["nfft"] or said["nfft"] == 12288


@pytest.mark.parametrize("name", GOLDEN)
def test_settings_there_and_back(name, tmp_path):
    model, _, _, _ = golden(name)
    exported = FAMILY.export(model)
    file = tmp_path / "m.yaml"
    file.write_text(exported.texts[".yaml"])
    toolkit = read_toolkit(file)
    assert exported.tensors.keys() == load_file(GOLDEN[name] / "weights.safetensors").keys()
    settings = {**read_settings("MDX23C", toolkit.model), **read_audio(toolkit.audio)}
    more = {"sources": toolkit.sources, "samplerate": toolkit.samplerate}
    assert make_config(FAMILY.archs["MDX23C"], {**settings, **more}) == model.config
    assert (toolkit.counterpart == "other") == (len(model.sources) == 1)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_what_stands_around_the_tensors(prefix):
    state = tiny("a", "b").state_dict()
    wrapped = Checkpoint(Path("x"), {"best_state": {prefix + key: tensor for key, tensor in state.items()}})
    assert FAMILY.convert(wrapped, tiny("a", "b")).keys() == state.keys()
    assert FAMILY.detect(wrapped).config["width"] == 6
    assert FAMILY.detect(Checkpoint(Path("x"), {"first_conv.weight": torch.zeros(1)})) is None


AUDIO = {"n_fft": 8192, "hop_length": 1024, "dim_f": 4096}


@pytest.mark.parametrize(
    "audio, chunk",
    [
        ({"chunk_size": 260096}, 260096),
        ({"dim_t": 256}, 261120),
        ({"chunk_size": 260096, "dim_t": 128}, 260096),
        ({"chunk_size": None, "dim_t": 128}, 130048),
        ({}, None),
    ],
)
def test_the_length_of_calls(audio, chunk):
    assert read_audio({**AUDIO, **audio}).get("chunk") == chunk


SETTINGS = write_settings(MDX23CConfig())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"colour": 1}, "does not know: colour"),
        ({"scale": [2, 2, 2]}, "two numbers"),
        ({"growth": "many"}, "growth as 'many'"),
    ],
)
def test_settings_that_are_refused(change, words):
    with pytest.raises(ModelError, match=words):
        read_settings("MDX23C", {**SETTINGS, **change})
    with pytest.raises(ModelError, match="lacks num_subbands, act"):
        read_settings("MDX23C", {k: v for k, v in SETTINGS.items() if k not in ("act", "num_subbands")})
    with pytest.raises(ModelError, match="lacks n_fft in `audio`"):
        read_audio({k: v for k, v in AUDIO.items() if k != "n_fft"})
    assert read_settings("MDX23C", {**SETTINGS, "norm": None})["norm"] == "none"
