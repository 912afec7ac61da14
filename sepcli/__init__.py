"""Music source separation: `load`, `separate`, `separate_file`, `list_models`.

Names are resolved on first use, so `import sepcli` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
