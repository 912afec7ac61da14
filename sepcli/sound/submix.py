"""A submix: a sum of stems and of the mix, each with a gain. Knows names and numbers, no samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Submix:
    """What a file holds that is no stem: mix x [the input] + the sum of gain x [stem]."""

    name: str  # of the file
    mix: float = 0.0  # the gain of the input
    stems: Mapping[str, float] = field(default_factory=dict)  # the gain of each stem in it

    @classmethod
    def without(cls, name: str, stems: Iterable[str]) -> Submix:
        """The residual: the mix minus these stems."""
        return cls(name, 1.0, dict.fromkeys(stems, -1.0))

    @property
    def gains(self) -> tuple[float, dict[str, float]]:
        """All that its samples depend on: equal for two that differ in their names only."""
        return self.mix, dict(sorted(self.stems.items()))
