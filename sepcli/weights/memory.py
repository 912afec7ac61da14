"""Tensors over a file that is mapped into memory, or over bytes that were read, without a copy."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def mapped(path: Path) -> mmap.mmap:
    """The file mapped into memory, copy-on-write: pages are read when they are used, writes stay in memory."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def flat(buffer: Any, offset: int, elements: int, dtype: torch.dtype) -> Tensor:
    """[elements] of `dtype` in `buffer` from byte `offset`, without a copy where the address is aligned.

    ValueError if the buffer ends before.
    """
    size = elements * dtype.itemsize
    if elements < 0 or offset < 0 or offset + size > len(buffer):
        raise ValueError(f"a tensor of {size} bytes does not fit in the file")
    if elements == 0:
        return torch.empty(0, dtype=dtype)
    raw = torch.frombuffer(buffer, dtype=torch.uint8, count=size, offset=offset)
    return (raw if raw.data_ptr() % dtype.itemsize == 0 else raw.clone()).view(dtype)
