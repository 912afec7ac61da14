"""Text tags and the cover: read from the input, put on each stem.

libsndfile knows a few text fields; ffmpeg knows all tags and pictures. WAV and MP3 files get their tags while
they are written (wav.py, id3.py). The others get theirs afterwards, in a copy by ffmpeg that re-encodes
nothing, so the samples stay as they are (tests/test_tags.py). A tag that can't be written is left out: it is
never a reason for a track to fail.
"""

from __future__ import annotations

import base64
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepcli.errors import from_os
from sepcli.sound import ffmpeg
from sepcli.sound.decode import AudioInfo
from sepcli.sound.formats import Format

# Tags that describe the file and not the music, or would be wrong for a stem: notes of the encoder, brands of
# the container, gapless data, and loudness corrections of the mix.
_DROPPED = frozenset(
    "encoder encoded_by encoding_settings tsse software major_brand minor_version compatible_brands vendor_id"
    " handler_name creation_time duration language itunsmpb itunnorm itunpgap gapless_playback"
    " metadata_block_picture coverart waveformatextensible_channel_mask umid coding_history".split()
)
_DROPPED_PREFIXES = ("replaygain_", "r128_", "duration-", "bps", "number_of_", "_statistics", "id3v2_priv")

# ffmpeg's names -> libsndfile's fields.
SNDFILE_FIELDS = {
    **{name: name for name in "title artist album date genre comment copyright license".split()},
    "track": "tracknumber",
}


@dataclass(frozen=True)
class Tags:
    """Text tags and the cover for the outputs of one input."""

    text: Mapping[str, str] = field(default_factory=dict)  # by ffmpeg's names, lower-case
    title: str = ""  # of the track: its title tag, else the name of its file
    source: Path | None = None  # the file with the cover
    cover: int | None = None  # the stream of `source` that is the cover; None: there is none

    def for_stem(self, stem: str) -> Tags:
        """The same with the title "TITLE (STEM)"."""
        return replace(self, text={**self.text, "title": f"{self.title} ({stem})"})

    def within(self, size: int) -> tuple[Tags, list[str]]:
        """The tags whose texts fit into `size` bytes together, and the names of the longer ones left out."""
        text = dict(sorted(self.text.items(), key=lambda item: len(item[1].encode("utf-8", "replace"))))
        long = []
        while sum(len(name) + len(value.encode("utf-8", "replace")) for name, value in text.items()) > size:
            long.append(text.popitem()[0])
        return replace(self, text={name: self.text[name] for name in self.text if name in text}), long

    @property
    def sndfile(self) -> dict[str, str]:
        """The texts that libsndfile can write, by its names for them."""
        return {
            SNDFILE_FIELDS[name]: text for name, text in self.text.items() if name in SNDFILE_FIELDS and text
        }


def read_tags(path: Path, info: AudioInfo) -> Tags:
    """The tags of the file `path`: all and the cover if ffmpeg is found, else the texts libsndfile knows."""
    path = Path(path)
    found: dict[str, str] = dict(info.tags)
    cover = None
    if ffmpeg.available():
        answer = ffmpeg.probe(path)
        streams = answer.get("streams", [])
        sound = next((s for s in streams if s.get("codec_type") == "audio"), {})
        # Ogg keeps its tags with the stream, the others with the file.
        merged = {**sound.get("tags", {}), **answer.get("format", {}).get("tags", {})}
        found = {name.lower(): str(text) for name, text in merged.items()} or found
        pictures = [s["index"] for s in streams if s.get("disposition", {}).get("attached_pic")]
        cover = pictures[0] if pictures else None
    text = {name: _clean(value) for name, value in found.items() if _kept(name) and value.strip()}
    title = text.get("title") or os.fsencode(path.stem).decode("utf-8", "replace")
    return Tags(text=text, title=title, source=path if cover is not None else None, cover=cover)


def _kept(name: str) -> bool:
    return name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)


def _clean(text: str) -> str:
    """Valid UTF-8 without null bytes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def add_tags(path: Path, spec: Format, samplerate: int, tags: Tags) -> str:
    """Put tags and cover on a finished file, by copying its streams next to it and renaming.

    samplerate: the file's, in Hz. Returns "", or why the file was left as it was.
    """
    # The folder is the run's work folder, which is removed even if this process dies.
    temporary = path.with_name(f".sepcli-part-{os.getpid()}-{secrets.token_hex(4)}")
    text = dict(tags.text)
    ogg = spec.container in ("ogg", "opus")
    picture: list[str | bytes] = []
    streams: list[str | bytes] = []
    if tags.cover is not None and tags.source is not None and spec.covers:
        if ogg:
            text["METADATA_BLOCK_PICTURE"] = _picture_block(*read_cover(tags))
        else:
            picture = ["-i", ffmpeg.url(tags.source)]
            streams = ["-map", f"2:{tags.cover}", "-disposition:v:0", "attached_pic"]
    arguments = [
        *("-i", ffmpeg.url(path), "-f", "ffmetadata", "-i", "pipe:0", *picture, "-map", "0:a", *streams),
        *("-c", "copy", "-map_metadata", "1", *(("-map_metadata:s:a:0", "1:g") if ogg else ())),
        *("-f", spec.container, *spec.muxer_options(samplerate), ffmpeg.url(temporary)),
    ]
    try:
        status, _, messages = ffmpeg.run(arguments, feed=_ffmetadata(text))
        if status or not temporary.exists() or temporary.stat().st_size == 0:
            return messages[0] if messages else f"ffmpeg ended with status {status}"
        if spec.max_bytes is not None and temporary.stat().st_size > spec.max_bytes:
            return f"with them the file would be larger than {spec.name} allows"
        if ogg and _last_granule(temporary) != _last_granule(path):
            return "ffmpeg's copy of a file this short would change its length"
        os.replace(temporary, path)
    except OSError as error:
        return from_os(error, path).message.rstrip(".")
    finally:
        temporary.unlink(missing_ok=True)
    return ""


def _last_granule(path: Path) -> int:
    """The position at which an Ogg stream says that it ends (RFC 3533); later samples are padding. -1: none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * 65307))  # the largest page there is, twice
        tail = file.read()
    at = tail.rfind(b"OggS")
    return struct.unpack_from("<q", tail, at + 6)[0] if 0 <= at <= len(tail) - 14 else -1


def _ffmetadata(text: Mapping[str, str]) -> bytes:
    """The tags in ffmpeg's text format. It goes through a pipe: a command line would limit their length."""
    lines = [";FFMETADATA1"]
    lines += [f"{_escape(name)}={_escape(value)}" for name, value in text.items() if value]
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _escape(text: str) -> str:
    for special in "\\=;#\n":
        text = text.replace(special, "\\" + special)
    return text


def read_cover(tags: Tags) -> tuple[bytes, str]:
    """The cover's bytes as they are in the source, and their MIME type; (b"", "") without one."""
    if tags.cover is None or tags.source is None or ffmpeg.find() is None:
        return b"", ""
    copy = ("-map", f"0:{tags.cover}", "-c", "copy", "-frames:v", "1", "-f", "image2pipe", "-")
    status, image, _ = ffmpeg.run(["-i", ffmpeg.url(tags.source), *copy])
    if status or not image:
        return b"", ""
    return image, "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"


def _picture_block(image: bytes, kind: str) -> str:
    """The cover as Ogg carries it: a FLAC picture block (RFC 9639, section 8.8) in base64; "" without one."""
    if not image:
        return ""
    front_cover = 3
    block = struct.pack(">II", front_cover, len(kind)) + kind.encode() + struct.pack(">I", 0)  # no description
    block += struct.pack(">IIII", 0, 0, 0, 0)  # width, height, depth, colours: 0 = see the image
    return base64.b64encode(block + struct.pack(">I", len(image)) + image).decode()
