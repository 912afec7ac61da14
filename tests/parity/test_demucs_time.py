"""Time-domain Demucs and checkpoint files against the demucs package: equal weights, equal results."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.models.config import make_config
from sepcli.models.demucs import FAMILY
from sepcli.models.demucs.demucs import Demucs, DemucsConfig
from sepcli.weights.checkpoint import read_checkpoint
from tests.contracts import peak_error
from tests.needs import package

demucs = package("demucs", "apply", "demucs", "hdemucs", "hf", "htdemucs", "states")

FOUR = ["drums", "bass", "other", "vocals"]
SMALL = {"sources": FOUR, "channels": 16, "depth": 3, "samplerate": 8000, "segment": 1}
DEEP = {"norm_starts": 1, "dconv_attn": 1, "dconv_lstm": 1}

VARIANTS = {
    "constructor defaults": {},
    "repro_mdx_a": DEEP,
    "mdx": {**DEEP, "rewrite": False, "normalize": True, "lstm_layers": 0},
    "not standardised": {"normalize": False},
    "not resampled": {"resample": False},
    "LSTM": {"lstm_layers": 2},
    "ReLU": {"gelu": False, "glu": False},
    "DConv in decoders": {**DEEP, "dconv_mode": 2},
    "DConv in both": {**DEEP, "dconv_mode": 3, "dconv_depth": 3},
    "no DConv": {"dconv_mode": 0},
    "no dilation": {"dconv_depth": -2, "dconv_comp": 2},
    "wide context": {"context": 3},
    "norms everywhere": {"norm_starts": 0, "norm_groups": 2},
    "slow growth, mono": {"growth": 1.5, "audio_channels": 1},
    "other strides": {"kernel_size": 6, "stride": 3, "depth": 4},
}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """No tiny values: every path matters."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):  # LayerScale
                parameter.uniform_(0.2, 0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval()


def run(network: torch.nn.Module, mix: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(mix)


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_forward(changes):
    torch.manual_seed(0)
    kwargs = {**SMALL, **changes}
    theirs = randomised(demucs.demucs.Demucs(**kwargs))
    ours = Demucs(DemucsConfig(**kwargs)).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for samples in [1, 2, 77, 1000, 4097]:
        if samples == 1 and ours.config.normalize:
            continue  # the original's deviation of one sample is NaN
        mix = 3 + torch.randn(2, ours.channels, samples)
        assert peak_error(run(ours, mix), run(theirs, mix)) <= 1e-5, samples
    ours.prepare(1000, torch.device("cpu"), torch.float32)
    mix = torch.randn(1, ours.channels, 1000)
    assert peak_error(run(ours, mix), run(theirs, mix)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("changes", [DEEP, {**DEEP, "rewrite": False}], ids=["repro_mdx_a", "mdx"])
def test_apply_model(changes):
    """The whole track in overlapping calls of valid length, with real context around a short last one."""
    torch.manual_seed(0)
    kwargs = {**SMALL, **changes, "segment": 0.25}
    theirs = randomised(demucs.demucs.Demucs(**kwargs))
    ours = Demucs(DemucsConfig(**kwargs)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.normalize = False  # apply_model leaves that to its caller
    segment, stride = 2000, 1500
    for samples in [1, segment - 1, segment, stride + 1, 3 * stride, 7001]:
        mix = torch.randn(1, 2, samples)
        expected = demucs.apply.apply_model(theirs, mix, shifts=0, split=True, overlap=0.25)[0]
        engine = Engine(ours, Settings(overlap=0.25), torch.device("cpu"), torch.float32)
        result = torch.cat(list(engine.separate(iter(mix.split(997, dim=-1)))), dim=-1)[:, 0]
        assert peak_error(result, expected) <= 1e-5, samples


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"rewrite": False}], ids=["repro_mdx_a", "mdx"])
def test_forward_full_size(changes):
    torch.manual_seed(0)
    theirs = randomised(demucs.demucs.Demucs(FOUR, **changes))
    ours = Demucs(DemucsConfig(FOUR, **changes)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    mix = torch.randn(1, 2, 3 * 44100 + 1)
    assert peak_error(run(ours, mix), run(theirs, mix)) <= 1e-5


# --- files as published ---

NETWORKS = {
    "HTDemucs": (
        demucs.htdemucs.HTDemucs,
        {"channels": 8, "nfft": 512, "depth": 2, "t_layers": 3, "t_heads": 2, "samplerate": 8000}
        | {"segment": Fraction(39, 50), "multi_freqs": [], "dconv_mode": 3, "bottom_channels": 16},
    ),
    "HDemucs": (
        demucs.hdemucs.HDemucs,
        {"channels": 8, "nfft": 256, "depth": 4, "dconv_comp": 2, "samplerate": 8000, "segment": 1}
        | {"norm_starts": 2, "dconv_attn": 2, "dconv_lstm": 2, "multi_freqs": [0.5], "multi_freqs_depth": 1},
    ),
    "Demucs": (demucs.demucs.Demucs, {**SMALL, **DEEP}),
}


def published(name: str, half: bool = True) -> dict[str, Any]:
    """What demucs.states.serialize_model and the authors' export add up to."""
    torch.manual_seed(0)
    klass, kwargs = NETWORKS[name]
    network = randomised(klass(**{"sources": FOUR, **kwargs}))
    args, kwargs = network._init_args_kwargs
    metrics = OrderedDict(valid={"loss": numpy.float64(0.1)}, test={"sdr": numpy.float32(8.0)})
    return {
        "klass": type(network),
        "args": args,
        "kwargs": kwargs,
        "state": demucs.states.get_state(network, None, half=half),
        "training_args": {"optim": {"lr": 3e-4}, "dset": {"sources": FOUR}},
        "metrics": metrics,
    }


def encoded(value: Any) -> Any:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    return [encoded(item) for item in value] if isinstance(value, list | tuple) else value


def save_safetensors(package: dict[str, Any], path: Path) -> None:
    header = {key: json.dumps(encoded(package[key])) for key in ("args", "kwargs")}
    header["klass"] = f"{package['klass'].__module__}.{package['klass'].__name__}"
    save_file({key: value.contiguous() for key, value in package["state"].items()}, path, metadata=header)


def read(path: Path) -> torch.nn.Module:
    checkpoint = read_checkpoint(path, foreign=FAMILY.packages)
    package = FAMILY.describe(checkpoint)
    arch = FAMILY.archs[package.arch]
    model = arch.build(make_config(arch, package.config))
    model.load_state_dict(FAMILY.convert(checkpoint, model), strict=True)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", ["th", "legacy th", "safetensors"])
def test_published_files(tmp_path, name, layout):
    package = published(name)
    path = tmp_path / f"a.{layout.split()[-1]}"
    if layout == "safetensors":
        save_safetensors(package, path)
        theirs = demucs.hf.load_safetensors_model(path).eval()  # the layout is as its reader wants it
    else:
        torch.save(package, path, _use_new_zipfile_serialization=layout == "th")
        theirs = demucs.states.load_model(path).eval()
    ours = read(path)
    assert type(ours).__name__ == name and ours.sources == tuple(FOUR)
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    mix = torch.randn(1, 2, 6000)
    assert peak_error(run(ours, mix), run(theirs, mix)) <= 1e-5


def test_the_oldest_protocol_is_enough(tmp_path):
    """Positional arguments, and the class name from before publication."""
    package = published("HDemucs")
    sources = package["kwargs"].pop("sources")
    package |= {"args": (sources,), "klass": demucs.hdemucs.HDemucs}
    torch.save(package, tmp_path / "a.th", pickle_protocol=pickle.HIGHEST_PROTOCOL)
    assert read(tmp_path / "a.th").sources == tuple(FOUR)
