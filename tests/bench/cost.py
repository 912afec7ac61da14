"""The work of a model: GFLOP for a second of audio, counted and not timed.

    python tests/bench/cost.py NAME...       `cost` for weights.toml, for each of these models

Counted are matrix products, convolutions and attention (torch's FlopCounterMode), a multiplication and an
addition as two, in one call of the usual length without overlap. Fourier transforms and LSTMs are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator
from sepcli.models.detection import entry_config
from sepcli.models.family import get_family
from sepcli.weights.catalog import bundled_catalog, read_catalog
from sepcli.weights.entries import Entry

SECONDS = 10.0  # of a call of a network that takes any length


def cost(entry: Entry) -> float:
    """GFLOP for a second of audio, for all stems of a model."""
    try:
        return _cost(entry, torch.device("meta"))
    except NotImplementedError:  # what it prepares needs values
        return _cost(entry, torch.device("cpu"))


def _cost(entry: Entry, device: torch.device) -> float:
    return sum(_network(model, device) for model in networks_of(entry, device))


def networks_of(entry: Entry, device: torch.device) -> Iterator[Separator]:
    """Its networks with fresh weights, one after another, each for the stems that it is used for."""
    family = get_family(entry.family)
    for member in entry.members[:1] if entry.joined else entry.members:
        arch = family.arch(member.arch)
        with device:
            model = arch.build(entry_config(arch, entry, member)).eval()
        if entry.segment is not None:
            model.segment = replace(model.segment, samples=int(entry.segment * model.samplerate))
        used = [i for i, weight in enumerate(member.weights or [1] * len(entry.own_sources)) if weight]
        if len(used) < len(entry.own_sources):
            model = model.select([entry.own_sources[i] for i in used])
        yield model


def _network(model: Separator, device: torch.device) -> float:
    samples = model.segment.samples or round(SECONDS * model.samplerate)
    useful = samples - 2 * model.segment.margin
    with device, torch.inference_mode():
        model.prepare(samples, device, torch.float32)
        work = work_of(model, torch.zeros(1, model.channels, samples))
    return work / (useful / model.samplerate)


def work_of(model: Separator, mix: torch.Tensor, noise: Noise | None = None, *, lstms: bool = False) -> float:
    """GFLOP of one call; with the products in LSTMs only where that is asked for."""
    model.requires_grad_(False)  # the counter follows the gradients of weights that a module is given
    counted = {torch.ops.aten.mkldnn_rnn_layer: _lstm_flops} if lstms else {}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=counted) as counter:
        model(mix, noise=noise)
    return counter.get_total_flops() / 1e9


def _lstm_flops(
    frames: tuple[int, ...], inner: tuple[int, ...], outer: tuple[int, ...], *_: Any, **__: Any
) -> int:
    """Of one direction of an LSTM's layer: [N, B, I] frames, weights [4 H, I] and [4 H, H]."""
    return 2 * frames[0] * frames[1] * (inner[0] * inner[1] + outer[0] * outer[1])


def main() -> None:
    entries = read_catalog(bundled_catalog())
    for name in sys.argv[1:] or entries:
        try:
            print(f"{name}: cost = {cost(entries[name]):.3g}", flush=True)
        except Exception as error:  # noqa: BLE001  (the next one may do)
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main()
