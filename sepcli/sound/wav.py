"""Write WAV files.

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
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sepcli.sound import layouts

SIZE_LIMIT = 0xFFFFFFFF  # the largest size that fits into a RIFF header; it also means "see ds64" or "unknown"
_DS64_BYTES = 28  # RIFF size, data size, frames: 64 bits each; table length: 32 bits
_EXTENSIBLE = 0xFFFE  # WAVE_FORMAT_EXTENSIBLE
_GUID = bytes.fromhex("0000 0000 1000 8000 00AA 0038 9B71")  # of its subformats, behind the plain code
_BITS = {"16": 16, "24": 24, "32": 32, "32f": 32}

# Text tags by FFmpeg's names, and the INFO chunks that players read.
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

    path: a file, or an open descriptor (standard output), which stays open, and may be a file with something in
    it already. depth: "16", "24", "32" or "32f".
    frames: how many will come, None where that is not known. The header of a pipe can't be corrected
    afterwards, so it states this number. layout: the names of the channels (layouts.py), () for none. More than
    two channels, and a layout that is not mono or stereo, make it a WAVE_FORMAT_EXTENSIBLE with their mask.
    chunks: (name, payload) of others that go before the samples.
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
        chunks: Iterable[tuple[bytes, bytes]] = (),
        frames: int | None = None,
        layout: tuple[str, ...] = (),
    ):
        self._extensible = channels > 2 or layout not in ((), layouts.default(channels))
        self._mask = layouts.mask(layout)
        self._bits = _BITS[depth]
        self._float = depth == "32f"
        self._samplerate, self._channels = samplerate, channels
        self._frame_bytes = channels * self._bits // 8
        self._info = _info_list(tags or {}) + b"".join(_chunk(name, payload) for name, payload in chunks)
        self._data_bytes = 0
        expected = None if frames is None else frames * self._frame_bytes
        # Unbuffered: a full disk is known at the write that fails.
        self._file = open(path, "wb", buffering=0, closefd=not isinstance(path, int))  # noqa: SIM115
        self._patchable = self._file.seekable() and not _appends(path)
        self._begin = self._file.tell() if self._patchable else 0
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
            end = self._file.tell()
            self._file.seek(self._begin)
            self._put(self._header(self._data_bytes))
            self._file.seek(end)  # where another program may go on
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _put(self, raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:  # a nearly full disk takes a part first
            rest = rest[self._file.write(rest) :]

    def _header(self, data_bytes: int | None) -> bytes:
        plain = 3 if self._float else 1  # WAVE_FORMAT_IEEE_FLOAT, WAVE_FORMAT_PCM
        code = _EXTENSIBLE if self._extensible else plain
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
        if self._extensible:  # 22 more bytes: valid bits, mask, the plain code as a GUID
            form += struct.pack("<HHIH", 22, self._bits, self._mask, plain) + _GUID
        elif self._float:
            form += b"\0\0"
        body = _chunk(b"fmt ", form)
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


def _appends(path: Path | int) -> bool:
    """Whether the system writes at the end of it, wherever we are: a shell's >>."""
    if not isinstance(path, int) or os.name == "nt":
        return False
    import fcntl

    return bool(fcntl.fcntl(path, fcntl.F_GETFL) & os.O_APPEND)


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
