"""Files that appear whole or not at all, and the hash of what a file holds. Knows no format.

with atomic_write(path) as unfinished:       # a hidden path beside `path`
    unfinished.write_bytes(...)              # after the block it has the name `path`
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepcli.errors import from_os

# What filelock raises where a file system has no locks. Its Timeout is an OSError too: catch that one first.
NO_LOCKS = (NotImplementedError, OSError)


@contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a hidden path beside `path`, with the same suffix; after the block, the file there becomes `path`.

    After an exception the hidden file is removed, and `path` is as it was. Missing folders are made.
    shared: several processes may write this file at once. A process that is killed leaves its hidden file;
    unless shared, the next write replaces it. OSError is for the caller, who knows what the file is for.
    """
    mark = f"{os.getpid()}-{os.urandom(4).hex()}" if shared else "new"
    unfinished = path.with_name(f".{path.stem}.{mark}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_output(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """`atomic_write` for a file that the user asked for: OutputError where it can't be written."""
    try:
        with atomic_write(path, shared=shared) as unfinished:
            yield unfinished
    except OSError as error:
        raise from_os(error, path) from error


def content_sha256(path: Path) -> str:
    """The SHA-256 of the file's bytes, 64 hex digits; OSError where it can't be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home_folder() -> Path | None:
    """The user's home folder; None where the system knows none, as for a service or in a container."""
    path = os.path.expanduser("~")
    return None if path.startswith("~") else Path(path)
