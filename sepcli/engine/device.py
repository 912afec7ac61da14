"""Where and in which precision to compute, and how to set up the process for it.

Knows nothing of models: it is told whether one may run in reduced precision. Every choice comes with its
reason, because users ask why the GPU was not used. torch is imported where it is needed only, for it takes
seconds: a dry run asks for the device too (batch/hardware.py).
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.errors import DeviceError, UsageError, parameter

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16", "float16")  # as torch calls them
_NO_CUDA, _NO_DRIVER = "this torch is built without CUDA", "torch finds no CUDA device or driver"


@dataclass(frozen=True)
class Device:
    """Where to compute, and why there."""

    name: str  # as torch writes it: "cpu", "cuda:0", "mps" or "xpu:0"
    reason: str  # a clause: "asked for"
    hardware: str = ""  # what its maker calls it; of a CUDA or XPU device
    capability: tuple[int, int] = (0, 0)  # of a CUDA device: major, minor

    @property
    def type(self) -> str:
        """ "cpu", "cuda", "mps" or "xpu"."""
        return self.name.partition(":")[0]

    @property
    def torch(self) -> torch.device:
        """The same for torch."""
        import torch

        return torch.device(self.name)

    def __str__(self) -> str:
        return f"{self.name} ({self.hardware})" if self.hardware else self.name


@dataclass(frozen=True)
class Precision:
    """What to compute in, and why in that."""

    name: str  # "float32", "bfloat16" or "float16"
    reason: str  # a clause, as a Device's

    @property
    def dtype(self) -> torch.dtype:
        """The same for torch."""
        return dtype_of(self.name)


def dtype_of(name: str) -> torch.dtype:
    """One of PRECISIONS -> torch's type."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def choose_device(request: str = "auto") -> Device:
    """auto | cpu | cuda[:i] | mps | xpu[:i] -> a device that this machine has.

    mps: Apple's GPU; xpu: an Intel GPU. auto takes the first that there is of cuda, mps, xpu and cpu.
    UsageError for another word. DeviceError where the named device is absent: never silently another one.
    """
    if request == "auto":
        import torch

        if torch.cuda.is_available():
            return _cuda(torch.cuda.current_device(), "a CUDA device is available")
        if _mps_available():
            return Device("mps", "Apple's GPU is available")
        if torch.xpu.is_available():
            return _xpu(torch.xpu.current_device(), "an Intel GPU is available")
        return Device("cpu", _why_no_gpu())
    kind, _, index = request.partition(":")
    if kind not in ("cpu", "cuda", "mps", "xpu") or (
        index and not (kind in ("cuda", "xpu") and index.isdecimal())
    ):
        raise UsageError(
            f"'{request}' is not a device; the choices are auto, cpu, cuda, cuda:0, mps, xpu and xpu:0.",
            remedy="Run `sepcli doctor` to see what this machine has.",
        )
    if kind == "cpu":
        return Device("cpu", "asked for")
    if kind == "mps":
        if not _mps_available():
            raise DeviceError(
                "The device 'mps' is not available: it needs an Apple GPU and macOS.",
                remedy=f"Use {parameter('device', 'cpu')}, or leave {parameter('device')} out.",
            )
        return Device("mps", "asked for")
    made = _cuda if kind == "cuda" else _xpu
    return made(_index(kind, request, int(index) if index else None), "asked for")


def certainly_no_gpu() -> Device | None:
    """The CPU, where it is certain without torch that `auto` means it; None where only torch can tell.

    A torch without CUDA can't use a GPU, nor can one on a machine without NVIDIA's driver.
    """
    if sys.platform not in ("linux", "win32"):
        return None
    built_for = _torch_built_for()
    if built_for is None or built_for["hip"] or built_for["xpu"]:
        return None
    if not built_for["cuda"]:
        return Device("cpu", _NO_CUDA)
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Device("cpu", _NO_DRIVER)
    return None


def torch_version_file() -> Path | None:
    """The file in which torch says what it is built for; found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name("version.py")
    return file if file.is_file() else None


def _torch_built_for() -> dict[str, bool] | None:
    """Whether torch is built for "cuda", "hip" (AMD), "xpu" (Intel); None where its version does not say."""
    file = torch_version_file()
    text = "" if file is None else file.read_text(encoding="utf-8", errors="replace")
    said = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*= *(\S+)", text, re.MULTILINE))
    if not {"cuda", "hip"} <= said.keys():
        return None
    return {name: said.get(name, "None") != "None" for name in ("cuda", "hip", "xpu")}


def _cuda(index: int, reason: str) -> Device:
    import torch

    hardware, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    return Device(f"cuda:{index}", reason, hardware, capability)


def _xpu(index: int, reason: str) -> Device:
    import torch

    return Device(f"xpu:{index}", reason, torch.xpu.get_device_name(index))


def _index(kind: str, request: str, index: int | None) -> int:
    """The number of a device of this kind, "cuda" or "xpu", which is there."""
    import torch

    backend = torch.cuda if kind == "cuda" else torch.xpu
    count = backend.device_count() if backend.is_available() else 0
    if count == 0:
        why = _why_no_gpu() if kind == "cuda" else "torch finds no Intel GPU, or is not built for one"
        raise DeviceError(
            f"The device '{request}' is not available: {why}.",
            remedy=f"Use {parameter('device', 'cpu')}, or see `sepcli doctor`.",
        )
    if index is None:
        index = backend.current_device()
    if index >= count:
        there = ", ".join(f"{kind}:{i}" for i in range(count))
        raise DeviceError(
            f"The device '{request}' is not available: this machine has {there}.",
            remedy=f"Choose one of these, or leave {parameter('device')} out.",
        )
    return index


def _mps_available() -> bool:
    import torch

    return torch.backends.mps.is_available()


def _why_no_gpu() -> str:
    import torch

    return _NO_CUDA if torch.version.cuda is None and torch.version.hip is None else _NO_DRIVER


def choose_precision(request: str, device: Device, half: bool) -> Precision:
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
        if device.capability >= (7, 0):
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
        import torch

        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_has_bfloat16()


def free_bytes(device: torch.device) -> int | None:
    """Device memory in bytes that is still free, including what torch has cached; None where unknown."""
    if device.type != "cuda":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out (CUDA, MPS or the CPU's allocator)."""
    import torch

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


@contextmanager
def _all_stays() -> Iterator[None]:
    """What is made in here stays: it goes to the old objects without being looked through for circles.

    An import of torch makes some 300,000 objects, and a tenth of its time goes into looking.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what somebody else has frozen stays so
            gc.freeze()
            gc.unfreeze()
        if enabled:
            gc.enable()


def tune_process(threads: int | None = None) -> None:
    """Set the process up for inference; call once, before the first large tensor.

    threads: of each computation on the CPU; None: as torch has them, one for each core. Another number gives
    other roundings.

    glibc hands every block over 32 MiB back to the kernel when it is freed, so each large activation pays for
    its pages again: with the thresholds raised, freed memory is kept and reused. Denormals (a fade-out's tail)
    slow a CPU down a hundredfold and are inaudible.
    """
    with _all_stays():
        import torch

    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
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
