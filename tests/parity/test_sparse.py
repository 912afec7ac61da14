"""Sparse HTDemucs against the demucs package, as far as that can run.

Its hashed attention needs CUDA code that was never released (`find_locations` and
`sparse_memory_efficient_attention` of a private xformers), and does not take an argument that torch's layers
pass since 2.0; its fixed masks are made for [T, B, C] but get [B, T, C]. So two things are compared: the masks
themselves, and everything around the missing kernels, with stand-ins that keep every pair.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sepcli.models.demucs.checkpoint import convert
from sepcli.models.demucs.htdemucs import HTDemucs, HTDemucsConfig
from sepcli.models.demucs.sparse import FixedPairs, Sparsity
from sepcli.weights.checkpoint import Checkpoint
from tests.needs import package
from tests.parity.test_hybrid import FOUR, HT, peak_error

demucs = package("demucs", "htdemucs", "transformer")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Modules with the missing names. What they are called with is collected."""
    calls = []

    def find_locations(query, key, sparsity, infer_sparsity):
        calls.append((query, key, sparsity, infer_sparsity))
        return None, None

    def attention(query, key, value, row_offsets, column_indices, attn_bias):
        return F.scaled_dot_product_attention(query, key, value)

    ops = types.ModuleType("xformers.ops")
    ops.find_locations, ops.sparse_memory_efficient_attention = find_locations, attention
    package = types.ModuleType("xformers")
    package.ops = ops
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    original = demucs.transformer.MultiheadAttention.forward

    def forward(self, *args, is_causal=False, **kwargs):
        assert not is_causal
        return original(self, *args, **kwargs)

    monkeypatch.setattr(demucs.transformer.MultiheadAttention, "forward", forward)
    return calls


@pytest.mark.parametrize("cross", [False, True])
def test_around_the_kernels_all_is_equal(stand_ins: list[tuple], cross: bool) -> None:
    torch.manual_seed(0)
    kwargs = {"sources": FOUR, **HT, "t_sparse_self_attn": True, "t_sparse_cross_attn": cross}
    theirs = demucs.htdemucs.HTDemucs(**kwargs, t_auto_sparsity=True, t_sparsity=0.9).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.2, 0.5)
    ours = HTDemucs(HTDemucsConfig(**kwargs, t_auto_sparsity=True, t_sparsity=0.0)).eval()
    checkpoint = Checkpoint(Path("a.th"), theirs.state_dict(), format="torch")
    ours.load_state_dict(convert(checkpoint, ours), strict=True)
    assert len(theirs.state_dict()) > len(ours.state_dict()), "q, k and v have been joined"
    mix = torch.randn(2, 2, ours.segment.samples)
    with torch.inference_mode():
        assert peak_error(ours(mix), theirs(mix)) < 1e-5
    layers = [2, 3][cross]  # of three: two of a branch itself, one across
    assert len(stand_ins) == 2 * layers
    query, key, sparsity, inferred = stand_ins[0]
    assert query.shape[-1] == key.shape[-1] == 32 and query.max() <= 3, "32 rounds of four buckets"
    assert (sparsity, inferred) == (0.9, True)


@pytest.mark.parametrize("kind", ["diag", "jmask", "random", "global"])
@pytest.mark.parametrize("queries, keys", [(40, 40), (40, 80), (80, 40), (33, 50), (7, 5)])
def test_fixed_masks_equal_the_original(kind: str, queries: int, keys: int) -> None:
    settings = {"sparse_attn_window": 4, "global_window": 3, "mask_random_seed": 9, "sparsity": 0.8}
    expected = demucs.transformer.get_elementary_mask(keys, queries, kind, **settings, device="cpu")
    sparsity = Sparsity(hashed=False, dropped=0.8, masks=(kind,), window=4, leading=3, seed=9)
    pairs = FixedPairs(sparsity, queries, keys, torch.device("cpu"))
    assert torch.equal(pairs(torch.arange(queries)).expand(queries, keys), expected)
