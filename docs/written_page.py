"""docs/cli.md: which fields of an input its stems keep, found by writing files and reading them back.

`python docs/generate.py` calls it.
"""

from __future__ import annotations

import base64
import struct
import tempfile
from pathlib import Path

import numpy as np

from sepcli.sound import riff
from sepcli.sound.boxes import find_box
from sepcli.sound.encode import AudioWriter
from sepcli.sound.formats import FORMATS, output_rate
from sepcli.sound.probe import probe
from sepcli.sound.stemfile import COLORS, StemFileWriter
from sepcli.sound.tags import Tags, is_kept, read_tags
from sepcli.sound.wav import WavFile

# Fields with equal answers share a row.
TEXTS = {
    "title": "Title",
    "artist": "artist",
    "album": "album",
    "track": "3/12",
    "date": "1999-05-01",
    "genre": "genre",
    "comment": "two\nlines",
    "copyright": "copyright",
    "album_artist": "band",
    "disc": "1/2",
    "composer": "composer",
    "grouping": "grouping",
    "lyrics": "la la",
    "compilation": "1",
    "bpm": "124",
    "performer": "performer",
    "publisher": "publisher",
    "isrc": "NLA507999001",
    "initialkey": "Am",
    "musicbrainz_trackid": "9d4c6e1a",
    "encoder": "another program",
    "language": "eng",
    "replaygain_track_gain": "-7.5 dB",
    "r128_track_gain": "-1920",
}
SHOWN = {
    "musicbrainz_trackid": "any other name",
    "replaygain_track_gain": "ReplayGain",
    "r128_track_gain": "R128 gain",
}
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
KEPT, LOST = "yes", "-"
FRAMES = 1000


def tables() -> tuple[str, str]:
    """What each format holds, and what the WAV of a production keeps."""
    with tempfile.TemporaryDirectory() as folder:
        return _formats(Path(folder)), _production(Path(folder))


def _formats(folder: Path) -> str:
    found = {name: _held(folder / f"a.{name}", name) for name in FORMATS}
    fields = {name: SHOWN.get(name, name.replace("_", " ")) for name in TEXTS}
    fields["cover"] = "cover (JPEG or PNG)"
    fields["stem"] = "names and colours of the stems"
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, shown in fields.items():
        rows.setdefault(tuple(KEPT if name in held else LOST for held in found.values()), []).append(shown)
    text = f"| field | {' | '.join(found)} |\n|---|{'---|' * len(found)}\n"
    return text + "".join(f"| {', '.join(names)} | {' | '.join(cells)} |\n" for cells, names in rows.items())


def _held(path: Path, format: str) -> set[str]:
    """The fields that a file of this format gives back."""
    # As read_tags gives them: what describes the mix's file and not the music is dropped there.
    texts = {name: text for name, text in TEXTS.items() if is_kept(name)}
    tags = Tags(texts, texts["title"], cover=PICTURE).for_stem("vocals")
    samplerate = output_rate(format, 44100)[0]
    if count := FORMATS[format].stems:
        names = ("mix", "drums", "bass", "other", "vocals")
        packed = StemFileWriter(path, names, samplerate=samplerate, format=format, tags=tags)
        packed.write(np.zeros((1 + count, 2, FRAMES), np.float32))
        packed.close()
    else:
        with AudioWriter(path, samplerate=samplerate, channels=2, format=format, tags=tags) as writer:
            writer.write(np.zeros((2, FRAMES), np.float32))
    back = read_tags(path, probe(path))
    texts["title"] = back.title  # TITLE (STEM), but of a stem file the track's
    assert back.title in (tags.title, tags.text["title"])
    held = {name for name, text in texts.items() if _same(back.text.get(name), text)}
    held |= {"cover"} if back.cover == PICTURE else set()
    with path.open("rb") as file:
        box = find_box(file, (b"moov", b"udta", b"stem")) if format == "stem.mp4" else None
    return held | ({"stem"} if box and COLORS[0].encode() in box else set())


def _same(found: str | None, written: str) -> bool:
    """MP3 and AIFF state a year, and the whole date beside it."""
    return found is not None and (found == written or written.startswith(f"{found}-"))


# --- productions ---

HOUR = 3600 * 44100  # samples since midnight
IXML = (
    "<BWFXML><SCENE>12</SCENE><SPEED>"
    "<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>0</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>"
    f"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>{HOUR}</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>"
    "<FILE_SAMPLE_RATE>44100</FILE_SAMPLE_RATE><AUDIO_BIT_DEPTH>16</AUDIO_BIT_DEPTH></SPEED></BWFXML>"
).encode()
HISTORY = b"A=PCM,F=44100,W=16,M=stereo,T=recorder\r\n"
# Field -> where it stands in bext (EBU Tech 3285, version 2).
BEXT = {
    "description": slice(0, 256),
    "originator and its reference": slice(256, 320),
    "date and time": slice(320, 338),
    "time reference": slice(338, 346),
    "UMID": slice(348, 412),
    "loudness": slice(412, 422),
}
IXML_FIELDS = {
    "time stamp": b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO",
    "sample rate": b"FILE_SAMPLE_RATE",
    "bit depth": b"AUDIO_BIT_DEPTH",
    "everything else": b"SCENE",
}
WAYS = {"whole file": (0, 44100), "with `--start`": (441, 44100), "at another rate": (0, 48000)}
CHUNKS = {
    "cue points (`cue `)": b"cue ",
    "their labels (`LIST adtl`)": b"LIST",
    "loops (`smpl`)": b"smpl",
    "tempo (`acid`)": b"acid",
}


def _production(folder: Path) -> str:
    source = folder / "take.wav"
    _recording(source)
    before = _chunks(source)
    text = f"| field of a WAV | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}\n"
    written = [_chunks(_stem(source, *way)) for way in WAYS.values()]

    def row(field: str, *cells: str) -> str:
        return f"| {field} | {' | '.join(cells)} |\n"

    for field, place in BEXT.items():
        old = before[b"bext"][place]
        text += row(f"bext: {field}", *(_word(old, after[b"bext"][place]) for after in written))
    for after in written:
        assert after[b"bext"][602:].startswith(HISTORY) and after[b"bext"][602:] != HISTORY
    text += row("bext: coding history", *["kept, and a line for the stem"] * len(WAYS))
    for field, name in IXML_FIELDS.items():
        old = _element(before[b"iXML"], name)
        text += row(f"iXML: {field}", *(_word(old, _element(after[b"iXML"], name)) for after in written))
    for field, name in CHUNKS.items():
        text += row(field, *(_word(before[name], after.get(name, b"")) for after in written))
    return text


def _recording(path: Path) -> None:
    """A WAV with all of the fields."""
    bext = (
        b"take 12".ljust(256, b"\0")
        + b"recorder".ljust(32, b"\0")
        + b"NL123".ljust(32, b"\0")
        + b"2026-11-27"
        + b"10:00:00"
        + struct.pack("<QH", HOUR, 2)
        + b"U" * 64
        + struct.pack("<5h", -2300, 700, -100, -1800, -2000)
        + bytes(180)
        + HISTORY
    )
    chunks = [
        (b"bext", bext),
        (b"iXML", IXML),
        (b"cue ", struct.pack("<I", 1) + bytes(24)),
        (b"LIST", b"adtllabl\6\0\0\0\1\0\0\0A\0"),
        (b"smpl", bytes(60)),
        (b"acid", bytes(24)),
    ]
    file = WavFile(path, 44100, 2, "16", chunks=chunks)
    file.write(np.zeros((FRAMES, 2), np.int16))
    file.close()


def _stem(source: Path, start: int, samplerate: int) -> Path:
    tags = read_tags(source, probe(source)).moved(start, 44100, samplerate).for_stem("vocals")
    path = source.with_name("vocals.wav")
    with AudioWriter(path, samplerate=samplerate, channels=2, tags=tags) as writer:
        writer.write(np.zeros((2, FRAMES), np.float32))
    return path


def _chunks(path: Path) -> dict[bytes, bytes]:
    with path.open("rb") as file:
        return {
            chunk.name: riff.payload(file, chunk)
            for chunk in riff.chunks(file, 12, path.stat().st_size)
            if chunk.name != b"LIST" or riff.payload(file, chunk).startswith(b"adtl")
        }


def _element(ixml: bytes, name: bytes) -> bytes:
    return ixml.partition(b"<%s>" % name)[2].partition(b"</%s>" % name)[0]


def _word(before: bytes, after: bytes) -> str:
    if after == before:
        return "kept"
    unset = not after.strip(b"\0") or after == b"\xff\x7f" * (len(after) // 2)
    return LOST if unset else "the stem's"
