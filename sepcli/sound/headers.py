"""What the headers of plain files (WAV, RF64, AIFF, AU) state about their samples, and what is true.

libsndfile believes a size. A recorder that died leaves 0 there, a size over 4 GiB loses its upper bits, and
some programs write a wrong number. `mended` finds how far the samples really go, and gives libsndfile a file
with a right header. Knows bytes only; nothing of samples.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sepcli.sound import layouts, riff

# Chunks that stand behind the samples (and may be cut off there).
_TRAILERS = frozenset(
    "LIST list id3 ID3 bext iXML cue smpl acid inst fact PEAK JUNK junk PAD FLLR afsp DISP _PMX axml chna umid"
    " minf elm1 regn plst adtl cart slnt levl strc MD5 aXML LGWV ResU afdt note labl ltxt Cr8r SAUR"
    " NAME AUTH ANNO COMT MARK INST APPL AESD MIDI (c)".split()
)
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # what other programs append without a chunk
_STRAY = 1024  # bytes: fewer behind the samples are rather something else than samples


@dataclass(frozen=True)
class Samples:
    """Where the samples of a file are, in bytes, and how to head so many of them."""

    at: int  # of the first one, from the beginning of the file
    size: int  # of all, as the header states it
    head: Callable[[int], bytes]  # a whole header for so many bytes of them
    big_endian: bool = False
    form: bytes = b""  # the payload of a WAV's fmt chunk


class Mended:
    """A file with another header, as an object for libsndfile to read."""

    def __init__(self, path: Path, header: bytes, at: int, size: int):
        """at, size: of the samples, in bytes."""
        self._file = path.open("rb")
        self._header = header
        self._begin, self._end = at - len(header), at + size
        self._at = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; the number of bytes."""
        view = memoryview(buffer).cast("B")
        part = self._header[self._at : self._at + len(view)]
        view[: len(part)] = part
        got = len(part)
        if got < len(view):
            self._file.seek(self._begin + self._at + got)
            room = min(len(view) - got, self._end - self._begin - self._at - got)
            if room > 0:
                got += self._file.readinto(view[got : got + room])  # pyright: ignore[reportAttributeAccessIssue]
        self._at += got
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's `seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end - self._begin}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """As a file's `tell`."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def mended(path: Path) -> Mended | None:
    """The file with its true size, where its header states one that is too small; None for all others."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        found = _find(file, end)
        if found is None:
            return None
        size = _true_size(file, found, end)
        return None if size == found.size else Mended(path, found.head(size), found.at, size)


def layout(path: Path) -> tuple[str, ...]:
    """The channels that a WAVE_FORMAT_EXTENSIBLE header names; () where it names none."""
    with path.open("rb") as file:
        found = _find(file, file.seek(0, os.SEEK_END))
    if found is None or len(found.form) < 40 or found.form[:2] != b"\xfe\xff":
        return ()
    (channels,), (mask,) = struct.unpack_from("<H", found.form, 2), struct.unpack_from("<I", found.form, 20)
    return layouts.from_mask(mask, channels)


# --- where the samples are ---


def _find(file: BinaryIO, end: int) -> Samples | None:
    """None where the file is of another kind, or has no samples."""
    file.seek(0)
    head = file.read(24)
    if head[:4] in riff.WAVES and head[8:12] == b"WAVE":
        return _find_wav(file, end)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _find_aiff(file, end, head[8:12])
    if head[:4] == b".snd" and len(head) == 24:
        at, size = struct.unpack(">4xII", head[:12])
        if not 24 <= at <= end:
            return None
        # "Unknown" is right for any size here.
        return Samples(
            at, size, lambda _: head[:8] + struct.pack(">I", riff.UNKNOWN) + head[12:] + bytes(at - 24)
        )
    return None


def _find_wav(file: BinaryIO, end: int) -> Samples | None:
    form = b""
    for chunk in riff.chunks(file, 12, end):
        if chunk.name == b"data":
            return Samples(chunk.at, chunk.size, partial(_rf64, form), form=form) if form else None
        if chunk.name == b"fmt " and 16 <= chunk.size <= 4096:
            form = riff.payload(file, chunk)
    return None


def _rf64(form: bytes, size: int) -> bytes:
    """A header for `size` bytes of samples (EBU Tech 3306). form: the payload of the fmt chunk."""
    (block,) = struct.unpack_from("<H", form, 12)  # bytes of a frame
    body = b"fmt " + struct.pack("<I", len(form)) + form + bytes(len(form) % 2)
    sizes = struct.pack("<QQQI", 4 + 36 + len(body) + 8 + size, size, size // max(1, block), 0)
    start = b"RF64" + struct.pack("<I", riff.UNKNOWN) + b"WAVEds64" + struct.pack("<I", len(sizes)) + sizes
    return start + body + b"data" + struct.pack("<I", riff.UNKNOWN)


def _find_aiff(file: BinaryIO, end: int, kind: bytes) -> Samples | None:
    common = b""
    for chunk in riff.chunks(file, 12, end, big_endian=True):
        if chunk.name == b"SSND" and chunk.at + 8 <= end:
            file.seek(chunk.at)
            (offset,) = struct.unpack(">I", file.read(4))
            if not common or offset > end:
                return None
            size = max(0, chunk.size - 8 - offset)
            return Samples(chunk.at + 8 + offset, size, partial(_aiff, kind, common), big_endian=True)
        if chunk.name == b"COMM" and 18 <= chunk.size <= 4096:
            common = riff.payload(file, chunk)
    return None


def _aiff(kind: bytes, common: bytes, size: int) -> bytes:
    """A header for `size` bytes of samples. kind: AIFF or AIFC; common: the payload of the COMM chunk."""
    channels, _, bits = struct.unpack_from(">HIH", common)
    frames = size // max(1, channels * -(-bits // 8))
    body = b"COMM" + struct.pack(">I", len(common)) + common[:2]
    body += struct.pack(">I", frames) + common[6:] + bytes(len(common) % 2)
    body += b"SSND" + struct.pack(">IQ", size + 8, 0)
    return b"FORM" + struct.pack(">I", 4 + len(body) + size) + kind + body


# --- how many there are ---


def _true_size(file: BinaryIO, found: Samples, end: int) -> int:
    """In bytes."""
    there = end - found.at
    if found.size >= there or _ends(file, found.at + found.size, end, found.big_endian):
        return found.size
    for size in range(found.size + (1 << 32), there + 1, 1 << 32):  # only 32 bits of a larger one were written
        if _ends(file, found.at + size, end, found.big_endian):
            return size
    return found.size if found.size and _is_padding(file, found.at + found.size) else there


def _ends(file: BinaryIO, at: int, end: int, big_endian: bool) -> bool:
    """Whether the samples can end at `at`: there is nothing more, or a tag, or chunks up to the end."""
    file.seek(at)
    first = file.read(16)
    if len(first) <= 1 or first.startswith(_TAGS) or first[1:].startswith(_TAGS):
        return True
    return _chunks(file, at + at % 2, end, big_endian)


def _is_padding(file: BinaryIO, at: int) -> bool:
    """Whether what begins at `at` is rather padding or a scrap than samples."""
    file.seek(at)
    first = file.read(_STRAY)
    return len(first) < _STRAY or (not any(first) and _zeros(file, at))


def _chunks(file: BinaryIO, at: int, end: int, big_endian: bool) -> bool:
    """Whether there are chunks from `at` to the end. The last may be cut off, if its name is known."""
    for chunk in riff.chunks(file, at, end, big_endian=big_endian):
        known = chunk.name.decode("latin-1").rstrip() in _TRAILERS
        if not known and not all(32 <= byte < 127 for byte in chunk.name):
            return False
        if chunk.end > end + 1:
            return known
    return True


def _zeros(file: BinaryIO, at: int) -> bool:
    """Whether nothing but zeros follows."""
    file.seek(at)
    while some := file.read(1 << 20):
        if some.count(0) != len(some):
            return False
    return True
