"""The decoder of quantised states: against an encoder written here, and once against the real one."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.errors import ModelError
from sepcli.models.demucs import diffq
from sepcli.weights.checkpoint import read_checkpoint
from sepcli.weights.unpickling import Inert

GOLDEN = Path(__file__).parents[1] / "golden" / "diffq"


def pack(values: list[int], planes: int) -> torch.Tensor:
    """The layout as the module describes it, one bit at a time."""
    lines = math.ceil(len(values) / 2048)
    words = [[[0] * 32 for _ in range(planes)] for _ in range(lines)]
    for at, value in enumerate(values):
        line, inside = divmod(at, 2048)
        j, i = divmod(inside, 32)
        for plane in range(planes):
            words[line][plane][i] |= (value >> plane & 1) << j
    signed = [[[w - (w >> 63 << 64) for w in row] for row in line] for line in words]
    return torch.tensor(signed, dtype=torch.int64).view(lines, planes, 32)


def state_of(quantized: list, others: list, **meta) -> dict:
    kwargs = {"group_size": 8, "min_size": 0.0001} | meta.pop("init_kwargs", {})
    meta = {"klass": Inert("diffq.diffq.DiffQuantizer"), "init_kwargs": kwargs, "packed": True} | meta
    return {"quantized": quantized, "float16": [], "others": others, "meta": meta, "__quantized": True}


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(4, 700),
    group_size=st.sampled_from([1, 4, 8]),
    available=st.lists(st.integers(2, 14), min_size=1, max_size=4, unique=True),
    ends=st.tuples(st.floats(-2, 0, width=32), st.floats(0, 2, width=32)),
    seed=st.integers(0, 1000),
)
def test_decodes_what_was_encoded(groups, group_size, available, ends, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = ends
    bits = torch.tensor(available)[torch.randint(len(available), (groups,), generator=generator)]
    levels = (torch.rand(groups, group_size, generator=generator) * 2 ** bits[:, None]).long()
    by_bits = [
        pack(levels[bits == b].flatten().tolist(), b) if (bits == b).any() else None for b in range(1, 15)
    ]
    item = (by_bits, (low, high), pack((bits - 2).tolist(), (max(available) - 2).bit_length()))
    small = torch.randn(3)
    size = groups * group_size
    state = state_of([item], [small], init_kwargs={"group_size": group_size, "min_size": 3.5 * 4 / 2**20})
    result = diffq.decode(state, {"small": (3,), "large": (size // 4, 4) if size % 4 == 0 else (size,)})
    assert torch.equal(result["small"], small)
    wanted = levels / (2 ** bits[:, None] - 1.0) * (high - low) + low
    torch.testing.assert_close(result["large"].view(groups, -1), wanted.float(), rtol=1e-6, atol=1e-6)


def network() -> torch.nn.Module:
    """The one of tests/golden/diffq/make.py."""
    return torch.nn.Sequential(torch.nn.Conv1d(2, 40, 32), torch.nn.LSTM(16, 12), torch.nn.Linear(24, 16))


def golden() -> tuple[dict, dict]:
    state = read_checkpoint(GOLDEN / "state.th", foreign={"diffq"}).payload
    return state, {name: value.shape for name, value in network().named_parameters()}


def test_equals_the_real_one():
    state, shapes = golden()
    wanted = read_checkpoint(GOLDEN / "decoded.safetensors").payload
    result = diffq.decode(state, shapes)
    assert result.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(result[name], wanted[name]), name


def test_knows_its_own():
    assert diffq.is_quantised(golden()[0])
    assert not diffq.is_quantised({"a.weight": torch.ones(1)})


def test_small_parameters_may_be_float16():
    state = state_of([], [], init_kwargs={"float16": True}) | {"float16": [torch.ones(3).half()]}
    result = diffq.decode(state, {"a": (3,)})
    assert result["a"].dtype is torch.float32 and result["a"].tolist() == [1, 1, 1]


def change(path: tuple, value) -> dict:
    state = copy.copy(golden()[0])
    place = state
    for key in path[:-1]:
        place[key] = list(place[key]) if isinstance(place[key], tuple) else copy.copy(place[key])
        place = place[key]
    place[path[-1]] = value
    return state


@pytest.mark.parametrize(
    "path, value",
    [
        (("quantized",), []),
        (("quantized",), None),
        (("others",), []),
        (("others",), [torch.ones(1)] * 5),
        (("others",), golden()[0]["others"] * 2),
        (("others", 0), torch.ones(7)),
        (("others", 0), None),
        (("meta",), None),
        (("meta", "klass"), Inert("diffq.uniform.UniformQuantizer")),
        (("meta", "packed"), False),
        (("meta", "torch_pack"), True),
        (("meta", "init_kwargs", "group_size"), 0),
        (("meta", "init_kwargs", "group_size"), 7),
        (("meta", "init_kwargs", "group_size"), 4),
        (("meta", "init_kwargs", "min_bits"), 3),
        (("meta", "init_kwargs", "min_size"), "much"),
        (("meta", "init_kwargs", "exclude"), ["*bias"]),
        (("quantized", 0), (1, 2)),
        (("quantized", 0, 0), [None] * 14),
        (("quantized", 0, 0), []),
        (("quantized", 0, 1), (None, 1)),
        (("quantized", 0, 2), torch.zeros(1, 2, 31, dtype=torch.int64)),
        (("quantized", 0, 2), torch.zeros(1, 2, 32)),
        (("quantized", 0, 2), torch.full((1, 4, 32), -1)),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(path, value):
    with pytest.raises(ModelError, match="quantised state"):
        diffq.decode(change(path, value), golden()[1])


# --- diffq 0.1 -----------------------------------------------------------------------------------------------


def early(bits=((2,), (15,)), others=None):
    """A state with one parameter of two groups of eight, and what it has besides."""
    levels = torch.tensor([[0, 1, 2, 3] * 2, [0, 32767, 1, 2] * 2])
    item = (levels.to(torch.int16), (-1.0, 3.0), torch.tensor(bits, dtype=torch.uint8))
    return {"quantized": [item], "float16": [], "others": others or [torch.ones(3)]}


def test_early_states_are_told_by_the_sizes():
    """The largest parameters are cut into groups, wherever they stand."""
    assert diffq.is_quantised_early(early()) and not diffq.is_quantised_early(state_of([], []))
    decoded = diffq.decode_early(early(), {"small": (3,), "large": (4, 4)})
    assert torch.equal(decoded["small"], torch.ones(3)) and decoded["large"].shape == (4, 4)
    expected = torch.tensor([-1, -1 + 4 / 3, -1 + 8 / 3, 3] * 2)
    torch.testing.assert_close(decoded["large"].flatten()[:8], expected)
    torch.testing.assert_close(decoded["large"].flatten()[8:10], torch.tensor([-1.0, 3.0]))


@pytest.mark.parametrize(
    ("state", "shapes", "words"),
    [
        (early(), {"large": (4, 4)}, "it has 2 tensors, and the network 1"),
        (early(others=[torch.ones(4)]), {"large": (4, 4), "small": (3,)}, "'small' should be of shape"),
        (early(), {"large": (4, 5), "small": (3,)}, "'large' has 16 values in place of 20"),
        (early(bits=((0,), (3,))), {"large": (4, 4), "small": (3,)}, "one number of bits, 1 to 15"),
        (early(bits=((2,),)), {"large": (4, 4), "small": (3,)}, "for each group"),
        (early(), {"large": (4, 4), "other": (4, 4)}, "should be of shape|ends before"),
        ({**early(), "quantized": [1]}, {"large": (4, 4), "small": (3,)}, "is not stored as expected"),
        ({**early(), "others": 3}, {"large": (4, 4)}, "parts of it are missing"),
    ],
)
def test_early_states_that_do_not_fit(state, shapes, words):
    with pytest.raises(ModelError, match=words):
        diffq.decode_early(state, shapes)
