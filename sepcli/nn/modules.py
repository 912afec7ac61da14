"""A list of modules that type checkers see through. Knows torch and nothing of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

Item = TypeVar("Item", bound=nn.Module)


class ModuleListOf(nn.ModuleList, Generic[Item]):
    """An nn.ModuleList whose modules are all of one class; at run time nothing more than that.

    torch types what comes out of a list as any Module, so that its methods and attributes are unknown.
    """

    if TYPE_CHECKING:

        def __init__(self, modules: Iterable[Item] = ()) -> None: ...

        @overload
        def __getitem__(self, idx: slice) -> ModuleListOf[Item]: ...

        @overload
        def __getitem__(self, idx: int) -> Item: ...

        def __getitem__(self, idx: int | slice) -> Item | ModuleListOf[Item]: ...

        def __iter__(self) -> Iterator[Item]: ...
