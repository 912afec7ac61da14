"""A separator whose network is in memory only while it runs: for models that do not fit together.

A chain of such steps works step by step, each over the whole track, with temporary files between them
(engine.pipeline).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator, source_indices
from sepcli.nn.sharing import sharing_copy


class OnDemand(Separator):
    """What `load` gives, loaded for each track anew and forgotten after it.

    load: makes the separator, on the CPU and in eval mode; always the same. model: one that it made, to learn
    of stems, rate and segment; it is not kept.
    """

    def __init__(self, load: Callable[[], Separator], model: Separator):
        super().__init__()
        self.load = load
        self.sources, self.whole, self.more = model.sources, model.whole, model.more
        self.samplerate, self.channels, self.segment = model.samplerate, model.channels, model.segment
        self.normalize, self.half, self.name = model.normalize, model.half, model.name
        self.size = weight_bytes(model)

    def select(self, sources: Sequence[str]) -> Separator:
        """See Separator."""
        source_indices((*self.sources, *self.more), sources)
        load, wanted = self.load, tuple(sources)
        narrowed = OnDemand(lambda: load().select(wanted), self)
        narrowed.sources, narrowed.whole, narrowed.more = wanted, self.whole or self.sources, {}
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """See Separator."""
        return self.load()(mix, noise=noise)


def weight_bytes(model: Separator) -> int:
    """The bytes of its weights, also of those that are not there now."""
    waiting = sum(module.size for module in model.modules() if isinstance(module, OnDemand))
    return waiting + sum(weight.numel() * weight.element_size() for weight in model.parameters())


def kept(model: Separator) -> OnDemand:
    """A separator that stays on the CPU, and is on another device only while it runs there."""
    return OnDemand(lambda: sharing_copy(model), model)


def forget(device: torch.device) -> None:
    """Give back the memory of what was just dropped."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
