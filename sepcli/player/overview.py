"""One page over the pages of many tracks below a folder, with a search. Knows pages, and nothing of sound."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sepcli.player import INDEX
from sepcli.player.page import VERSION, Shown, filled, plain_text, read_made, shown
from sepcli.system.files import atomic_output

_KIND = "overview"


def pages_below(folder: Path) -> Iterator[tuple[Path, Shown]]:
    """The folders below `folder` that have a track's page, sorted, each with what the page shows."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if INDEX in files and Path(path) != folder and (found := shown(Path(path))) is not None:
            yield Path(path), found
        folders[:] = [name for name in folders if not name.startswith(".")]


def is_overview(folder: Path) -> bool:
    """Whether the folder's page is an overview that we made."""
    found = read_made(folder / INDEX)
    return found is not None and found.get("kind") == _KIND


def write_overview(folder: Path) -> Path | None:
    """Write the overview of the pages below a folder, as its index.html, in the place of an older one.

    None where there is nothing to show, or where the folder has another index.html. OutputError where it can't
    be written.
    """
    target = folder / INDEX
    if os.path.lexists(target) and not is_overview(folder):
        return None
    tracks = [_row(folder, path, page) for path, page in pages_below(folder)]
    if not tracks:
        return None
    title = plain_text(folder.resolve().name or str(folder))
    page = filled(
        "overview",
        title=title,
        made=json.dumps({"version": VERSION, "kind": _KIND}),
        data={"title": title, "tracks": tracks},
    )
    with atomic_output(target, shared=True) as unfinished:
        unfinished.write_text("".join(page), encoding="utf-8", newline="\n")
    return target


def _row(folder: Path, path: Path, page: Shown) -> dict[str, Any]:
    below = path.relative_to(folder)
    up = "../" * len(below.parts)  # the way back, which the track's page shows
    address = "/".join(quote(os.fsencode(part)) for part in (*below.parts, INDEX))
    return {
        "title": page.title,
        "model": page.model,
        "seconds": page.seconds,
        "stems": [name for name, _, _ in page.stems],
        "folder": plain_text(below.parent.as_posix()) if len(below.parts) > 1 else "",
        "page": f"{address}#{up}",
    }
