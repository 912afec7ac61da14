"""Sparse attention of HTDemucs: which pairs are kept, that both ways compute the same, and the contract."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sepcli.engine.ensemble import Ensemble
from sepcli.errors import ModelError
from sepcli.models.demucs import sparse
from sepcli.models.demucs.sparse import FixedPairs, HashedPairs, Sparsity
from sepcli.models.demucs.transformer import Attention
from tests import contracts
from tests.models.test_htdemucs import case, network

LSH = {"t_sparse_self_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(queries: int = 200, keys: int = 150, batch: int = 2, heads: int = 3, channels: int = 16) -> tuple:
    """Query, key, value as transformers have them: with a mean, and each token close to its neighbours."""
    torch.manual_seed(1)

    def draw(count: int) -> torch.Tensor:
        walk = torch.randn(batch, heads, count, channels).cumsum(2)
        return walk / walk.std() + 0.3 * torch.randn(batch, heads, 1, channels)

    return draw(queries), draw(keys), draw(keys)


def every(pairs: Any, query: torch.Tensor) -> torch.Tensor:
    """The whole mask [B, H, Q, K]."""
    return pairs(torch.arange(query.shape[2]))


# --- which pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.98])
def test_the_wanted_share_of_pairs_is_kept_in_every_item_and_head(keep: float) -> None:
    independent = tuple(torch.randn(2, 3, 200, 16) for _ in range(3))
    for query, key, _ in (tokens(), independent):
        shares = every(HashedPairs(query, key, keep, seeded()), query).float().mean((-1, -2))
        assert shares.shape == (2, 3)
        assert (shares - keep).abs().max() < 0.003


def test_the_share_holds_where_all_tokens_are_equal() -> None:
    """Digital silence: all pairs agree in as many rounds, only the ties are left."""
    query = torch.ones(1, 1, 300, 16)
    kept = every(HashedPairs(query, query, 0.1, seeded()), query)
    assert abs(kept.float().mean() - 0.1) < 0.01
    assert kept.sum(-1).min() > 15 and kept.sum(-2).min() > 15, "spread over the tokens"
    zeros = torch.zeros(1, 1, 300, 16)
    assert abs(every(HashedPairs(zeros, zeros, 0.1, seeded()), zeros).float().mean() - 0.1) < 0.01


def test_kept_pairs_point_in_similar_directions() -> None:
    query, key, _ = (x[:1] for x in tokens(300, 300))
    kept = every(HashedPairs(query, key, 0.1, seeded()), query)
    cosines = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-1, -2)
    # Of a random tenth a fifth would be among the nearest fifth of all pairs, and a half in the farther half.
    ranks = cosines.flatten(2).argsort(-1).argsort(-1).view_as(cosines) / cosines[0, 0].numel()
    assert (ranks[kept] > 0.8).float().mean() > 0.6
    assert (ranks[kept] < 0.5).float().mean() < 0.15


def test_agreements_are_rounds_with_equal_buckets() -> None:
    """Against the definition: the index of the largest of a, b, -a, -b."""
    query, key, _ = tokens(50, 40)
    pairs = HashedPairs(query, key, 0.1, seeded(7))
    directions = torch.randn(16, 64, generator=seeded(7))

    def bucket(x: torch.Tensor) -> torch.Tensor:
        a, b = (x @ directions).unflatten(-1, (2, 32)).unbind(-2)
        return torch.stack([a, b, -a, -b]).argmax(0)  # [B, H, T, R]

    expected = (bucket(query)[:, :, :, None] == bucket(key)[:, :, None]).sum(-1)
    assert torch.equal(pairs.agreements(torch.arange(50)), expected.byte())
    # The form in which the kernel sees them.
    a, b, c, d, threshold = sparse.flex_arguments(pairs)
    differs = (a[..., None] ^ c[:, :, None]) | (b[..., None] ^ d[:, :, None])
    assert torch.equal(32 - sparse.ones(differs), expected)
    assert threshold.shape == (2, 3)


def test_ones_counts_bits() -> None:
    numbers = [0, 1, 0xFFFFFFFF, 0x80000000, 0x12345678, *torch.randint(2**32, (50,)).tolist()]
    assert sparse.ones(torch.tensor(numbers)).tolist() == [number.bit_count() for number in numbers]


def test_pairs_of_an_item_do_not_depend_on_the_others() -> None:
    query, key, _ = tokens()
    together = every(HashedPairs(query, key, 0.1, seeded()), query)
    for item in range(2):
        one = slice(item, item + 1)
        assert torch.equal(together[one], every(HashedPairs(query[one], key[one], 0.1, seeded()), query[one]))


def test_numbers_of_the_masked_way_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tokens()
    pairs = HashedPairs(query, key, 0.1, seeded())
    whole = sparse.masked_attention(query, key, value, pairs)
    monkeypatch.setattr(sparse, "BLOCK", 7 * 3 * 150)  # blocks of seven queries
    assert contracts.peak_error(sparse.masked_attention(query, key, value, pairs), whole) < 1e-6
    assert torch.equal(HashedPairs(query, key, 0.1, seeded()).threshold, pairs.threshold)


# --- the result --------------------------------------------------------------------------------------------


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Softmax over the kept keys only, in float64, zeros where there are none."""
    scores = (query.double() @ key.double().transpose(-1, -2)) / query.shape[-1] ** 0.5
    weights = scores.exp() * kept
    return weights @ value.double() / weights.sum(-1, keepdim=True).clamp(min=1e-300)


def test_masked_attention_by_hand() -> None:
    query, key, value = tokens()
    pairs = HashedPairs(query, key, 0.1, seeded())
    expected = by_hand(query, key, value, every(pairs, query)).float()
    assert contracts.peak_error(sparse.masked_attention(query, key, value, pairs), expected) < 1e-5


def test_every_pair_kept_is_dense_attention() -> None:
    query, key, value = tokens()
    expected = F.scaled_dot_product_attention(query, key, value)
    every_pair = sparse.SparseWeighing(Sparsity(hashed=True, dropped=0.0), 16)
    assert contracts.peak_error(every_pair(query, key, value), expected) < 1e-5
    x = torch.randn(2, 100, 32)
    dense, all_kept = Attention(32, 4, 0.0), Attention(32, 4, 0.0, Sparsity(hashed=True, dropped=0.0))
    all_kept.load_state_dict(dense.state_dict(), strict=True)
    for other in (None, torch.randn(2, 60, 32)):
        for mode in (True, False):
            error = contracts.peak_error(all_kept.train(mode)(x, other), dense.train(mode)(x, other))
            assert error < 1e-5


def test_the_same_weights_dense_and_sparse_with_every_pair_kept() -> None:
    dense = network(t_layers=5, bottom_channels=16)
    kept = network(t_layers=5, bottom_channels=16, t_sparse_cross_attn=True, **LSH | {"t_sparsity": 0.0})
    kept.load_state_dict(dense.state_dict(), strict=True)
    mix = torch.randn(2, 2, 2000)
    assert contracts.peak_error(contracts.run(kept, mix), contracts.run(dense, mix)) < 1e-5
    tenth = network(t_layers=5, bottom_channels=16, **LSH)
    tenth.load_state_dict(dense.state_dict(), strict=True)
    assert contracts.peak_error(contracts.run(tenth, mix), contracts.run(dense, mix)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_query_without_keys_gives_zeros_and_no_nan(dtype: torch.dtype) -> None:
    inputs = [(30 * x).to(dtype).requires_grad_() for x in tokens(8, 8, channels=32)]

    def only_even(rows: torch.Tensor) -> torch.Tensor:
        return (rows % 2 == 0)[:, None].expand(-1, 8)

    result = sparse.masked_attention(*inputs, only_even)
    assert (result[:, :, 1::2] == 0).all() and result.isfinite().all() and (result[:, :, ::2] != 0).any()
    result.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in inputs)
    assert (inputs[0].grad[:, :, 1::2] == 0).all()


def test_gradients_by_hand() -> None:
    """Blocks are computed twice; the second time with the same pairs."""
    inputs = [x.requires_grad_() for x in tokens()]
    pairs = HashedPairs(inputs[0], inputs[1], 0.1, None)
    weight = torch.randn(2, 3, 200, 16)
    found = torch.autograd.grad((sparse.masked_attention(*inputs, pairs) * weight).sum(), inputs)
    expected = torch.autograd.grad((by_hand(*inputs, every(pairs, inputs[0])) * weight).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert contracts.peak_error(ours, theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_the_reference() -> None:
    """What is compiled on CUDA (tests/test_gpu.py), here as plain operations; queries without keys included."""
    query, key, value = tokens(80, 70)
    for keep in (0.02, 0.1, 1.0):
        pairs = HashedPairs(query, key, keep, seeded())
        expected = sparse.masked_attention(query, key, value, pairs)
        result = sparse.flex_attention_hashed(query, key, value, *sparse.flex_arguments(pairs))
        assert contracts.peak_error(result, expected) < 1e-5
        empty = ~every(pairs, query).any(-1)
        assert empty.any() or keep > 0.02
        assert (result[empty] == 0).all()


@pytest.mark.slow
def test_flex_attention_compiled_on_a_cpu_equals_the_reference() -> None:
    query, key, value = tokens(80, 70)
    pairs = HashedPairs(query, key, 0.02, seeded())
    with torch.no_grad():
        result = sparse.compiled_flex()(query, key, value, *sparse.flex_arguments(pairs))
    assert contracts.peak_error(result, sparse.masked_attention(query, key, value, pairs)) < 1e-5


def test_the_way_is_chosen_and_said() -> None:
    cpu = torch.device("cpu")
    assert sparse.choose_backend("cpu").name == sparse.choose_backend("mps").name == "masked"
    (notice,) = network(**LSH).notices(cpu)
    assert "masked dense attention" in notice and "no backward pass" in notice and notice.endswith(".")
    assert not network().notices(cpu)
    assert Ensemble([network(**LSH)] * 2, [[1.0] * 4] * 2, network().sources).notices(cpu) == (notice,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
def test_a_device_that_does_not_compile_is_said_and_the_reference_used() -> None:
    broken = sparse.choose_backend("cuda")
    assert broken.name == "masked" and "does not compile here" in broken.reason


# --- the network -------------------------------------------------------------------------------------------


# Few tokens and layers: where rounding turns a bit of a hash, other pairs are kept, and the result is another.
FEW = {"depth": 3, "t_layers": 1, "segment": Fraction(1, 16)}
FEWER = {"depth": 3, "t_layers": 2, "segment": Fraction(1, 32)}
VARIANTS = {
    "hashed": {**LSH, **FEW},
    "hashed in both": {**LSH, **FEWER, "t_sparse_cross_attn": True, "t_cross_first": True},
    "fixed": {"t_sparse_self_attn": True, "t_mask_type": "diag_global", "t_sparse_attn_window": 9},
    "fixed across": {"t_sparse_cross_attn": True, "t_mask_type": "jmask_random"},
}


CASES = {variant: case(**changes) for variant, changes in VARIANTS.items()}


def test_reduced_precision() -> None:
    model = network(bottom_channels=16, **LSH)
    contracts.check_reduced(model, torch.randn(1, 2, 2000), torch.bfloat16, decibels=20)


def test_evaluation_repeats_itself_and_training_hashes_anew() -> None:
    model, mix = network(**LSH), torch.randn(1, 2, 2000)
    assert torch.equal(model(mix), model(mix))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model(mix)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from torch's own generator"
    model.train()
    first, second = model(mix), model(mix)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(model(mix), first), "drawn from torch's own generator: a resumed run draws the same"


def test_seed_of_the_hashes() -> None:
    mix = torch.randn(1, 2, 2000)
    a, b = network(**LSH), network(**LSH, t_mask_random_seed=43)
    assert not torch.equal(a(mix), b(mix))


def test_trains() -> None:
    model = network(t_layers=4, t_sparse_cross_attn=True, **LSH).train()
    model(torch.randn(2, 2, 1500)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_names_are_those_of_dense_attention() -> None:
    dense, hashed = network(), network(t_sparse_cross_attn=True, **LSH)
    assert list(dense.state_dict()) == list(hashed.state_dict())


@pytest.mark.slow
def test_a_tenth_of_the_pairs_is_kept_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The issue's figure, on what the layers of a network really hash, in every item, head and layer."""
    shares = []

    class Watched(HashedPairs):
        def __init__(self, query: torch.Tensor, *rest: Any) -> None:
            super().__init__(query, *rest)
            shares.append(every(self, query).float().mean((-1, -2)))

    monkeypatch.setattr(sparse, "HashedPairs", Watched)
    model = network(t_layers=5, bottom_channels=32, segment=1, **LSH)
    for mode in (False, True):
        contracts.run(model.train(mode), torch.randn(2, 2, 8000))
    assert len(shares) == 2 * 2 * 3, "three of five layers, both branches, both modes"
    assert (torch.stack(shares) - 0.1).abs().max() < 0.01


# --- fixed masks -------------------------------------------------------------------------------------------


def fixed(kind: str, queries: int, keys: int, **settings: Any) -> torch.Tensor:
    masks = Sparsity(hashed=False, dropped=0.9, masks=tuple(kind.split("_")), **settings)
    return FixedPairs(masks, queries, keys, torch.device("cpu"))(torch.arange(queries))


def test_fixed_masks() -> None:
    i, j = torch.arange(30)[:, None], torch.arange(30)
    diag, jmask = fixed("diag", 30, 30, window=4), fixed("jmask", 30, 30)
    assert torch.equal(diag, (i - j).abs() <= 4)
    distances = torch.tensor([0, 1, 3, 6, 10, 15, 21, 28])
    assert torch.equal(jmask, torch.isin((i - j).abs(), distances))
    assert torch.equal(fixed("global", 30, 30, leading=3), (i < 3) | (j < 3))
    assert torch.equal(fixed("diag_jmask", 30, 30, window=4), diag | jmask)
    random = fixed("random", 300, 200)
    assert abs(random.float().mean() - 0.1) < 0.01
    assert torch.equal(random, fixed("random", 300, 200))
    assert not torch.equal(random, fixed("random", 300, 200, seed=1))


def test_fixed_masks_of_two_rates() -> None:
    """A query stands where the same share of the keys has passed."""
    across = fixed("diag", 20, 40, window=0)
    assert torch.equal(across.nonzero()[:, 1], 2 * torch.arange(20))
    assert fixed("global", 40, 20, leading=2)[:4].all()


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"t_auto_sparsity": True},
        {"t_sparse_self_attn": True, "t_mask_type": "diag_banded"},
        {"t_sparse_self_attn": True, "t_mask_type": ""},
        {**LSH, "t_sparsity": 1.0},
        {**LSH, "t_sparsity": -0.1},
    ],
)
def test_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refusal:
        network(**changes)
    assert refusal.value.code == "bad_config" and refusal.value.remedy
