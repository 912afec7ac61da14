"""How much is computed at once, where parts know nothing of each other.

Layers work on tokens: on a CPU a few thousand at a time, whose activations stay in its cache; on a GPU as
many as its memory easily holds. The result is the same.
"""

from __future__ import annotations

import torch

TOKENS = 1024  # for each thread of a CPU
TOKENS_GPU = 65536


def at_once(length: int, device: torch.device) -> int:
    """How many sequences of `length` tokens, at least one. All of them where gradients are kept anyway."""
    if torch.is_grad_enabled():
        return 1 << 40
    tokens = TOKENS * torch.get_num_threads() if device.type == "cpu" else TOKENS_GPU
    return max(1, tokens // max(length, 1))
