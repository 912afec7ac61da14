"""HTDemucs and HDemucs against the demucs package: equal weights, equal results.

Small networks of every architecture variant among the published weights, and then some; the full-size ones
by the names, order and shapes of their tensors.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

import pytest
import torch

from sepcli.models.demucs.hdemucs import HDemucs, HDemucsConfig
from sepcli.models.demucs.htdemucs import HTDemucs, HTDemucsConfig
from tests.needs import package

demucs = package("demucs", "hdemucs", "htdemucs")

NETWORKS = {
    "ht": (HTDemucsConfig, HTDemucs, demucs.htdemucs.HTDemucs),
    "h": (HDemucsConfig, HDemucs, demucs.hdemucs.HDemucs),
}
FOUR = ["drums", "bass", "other", "vocals"]
SIX = [*FOUR, "guitar", "piano"]


def pair(kind: str, **kwargs: Any) -> tuple[Any, Any]:
    """Our network and the original with the same random weights, none of them tiny: every path matters."""
    config, ours, original = NETWORKS[kind]
    torch.manual_seed(0)
    theirs = original(**{"sources": FOUR, **kwargs}).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("scale"):  # LayerScale
                parameter.uniform_(0.2, 0.5)
            elif "norm" in name or parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    network = ours(config(**{"sources": FOUR, **kwargs})).eval()
    network.load_state_dict(theirs.state_dict(), strict=True)
    return network, theirs


def peak_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()


# Small enough for milliseconds. Branches merge only where the hop, nfft / 4, is stride^levels: three levels
# take windows of 256 samples, four 1024, the published five 4096.
HT = {"channels": 8, "nfft": 512, "depth": 2, "t_layers": 3, "t_heads": 2, "segment": 0.2, "samplerate": 8000}
H = {"channels": 8, "nfft": 256, "depth": 4, "dconv_comp": 2, "samplerate": 8000}
H |= {"norm_starts": 2, "dconv_attn": 2, "dconv_lstm": 2}

HT_VARIANTS = {
    "constructor defaults": {},
    "htdemucs": {"dconv_mode": 3, "bottom_channels": 16, "t_layers": 5, "t_dropout": 0.02, "multi_freqs": []},
    "htdemucs_6s": {"sources": SIX, "dconv_mode": 3},
    "four levels": {"depth": 4, "nfft": 4096, "segment": 1},
    "merging": {"depth": 3, "nfft": 256},
    "magnitudes": {"cac": False},
    "damped magnitudes": {"cac": False, "wiener_iters": -1, "end_iters": -1},
    "mono": {"audio_channels": 1},
    "bands": {"multi_freqs": [0.1, 0.3], "multi_freqs_depth": 2, "nfft": 1024},
    "no rewrite": {"rewrite": False},
    "norms": {"norm_starts": 1, "dconv_mode": 3},
    "norms everywhere": {"norm_starts": 0},
    "contexts": {"context": 2, "context_enc": 1},
    "no dilation": {"dconv_depth": -3},
    "no DConv": {"dconv_mode": 0},
    "no frequency embedding": {"freq_emb": 0},
    "no transformer": {"t_layers": 0, "bottom_channels": 16},
    "cross first": {"t_cross_first": True, "t_layers": 2},
    "norm last": {"t_norm_first": False},
    "group norms": {"t_norm_in": False, "t_norm_in_group": True, "t_group_norm": 2},
    "few norms": {"t_norm_in": False, "t_norm_out": False, "t_layer_scale": False},
    "ReLU": {"t_gelu": False, "t_hidden_scale": 2.0},
    "weak, short positions": {"t_weight_pos_embed": 0.3, "t_max_period": 100.0},
    "CAPE": {"t_emb": "cape"},
    "CAPE, not centred": {"t_emb": "cape", "t_cape_mean_normalize": False},
    "learned positions": {"t_emb": "scaled", "t_max_positions": 300},
    "any length": {"use_train_segment": False},
}
H_VARIANTS = {
    "constructor defaults": {},
    "hdemucs_mmi, one level more": {"nfft": 1024, "depth": 5},
    "mdx c511e2ab": {"norm_starts": 999, "cac": False, "hybrid_old": True},
    "mdx 7d865c68": {"norm_starts": 999, "multi_freqs": [0.1, 0.3], "nfft": 1024, "depth": 5},
    "mdx_extra a1d90b5c": {"cac": False, "hybrid_old": True},
    "mdx_extra 5d2d6c55": {"cac": False},
    "old padding, complex": {"hybrid_old": True},
    "bands in one level": {"multi_freqs": [0.5], "multi_freqs_depth": 1, "norm_starts": 1},
    "other channels in time": {"channels_time": 4},
    "LSTMs only": {"dconv_attn": 99},
    "attention only": {"dconv_lstm": 99},
    "DConv in both": {"dconv_mode": 3},
    "no rewrite": {"rewrite": False},
    "norms everywhere": {"norm_starts": 0},
    "six sources, mono": {"sources": SIX, "audio_channels": 1},
}


@pytest.mark.parametrize("variant", HT_VARIANTS)
def test_htdemucs_equals_the_original(variant: str) -> None:
    ours, theirs = pair("ht", **HT | HT_VARIANTS[variant])
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    quiet = 0.01 * torch.randn(1, ours.channels, ours.segment.samples - 77) + 0.3
    for mix in (torch.randn(2, ours.channels, ours.segment.samples), quiet):
        with torch.inference_mode():
            assert peak_error(ours(mix), theirs(mix)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", H_VARIANTS)
def test_hdemucs_equals_the_original(variant: str) -> None:
    ours, theirs = pair("h", **H | H_VARIANTS[variant])
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for samples in (1, 1000, 4096, 5003):
        mix = torch.randn(2, ours.channels, samples)
        with torch.inference_mode():
            if ours.channels * samples == 1:  # a deviation of one value: the original's is NaN
                assert ours(mix).isfinite().all()
            else:
                assert peak_error(ours(mix), theirs(mix)) < 1e-5


@pytest.mark.parametrize("samples", [1, 2, 700, 1599, 1600])
def test_htdemucs_extends_short_mixes_as_the_original(samples: int) -> None:
    ours, theirs = pair("ht", **HT)
    mix = torch.randn(1, 2, samples)
    with torch.inference_mode():
        assert peak_error(ours(mix), theirs(mix)) < 1e-5


@pytest.mark.slow
def test_hdemucs_frames_its_lstms_as_the_original() -> None:
    """More than 200 steps at the bottom: LSTMs run on frames of 200, every 100."""
    ours, theirs = pair("h", **H | {"nfft": 64, "depth": 3, "dconv_attn": 1, "dconv_lstm": 1})
    for steps in (200, 201, 300, 433):
        mix = torch.randn(1, 2, 16 * 2 * steps)
        with torch.inference_mode():
            assert peak_error(ours(mix), theirs(mix)) < 1e-5


def test_training_equals_the_original() -> None:
    """In training no segment is imposed, and without dropout nothing is random: the same gradients."""
    ours, theirs = pair("ht", **HT)
    mix = torch.randn(1, 2, 999)
    gradients = []
    for network in (ours, theirs):
        result = network.train()(mix)
        result.square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    largest = max(gradient.abs().max() for gradient in gradients[1].values())
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).abs().max() < 1e-5 * largest, name


@pytest.mark.parametrize("kind", NETWORKS)
def test_config_is_the_original_constructor(kind: str) -> None:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    config, _, original = NETWORKS[kind]
    ours = {f.name: plain(f.default) for f in fields(config)}
    theirs = {
        name: MISSING if p.default is inspect.Parameter.empty else p.default
        for name, p in inspect.signature(original).parameters.items()
    }
    assert ours == theirs


BANDS = {"multi_freqs": [0.1, 0.3], "multi_freqs_depth": 2}
PUBLISHED = {
    "htdemucs": ("ht", {"dconv_mode": 3, "bottom_channels": 512, "t_dropout": 0.02}, 41_984_456, 533),
    "htdemucs_6s": ("ht", {"dconv_mode": 3, "sources": SIX}, 27_414_996, 525),
    "hdemucs_mmi": ("h", {}, 83_637_832, 395),
    "c511e2ab": ("h", {"norm_starts": 999, "cac": False, "hybrid_old": True}, 83_607_872, None),
    "7d865c68": ("h", {"norm_starts": 999, **BANDS}, 83_884_248, None),
    "a1d90b5c": ("h", {"cac": False, "hybrid_old": True}, 83_633_984, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_tensors(name: str) -> None:
    """Names, order, shapes and totals of the full-size networks."""
    kind, kwargs, parameters, tensors = PUBLISHED[name]
    config, ours, original = NETWORKS[kind]
    kwargs = {"sources": FOUR, "rescale": 0, **kwargs}
    with torch.device("meta"):
        state = ours(config(**kwargs)).state_dict()
        expected = original(**kwargs).state_dict()
    assert list(state) == list(expected)
    assert [t.shape for t in state.values()] == [t.shape for t in expected.values()]
    assert sum(t.numel() for t in state.values()) == parameters
    assert tensors in (None, len(state))
