"""Separators one after another: a step takes one stem of what was made before it, and its own stems replace it.

Knows no family. The pipeline runs each step by its own plan of chunks, and hands on what has become final.

    mix -> vocals | accompaniment -> drums, bass, other
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator, source_indices
from sepcli.engine.several import Several
from sepcli.stems import leaves


class Chain(Several):
    """Steps of any rate and channel count; each after the first takes a stem apart.

    steps: the separators. takes: for each step after the first the stem it takes, of an earlier step. sources:
    the stems that are left in the end, in the order they are wanted; None: all, in the steps' order. No two
    stems have the same name.

    A step that wants a standardised track (`normalize`) gets it by the statistics of the whole mix, since those
    of its own stem are known only when the track is over.
    """

    def __init__(self, steps: Sequence[Separator], takes: Sequence[str], sources: Sequence[str] | None = None):
        super().__init__(steps)
        self.takes = tuple(takes)
        assert len(self.takes) == len(steps) - 1
        pairs = [(taken, step.sources) for taken, step in zip(self.takes, steps[1:], strict=True)]
        self.made = tuple(leaves(steps[0].sources, pairs))
        assert len(set(self.made)) == len(self.made), f"two stems with one name: {self.made}"
        self.sources = self.made if sources is None else tuple(sources)

    def select(self, sources: Sequence[str]) -> Separator:
        """See Separator. Steps that no wanted stem needs are left out."""
        source_indices(self.sources, sources)
        needed, kept, takes = set(sources), [], []
        for step, taken in zip(reversed(self.members), (*reversed(self.takes), ""), strict=True):
            own = [name for name in step.sources if name in needed]
            if own:
                needed = needed.difference(own) | {taken}
                kept.insert(0, step.select(own))
                takes.insert(0, taken)
        narrowed = Chain(kept, takes[1:], sources) if len(kept) > 1 else kept[0].select(sources)
        narrowed.whole = self.whole or self.sources
        return narrowed.eval()

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T], in one call of each step; all must have one rate and take this T."""
        found = dict[str, Tensor]()
        for step, taken in zip(self.members, ("", *self.takes), strict=True):
            stems = step(found.pop(taken) if taken else mix, noise=noise)
            found |= dict(zip(step.sources, stems.unbind(1), strict=True))
        return torch.stack([found[name] for name in self.sources], dim=1)
