"""The models there are: weights.toml and other catalogues, and in which order they are read.

No torch, no numpy, no request. A later catalogue replaces a whole entry of the same name, never parts of one:

    weights.toml of sepcli
    those of installed packages: entry points of the group "sepcli.catalogs", by name
    catalog.toml in the user's configuration folder
    $SEPCLI_CATALOG, several separated as in $PATH
    --catalog
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sepcli.errors import ModelError, SepcliError, SepcliWarning, UsageError, first_line, from_os, parameter
from sepcli.system.files import home_folder
from sepcli.system.plugins import offered
from sepcli.weights.cache import own_file
from sepcli.weights.entries import Catalog, Entry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

DEFAULT_MODEL = "duo"  # where no model is named: it is inside the package, so that nothing is downloaded
STUDIO_MODEL = "htdemucs"  # the better one, which is recommended instead
ENTRY_POINTS = "sepcli.catalogs"  # the group by which installed packages bring catalogues


def bundled_catalog() -> Path:
    """weights.toml: inside the package in a wheel, in the repository's root in an editable install."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "weights.toml"
    return inside if inside.is_file() else package.parent / "weights.toml"


def user_catalog() -> Path | None:
    """catalog.toml in the user's configuration folder, by the platform's convention; None without a home."""
    home = home_folder()
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or (home and home / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = home and home / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or (home and home / ".config")
    return Path(base) / "sepcli" / "catalog.toml" if base else None


def load_catalog(catalogs: Sequence[Path] = ()) -> Catalog:
    """Every model there is. catalogs: more files, read after all others; the last one wins.

    UsageError for a named catalogue that does not exist, ModelError for one that is wrong. One of an installed
    package that is wrong is left out with a SepcliWarning: its user did not write it.
    """
    files = [_bundled()]
    files.append(_installed(files[0]))
    user = user_catalog()
    paths = [user] if user is not None and user.is_file() else []
    for name in filter(None, os.environ.get("SEPCLI_CATALOG", "").split(os.pathsep)):
        if not Path(name).is_file():
            raise UsageError(
                f"SEPCLI_CATALOG names '{name}', which is not a file.",
                remedy="Correct or unset the variable.",
                code="no_catalog",
            )
        paths.append(Path(name))
    for path in map(Path, catalogs):
        if not path.is_file():
            raise UsageError(
                f"The catalogue '{path}' is not a file.",
                remedy=f"Give {parameter('catalogs')} the path of a TOML file (docs/models.md has its format).",
                code="no_catalog",
            )
        paths.append(path)
    for path in paths:
        files.append(read_catalog(path, Catalog(*files)))
    return Catalog(*files)


def list_models(catalogs: Sequence[Path] = ()) -> list[Entry]:
    """Every model of the catalogue, ready for `load(entry.name)`. catalogs: as in `load_catalog`."""
    return list(load_catalog(catalogs).values())


def read_catalog(path: Path, above: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
    """The entries of one file by name; ModelError names the file, the table and the key that is wrong.

    above: the models of the catalogues before it, which its own may be made of.
    """
    from sepcli.weights.entryfile import read_entries  # not for `--help`

    path = Path(path).resolve()
    try:
        status = path.stat()
        return read_entries(path, status.st_mtime_ns, status.st_size, above or {})
    except OSError as error:
        raise from_os(error, path, reading=ModelError) from error


def _bundled() -> Mapping[str, Entry]:
    """The entries of sepcli's own catalogue. It is long: once read, they are made as they are asked for."""
    from sepcli.weights.entryfile import remembered_entries

    path = bundled_catalog()
    try:
        memory = own_file("weights.toml.json")
    except ModelError:  # there is no cache folder
        return read_catalog(path)
    try:
        status = path.stat()
        return remembered_entries(path, status.st_mtime_ns, status.st_size, memory)
    except OSError:
        return read_catalog(path)  # which says why it can't be read


# --- catalogues of installed packages ---


def _installed(above: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries of all catalogues that installed packages bring; a broken catalogue is left out."""
    entries: dict[str, Entry] = {}
    for point in sorted(offered(ENTRY_POINTS), key=lambda point: point.name):
        try:
            entries |= read_catalog(_file_of(point), above)
        except Exception as error:  # noqa: BLE001  (other people's package: its faults are not the user's)
            reason = error.message if isinstance(error, SepcliError) else f"{first_line(error)}."
            package = point.dist.name if point.dist is not None else point.value
            warnings.warn(
                f"The catalogue '{point.name}' of the package '{package}' is left out: {reason} "
                "Update the package, or remove it.",
                SepcliWarning,
                stacklevel=1,
            )
    return entries


def _file_of(point: EntryPoint) -> Path:
    """The TOML file that an entry point names as PACKAGE:FILE.toml, without running the package's code."""
    from importlib.util import find_spec

    package, _, file = point.value.partition(":")
    spec = find_spec(package.strip())
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders or not file.strip():
        raise ModelError(
            f"'{point.value}' does not name a package and a file in it, as package:file.toml does."
        )
    return Path(folders[0]) / file.strip()
