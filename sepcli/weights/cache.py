"""Where the files of weights stand on this machine: the path of a file, also before it is downloaded.

Makes no request and reads no file's content.

    hub      the standard Hugging Face cache and its variables (HF_HOME, HF_HUB_CACHE)
    url      $HF_HOME/sepcli/urls/<hash of the URL>/<file name>
    package  a file inside the sepcli package itself
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from sepcli.errors import ModelError
from sepcli.system.files import home_folder
from sepcli.weights.entries import WeightFile


def hub_home() -> Path:
    """The Hugging Face folder, with the hub's cache and our own; ModelError without a home folder."""
    default = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return _expanded(os.environ.get("HF_HOME") or default)


def hub_cache() -> Path:
    """The folder in which the hub's repositories are cached; ModelError as from `hub_home`."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hub_home() / "hub"


def _expanded(name: str) -> Path:
    path = os.path.expanduser(os.path.expandvars(name))
    if path.startswith("~") and home_folder() is None:
        raise ModelError(
            "There is no place for downloaded models: this user has no home folder.",
            remedy="Set HF_HOME to a folder you may write to.",
            code="no_home",
        )
    return Path(path)


def own_folder(kind: str, key: str) -> Path:
    """Our own folder in the cache for one `key`, such as a URL, inside the folder of its `kind`."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return hub_home() / "sepcli" / kind / digest[:32]


def own_file(name: str) -> Path:
    """A file of our own in the cache, such as what `system.remembered` keeps; ModelError as from `hub_home`."""
    return hub_home() / "sepcli" / name


def place_of(file: WeightFile) -> Path:
    """The file's path in the cache or the package, whether or not it exists yet. Its fallback has another."""
    if file.repo:
        folder = hub_cache() / ("models--" + file.repo.replace("/", "--")) / "snapshots"
        return folder.joinpath(file.revision or "", *(file.path or "").split("/"))
    if file.url:
        return own_folder("urls", file.url) / file.filename
    return Path(__file__).resolve().parents[1].joinpath(*(file.package or "").split("/"))


def find(file: WeightFile) -> Path | None:
    """The file's path if it is on this machine, else None. Not its fallback's."""
    try:
        place = place_of(file)
    except ModelError:  # without a home folder there is no cache, and nothing in it
        return None
    return place if place.is_file() else None


def is_commit(revision: str | None) -> bool:
    """Whether this is a full commit; a branch, a tag or a shortened commit can come to mean another one."""
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None
