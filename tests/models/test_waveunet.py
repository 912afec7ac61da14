"""Wave-U-Nets: tiny networks for the contract, equality with the originals, windows, and checkpoints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.models.config import make_config
from sepcli.models.waveunet import FAMILY
from sepcli.models.waveunet.config import WaveUNetConfig, WaveUNetTorchConfig
from sepcli.models.waveunet.later import WaveUNetTorch
from sepcli.models.waveunet.network import WaveUNet
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from tests.contracts import Case, peak_error, run

TESTS = Path(__file__).parents[1]
GOLDEN = {path.parent.name: path.parent for path in sorted(TESTS.glob("golden/waveunet/*/case.json"))}
CPU = torch.device("cpu")
TINY = dict(layers=2, width=4, kernel=3, input_kernel=3, merge_kernel=3, samples=40)
LATER = dict(widths=(8, 16, 16), kernel=3, stride=2, samples=60)


def tiny(*sources, **other):
    torch.manual_seed(0)
    model = WaveUNet(WaveUNetConfig(**{"sources": sources, **TINY, **other}))
    for share in model.between:
        share.data.normal_()
    return model.eval()


def later(*sources, **other):
    torch.manual_seed(0)
    model = WaveUNetTorch(WaveUNetTorchConfig(**{"sources": sources, **LATER, **other}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.GroupNorm):
            for parameter in module.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 3)
    return model.eval()


NETWORKS = {
    "WaveUNet": {
        "learned, with context": Case(partial(tiny, "a", "b", "c"), [1, 90, 201]),
        "without": Case(
            partial(tiny, "a", "b", learned=False, difference=False, context=False, channels=1), [1, 90]
        ),
        "without, learned": Case(partial(tiny, "a", "b", context=False), [91]),
    },
    "WaveUNetTorch": {
        "a network each": Case(partial(later, "a", "b"), [1, 90, 201]),
        "one, learnt": Case(partial(later, "a", "b", separate=False, fixed=False, norm="batch"), [90]),
        "no norms": Case(partial(later, "a", norm="none", channels=1), [90]),
    },
}


# --- equality with the originals -----------------------------------------------------------------------------


def golden(name):
    """(case, network, its tensors as [C, T])."""
    folder = GOLDEN[name]
    case, io = json.loads((folder / "case.json").read_text()), load_file(folder / "io.safetensors")
    theirs, file = case["config"], "model.index" if name.startswith("tf") else "weights.safetensors"
    checkpoint = read_checkpoint(folder / file)
    told = FAMILY.detect(checkpoint)
    if name.startswith("tf"):
        io = {key: tensor.mT for key, tensor in io.items()}
        more = {
            "sources": theirs["source_names"],
            "samples": theirs["num_frames"],
            "context": theirs["context"],
            "difference": theirs["output_type"] == "difference",
            "input_kernel": theirs["input_filter_size"],
        }
    else:
        io = {key: tensor.squeeze(0) for key, tensor in io.items()}
        more = {
            "sources": theirs["instruments"],
            "samples": theirs["target_output_size"],
            "stride": theirs["strides"],
        }
    arch = FAMILY.archs[told.arch]
    model = arch.build(make_config(arch, {**told.assumed, **told.config, **more}))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return case, model.eval(), io


def tolerance(case, expected):
    return case["tolerance"] if isinstance(case["tolerance"], float) else 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_original_computes(name):
    case, model, io = golden(name)
    stored = [tensor for name, tensor in model.named_buffers() if name.endswith(".filter")]
    assert sum(tensor.numel() for tensor in [*model.parameters(), *stored]) == case["parameters"]
    expected = torch.stack([io[f"forward.{source}"] for source in model.sources])
    window, margin = io["window"], model.segment.margin
    assert window.shape[-1] == model.segment.samples
    assert expected.shape[-1] == model.segment.samples - 2 * margin
    stems = run(model, window[None])[0]
    made = stems[..., margin : margin + expected.shape[-1]]
    assert (made - expected).abs().max() < tolerance(case, expected)
    assert not margin or stems[..., :margin].abs().max() == 0


@pytest.mark.parametrize("name", [name for name in GOLDEN if "same" not in name])
def test_a_track_as_the_original_walks(name):
    """Calls side by side, with silence around the track: the engine without overlap, but for the last call."""
    case, model, io = golden(name)
    expected = torch.stack([io[f"output.{source}"] for source in model.sources])
    engine = Engine(model, Settings(overlap=0.0), CPU, torch.float32)
    made = torch.cat(list(engine.separate(iter([io["input"][None]]))), dim=-1)[:, 0]
    size = model.segment.samples - 2 * model.segment.margin
    whole = expected.shape[-1] - size  # where TensorFlow's last call begins, which ends with the track
    same = whole if name.startswith("tf") else expected.shape[-1] // size * size
    assert made.shape == expected.shape
    assert (made - expected)[..., :same].abs().max() < tolerance(case, expected)


# --- windows -------------------------------------------------------------------------------------------------


def test_the_windows_of_published_networks():
    with torch.device("meta"):
        segment = WaveUNet(WaveUNetConfig()).segment
        other = WaveUNetTorch(WaveUNetTorchConfig()).segment
    assert (segment.samples, segment.margin, segment.exact) == (147443, 65527, True)
    assert (other.samples, other.margin) == (97961, 4776)


@pytest.mark.parametrize("make", [partial(tiny, "a", "b"), partial(later, "a", fixed=False)])
def test_what_lies_in_the_margins_is_heard(make):
    """The middle of a call depends on the audio around it, and on nothing beyond."""
    model, margin = make(), make().segment.margin
    mix = torch.randn(1, 2, model.segment.samples)
    near = mix.clone()
    near[..., 0] += 1
    assert peak_error(run(model, near), run(model, mix)) > 0
    around = torch.nn.functional.pad(mix[..., margin:-margin], (0, 1))[..., :-1]  # silence around
    assert peak_error(run(model, around), run(model, mix)[..., margin:-margin]) > 1e-4


# --- checkpoints ---------------------------------------------------------------------------------------------


def test_the_published_network_in_torch():
    listed = json.loads((TESTS / "keys" / "waveunet" / "torch_default.json").read_text())
    tensors = {f"module.{key}": torch.empty(shape, device="meta") for key, (_, shape) in listed.items()}
    checkpoint = Checkpoint(Path("model"), {"model_state_dict": tensors, "state": {}}, format="torch")
    told, arch = FAMILY.detect(checkpoint), FAMILY.archs["WaveUNetTorch"]
    with torch.device("meta"):
        model = WaveUNetTorch(make_config(arch, {**told.assumed, **told.config}))
        model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True, assign=True)
    assert model.config == WaveUNetTorchConfig()
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 70148232


@pytest.mark.parametrize(
    ("sources", "learned", "parameters"), [(2, False, 10263390), (2, True, 10265550), (4, False, 10263498)]
)
def test_published_networks_of_tensorflow(sources, learned, parameters):
    """M4, M5 and M6, by names and shapes that the published code makes."""
    with torch.device("meta"):
        model = WaveUNet(WaveUNetConfig(sources=[str(k) for k in range(sources)], learned=learned))
    convs = [*model.downs, model.bottom, *model.ups, *model.outs]
    tensors = {f"separator/interp_{k}": share for k, share in enumerate(model.between)}
    for number, conv in enumerate(convs):
        name = f"separator/conv1d{f'_{number}' if number else ''}"
        tensors |= {f"{name}/kernel": conv.weight.permute(2, 1, 0), f"{name}/bias": conv.bias}
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters
    tensors["separator_solver/beta1_power"] = torch.empty(())
    checkpoint = Checkpoint(Path("model.index"), tensors, format="tensorflow")
    told = FAMILY.detect(checkpoint)
    config = make_config(FAMILY.archs["WaveUNet"], {**told.assumed, **told.config})
    assert config.samplerate == (44100 if learned else 22050) and len(config.sources) == sources
    state = FAMILY.convert(checkpoint, model)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in model.state_dict().items()}
