"""Facts that take long to find, kept for the next run: a small JSON file for each.

A fact stands beside all that it depends on; where that has changed, the fact counts as unknown. A file that
can't be read or written costs only the time to find the fact again.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from sepcli.system.files import atomic_write


def recall(file: Path, depends: Any) -> Any:
    """The fact that `file` keeps, or None where there is none or it was found under other circumstances.

    depends: all that the fact depends on, as JSON can hold it. The fact comes from a file that others may have
    written: whoever takes it checks its shape.
    """
    try:
        kept = json.loads(file.read_bytes())
        return kept["fact"] if kept["depends"] == depends else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(file: Path, depends: Any, fact: Any) -> None:
    """Keep `fact` for later runs. fact, depends: as JSON can hold them (a tuple comes back as a list)."""
    with contextlib.suppress(OSError), atomic_write(file, shared=True) as unfinished:
        unfinished.write_text(json.dumps({"depends": depends, "fact": fact}), encoding="utf-8")
