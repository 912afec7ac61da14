"""Which presets a SoundFont file (.sf2, .sf3) has. Reads only its preset headers; renders nothing.

The file is RIFF; the list "pdta" holds a chunk "phdr" of 38-byte records (SoundFont 2.04 specification,
section 7.2): a name of 20 bytes, then program and bank as 16-bit words.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from sepcli.errors import InputError, from_os

_RECORD = 38  # bytes
_REMEDY = (
    "Name a General MIDI SoundFont; Debian has some: `apt install fluid-soundfont-gm` "
    "(/usr/share/sounds/sf2/FluidR3_GM.sf2) or musescore-general-soundfont."
)


def read_presets(path: Path) -> dict[tuple[int, int], str]:
    """{(bank, program): name} of all presets of the file. InputError where it is missing or no SoundFont."""
    try:
        with open(path, "rb") as file:
            records = _preset_records(file)
    except OSError as error:
        refused = from_os(error, path, reading=InputError)
        raise InputError(f"The SoundFont {refused.message}", remedy=_REMEDY, code="no_soundfont") from None
    except (struct.error, ValueError):
        raise InputError(
            f"{path} is no SoundFont (.sf2 or .sf3).", remedy=_REMEDY, code="no_soundfont"
        ) from None
    presets = {}
    for start in range(0, len(records) - _RECORD, _RECORD):  # the last record only ends the list
        name, program, bank = struct.unpack_from("<20sHH", records, start)
        presets[bank, program] = name.split(b"\0")[0].decode("latin-1").strip()
    if not presets:
        raise InputError(f"The SoundFont {path} has no presets.", remedy=_REMEDY, code="no_soundfont")
    return presets


def _preset_records(file: BinaryIO) -> bytes:
    """The chunk "phdr". ValueError or struct.error where the file has none."""
    form, _, kind = struct.unpack("<4sI4s", file.read(12))
    if form != b"RIFF" or kind != b"sfbk":
        raise ValueError
    while header := file.read(8):
        name, size = struct.unpack("<4sI", header)
        if name == b"LIST" and file.read(4) == b"pdta":
            return _chunk(file, b"phdr", size - 4)
        file.seek(size - (4 if name == b"LIST" else 0), 1)
        if size % 2 and file.read(1) != b"\0":  # RIFF pads to even sizes, but not every writer does
            file.seek(-1, 1)
    raise ValueError


def _chunk(file: BinaryIO, wanted: bytes, size: int) -> bytes:
    """The content of a chunk within the next `size` bytes."""
    end = file.tell() + size
    while file.tell() < end:
        name, length = struct.unpack("<4sI", file.read(8))
        if name == wanted:
            return file.read(length)
        file.seek(length + length % 2, 1)
    raise ValueError
