"""The file that libsndfile or FFmpeg writes into, as an object with Python's file methods.

Knows bytes only. Names of any bytes work, and why the system refused a write is known: the libraries would say
"system error" or nothing.
"""

from __future__ import annotations

import os
from pathlib import Path


class Sink:
    """A file for writing that remembers why a write failed, in `error`.

    Nothing may be raised in the methods that a library calls: soundfile's callbacks would print it and go on,
    Ctrl-C included.
    """

    def __init__(self, path: Path, prefix: bytes = b""):
        """prefix: bytes at the beginning of the file, which the library does not see. OSError."""
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self.error: BaseException | None = None
        self._begin = self.write(prefix)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Write as much as possible; the number of bytes. What went wrong stands in `error`."""
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # noqa: BLE001
            self.error = error
        return len(data) - len(rest)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's `seek`, counted from the end of the prefix; -1 when closed."""
        if self._file.closed:
            return -1
        if whence == os.SEEK_SET:
            offset += self._begin
        return self._file.seek(offset, whence) - self._begin

    def tell(self) -> int:
        """As a file's `tell`, counted from the end of the prefix; -1 when closed."""
        return -1 if self._file.closed else self._file.tell() - self._begin

    def truncate(self) -> None:
        """End the file here; raises nothing, as `write`."""
        try:
            self._file.truncate()
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
