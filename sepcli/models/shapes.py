"""Names and shapes of a file's tensors, for the families' `detect`: small questions about them.

Knows no family. A question that does not suit a file ends in a LookupError or ValueError: it is another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

PUBLISHED_STEMS = {  # by their number, where several publications agree on names and order
    4: ("drums", "bass", "other", "vocals"),
    6: ("drums", "bass", "other", "vocals", "guitar", "piano"),
}


class Shapes(Mapping[str, tuple[int, ...]]):
    """{tensor's name: its shape}, of the names below a prefix, without it."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = ""):
        self._shapes = {
            name.removeprefix(prefix): tuple(tensor.shape)
            for name, tensor in state.items()
            if name.startswith(prefix)
        }

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def has(self, prefix: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefix) for name in self._shapes)

    def count(self, prefix: str, first: int = 0) -> int:
        """How many parts are numbered behind the prefix: 2 where names begin with `prefix`0. and `prefix`1.

        first: the first number, where it is not 0.
        """
        number = first
        while self.has(f"{prefix}{number}."):
            number += 1
        return number - first

    def first(self, prefixes: Iterable[str]) -> int:
        """Which of the prefixes is the first that a name begins with; how many there are where none is."""
        number = 0
        for prefix in prefixes:
            if self.has(prefix):
                break
            number += 1
        return number


def whole(value: float) -> int:
    """A quotient that must be a whole number; ValueError where it is not."""
    if value != int(value):
        raise ValueError(f"{value} is not whole")
    return int(value)


def numbered(count: int) -> tuple[str, ...]:
    """Names for stems of which only the number is known: "stem1", "stem2", ..."""
    return tuple(f"stem{number}" for number in range(1, count + 1))
