"""The key of a listening test: which stimulus is which model's. What listeners get doesn't mention it.

Knows names only. It is written before the first sound, so a test that was stopped goes on as it was drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepcli.errors import InputError
from sepcli.system.files import atomic_output

KEY_NAME = "key.json"


@dataclass(frozen=True)
class Item:
    """An excerpt. start: seconds. voiced: its share with a voice. stimuli: {file name without .wav: model}."""

    track: str
    start: float
    voiced: float
    stimuli: Mapping[str, str]


@dataclass(frozen=True)
class Key:
    """test: its id, a hash of all that it was made from. models: what each was, in the order of the request."""

    test: str
    stem: str
    seed: int
    seconds: float
    models: Mapping[str, Any]
    items: Mapping[str, Item]

    def write(self, folder: Path) -> None:
        write_text(folder / KEY_NAME, json.dumps(asdict(self), indent=1) + "\n")


def read_key(folder: Path) -> Key | None:
    """None where the folder has none; InputError for one that can't be understood."""
    path = folder / KEY_NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        items = {name: Item(**each) for name, each in said.pop("items").items()}
        return Key(**said, items=items)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not what sepcli wrote there"
        raise InputError(
            f"The key of the listening test, '{path}', can't be read: {reason}.",
            code="broken",
            remedy="Restore it, or make the test anew in another folder.",
        ) from None


def write_text(path: Path, text: str) -> None:
    """Whole or not at all. OutputError."""
    with atomic_output(path) as beside:
        beside.write_text(text, encoding="utf-8")
