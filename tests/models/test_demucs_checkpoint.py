"""What published Demucs files say of themselves, how their tensors are converted, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from sepcli.errors import ModelError
from sepcli.models.demucs import FAMILY
from sepcli.models.demucs.demucs import Demucs, DemucsConfig
from sepcli.weights.checkpoint import Checkpoint, read_checkpoint
from sepcli.weights.unpickling import Inert
from tests.models.test_demucs_diffq import pack, state_of

GOLDEN = Path(__file__).parents[1] / "golden" / "diffq"
SMALL = {"sources": ("a", "b"), "channels": 4, "depth": 2, "dconv_comp": 2, "norm_starts": 1}


def safetensors(klass="demucs.hdemucs.HDemucs", args="[]", kwargs="{}", tensors=None, **more) -> Checkpoint:
    return Checkpoint(Path("a.safetensors"), tensors or {}, dict(klass=klass, args=args, kwargs=kwargs, **more))


def package(klass: Any = "demucs.hdemucs.HDemucs", args=(), kwargs=None, state=None) -> Checkpoint:
    klass = Inert(klass) if isinstance(klass, str) else klass
    payload = {"klass": klass, "args": args, "kwargs": kwargs or {}, "state": state, "metrics": {}}
    return Checkpoint(Path("a.th"), payload, format="torch")


def refused(checkpoint: Checkpoint, word: str) -> None:
    with pytest.raises(ModelError) as caught:
        FAMILY.describe(checkpoint)
    assert str(checkpoint.path) in caught.value.message and word in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "klass, arch",
    [
        ("demucs.htdemucs.HTDemucs", "HTDemucs"),
        ("demucs.hdemucs.HDemucs", "HDemucs"),
        ("demucs.wdemucs.WDemucs", "HDemucs"),
        ("demucs.demucs.Demucs", "Demucs"),
    ],
)
def test_describes_the_known_classes(klass, arch):
    fraction = '{"_type": "fraction", "numerator": 39, "denominator": 5}'
    header = f'{{"sources": ["a", "b"], "channels": 8, "segment": {fraction}, "norm_starts": 999}}'
    wanted = {"sources": ["a", "b"], "channels": 8, "segment": Fraction(39, 5), "norm_starts": 999}
    for checkpoint in (safetensors(klass, kwargs=header), package(klass, kwargs=wanted)):
        described = FAMILY.describe(checkpoint)
        assert described.arch == arch and described.config == wanted


def test_positional_arguments_have_the_constructors_order():
    described = FAMILY.describe(safetensors(args='[["a"], 1, 32]', kwargs='{"depth": 5}'))
    assert described.config == {"sources": ["a"], "audio_channels": 1, "channels": 32, "depth": 5}


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(Path("a"), {"w": torch.ones(1)}),
        Checkpoint(Path("a"), {}, {"klass": "x"}),
        Checkpoint(Path("a"), {"state_dict": {}}, format="torch"),
        Checkpoint(Path("a"), [1, 2], format="torch"),
        safetensors("other.Net"),
        package(klass=None),
    ],
)
def test_knows_nothing_of_other_files(checkpoint):
    assert FAMILY.describe(checkpoint) is None


def test_names_what_is_unknown():
    refused(safetensors("demucs.other.Demucs"), "demucs.other.Demucs")
    refused(package("demucs.tasnet.Other"), "demucs.tasnet.Other")
    oldest = Checkpoint(Path("a"), (Inert("demucs.other.Demucs"), (), {}, {}), format="torch")
    refused(oldest, "demucs.other.Demucs")
    refused(package(kwargs={"channels": 4, "wobble": 1}), "wobble")
    refused(safetensors(args='[["a"]]', kwargs='{"sources": ["b"]}'), "sources twice")
    refused(safetensors(args=json.dumps([0] * 99)), "arguments")
    refused(safetensors(kwargs="[]"), "arguments")
    refused(safetensors(kwargs='{"sources"'), "header")
    refused(safetensors(kwargs='{"segment": {"_type": "fraction"}}'), "header")
    fraction = '{"_type": "fraction", "numerator": 1, "denominator": 0}'
    refused(safetensors(kwargs=f'{{"segment": {fraction}}}'), "header")
    refused(package(kwargs={"sources": [Inert("demucs.x.Y")]}), "sources")
    refused(package(kwargs={"segment": torch.ones(1)}), "segment")


def test_converts_to_float32_and_drops_nothing():
    model = Demucs(DemucsConfig(**SMALL))
    state = {name: value.half() for name, value in model.state_dict().items()} | {"count": torch.ones(1).long()}
    for checkpoint in (safetensors(tensors=state), package(state=state), Checkpoint(Path("a"), state)):
        converted = FAMILY.convert(checkpoint, model)
        assert list(converted) == list(state)
        assert converted.pop("count").dtype is torch.int64
        assert all(value.dtype is torch.float32 for value in converted.values())
        model.load_state_dict(converted, strict=True)


def test_networks_from_before_the_norms():
    """Encoder: conv 0, ReLU, rewrite 2, GLU. Decoder: rewrite 0, GLU, transposed conv 2, ReLU."""
    model = Demucs(
        DemucsConfig(**{**SMALL, "dconv_mode": 0, "norm_starts": 9, "gelu": False, "lstm_layers": 2})
    )
    state = model.state_dict()
    old = {name.replace(".3.", ".2.") if "coder" in name else name: value for name, value in state.items()}
    assert any(".2.bias" in name for name in old) and not any(".3.bias" in name for name in old)
    converted = FAMILY.convert(Checkpoint(Path("a"), old), model)
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)


@pytest.mark.parametrize("dconv_mode", [1, 2, 3])
def test_later_networks_are_not_renumbered(dconv_mode):
    model = Demucs(DemucsConfig(**{**SMALL, "rewrite": False, "dconv_mode": dconv_mode, "norm_starts": 0}))
    state = model.state_dict()
    assert list(FAMILY.convert(Checkpoint(Path("a"), state), model)) == list(state)


def structure(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """How the authors' export writes a nested state into safetensors: a tree, and its tensors apart."""
    if isinstance(value, torch.Tensor):
        tensors[f"tensor_{len(tensors)}"] = value.clone()
        return {"_tensor": f"tensor_{len(tensors) - 1}"}
    if isinstance(value, dict):
        return {"_dict": [[key, structure(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "_list" if isinstance(value, list) else "_tuple"
        return {kind: [structure(item, tensors) for item in value]}
    return {"_class": value.dotted} if isinstance(value, Inert) else value


def quantised(model: torch.nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Every parameter of more than 26 values in 8 bits a value, and the weights that this stands for."""
    items, others, decoded = [], [], {}
    for name, parameter in model.named_parameters():
        if parameter.numel() <= 26:
            others.append(parameter.detach())
            decoded[name] = parameter.detach()
            continue
        low, high = parameter.min().item(), parameter.max().item()
        levels = ((parameter.detach() - low) / (high - low) * 255).round()
        by_bits = [None] * 14
        by_bits[7] = pack(levels.long().flatten().tolist(), 8)
        items.append((by_bits, (low, high), pack([6] * (parameter.numel() // 4), 3)))
        decoded[name] = levels / 255 * (high - low) + low
    return state_of(items, others, init_kwargs={"group_size": 4, "min_size": 26.5 * 4 / 2**20}), decoded


def test_quantised_networks():
    torch.manual_seed(0)
    model = Demucs(DemucsConfig(**SMALL))
    state, decoded = quantised(model)
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(structure(state, tensors))
    for checkpoint in (package(state=state), safetensors(tensors=tensors, structure=tree)):
        converted = FAMILY.convert(checkpoint, model)
        model.load_state_dict(converted, strict=True)
        for name, value in decoded.items():
            torch.testing.assert_close(converted[name], value, rtol=0, atol=1e-6)


def test_the_real_quantised_state_through_a_structure():
    state = read_checkpoint(GOLDEN / "state.th", foreign=FAMILY.packages).payload
    wanted = read_checkpoint(GOLDEN / "decoded.safetensors").payload
    network = torch.nn.Sequential(torch.nn.Conv1d(2, 40, 32), torch.nn.LSTM(16, 12), torch.nn.Linear(24, 16))
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(structure(state, tensors))
    converted = FAMILY.convert(safetensors(tensors=tensors, structure=tree), network)
    assert all(torch.equal(converted[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "checkpoint",
    [
        package(state=None),
        package(state={}),
        package(state={"a": 1}),
        package(state={1: torch.ones(1)}),
        Checkpoint(Path("a.th"), [1], format="torch"),
        safetensors(structure="{"),
        safetensors(structure='{"_tensor": "missing"}'),
        safetensors(structure='{"_import": "os"}'),
        safetensors(structure='{"_dict": [["a"]]}'),
        safetensors(structure='{"_tensor": "a", "_class": "b"}'),
        safetensors(structure="[" * 100_000),
        safetensors(structure='{"_class": "os.system"}'),
    ],
)
def test_refuses_states_that_are_none(checkpoint):
    with pytest.raises(ModelError, match=checkpoint.path.name):
        FAMILY.convert(checkpoint, Demucs(DemucsConfig(**SMALL)))
