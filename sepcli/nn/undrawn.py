"""Networks that are made to be filled: their first weights are not drawn. Knows torch and nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = {
    Tensor.uniform_,
    Tensor.normal_,
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
}


class Undrawn(TorchFunctionMode):
    """Inside, a tensor that would be filled with random numbers is left as it is.

    A network's parameters then take neither time nor memory before they are loaded. What they hold is
    undefined: every one of them must be.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:  # not weights: a network that draws by a seed needs just these
            return func(*args, **kwargs)
        if func in (torch.rand, torch.randn):
            return torch.empty(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
