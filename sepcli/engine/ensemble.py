"""Several separators as one: the weighted mean of their stems, source by source.

Knows no family. The pipeline runs every model as an ensemble, usually of one: each member is cut into chunks
by its own plan, and the results are weighted and summed as samples become final.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator, source_indices
from sepcli.engine.several import Several


class Ensemble(Several):
    """Networks of one samplerate, channel count and `normalize`, with a weight for each network and source.

    members: the networks. Each has all sources of the ensemble, or only those where its weight is not 0.
    weights: a tuple for each member, in it a weight (>= 0) for each source of the ensemble.
    """

    def __init__(
        self, members: Sequence[Separator], weights: Sequence[Sequence[float]], sources: Sequence[str]
    ):
        super().__init__(members)
        self.weights = tuple(tuple(float(w) for w in row) for row in weights)
        self.sources = tuple(sources)
        for member in members:
            assert (member.samplerate, member.channels, member.normalize) == (
                self.samplerate,
                self.channels,
                self.normalize,
            ), "members of an ensemble share one samplerate, channel count and normalisation"
        for k, source in enumerate(self.sources):
            assert self.total(k) > 0, f"no member makes {source}"

    @classmethod
    def of(cls, model: Separator) -> Ensemble:
        """The model itself if it is an ensemble already, else an ensemble with it as the only member."""
        if isinstance(model, cls):
            return model
        ensemble = cls([model], [[1.0] * len(model.sources)], model.sources)
        ensemble.whole = model.whole
        return ensemble

    def total(self, source: int) -> float:
        """The sum of the weights for the source at that position."""
        return sum(row[source] for row in self.weights)

    def select(self, sources: Sequence[str]) -> Ensemble:
        """See Separator: only the members that these sources need, each narrowed to its share of them."""
        columns = source_indices(self.sources, sources)
        members, weights = [], []
        for member, row in zip(self.members, self.weights, strict=True):
            needed = [self.sources[k] for k in columns if row[k] > 0]
            if needed:
                members.append(member.select(needed))
                weights.append([row[k] for k in columns])
        narrowed = Ensemble(members, weights, sources)
        narrowed.whole = self.whole or self.sources
        return narrowed

    def scatter(self, member: int, stems: Tensor) -> Tensor:
        """Stems of the member at that position, [..., S', C, T] -> weighted, [..., S, C, T].

        Zeros for sources that it does not make.
        """
        own = {name: i for i, name in enumerate(self.members[member].sources)}
        out = stems.new_zeros(*stems.shape[:-3], len(self.sources), *stems.shape[-2:])
        for k, (name, weight) in enumerate(zip(self.sources, self.weights[member], strict=True)):
            if weight > 0:
                out[..., k, :, :] = stems[..., own[name], :, :] * weight
        return out

    def gather(self, scattered: Sequence[Tensor]) -> Tensor:
        """Weighted stems, [..., S, C, T] of each member -> their mean, summed in the members' order."""
        out = scattered[0].clone()
        for other in scattered[1:]:
            out += other
        for k in range(len(self.sources)):
            out[..., k, :, :] /= self.total(k)
        return out

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T], in one call of each member; all must take this T."""
        return self.gather([self.scatter(i, member(mix, noise=noise)) for i, member in enumerate(self.members)])
