"""The key of a listening test: which stimulus is which model's. Nothing that listeners get mentions it.

Knows names only. The key is written before the first sound, so a test that was stopped goes on with the same
excerpts and orders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepcli.errors import InputError, from_os
from sepcli.system.files import atomic_output

KEY_NAME = "key.json"


@dataclass(frozen=True)
class Item:
    """An excerpt of a track, and its stimuli."""

    track: str
    start: float  # seconds
    voiced: float  # the share of it that has a voice
    stimuli: Mapping[str, str]  # {file name without .wav: model}


@dataclass(frozen=True)
class Key:
    """A listening test without its sounds."""

    test: str  # its id, from a hash of all that it was made from
    stem: str
    seed: int
    seconds: float  # the length of an excerpt
    models: Mapping[str, Any]  # {name: what its estimates depend on}, in the order of the request
    items: Mapping[str, Item]

    def write(self, folder: Path) -> None:
        """Write key.json into the folder of the test. OutputError."""
        write_text(folder / KEY_NAME, json.dumps(asdict(self), indent=1) + "\n")


def read_key(folder: Path) -> Key | None:
    """The key in a folder; None where there is none. InputError for a key that can't be read or understood."""
    path = folder / KEY_NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        items = {name: Item(**each) for name, each in said.pop("items").items()}
        return Key(**said, items=items)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os(error, path, reading=InputError) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"The key of the listening test, '{path}', can't be read: it is not what sepcli wrote there.",
            code="broken",
            remedy="Restore it, or make the test anew in another folder.",
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. OutputError."""
    with atomic_output(path) as beside:
        beside.write_text(text, encoding="utf-8")
