"""Where double precision is computed: not every device has it. Knows no network."""

from __future__ import annotations

import torch


def double_place(device: torch.device) -> torch.device:
    """The device itself; the CPU for those without double precision: Apple's GPUs, and some of Intel's."""
    return torch.device("cpu") if device.type in ("mps", "xpu") else device
