"""How fast this machine multiplies matrices, and how long a separation takes from that: an estimate.

The measurement takes less than a second and is kept; torch is loaded for it only.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

from sepcli.system.remembered import recall, remember

OVERLAP = 0.25  # of segments: what every model runs with
# The share of the speed of large matrix products that networks reach: 0.57 was measured with a BS-RoFormer on a
# CPU, 0.37 with htdemucs, 0.29 with mini (docs/log.md).
REACHED = 0.5
_SIZE = 1024  # rows and columns of the matrices
_ENOUGH = 0.4  # seconds of measuring; the fastest product counts, since others may use the machine


def seconds_for(cost: float, seconds: float, speed: float) -> float:
    """The expected time of a separation, in seconds.

    cost: GFLOP for a second of audio, without overlap. seconds: of audio. speed: GFLOP/s of `matrix_speed`.
    """
    return cost * seconds / (1 - OVERLAP) / (speed * REACHED)


def _machine() -> list[str]:
    """What the measurement depends on, as far as it is known without torch."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return [platform.node(), platform.machine(), str(os.cpu_count()), version, visible, threads]


def matrix_speed(memory: Path) -> tuple[float, str]:
    """GFLOP/s of a float32 matrix product on the device that `auto` means here, and the device's name.

    memory: the small file that keeps the result.
    """
    match recall(memory, _machine()):
        case {"gflops": float(speed), "device": str(device)}:
            return speed, device
    speed, device = _measured()
    remember(memory, _machine(), {"gflops": speed, "device": device})
    return speed, device


def _measured() -> tuple[float, str]:
    import torch

    from sepcli.engine.device import choose_device

    device = choose_device("auto").torch
    one = torch.rand(_SIZE, _SIZE, device=device)
    best, begun = float("inf"), time.perf_counter()
    with torch.inference_mode():
        while best == float("inf") or time.perf_counter() - begun < _ENOUGH:
            start = time.perf_counter()
            (one @ one)[0, 0].item()  # waits for the device
            best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best / 1e9, device.type
