"""Two networks over one set of weights, as narrowing a separator to some stems needs them.

Knows modules, no family.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def sharing_copy(network: AnyModule) -> AnyModule:
    """A second module tree over the same weight memory.

    Its parameters are new objects, so that moving, converting or replacing them leaves the first tree as it
    is; until then both read the same memory.
    """
    tensors = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.detach(), tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach()
        for tensor in tensors
    }
    return copy.deepcopy(network, memo)
