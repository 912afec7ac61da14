"""The laws that every separator keeps (sepcli/engine/separator.py), as asserts for the tests of each family.

Knows no family: give it any Separator with random weights and lengths that suit it.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sepcli.engine.separator import Segment, Separator
from sepcli.errors import UsageError

TOLERANCE = 1e-5  # of the peak, float32; samplers of more than 20 calls: 1e-3


@dataclass(frozen=True)
class Case:
    """A tiny network to try the contract on (tests/models/test_contract.py).

    The test module of each family, tests/models/test_<family>.py, has some of every network of its own:

        NETWORKS = {"Gain": {"stereo": Case(tiny, [1, 100, 4410]), ...}, ...}
    """

    make: Callable[[], Any]  # the network, from a tiny Config; with weights that all do something
    lengths: Sequence[int]  # samples of the calls that the laws are tried on
    tolerance: float = TOLERANCE
    shortest: int = 1  # samples of a call of which only the shape is looked at
    before: Callable[[pytest.MonkeyPatch], None] = lambda patch: None  # what a fresh network needs around it


def peak_error(result: Tensor, expected: Tensor) -> float:
    """Largest difference over the expected peak; shapes must agree and all values be finite."""
    assert result.shape == expected.shape, (result.shape, expected.shape)
    assert result.isfinite().all() and expected.isfinite().all()
    if not expected.numel():
        return 0.0
    return ((result - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def run(model: Separator, mix: Tensor, **inputs: Any) -> Tensor:
    with torch.inference_mode():
        return model(mix, **inputs)


def check_separator(
    model: Separator, lengths: Sequence[int], *, tolerance: float = TOLERANCE, **inputs: Any
) -> None:
    """All laws. lengths: samples, several; `inputs` (noise) are handed to every call."""
    model.eval()
    check_declaration(model)
    for samples in lengths:
        mix = torch.randn(2, model.channels, samples)
        check_shape(model, mix, **inputs)
        check_batch(model, mix, tolerance, **inputs)
        check_select(model, mix[:1], tolerance, **inputs)
    check_silence(model, max(lengths), **inputs)
    check_stores_nothing(model, mix[:1], **inputs)
    check_prepared(model, mix, tolerance, **inputs)


def check_declaration(model: Separator) -> None:
    """What the pipeline reads is there, and is hashable and plain."""
    assert isinstance(model.sources, tuple) and all(isinstance(name, str) for name in model.sources)
    assert len(set(model.sources)) == len(model.sources) > 0
    assert isinstance(model.samplerate, int) and model.samplerate > 0
    assert model.channels in (1, 2)
    assert isinstance(model.segment, Segment)
    assert isinstance(model.normalize, bool) and isinstance(model.half, bool)
    noise = inspect.signature(model.forward).parameters["noise"]
    assert noise.kind is inspect.Parameter.KEYWORD_ONLY and noise.default is None


def check_shape(model: Separator, mix: Tensor, **inputs: Any) -> None:
    """As many samples out as in, in float32, and the mix untouched."""
    before = mix.clone()
    stems = run(model, mix, **inputs)
    assert stems.shape == (len(mix), len(model.sources), *mix.shape[1:])
    assert stems.dtype == torch.float32
    assert stems.isfinite().all()
    assert torch.equal(mix, before)


def check_silence(model: Separator, samples: int, **inputs: Any) -> None:
    """Digital silence gives numbers; and silence, where the model says so."""
    stems = run(model, torch.zeros(1, model.channels, samples), **inputs)
    assert stems.isfinite().all() and not (model.keeps_silence and stems.any())


def check_batch(model: Separator, mix: Tensor, tolerance: float = TOLERANCE, **inputs: Any) -> None:
    """A batch of two equals two batches of one: no item sees another, however loud."""
    mix = torch.cat([mix[:1], 10 * torch.randn_like(mix[:1])])
    together = run(model, mix, **inputs)
    for item in range(2):
        alone = run(model, mix[item : item + 1], **inputs)
        assert peak_error(together[item : item + 1], alone) <= tolerance


def check_select(model: Separator, mix: Tensor, tolerance: float = TOLERANCE, **inputs: Any) -> None:
    """Narrowed to all it equals the whole, to one that stem; in any order, twice; the model itself stays."""
    whole = run(model, mix, **inputs)
    sources, weights = model.sources, {name: t.clone() for name, t in model.state_dict().items()}
    peak = whole.abs().max().clamp(min=1e-12)

    def check(wanted: Sequence[str], narrowed: Separator) -> None:
        assert narrowed.sources == tuple(wanted)
        assert (narrowed.samplerate, narrowed.channels) == (model.samplerate, model.channels)
        assert (narrowed.normalize, narrowed.segment.samples) == (model.normalize, model.segment.samples)
        assert not model.normalize or narrowed.offset_stem == model.offset_stem
        expected = whole[:, [sources.index(name) for name in wanted]]
        result = run(narrowed.eval(), mix, **inputs)
        assert result.shape == expected.shape
        assert ((result - expected).abs().max() / peak).item() <= tolerance

    check(sources, model.select(sources))
    for name in sources:
        check([name], model.select([name]))
    backwards = tuple(reversed(sources))
    narrowed = model.select(backwards)
    check(backwards, narrowed)
    check(backwards[:1], narrowed.select(backwards[:1]))
    with pytest.raises(UsageError):
        model.select(["no such stem"])

    assert model.sources == sources
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(run(model, mix, **inputs), whole)


def check_stores_nothing(model: Separator, mix: Tensor, **inputs: Any) -> None:
    """`forward` in eval writes no attributes and changes no weights, prepared or not."""
    prepared = copy.deepcopy(model)
    prepared.prepare(mix.shape[-1], torch.device("cpu"), torch.float32)
    for network in (model, prepared):
        before = snapshot(network)
        run(network, mix, **inputs)
        run(network, mix[..., : max(1, mix.shape[-1] // 2)], **inputs)
        assert snapshot(network) == before


def snapshot(model: Separator) -> dict[str, tuple]:
    """Which objects hang on each module, and how often each tensor was written."""
    found = {}
    for path, module in model.named_modules():
        held = {**vars(module), **module._parameters, **module._buffers}
        for name, value in held.items():
            version = value._version if isinstance(value, Tensor) and not value.is_inference() else None
            size = len(value) if isinstance(value, dict | list | set | tuple) else None
            found[f"{path}.{name}"] = (id(value), version, size)
    return found


def check_prepared(model: Separator, mix: Tensor, tolerance: float = TOLERANCE, **inputs: Any) -> None:
    """`prepare` changes no result, at its own length or another; a prepared model can still be narrowed."""
    whole = run(model, mix, **inputs)
    half = mix[..., : max(1, mix.shape[-1] // 2)]
    whole_of_half = run(model, half, **inputs)
    prepared = copy.deepcopy(model)
    prepared.prepare(mix.shape[-1], torch.device("cpu"), torch.float32)
    assert not prepared.training
    assert peak_error(run(prepared, mix, **inputs), whole) <= tolerance
    assert peak_error(run(prepared, half, **inputs), whole_of_half) <= tolerance
    prepared.prepare(half.shape[-1], torch.device("cpu"), torch.float32)
    assert peak_error(run(prepared, half, **inputs), whole_of_half) <= tolerance
    narrowed = prepared.select(model.sources[:1])
    narrowed.prepare(mix.shape[-1], torch.device("cpu"), torch.float32)
    assert peak_error(run(narrowed, mix, **inputs), whole[:, :1]) <= max(tolerance, 2e-5)


def check_reduced(model: Separator, mix: Tensor, dtype: torch.dtype, decibels: float, **inputs: Any) -> None:
    """Prepared for a reduced type: float32 in and out, close to the float32 result; only a copy converted."""
    whole = run(model, mix, **inputs)
    reduced = model.select(model.sources)
    reduced.prepare(mix.shape[-1], mix.device, dtype)
    result = run(reduced, mix, **inputs)
    assert result.dtype == torch.float32
    ratio = whole.square().sum() / (result - whole).square().sum()
    assert 10 * ratio.log10().item() >= decibels
    assert torch.equal(run(model, mix, **inputs), whole)  # narrowing shares memory, converting does not


def check_bind(model: Any, *, tolerance: float = TOLERANCE, **inputs: Any) -> None:
    """The laws of Queryable: names merge as a dict, stems depend on their own query only, the model stays."""
    model.eval()
    assert model.min_query > 0
    sources, weights = model.sources, {name: t.clone() for name, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    least = math.ceil(model.min_query * model.samplerate)  # samples
    first = 0.1 * torch.randn(model.channels, least, generator=generator)
    second = torch.sin(0.05 * torch.arange(2 * least + 777)).repeat(model.channels, 1)  # another sound, longer
    kept = first.clone()
    bound = model.bind({"first": first, "second": second}).eval()
    assert isinstance(bound, Separator)
    assert bound.sources == (*sources, "first", "second")
    assert (bound.samplerate, bound.channels) == (model.samplerate, model.channels)
    assert bound.segment.samples == model.segment.samples
    assert model.sources == sources and torch.equal(first, kept)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    samples = model.segment.samples or 8 * model.segment.multiple
    check_separator(bound, [samples], tolerance=tolerance, **inputs)

    mix = torch.randn(1, model.channels, samples, generator=generator)
    stems = dict(zip(bound.sources, run(bound, mix, **inputs).unbind(1), strict=True))
    peak = torch.stack(list(stems.values())).abs().max()

    def same(one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() <= tolerance * peak)

    assert not same(stems["first"], stems["second"])  # they hear their queries
    for name, query in (("first", first), ("second", second)):
        alone = model.bind({name: query}).select([name]).eval()
        assert same(run(alone, mix, **inputs)[:, 0], stems[name])
    if sources:
        own = dict(zip(sources, run(model, mix, **inputs).unbind(1), strict=True))
        assert all(same(own[name], stems[name]) for name in sources)
        replaced = model.bind({sources[0]: first}).eval()
        assert replaced.sources == sources
        assert same(run(replaced, mix, **inputs)[:, 0], stems["first"])
