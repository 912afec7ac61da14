"""Separators one after another: a step takes one stem of what was made before it, and its own stems replace it.

Knows no family. The pipeline runs each step by its own plan of chunks, and hands on what has become final.

    mix -> vocals | accompaniment -> drums, bass, other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepcli.engine.device import free_bytes
from sepcli.engine.noise import Noise
from sepcli.engine.ondemand import OnDemand, kept, weight_bytes
from sepcli.engine.separator import Separator, source_indices
from sepcli.engine.several import Several
from sepcli.stems import chained, left_of, needed_of

ROOM = 0.6  # of the free memory, for the weights of all networks of a chain
IN_TURN = (
    "The networks of this chain have {weights:.1f} GB of weights, too much for the memory of {device}: each "
    "goes over the whole track, with temporary files between them."
)


@dataclass(frozen=True)
class Taking:
    """What a step takes from those before it, and which stems it gives for that."""

    stem: str  # the stem that it takes
    made: tuple[str, ...]  # what its own stems are called
    keeps: bool  # whether the stem itself is wanted too
    leaves: bool  # whether the stem minus the step's is wanted

    @property
    def given(self) -> tuple[str, ...]:
        """The stems that stand in the place of the one it takes."""
        more = [self.stem] if self.keeps else []
        more += [left_of(self.stem)] if self.leaves else []
        return (*self.made, *more)

    def instead(self, stem: Tensor, made: Tensor) -> Tensor:
        """The stem [..., T] and the step's own of it [S, ..., T] -> [S', ..., T], as `given` names them."""
        parts = [made]
        if self.keeps:
            parts.append(stem[None])
        if self.leaves:
            parts.append((stem - made.sum(0))[None])
        return torch.cat(parts)


class Chain(Several):
    """Steps of any rate and channel count; each after the first takes a stem apart.

    steps: the separators. takes: for each step after the first the stem it takes, of an earlier step, by its
    name in the chain. names: what the stems of each step are called in the chain, in the order of its
    `sources`; None: as stems.chained calls them. sources: the stems that are wanted, in that order; None: all
    that are left in the end. Also on request: `more`, the stems that steps take apart and what they leave.

    A step that wants a standardised track (`normalize`) gets it by the statistics of the whole mix, since those
    of its own stem are known only when the track is over.
    """

    def __init__(
        self,
        steps: Sequence[Separator],
        takes: Sequence[str],
        sources: Sequence[str] | None = None,
        names: Sequence[Sequence[str]] | None = None,
    ):
        super().__init__(steps)
        assert len(takes) == len(steps) - 1
        own = [step.sources for step in steps]
        if names is None:
            found = chained(own[0], list(zip(takes, own[1:], strict=True)))
            names, takes, self.more = found.made, found.taken, found.more
            sources = found.left if sources is None else sources
        assert sources is not None
        self.names = tuple(map(tuple, names))
        assert [len(each) for each in self.names] == [len(each) for each in own]
        self.sources = tuple(sources)
        self.takings = tuple(self._taking(step, takes) for step in range(1, len(steps)))

    def _taking(self, step: int, takes: Sequence[str]) -> Taking:
        stem, names = takes[step - 1], self.names[step]
        # Two stems of one name are never there at once, and a name on request means the later one.
        made_again = any(stem in later for later in self.names[step:])
        taken_again = stem in takes[step:]
        return Taking(
            stem,
            names,
            keeps=stem in self.sources and not made_again,
            leaves=left_of(stem) in self.sources and not taken_again,
        )

    @property
    def in_turn(self) -> bool:
        """Whether its steps run one after another over the whole track, since they do not fit together."""
        return any(
            isinstance(member, OnDemand) or (isinstance(member, Chain) and member.in_turn)
            for member in self.members
        )

    def one_by_one(self) -> Chain:
        """The same with no more than one step at once on the device that it runs on."""

        def alone(member: Separator) -> Separator:
            if isinstance(member, Chain):
                return member.one_by_one()
            if isinstance(member, (OnDemand, Several)):  # those side by side are needed at once
                return member
            return kept(member)

        members = [alone(member) for member in self.members]
        chain = Chain(members, [taking.stem for taking in self.takings], self.sources, self.names)
        chain.whole, chain.more = self.whole, self.more
        return chain.eval()

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator."""
        own = [IN_TURN.format(weights=weight_bytes(self) / 1e9, device=device)] if not self.fits(device) else []
        return (*own, *super().notices(device))

    def fits(self, device: torch.device) -> bool:
        """Whether all networks have room on the device at once; on a CPU they are there already."""
        free = free_bytes(device)
        return self.in_turn or free is None or weight_bytes(self) < ROOM * free

    def select(self, sources: Sequence[str]) -> Separator:
        """See Separator. Steps that no wanted stem needs are left out."""
        source_indices((*self.sources, *self.more), sources)
        needed = set(sources)
        kept, names, takes = list[Separator](), list[list[str]](), list[str]()
        for step in range(len(self.members) - 1, -1, -1):
            taken = self.takings[step - 1].stem if step else ""
            own, needed = needed_of(self.names[step], taken, needed)
            if own:
                at = [self.names[step].index(name) for name in own]
                member = self.members[step]
                kept.insert(0, member.select([member.sources[index] for index in at]))
                names.insert(0, own)
                takes.insert(0, taken)
        narrowed = Chain(kept, takes[1:], sources, names) if len(kept) > 1 else kept[0].select(sources)
        narrowed.whole = self.whole or self.sources
        if set(sources) >= set(self.sources):  # every step is still there, with all its stems
            narrowed.more = self.more
        return narrowed.eval()

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T], in one call of each step; all must have one rate and take this T."""
        first, *later = self.members
        found = dict(zip(self.names[0], first(mix, noise=noise).unbind(1), strict=True))
        for step, taking in zip(later, self.takings, strict=True):
            stem = found.pop(taking.stem)
            made = taking.instead(stem, step(stem, noise=noise).transpose(0, 1))
            found |= dict(zip(taking.given, made, strict=True))
        return torch.stack([found[name] for name in self.sources], dim=1)
