"""danna-sep: tiny networks for the contract, equality with the original, and checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.loading import load_model
from sepcli.models.config import make_config
from sepcli.models.danna import FAMILY
from sepcli.models.danna.split import DemucsSplit, DemucsSplitConfig, whole_length
from sepcli.models.danna.unet import UNetAttn, UNetAttnConfig, UNetAttnOptions
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, peak_error, run
from tests.toys import unsettled

TESTS = Path(__file__).parents[1]
TINY = dict(nfft=64, hop=16, bins=30, growth=2, levels=2, attended=4, width=8, heads=2, frames=20)


def unet(*sources, iterations=1, **other):
    """With every norm off its trivial value."""
    torch.manual_seed(0)
    model = UNetAttn(UNetAttnConfig(**{"sources": sources, **TINY, **other}))
    model.options = UNetAttnOptions(iterations)
    return unsettled(model)


def split(*sources, **other):
    torch.manual_seed(0)
    config = dict(channels=4, depth=2, lstm_layers=1, segment_length=400)
    return DemucsSplit(DemucsSplitConfig(**{"sources": sources, **config, **other})).eval()


NETWORKS = {
    "UNetAttn": {
        "with the filter": Case(partial(unet, "a", "b"), [1, 305]),
        "without, mono": Case(partial(unet, "a", "b", iterations=0, channels=1, levels=3), [305]),
    },
    "DemucsSplit": {
        "stereo": Case(partial(split, "a", "b", "c"), [1, 305]),
        "mono, two layers": Case(partial(split, "a", audio_channels=1, lstm_layers=2, depth=1), [100]),
    },
}


# --- equality with the original ------------------------------------------------------------------------------


def golden(name, **more):
    folder = TESTS / "golden" / "danna" / name
    case = json.loads((folder / "case.json").read_text())
    checkpoint = read_checkpoint(folder / "weights.safetensors")
    told = FAMILY.detect(checkpoint)
    arch = FAMILY.archs[told.arch]
    model = arch.build(make_config(arch, {**told.assumed, **told.config, **more})).eval()
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    assert sum(tensor.numel() for tensor in model.parameters()) == case["parameters"]
    assert model.sources == ("drums", "bass", "other", "vocals")
    return model, load_file(folder / "io.safetensors"), case["tolerance"]


def test_the_masks_of_the_original():
    model, io, tolerance = golden("unet_attn", nfft=320, hop=80, bins=150)
    with torch.inference_mode():
        assert (model.masks(io["input"]) - io["output"]).abs().max() < tolerance


def test_the_stems_of_the_original():
    model, io, tolerance = golden("demucs_split")
    with torch.inference_mode():
        assert (model.network(io["input"]) - io["output"]).abs().max() < tolerance


# --- what the networks promise -------------------------------------------------------------------------------


def test_attention_sees_three_frames_around_two():
    """A block of two frames depends on no more than eight, and on all of these."""
    attention = unet("a").attn[0]
    attention.qkv_conv.weight.data[..., [0, 2]] = 0  # of the frame alone
    attention.out_conv.weight.data[..., [0, 2]] = 0
    x = torch.randn(1, attention.qkv_conv.in_channels, 5, 14)
    with torch.inference_mode():
        y = attention(x)
        for frame in range(14):
            other = x.clone()
            other[..., frame] += 1
            changed = (attention(other) != y).any(dim=(0, 1, 2)).nonzero().flatten().tolist()
            seen = [n for n in range(14) if n // 2 * 2 - 3 <= frame < n // 2 * 2 + 5]
            assert changed == seen, frame


def test_what_the_network_does_not_see_is_shared():
    """Bins above the highest: a quarter of the mix in each of the stems."""
    model = unet("a", "b", iterations=0, bins=16)
    with torch.inference_mode():
        masks = model.masks(torch.rand(1, 2, 33, 21))
    assert (masks[..., 15:, :] == 0.25).all() and (masks[..., 19:] == 0.25).all()
    assert not (masks[..., :15, :19] == 0.25).any()


def test_the_lengths_of_split():
    config = DemucsSplitConfig()
    for samples in (1, 1000, 441000):
        whole = whole_length(samples, config)
        assert whole >= samples and whole_length(whole, config) == whole
        inner = 2 * whole
        for _ in range(config.depth):
            assert (inner - 8) % 4 == 0
            inner = (inner - 8) // 4 + 1


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "parameters"),
    [
        ("unet_attention", UNetAttnConfig(), 15676652),
        ("demucs_split", DemucsSplitConfig(), 191928152),
    ],
)
def test_published_files(name, config, parameters):
    listed = json.loads((TESTS / "keys" / "danna" / f"{name}.json").read_text())
    kinds = {"float32": torch.float32, "int64": torch.int64}
    tensors = {
        key: torch.empty(shape, dtype=kinds[kind], device="meta") for key, (kind, shape) in listed.items()
    }
    checkpoint = Checkpoint(Path(name), tensors, format="torch")
    told = FAMILY.detect(checkpoint)
    arch = FAMILY.archs[told.arch]
    with torch.device("meta"):
        model = arch.build(make_config(arch, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert model.config == config
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters


class Scripted(torch.nn.Module):
    """The modules of a network in a program that does nothing with them."""

    def __init__(self, network):
        super().__init__()
        for name, module in network.named_children():
            ours = type(module).__module__.startswith(("sepcli", "torch.nn.modules.container"))
            self.add_module(name, Scripted(module) if ours else module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [partial(unet, *"abcd"), partial(split, *"abcd")])
def test_a_torchscript_archive(make, tmp_path):
    """As the published files are: the network is told by the tensors of a program."""
    model = make()
    torch.jit.script(Scripted(model)).save(str(tmp_path / "mine.pth"))
    checkpoint = read_checkpoint(tmp_path / "mine.pth")
    assert FAMILY.archs[FAMILY.detect(checkpoint).arch].build is type(model)
    read, ours = FAMILY.convert(checkpoint, model), model.state_dict()
    assert read.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in read.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_ones_own(tmp_path):
    model = split(*"abcd")
    torch.jit.script(Scripted(model)).save(str(tmp_path / "mine.pth"))
    loaded = load_model(str(tmp_path / "mine.pth")).model.eval()
    assert isinstance(loaded, DemucsSplit) and loaded.sources == ("drums", "bass", "other", "vocals")
    mix = torch.randn(1, 2, 500)
    assert peak_error(run(loaded, mix), run(model, mix)) == 0
