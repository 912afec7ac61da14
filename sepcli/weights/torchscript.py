"""TorchScript archives: the tensors of a network that was saved as a program. The program itself is never read.

    <name>/data.pkl     the network: an instance of a class __torch__.X, its attributes in its state
    <name>/data/<key>   the values of its tensors, as in any file of torch.save
    <name>/code/...     the program; <name>/constants.pkl: what it has besides

Knows no zip file: `checkpoint.py` reads data.pkl, with markers in the place of all classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sepcli.weights.unpickling import Inert, InertObject

PACKAGE = "__torch__"  # where the classes of such a pickle are
_DEEPEST = 100  # modules in modules
_MODULES = 1 << 16


def module_tensors(network: Any) -> dict[str, Tensor]:
    """Parameters and buffers by their names in a state dict. ValueError for an object that is no network."""
    found: dict[str, Tensor] = {}
    waiting = [("", network)]
    seen = 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if not _is_module(module) or not isinstance(module.state, dict):
            raise ValueError("a program without a network")
        if seen > _MODULES or prefix.count(".") > _DEEPEST:
            raise ValueError("a network that holds itself, or is too deep")
        for name, value in module.state.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif _is_module(value):
                waiting.append((f"{prefix}{name}.", value))
    return found


def _is_module(value: Any) -> bool:
    kind = type(value)
    return isinstance(value, InertObject) and isinstance(kind, Inert) and kind.dotted.startswith(f"{PACKAGE}.")
