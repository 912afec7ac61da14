"""A file is there whole or not at all: it is written beside its name, and then takes it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A hidden path beside `path`, of the same suffix; what was written there becomes `path`.

    After an exception it is gone, and `path` is as it was. Missing folders are made. shared: several processes
    may write this file at once. A kill -9 leaves what was begun; not shared, it is overwritten the next time.
    OSError is for the caller, who knows what the file is for.
    """
    mark = f"{os.getpid()}-{secrets.token_hex(4)}" if shared else "new"
    beside = path.with_name(f".{path.stem}.{mark}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
