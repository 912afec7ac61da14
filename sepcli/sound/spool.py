"""Samples on the disk between two passes over a track."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepcli.errors import from_os


class Spool:
    """Float32 samples on their way to a second pass: raw, interleaved, as many a frame as `width`."""

    def __init__(self, path: Path, width: int):
        self.path = path
        self.width = width
        self.frames = 0
        try:
            self._file = open(path, "w+b")  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise from_os(error, path) from error

    def write(self, block: NDArray[np.float32]) -> None:
        """Append a block [width, T]."""
        assert block.shape[0] == self.width and block.dtype == np.float32
        try:
            self._file.write(np.ascontiguousarray(block.T).data)
        except OSError as error:
            raise from_os(error, self.path) from error
        self.frames += block.shape[1]

    def blocks(self, frames: int = 65536) -> Iterator[NDArray[np.float32]]:
        """Read everything from the beginning, in blocks [width, T] of at most `frames`."""
        try:
            self._file.seek(0)  # writes what is still buffered, so this too can find the disk full
        except OSError as error:
            raise from_os(error, self.path) from error
        frame_bytes = self.width * 4
        while raw := self._file.read(frames * frame_bytes):
            yield np.frombuffer(raw, dtype=np.float32).reshape(-1, self.width).T

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):  # a full disk was reported when it mattered
            self._file.close()
        self.path.unlink(missing_ok=True)
