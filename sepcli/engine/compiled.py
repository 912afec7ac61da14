"""A network's calls of one shape, compiled by torch: `--compile on`.

Knows Separators and tensors, no model's name. Most calls of a track are alike: whole segments, as many as a
batch takes. Those are compiled, for a CPU into C++, for a CUDA device into kernels that are replayed as a CUDA
graph; every other call (a track's short end, a last half-filled batch) runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sepcli.engine.separator import Separator
from sepcli.errors import DeviceError, UsageError, first_line, parameter


class Compiled:
    """A prepared network for calls of `samples`; the first one of a shape takes as long as compiling does."""

    def __init__(self, model: Separator, samples: int, device: torch.device):
        """UsageError for a network that draws noise: what it draws depends on where a call is in the track."""
        if model.draws_noise:
            raise UsageError(
                "This model draws noise as it goes, and can't be compiled.",
                remedy=f"Leave {parameter('compile')} out.",
                code="not_compiled",
            )
        self.samples = samples
        self._graphs = device.type == "cuda"  # whose results lie where those of the next call will
        mode = "reduce-overhead" if self._graphs else "default"
        self._call = torch.compile(model, dynamic=False, mode=mode)

    def __call__(self, windows: Tensor) -> Tensor:
        """[B, C, T = samples] on the device -> [B, S, C, T]. DeviceError where it can't be compiled."""
        with _told():
            if not self._graphs:
                return self._call(windows)
            torch.compiler.cudagraph_mark_step_begin()
            return self._call(windows).clone()


@contextmanager
def _told() -> Iterator[None]:
    """Turns what stops torch's compiler (most often that there is no C++ compiler) into a DeviceError."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise DeviceError(
            f"The network can't be compiled here: {first_line(error)}.",
            remedy=f"Install a C++ compiler (g++ on Linux), or leave {parameter('compile')} out.",
            code="not_compiled",
        ) from error
