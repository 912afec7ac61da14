"""A page for blind comparisons (ABX): two versions of an excerpt as A, B and X, which is one of them.

Knows sounds by names that mean nothing, and no models. What is random (the order of trials, which sound is A, B
and X) is drawn by the page, for each listener anew; abx.js saves it with the answers.

    index.html, sounds/EXCERPT-NAME.js

The sounds are FLAC and not MP3 as in the player: what a codec loses may be what the comparison is about.
Chrome, Firefox and Safari all decode it, and it begins where the file begins. Only two sounds at a time are in
memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepcli import __version__
from sepcli.player import INDEX, sounds
from sepcli.player.page import filled, plain_text, read_made, waveform, write_call
from sepcli.system.files import atomic_output

VERSION = 1  # of the page
KIND = "abx"
FOLDER = "sounds"


@dataclass(frozen=True)
class Excerpt:
    """Sounds of equal length that belong together, as WAV of 16 bits.

    outline: a sound whose waveform stands for all of them, so that it gives none away.
    """

    outline: Path
    sounds: Mapping[str, Path]  # {name: file}; names are letters and digits


Pair = Sequence[tuple[str, str, str]]  # (excerpt, name of a sound, name of another): the trials of two systems


def write_abx(
    folder: Path, test: str, stem: str, excerpts: Mapping[str, Excerpt], pairs: Sequence[Pair]
) -> Path:
    """Write the page of a test into a folder, with its sounds where they are missing; the page.

    test: its id. stem: what the sounds hold. InputError where a sound can't be read, OutputError where a file
    can't be written.
    """
    items: dict[str, Any] = {}
    number = 0
    for name, excerpt in excerpts.items():
        seen = sounds.outline(excerpt.outline)
        files = {}
        for sound, source in excerpt.sounds.items():
            file = f"{FOLDER}/{name}-{sound}.js"
            if not (folder / file).exists():
                _write_sound(folder / file, number, source)
            files[sound] = [number, file]
            number += 1
        items[name] = {
            "seconds": seen.seconds,
            "rate": seen.samplerate,
            **waveform(seen.peaks, seen.bin_seconds),
            "sounds": files,
        }
    page = folder / INDEX
    text = filled(
        KIND,
        title="Listening test",
        made=json.dumps({"version": VERSION, "kind": KIND}),
        data={
            "test": test,
            "stem": plain_text(stem),
            "program": f"sepcli {__version__}",
            "items": items,
            "pairs": pairs,
        },
    )
    with atomic_output(page) as unfinished:
        unfinished.write_text("".join(text), encoding="utf-8", newline="\n")
    return page


def is_abx(folder: Path) -> bool:
    """Whether the folder's page is a blind test that we made."""
    found = read_made(folder / INDEX)
    return found is not None and found.get("kind") == KIND


def _write_sound(target: Path, number: int, source: Path) -> None:
    """The script that hands a sound to the page."""
    with atomic_output(target) as unfinished, tempfile.TemporaryDirectory() as place:
        encoded = Path(place) / "sound.flac"
        sounds.lossless(source, encoded)
        with open(unfinished, "w", encoding="ascii", newline="\n") as out:
            write_call(out, number, encoded)
