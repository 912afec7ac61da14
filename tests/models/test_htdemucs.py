"""HTDemucs: its config and what its checks refuse. Equality with the original: tests/parity."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.models.demucs.htdemucs import HTDemucs, HTDemucsConfig
from tests import contracts

SOURCES = ("drums", "bass", "other", "vocals")
SMALL = HTDemucsConfig(
    SOURCES, channels=8, nfft=512, depth=2, t_layers=3, t_heads=2, segment=Fraction(1, 4), samplerate=8000
)


def network(config: HTDemucsConfig = SMALL, **changes: Any) -> HTDemucs:
    """Random weights, with layer scales large enough to matter."""
    torch.manual_seed(0)
    model = HTDemucs(replace(config, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.2, 0.5)
    return model


VARIANTS = {
    "defaults": {},
    "like htdemucs": {"dconv_mode": 3, "bottom_channels": 16},
    "six sources": {"sources": (*SOURCES, "guitar", "piano")},
    "magnitudes": {"cac": False},
    "bands": {"multi_freqs": (0.1, 0.3), "multi_freqs_depth": 2, "nfft": 1024},
    "mono": {"audio_channels": 1},
    # Norms make rounding louder where one sample is extended to a segment: the shorter that is, the less.
    "norms everywhere": {"norm_starts": 0, "depth": 3, "segment": Fraction(1, 16)},
    "learned positions": {"t_emb": "scaled"},
    "any length": {"use_train_segment": False, "dconv_comp": 4},
}


def case(**changes: Any) -> contracts.Case:
    """The network of a variant, tried on one sample and on a whole segment."""
    samples = int(changes.get("segment", SMALL.segment) * SMALL.samplerate)
    return contracts.Case(partial(network, **changes), [1, samples])


CASES = {variant: case(**changes) for variant, changes in VARIANTS.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision(dtype: torch.dtype) -> None:
    model = network(dconv_mode=3, bottom_channels=16)
    contracts.check_reduced(model, torch.randn(1, 2, 2000), dtype, decibels=30)


def test_prepare_keeps_positions_and_window_for_its_length() -> None:
    model = network()
    model.prepare(2000, torch.device("cpu"), torch.float32)
    made = []
    model.crosstransformer.positions = lambda *args: made.append(args)
    contracts.run(model, torch.randn(1, 2, 2000))
    contracts.run(model, torch.randn(1, 2, 7))  # extended to the segment: the same tokens
    assert not made


def test_prepared_network_trains() -> None:
    """Constants made in inference mode must not reach a backward pass."""
    model = network(t_emb="scaled")
    with torch.inference_mode():
        model.prepare(2000, torch.device("cpu"), torch.float32)
    model.train()(torch.randn(1, 2, 1500)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_segment_is_exact_to_the_sample() -> None:
    assert HTDemucs(replace(SMALL, segment=Fraction(39, 5), samplerate=44100)).segment.samples == 343_980
    assert HTDemucs(replace(SMALL, segment=Fraction(41, 5), samplerate=44100)).segment.samples == 361_620
    segment = network().segment
    assert (segment.samples, segment.exact, segment.tail) == (2000, True, "context")


@pytest.mark.parametrize("emb", ["sin", "cape"])
def test_training_moves_positions_evaluation_does_not(emb: str) -> None:
    model = network(t_emb=emb, t_sin_random_shift=1000)
    mix = torch.randn(1, 2, 2000)
    assert torch.equal(model(mix), model(mix))
    model.train()
    assert len({model(mix).sum().item() for _ in range(4)}) > 1


@pytest.mark.parametrize(
    "changes",
    [
        {"t_emb": "rotary"},
        {"t_heads": 3},
        {"wiener_iters": 1},
        {"wiener_iters": 1, "end_iters": 1, "cac": False},
        {"channels_time": 4},
        {"channels": 4},
        {"depth": 6},
        {"multi_freqs": (0.5,), "norm_starts": 0},
    ],
)
def test_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refusal:
        HTDemucs(replace(SMALL, **changes))
    assert refusal.value.code == "bad_config"
    assert refusal.value.remedy


def test_too_many_learned_positions() -> None:
    with pytest.raises(ModelError, match="positions"):
        network(t_emb="scaled", t_max_positions=10)(torch.randn(1, 2, 2000))


def test_config_defaults_never_change() -> None:
    config = HTDemucsConfig(["a"])
    assert config == HTDemucsConfig(("a",)) and hash(config)  # lists, as JSON gives them, are frozen
    fields = vars(config)
    numbers = {name: value for name, value in fields.items() if isinstance(value, int | float) and value}
    assert numbers == {
        "audio_channels": 2, "channels": 48, "growth": 2, "nfft": 4096, "cac": True, "depth": 4,
        "rewrite": True, "multi_freqs_depth": 3, "freq_emb": 0.2, "emb_scale": 10, "emb_smooth": True,
        "kernel_size": 8, "time_stride": 2, "stride": 4, "context": 1, "norm_starts": 4, "norm_groups": 4,
        "dconv_mode": 1, "dconv_depth": 2, "dconv_comp": 8, "dconv_init": 1e-3, "t_layers": 5,
        "t_hidden_scale": 4.0, "t_heads": 8, "t_max_positions": 10000, "t_norm_in": True,
        "t_norm_first": True, "t_norm_out": True, "t_max_period": 10000.0, "t_layer_scale": True,
        "t_gelu": True, "t_weight_pos_embed": 1.0, "t_cape_mean_normalize": True, "t_cape_augment": True,
        "t_mask_random_seed": 42, "t_sparse_attn_window": 500, "t_global_window": 100, "t_sparsity": 0.95,
        "rescale": 0.1, "samplerate": 44100, "segment": 10, "use_train_segment": True,
    }  # fmt: skip
    others = {name: value for name, value in fields.items() if name not in numbers and name != "sources"}
    assert {name: value for name, value in others.items() if value not in (0, None)} == {
        "t_emb": "sin", "t_mask_type": "diag", "t_cape_glob_loc_scale": (5000.0, 1.0, 1.4),
    }  # fmt: skip
    assert {name for name, value in others.items() if value is None} == {
        "channels_time", "multi_freqs", "t_lr",
    }  # fmt: skip


def test_slabs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full-size networks are refined a slab of bins at a time; small ones in these tests as a whole."""
    model = network(dconv_mode=3, depth=3)
    model.prepare(1600, torch.device("cpu"), torch.float32)
    mix = torch.randn(2, 2, 1600)
    with torch.inference_mode():
        whole = model(mix)
        for slab_bytes in (1, 20_000):
            monkeypatch.setattr("sepcli.models.demucs.dconv.SLAB_BYTES", slab_bytes)
            assert contracts.peak_error(model(mix), whole) <= 1e-6
