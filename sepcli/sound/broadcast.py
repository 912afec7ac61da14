"""What a WAV says beside its samples for the place in a production: bext, iXML, cue points and loops.

Knows bytes and sample counts only. An audio workstation puts a stem where the recording was ("spot to
timestamp") by the time reference in bext, in samples since midnight (EBU Tech 3285). Its coding history gets a
line for the new file. Tempo (acid), the UMID and loudness describe the mix or its file, and are left out.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from sepcli.sound import riff

_MOST_CHUNKS = 1000  # that are looked at
_MOST_BYTES = 1 << 20  # of one chunk that is kept
_REFERENCE = 338  # where bext has its time reference: 64 bits; then its version: 16 bits
_BEXT_BYTES = 602  # without coding history
_UNSET = 0x7FFF  # a loudness that is not stated


@dataclass(frozen=True)
class Chunks:
    """The payloads of these chunks; b"" for one that is missing."""

    bext: bytes = b""
    ixml: bytes = b""
    timeline: Mapping[bytes, bytes] = field(default_factory=dict)  # by name: what counts samples of the file

    @property
    def reference(self) -> int | None:
        """The first sample's time, in samples since midnight; None where it is not stated."""
        return struct.unpack_from("<Q", self.bext, _REFERENCE)[0] if self.bext else None

    def moved(self, start: int, samplerate: int, out_rate: int) -> Chunks:
        """The same for a file that begins at the frame `start`, and has another rate (both in Hz).

        Cue points and loops are kept only where the samples stay in their places.
        """
        if start == 0 and out_rate == samplerate:
            return self
        bext, ixml = self.bext, self.ixml
        if self.reference is not None:
            reference = round((self.reference + start) * out_rate / samplerate)
            bext = bext[:_REFERENCE] + struct.pack("<Q", reference) + bext[_REFERENCE + 8 :]
        return Chunks(bext, _moved_ixml(ixml, start, samplerate, out_rate))

    def coded(self, samplerate: int, depth: str, channels: int, text: str) -> Chunks:
        """The same for a file of this kind: a line more in bext's coding history (EBU R 98), the depth in iXML.

        samplerate: Hz. depth: "16", "24", "32" or "32f". text: who made it, and what.
        """
        bits = depth.removesuffix("f")
        ixml = _with_number(self.ixml, b"AUDIO_BIT_DEPTH", int(bits))
        if not self.bext:
            return replace(self, ixml=ixml)
        mode = {1: "M=mono", 2: "M=stereo"}.get(channels)
        more = ["float"] if depth != bits else []
        more += [] if mode else [f"{channels} channels"]
        line = ["A=PCM", f"F={samplerate}", f"W={bits}", *([mode] if mode else [])]
        line.append("T=" + re.sub(r"[^ -~]|,", "_", "; ".join([text, *more])))
        return replace(self, bext=self.bext + ",".join(line).encode() + b"\r\n", ixml=ixml)

    def in_order(self) -> list[tuple[bytes, bytes]]:
        """(name, payload) of each chunk for a new file."""
        named = [(b"bext", self.bext), (b"iXML", self.ixml), *self.timeline.items()]
        return [(name, payload) for name, payload in named if payload]


def read_chunks(path: Path) -> Chunks:
    """These chunks of a WAV or RF64 file; nothing for other files. OSError."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(12)
        if head[:4] not in riff.WAVES or head[8:] != b"WAVE":
            return Chunks()
        found: dict[bytes, bytes] = {}
        for chunk in islice(riff.chunks(file, 12, end), _MOST_CHUNKS):
            if chunk.name == bytes(4):
                break
            kept = chunk.name in (b"bext", b"iXML", b"cue ", b"smpl", b"LIST")
            if kept and chunk.size <= min(_MOST_BYTES, end - chunk.at):
                payload = riff.payload(file, chunk)
                if chunk.name != b"LIST" or payload[:4] == b"adtl":  # the labels of cue points
                    found.setdefault(chunk.name, payload)
    timeline = {name: found[name] for name in (b"cue ", b"smpl", b"LIST") if name in found}
    return Chunks(_plain_bext(found.get(b"bext", b"")), found.get(b"iXML", b""), timeline)


def _plain_bext(bext: bytes) -> bytes:
    """Description, originator, date, time reference and whole lines of coding history.

    b"" where the chunk is too short for the time reference.
    """
    if len(bext) < _REFERENCE + 10:
        return b""
    (version,) = struct.unpack_from("<H", bext, _REFERENCE + 8)
    loudness = struct.pack("<5H", *[_UNSET] * 5) if version >= 2 else b""
    history = bext[_BEXT_BYTES:].partition(b"\0")[0].rstrip(b"\r\n")
    start = (bext[: _REFERENCE + 10] + bytes(64) + loudness).ljust(_BEXT_BYTES, b"\0")
    return start + history + (b"\r\n" if history else b"")


# iXML states the time reference too, in halves of 32 bits, under two pairs of names (ixml.info).
_HALVES = (
    (b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI", b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO"),
    (b"BWF_TIME_REFERENCE_HIGH", b"BWF_TIME_REFERENCE_LOW"),
)
_RATES = (b"TIMESTAMP_SAMPLE_RATE", b"FILE_SAMPLE_RATE", b"DIGITIZER_SAMPLE_RATE")


def _moved_ixml(ixml: bytes, start: int, samplerate: int, out_rate: int) -> bytes:
    for high, low in _HALVES:
        parts = [_number(ixml, name) for name in (high, low)]
        if parts[0] is not None and parts[1] is not None:
            reference = round(((parts[0] << 32) + parts[1] + start) * out_rate / samplerate)
            ixml = _with_number(_with_number(ixml, high, reference >> 32), low, reference & 0xFFFFFFFF)
    if out_rate != samplerate:
        for name in _RATES:
            ixml = _with_number(ixml, name, out_rate)
    return ixml


def _number(ixml: bytes, name: bytes) -> int | None:
    found = re.search(rb"<%s>\s*(\d{1,20})\s*</%s>" % (name, name), ixml)
    return int(found[1]) if found else None


def _with_number(ixml: bytes, name: bytes, number: int) -> bytes:
    pattern = rb"(<%s>)\s*\d+\s*(</%s>)" % (name, name)
    return re.sub(pattern, lambda found: found[1] + str(number).encode() + found[2], ixml)
