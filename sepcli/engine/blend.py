"""Separators side by side, of any rates and channels: each stem is made of what several of them give.

Knows no family. The pipeline runs each member by its own plan of chunks, at its own rate, in its own channels
and standardised by its own statistics, and combines what has become final (engine.combine). An Ensemble is the
narrower and cheaper thing: networks of one model, which share one buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sepcli.engine.separator import Separator, source_indices
from sepcli.engine.several import Several
from sepcli.stems import WEIGHTED, gives


class Blend(Several):
    """The stems `sources`, each combined of those of the members that give it.

    members: separators. weights: a tuple for each member, in it a weight (>= 0) for each source; 0 where it
    does not count. A member that counts for a source has it, or its complement (stems.COMPLEMENTS): then it
    gives the mix minus that. method: one of stems.BLENDS; where it takes no weights, they only say who counts.

    It has no `forward`: there is no single call for members that differ in rate and channels.
    """

    def __init__(
        self,
        members: Sequence[Separator],
        weights: Sequence[Sequence[float]],
        sources: Sequence[str],
        method: str = "avg_wave",
    ):
        super().__init__(members)
        self.weights = tuple(tuple(float(weight) for weight in row) for row in weights)
        self.sources, self.method = tuple(sources), method
        for k, source in enumerate(self.sources):
            assert any(row[k] > 0 for row in self.weights), f"no member makes {source}"

    def select(self, sources: Sequence[str]) -> Blend:
        """See Separator: only the members that these sources need, each narrowed to its share of them."""
        columns = source_indices(self.sources, sources)
        members, weights = [], []
        for member, row in zip(self.members, self.weights, strict=True):
            counting = [self.sources[k] for k in columns if row[k] > 0]
            if counting:
                members.append(
                    member.select(list(dict.fromkeys(gives(member.sources, each) for each in counting)))
                )
                weights.append([row[k] for k in columns])
        narrowed = Blend(members, weights, sources, self.method)
        narrowed.whole = self.whole or self.sources
        return narrowed.eval()

    def estimates(self, source: int, stems: Sequence[Tensor], mix: Tensor) -> Tensor:
        """What the members that count give for the source at that position: [M, ..., C, T].

        stems: of each member, [S', ..., C, T]. mix: [..., C, T].
        """
        name, found = self.sources[source], []
        for member, row, own in zip(self.members, self.weights, stems, strict=True):
            if row[source] > 0:
                taken = gives(member.sources, name)
                stem = own[member.sources.index(taken)]
                found.append(stem if taken == name else mix - stem)
        return torch.stack(found)

    def factors(self, source: int) -> list[float]:
        """The weights of the members that count for the source at that position."""
        own = [row[source] for row in self.weights if row[source] > 0]
        return own if self.method in WEIGHTED else [1.0] * len(own)
