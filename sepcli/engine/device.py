"""Where and in which precision to compute, and how to set up the process for it.

Knows nothing of models: it is told whether one may run in reduced precision. Every choice comes with its
reason, because users ask why the GPU was not used.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from sepcli.errors import DeviceError, UsageError, parameter

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Device:
    """Where to compute, and why there."""

    torch: torch.device
    reason: str  # a clause: "asked for"

    def __str__(self) -> str:
        if self.torch.type == "cuda":
            return f"{self.torch} ({torch.cuda.get_device_name(self.torch)})"
        return str(self.torch)


@dataclass(frozen=True)
class Precision:
    """What to compute in, and why in that."""

    name: str  # "float32", "bfloat16" or "float16"
    reason: str  # a clause, as a Device's

    @property
    def dtype(self) -> torch.dtype:
        """The same as torch names it."""
        return PRECISIONS[self.name]


def choose_device(request: str = "auto") -> Device:
    """auto | cpu | cuda[:i] | mps -> a device that this machine has.

    UsageError for another word. DeviceError where the named device is absent: never silently another one.
    """
    if request == "auto":
        if torch.cuda.is_available():
            return Device(torch.device("cuda", torch.cuda.current_device()), "a CUDA device is available")
        if _mps_available():
            return Device(torch.device("mps"), "Apple's GPU is available")
        return Device(torch.device("cpu"), _why_no_gpu())
    kind, _, index = request.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(
            f"'{request}' is not a device; the choices are auto, cpu, cuda, cuda:0 and mps.",
            remedy="Run `sepcli doctor` to see what this machine has.",
        )
    if kind == "cpu":
        return Device(torch.device("cpu"), "asked for")
    if kind == "mps":
        if not _mps_available():
            raise DeviceError(
                "The device 'mps' is not available: it needs an Apple GPU and macOS.",
                remedy=f"Use {parameter('device', 'cpu')}, or leave {parameter('device')} out.",
            )
        return Device(torch.device("mps"), "asked for")
    return Device(_cuda_device(request, int(index) if index else None), "asked for")


def _cuda_device(request: str, index: int | None) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(
            f"The device '{request}' is not available: {_why_no_gpu()}.",
            remedy=f"Use {parameter('device', 'cpu')}, or see `sepcli doctor`.",
        )
    if index is None:
        index = torch.cuda.current_device()
    if index >= count:
        there = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(
            f"The device '{request}' is not available: this machine has {there}.",
            remedy=f"Choose one of these, or leave {parameter('device')} out.",
        )
    return torch.device("cuda", index)


def _mps_available() -> bool:
    return torch.backends.mps.is_available()


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built without CUDA"
    return "torch finds no CUDA device or driver"


def choose_precision(request: str, device: torch.device, half: bool) -> Precision:
    """auto | float32 | bfloat16 | float16 -> what to compute in.

    half: whether the model may run in reduced precision. auto leaves float32 only for such a model, and only
    where the hardware has the type natively: float16 on CUDA tensor cores, bfloat16 on a CPU with avx512_bf16,
    amx or Arm's bf16.
    """
    if request in PRECISIONS:
        return Precision(request, "asked for")
    if request != "auto":
        raise UsageError(
            f"'{request}' is not a precision; the choices are auto, {', '.join(PRECISIONS)}.",
            remedy=f"Leave {parameter('precision')} out for the model's own best.",
        )
    if not half:
        return Precision("float32", "the model declares no reduced precision")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (7, 0):
            return Precision("float16", "the device has tensor cores")
        return Precision("float32", "the device has no tensor cores")
    if device.type == "cpu":
        if cpu_has_bfloat16():
            return Precision("bfloat16", "the processor has it natively")
        return Precision("float32", "the processor has no native bfloat16")
    return Precision("float32", f"reduced precision is not measured on {device.type}")


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (not only converts it)."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False  # not Linux: not known, so not assumed
    return bool(words & {"avx512_bf16", "amx_bf16"}) or (platform.machine() == "aarch64" and "bf16" in words)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bfloat16()


def free_bytes(device: torch.device) -> int | None:
    """Device memory in bytes that is still free, including what torch has cached; None where unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out (CUDA, MPS or the CPU's allocator)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def told_of_memory(remedy: str) -> Iterator[None]:
    """Turns running out of memory within the block into a DeviceError `out_of_memory` with that remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError("Memory ran out.", code="out_of_memory", remedy=remedy) from error


def tune_process() -> None:
    """Set the process up for inference; call once, before the first large tensor.

    glibc hands every block over 32 MiB back to the kernel when it is freed, so each large activation pays for
    its pages again: with the thresholds raised, freed memory is kept and reused. Denormals (a fade-out's tail)
    slow a CPU down a hundredfold and are inaudible.
    """
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
    # An older glibc refuses a threshold above 32 MiB (returns 0); no mapped blocks at all does the same.
    if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
        libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
    # One arena: what a thread for decoding or writing frees is there for the next layer too.
    libc.mallopt(M_ARENA_MAX, 1)
