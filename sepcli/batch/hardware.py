"""The device of a dry run, found without importing torch, which takes seconds.

It is certain without torch that there is no GPU; or an earlier run has left what torch found, in the cache
folder, with all that its answer depends on; or torch is asked after all. So a dry run compares with the device
and the precision of a real run.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sepcli.engine.device import Device, certainly_no_gpu, choose_device, torch_version_file
from sepcli.errors import ModelError
from sepcli.system import remembered
from sepcli.weights.cache import own_file

# Variables that hide GPUs from a process, or number them in another way.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
)
_DRIVER = Path("/proc/driver/nvidia")


def found_device(request: str) -> Device:
    """`choose_device`, without torch where that is possible. The same errors."""
    if request == "cpu" or "torch" in sys.modules:
        return choose_device(request)
    known = certainly_no_gpu() if request == "auto" else None
    return known or _remembered(request) or remember(request, choose_device(request))


def remember(request: str, device: Device) -> Device:
    """Leave the device that torch found for this request to later dry runs; returns it."""
    if request == "cpu" or device == certainly_no_gpu() or device == _remembered(request):
        return device
    with contextlib.suppress(ModelError):  # there is no cache folder
        remembered.remember(_file(), _machine(), {**_all_remembered(), request: asdict(device)})
    return device


def _remembered(request: str) -> Device | None:
    try:
        fields: Any = _all_remembered()[request]
        return Device(**{**fields, "capability": tuple(fields["capability"])})
    except (KeyError, TypeError):
        return None


def _all_remembered() -> Mapping[str, Any]:
    """What was found on this very machine, by request."""
    try:
        found = remembered.recall(_file(), _machine())
    except ModelError:  # there is no cache folder
        return {}
    return found if isinstance(found, dict) else {}


def _file() -> Path:
    return own_file("device.json")


def _machine() -> dict[str, Any]:
    """All that torch's answer depends on: its build, the machine, the driver, and which GPUs it may see."""
    version = torch_version_file()
    build = None if version is None else [str(version), version.stat().st_mtime_ns, _text(version)]
    gpus = sorted(_DRIVER.glob("gpus/*/information"))
    nodes = [str(node) for kind in ("nvidia*", "dri/render*") for node in sorted(Path("/dev").glob(kind))]
    return {
        "torch": build,
        "system": list(platform.uname()),
        "driver": [_text(file) for file in (_DRIVER / "version", *gpus)],
        "nodes": [*nodes, os.path.exists("/dev/kfd")],
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
    }


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
