"""ID3v2.3 tags, as they stand before the frames of an MP3, and in a chunk of an AIFF file.

libsndfile would write Latin-1 only. FFmpeg would have to copy the finished file, could touch the gapless header
of an MP3, and through PyAV puts no cover into AIFF. Knows nothing of files: text and a picture in, bytes out
(id3.org/id3v2.3.0).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

# FFmpeg's names -> ids of text frames. A name that is itself such an id (TBPM) is used as it is; any other name
# becomes a frame of user text (TXXX).
_TEXT_FRAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "album_artist": "TPE2",
    "composer": "TCOM",
    "genre": "TCON",
    "track": "TRCK",
    "disc": "TPOS",
    "copyright": "TCOP",
    "publisher": "TPUB",
    "performer": "TPE3",
    "grouping": "TIT1",
    "bpm": "TBPM",
    "isrc": "TSRC",
    "initialkey": "TKEY",
    "compilation": "TCMP",
}
_FRAME_ID = re.compile(r"t[a-z0-9]{3}")
_UTF16 = b"\1"  # the byte for the encoding; version 2.3 knows Latin-1 and UTF-16
_FRONT_COVER = 3


def id3v2(text: Mapping[str, str], image: bytes = b"", kind: str = "image/jpeg") -> bytes:
    """The whole tag; b"" without text and picture. kind: the MIME type of the cover `image`."""
    frames = b"".join(_frame(name, value) for name, value in text.items() if value)
    if image:
        body = b"\0" + kind.encode() + b"\0" + bytes([_FRONT_COVER]) + b"\0" + image
        frames += _header("APIC", len(body)) + body
    if not frames:
        return b""
    size = len(frames)  # written as four bytes of seven bits, so that it never looks like an MPEG frame
    return b"ID3\3\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + frames


def _frame(name: str, value: str) -> bytes:
    name = name.lower()
    if name == "date":
        year = _text("TYER", value[:4]) if re.match(r"\d{4}", value) else b""
        return year + (_text("TDRC", value) if len(value) > 4 or not year else b"")
    if name == "comment":
        return _worded("COMM", value)
    if name == "lyrics":
        return _worded("USLT", value)
    if name in _TEXT_FRAMES:
        return _text(_TEXT_FRAMES[name], value)
    if _FRAME_ID.fullmatch(name) and name != "txxx":
        return _text(name.upper(), value)
    body = _UTF16 + _utf16(name) + b"\0\0" + _utf16(value)
    return _header("TXXX", len(body)) + body


def _text(frame_id: str, value: str) -> bytes:
    body = _UTF16 + _utf16(value)
    return _header(frame_id, len(body)) + body


def _worded(frame_id: str, value: str) -> bytes:
    """A frame with a language ("und": not known) and an empty description."""
    body = _UTF16 + b"und" + _utf16("") + b"\0\0" + _utf16(value)
    return _header(frame_id, len(body)) + body


def _header(frame_id: str, size: int) -> bytes:
    return frame_id.encode() + struct.pack(">IH", size, 0)


def _utf16(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le", "replace")
