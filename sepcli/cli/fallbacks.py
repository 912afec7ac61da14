"""What happens where a GPU of Apple or Intel lacks an operation: the CPU computes it, and the user is told.

torch does this for `mps` and `xpu` where these variables say so when it is imported; whoever has set them
otherwise keeps that. Without them a separation would end at the first such operation. On `mps` torch names only
the first one of a process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

VARIABLES = ("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_ENABLE_XPU_FALLBACK", "PYTORCH_DEBUG_XPU_FALLBACK")
# What both warnings have in common: "The operator 'aten::x' ... on the MPS backend ... run on the CPU."
WARNING = r"The operator '(?P<operation>[\w:.]+).*on the (?P<device>MPS|XPU) backend .*run on the CPU"


def allow() -> None:
    """Before torch is imported."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")


def told(say: Callable[[str], None]) -> Callable[[str], None]:
    """What takes the texts of warnings, and says each operation once; other texts as they are."""
    known: set[str] = set()

    def take(text: str) -> None:
        found = re.match(WARNING, text)
        if found is not None:
            device, operation = found["device"].lower(), found["operation"]
            text = (
                f"The device {device} lacks the operation {operation}: the CPU computes it, which takes longer."
            )
            if text in known:
                return
            known.add(text)
        say(text)

    return take
