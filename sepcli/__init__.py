"""Music source separation: `load`, `separate`, `separate_file`, `list_models`.

Names are resolved on first use, so `import sepcli` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepcli.api import load, separate, separate_file
    from sepcli.engine.separator import Separator
    from sepcli.errors import SepcliError
    from sepcli.weights.catalog import list_models

__version__ = "0.1.0"

_HOMES = {
    "SepcliError": "sepcli.errors",
    "Separator": "sepcli.engine.separator",
    "load": "sepcli.api",
    "separate": "sepcli.api",
    "separate_file": "sepcli.api",
    "list_models": "sepcli.weights.catalog",
}
__all__ = ["Separator", "SepcliError", "list_models", "load", "separate", "separate_file"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sepcli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
