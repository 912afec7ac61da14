"""Write WAV files, and read those that were never finished.

Our own writer, because libsndfile (through soundfile) can't turn a WAV into RF64 once it has grown over
4 GiB, stamps the time of day into float files (two runs would give different bytes), and drops the reason
when the disk is full. Finished files are read by libsndfile.

    RIFF size WAVE | JUNK, room for ds64 | fmt | fact (float) | LIST INFO (tags) | data size, samples, pad
    RF64  -1  WAVE | ds64, 64-bit sizes  | ...                    as soon as a size passes 32 bits
    (EBU Tech 3306). The room for ds64 is left only where a file could come near 4 GiB or its length is unknown,
    so that an ordinary file has the ordinary 44-byte header.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sepcli.sound import layouts

SIZE_LIMIT = 0xFFFFFFFF  # the largest size that fits into a RIFF header; it also means "see ds64" or "unknown"
_DS64_BYTES = 28  # RIFF size, data size, frames: 64 bits each; table length: 32 bits
_BITS = {"16": 16, "24": 24, "32": 32, "32f": 32}

# Text tags by ffmpeg's names, and the INFO chunks that players read.
INFO_CHUNKS = {
    "title": b"INAM",
    "artist": b"IART",
    "album": b"IPRD",
    "date": b"ICRD",
    "genre": b"IGNR",
    "comment": b"ICMT",
    "copyright": b"ICOP",
    "track": b"ITRK",
    "encoder": b"ISFT",
}


class WavFile:
    """A WAV being written: `write` interleaved samples, then `close`.

    path: a file, or an open descriptor (standard output), which stays open. depth: "16", "24", "32" or "32f".
    frames: how many will come, None where that is not known. The header of a pipe can't be corrected
    afterwards, so it states this number.
    """

    tagged = True  # the tags are part of the header

    def __init__(
        self,
        path: Path | int,
        samplerate: int,
        channels: int,
        depth: str,
        *,
        tags: Mapping[str, str] | None = None,
        frames: int | None = None,
    ):
        self._bits = _BITS[depth]
        self._float = depth == "32f"
        self._samplerate, self._channels = samplerate, channels
        self._frame_bytes = channels * self._bits // 8
        self._info = _info_list(tags or {})
        self._data_bytes = 0
        expected = None if frames is None else frames * self._frame_bytes
        # Unbuffered: a full disk is known at the write that fails.
        self._file = open(path, "wb", buffering=0, closefd=not isinstance(path, int))  # noqa: SIM115
        self._patchable = self._file.seekable()
        self._roomy = expected is None or expected + 4096 + len(self._info) > SIZE_LIMIT
        try:
            self._put(self._header(expected))
        except OSError:
            self._file.close()
            raise

    def write(self, frames: np.ndarray) -> None:
        """[T, C]: float32 samples for "32f", else integers of the depth's range (int32)."""
        if self._float:
            raw = np.ascontiguousarray(frames, dtype="<f4").tobytes()
        elif self._bits == 16:
            raw = frames.astype("<i2").tobytes()
        else:  # the low three bytes of each, or all four
            kept = self._bits // 8
            raw = np.ascontiguousarray(frames, dtype="<i4").view(np.uint8).reshape(-1, 4)[:, :kept].tobytes()
        self._put(raw)
        self._data_bytes += len(raw)

    def close(self) -> None:
        """State the true sizes and close; OSError where the file system refuses."""
        if self._data_bytes % 2:
            self._put(b"\0")  # chunks begin at even offsets
        if self._patchable:
            self._file.seek(0)
            self._put(self._header(self._data_bytes))
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _put(self, raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:  # a nearly full disk takes a part first
            rest = rest[self._file.write(rest) :]

    def _header(self, data_bytes: int | None) -> bytes:
        code = 3 if self._float else 1  # WAVE_FORMAT_IEEE_FLOAT, WAVE_FORMAT_PCM
        form = struct.pack(
            "<HHIIHH",
            code,
            self._channels,
            self._samplerate,
            min(self._samplerate * self._frame_bytes, SIZE_LIMIT),  # bytes a second
            self._frame_bytes,
            self._bits,
        )
        frames = None if data_bytes is None else data_bytes // self._frame_bytes
        body = _chunk(b"fmt ", form + (b"\0\0" if self._float else b""))
        if self._float:
            body += _chunk(b"fact", struct.pack("<I", _clip(frames)))
        body += self._info
        room = 8 + _DS64_BYTES if self._roomy else 0
        riff = None if data_bytes is None else 4 + room + len(body) + 8 + data_bytes + data_bytes % 2
        big = riff is not None and riff > SIZE_LIMIT
        if big:
            assert self._roomy and riff is not None and frames is not None, "grew beyond its expected frames"
            start = b"RF64" + struct.pack("<I", SIZE_LIMIT) + b"WAVE"
            start += _chunk(b"ds64", struct.pack("<QQQI", riff, data_bytes, frames, 0))
        else:
            start = b"RIFF" + struct.pack("<I", _clip(riff)) + b"WAVE"
            start += _chunk(b"JUNK", bytes(_DS64_BYTES)) if self._roomy else b""
        return start + body + b"data" + struct.pack("<I", SIZE_LIMIT if big else _clip(data_bytes))


def _clip(size: int | None) -> int:
    return SIZE_LIMIT if size is None else min(size, SIZE_LIMIT)


def _chunk(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def _info_list(tags: Mapping[str, str]) -> bytes:
    chunks = b"".join(
        _chunk(INFO_CHUNKS[name], text.encode("utf-8", "replace") + b"\0")
        for name, text in tags.items()
        if name in INFO_CHUNKS and text
    )
    return _chunk(b"LIST", b"INFO" + chunks) if chunks else b""


# Reading: what libsndfile takes from a header that is wrong

# Chunks that stand behind the samples (and may be cut off there).
_TRAILERS = frozenset(
    "LIST list id3 ID3 bext iXML cue smpl acid inst fact PEAK JUNK junk PAD FLLR afsp DISP _PMX axml chna umid"
    " minf elm1 regn plst adtl cart slnt levl strc MD5 aXML LGWV ResU afdt note labl ltxt Cr8r SAUR".split()
)
_TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")  # what other programs append without a chunk
_STRAY = 1024  # bytes: fewer behind the samples are rather something else than samples


@dataclass(frozen=True)
class Layout:
    """Where the parts of a WAV are: bytes from its beginning."""

    form: bytes  # the payload of its fmt chunk
    at: int  # of the first sample
    size: int  # of all samples, as the header states it


class Mended:
    """A WAV file with a header that states the right size, as an object for libsndfile to read."""

    def __init__(self, path: Path, form: bytes, at: int, size: int):
        """form: the payload of the fmt chunk. at, size: of the samples, in bytes."""
        self._file = path.open("rb")
        body = _chunk(b"fmt ", form)
        block = struct.unpack_from("<H", form, 12)[0] if len(form) >= 14 else 1  # bytes of a frame
        riff = 4 + 8 + _DS64_BYTES + len(body) + 8 + size
        start = b"RF64" + struct.pack("<I", SIZE_LIMIT) + b"WAVE"
        start += _chunk(b"ds64", struct.pack("<QQQI", riff, size, size // max(1, block), 0))
        self._header = start + body + b"data" + struct.pack("<I", SIZE_LIMIT)
        self._begin, self._end = at - len(self._header), at + size
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
                got += self._file.readinto(view[got : got + room])
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
    """The file with its true size, where a WAV or RF64 states one that is too small; None for all others.

    Too small: 0 in a recording that was never finished; what was left of a size over 4 GiB; or a wrong number.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        found = _layout(file, end)
        if found is None:
            return None
        size = _true_size(file, found, end)
        return None if size == found.size else Mended(path, found.form, found.at, size)


def layout(path: Path) -> tuple[str, ...]:
    """The channels that a WAVE_FORMAT_EXTENSIBLE header names; () where it names none."""
    with path.open("rb") as file:
        found = _layout(file, file.seek(0, os.SEEK_END))
    if found is None or len(found.form) < 40 or found.form[:2] != b"\xfe\xff":
        return ()
    return layouts.from_mask(
        struct.unpack_from("<I", found.form, 20)[0], struct.unpack_from("<H", found.form, 2)[0]
    )


def _layout(file: BinaryIO, end: int) -> Layout | None:
    """The chunks up to the samples; None where the file is no WAV or has no samples."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None
    at, form, long_size = 12, b"", 0
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            if size == SIZE_LIMIT and head[:4] != b"RIFF":
                size = long_size
            return Layout(form, at + 8, size) if form else None
        if name == b"ds64" and size >= 16:
            long_size = struct.unpack("<8xQ", file.read(16))[0]
        elif name == b"fmt " and size <= 4096:
            form = file.read(size)
        at += 8 + size + size % 2
    return None


def _true_size(file: BinaryIO, found: Layout, end: int) -> int:
    """How many bytes of samples there are."""
    there = end - found.at
    if found.size >= there or _ends(file, found.at + found.size, end):
        return found.size
    for size in range(
        found.size + (1 << 32), there + 1, 1 << 32
    ):  # only 32 bits of a larger number were written
        if _ends(file, found.at + size, end):
            return size
    return found.size if found.size and _is_padding(file, found.at + found.size) else there


def _ends(file: BinaryIO, at: int, end: int) -> bool:
    """Whether the samples can end at `at`: there is nothing more, or a tag, or chunks up to the end."""
    file.seek(at)
    first = file.read(16)
    if len(first) <= 1 or first.startswith(_TAGS) or first[1:].startswith(_TAGS):
        return True
    return _chunks(file, at + at % 2, end)


def _is_padding(file: BinaryIO, at: int) -> bool:
    """Whether what begins at `at` is rather padding or a scrap than samples."""
    file.seek(at)
    first = file.read(_STRAY)
    return len(first) < _STRAY or (not any(first) and _zeros(file, at))


def _chunks(file: BinaryIO, at: int, end: int) -> bool:
    """Whether there are chunks from `at` to the end. The last may be cut off, if its name is known."""
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        known = name.decode("latin-1").rstrip() in _TRAILERS
        if not known and not all(32 <= byte < 127 for byte in name):
            return False
        at += 8 + size + size % 2
        if at > end + 1:
            return known
    return True


def _zeros(file: BinaryIO, at: int) -> bool:
    """Whether nothing but zeros follows."""
    file.seek(at)
    while some := file.read(1 << 20):
        if some.count(0) != len(some):
            return False
    return True
