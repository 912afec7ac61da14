"""HDemucs: its config and what its checks refuse. Equality with the original: tests/parity."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.models.demucs.hdemucs import HDemucs, HDemucsConfig
from tests import contracts

SOURCES = ("drums", "bass", "other", "vocals")
SMALL = HDemucsConfig(  # the branches merge at the third of four levels, as the published at the fifth of six
    SOURCES, channels=8, nfft=256, depth=4, dconv_comp=2, norm_starts=2, dconv_attn=2, dconv_lstm=2,
    segment=0.5, samplerate=8000,
)  # fmt: skip


def network(**changes: Any) -> HDemucs:
    """Random weights, with layer scales large enough to matter."""
    torch.manual_seed(0)
    model = HDemucs(replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.2, 0.5)
    return model


VARIANTS = {
    "complex as channels": {},
    "magnitudes, old padding": {"cac": False, "hybrid_old": True, "norm_starts": 999},
    "magnitudes": {"cac": False},
    "bands": {"multi_freqs": (0.1, 0.3), "nfft": 1024, "depth": 5, "norm_starts": 999},
    # With 8 channels a group norm of one step is over two values: it keeps a sign, which rounding can turn.
    "norms everywhere": {"norm_starts": 0, "channels": 16},
    "never merging": {"depth": 2, "channels_time": 4},
    "mono": {"audio_channels": 1},
}


CASES = {
    variant: contracts.Case(partial(network, **changes), [1, 1999]) for variant, changes in VARIANTS.items()
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(dtype: torch.dtype) -> None:
    contracts.check_reduced(network(), torch.randn(1, 2, 4000), dtype, decibels=25)


def test_segment_runs_short_tails_as_they_are() -> None:
    segment = network(segment=44, samplerate=44100).segment
    assert (segment.samples, segment.exact, segment.tail) == (1_940_400, False, "short")


@pytest.mark.parametrize(
    "changes",
    [
        {"hybrid": False},
        {"end_iters": 2},
        {"wiener_iters": 2, "end_iters": 2, "cac": False},
        {"nfft": 512},  # the branches would meet at different rates
        {"multi_freqs": (0.5,), "norm_starts": 1},
        {"multi_freqs": (0.5,), "kernel_size": 4},
        {"multi_freqs": (0.5,), "norm_starts": 999, "multi_freqs_depth": 4},
    ],
)
def test_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refusal:
        HDemucs(replace(SMALL, **changes))
    assert refusal.value.code == "bad_config"
    assert refusal.value.remedy


def test_config_defaults_never_change() -> None:
    config = HDemucsConfig(["a"])
    assert config == HDemucsConfig(("a",)) and hash(config)  # lists, as JSON gives them, are frozen
    assert {name: value for name, value in vars(config).items() if name != "sources"} == {
        "audio_channels": 2, "channels": 48, "channels_time": None, "growth": 2, "nfft": 4096,
        "wiener_iters": 0, "end_iters": 0, "wiener_residual": False, "cac": True, "depth": 6,
        "rewrite": True, "hybrid": True, "hybrid_old": False, "multi_freqs": None, "multi_freqs_depth": 2,
        "freq_emb": 0.2, "emb_scale": 10, "emb_smooth": True, "kernel_size": 8, "time_stride": 2, "stride": 4,
        "context": 1, "context_enc": 0, "norm_starts": 4, "norm_groups": 4, "dconv_mode": 1, "dconv_depth": 2,
        "dconv_comp": 4, "dconv_attn": 4, "dconv_lstm": 4, "dconv_init": 1e-4, "rescale": 0.1,
        "samplerate": 44100, "segment": 40,
    }  # fmt: skip
