"""The models there are: weights.toml and its like, and which of them are read.

No torch, no numpy, no request. A later catalogue replaces a whole entry of the same name, never parts of one:

    bundled weights.toml  <  catalog.toml in the user's configuration folder  <  $SEPCLI_CATALOG  <  --catalog
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sepcli.errors import ModelError, UsageError
from sepcli.weights.entries import Catalog, Entry
from sepcli.weights.entryfile import read_entries

DEFAULT_MODEL = "mini"  # where no model is named: inside the package, so that nothing is downloaded
STUDIO_MODEL = "htdemucs"  # what is recommended instead


def bundled_catalog() -> Path:
    """weights.toml: inside the package in a wheel, in the repository's root in an editable install."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "weights.toml"
    return inside if inside.is_file() else package.parent / "weights.toml"


def user_catalog() -> Path:
    """catalog.toml in the user's configuration folder, by the platform's convention."""
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or str(Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "sepcli" / "catalog.toml"


def load_catalog(extra: Sequence[Path] = ()) -> Catalog:
    """Every model there is; `extra` are the --catalog files, the last one wins.

    UsageError for a named catalogue that does not exist, ModelError for one that is not right.
    """
    paths = [bundled_catalog()]
    if user_catalog().is_file():
        paths.append(user_catalog())
    for name in filter(None, os.environ.get("SEPCLI_CATALOG", "").split(os.pathsep)):
        if not Path(name).is_file():
            raise UsageError(
                f"SEPCLI_CATALOG names '{name}', which is not a file.",
                remedy="Correct or unset the variable.",
                code="no_catalog",
            )
        paths.append(Path(name))
    for path in map(Path, extra):
        if not path.is_file():
            raise UsageError(
                f"The catalogue '{path}' is not a file.",
                remedy="Give --catalog the path of a TOML file (docs/models.md has its format).",
                code="no_catalog",
            )
        paths.append(path)
    entries: dict[str, Entry] = {}
    for path in paths:
        entries.update(read_catalog(path))
    return Catalog(entries.values())


def list_models(catalogs: Sequence[Path] = ()) -> list[Entry]:
    """Every model of the catalogue, ready for `load(entry.name)`. `catalogs` as in load_catalog."""
    return list(load_catalog(catalogs).values())


def read_catalog(path: Path) -> dict[str, Entry]:
    """The entries of one file; ModelError names the file, the table and the key that is wrong."""
    path = Path(path).resolve()
    try:
        status = path.stat()
        return read_entries(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ModelError(f"The catalogue '{path}' can't be read: {error.strerror}.", code="catalog") from error
