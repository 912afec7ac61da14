"""Text tags and the cover: read from the input, put on each stem.

Knows libsndfile's ten text fields and ffmpeg, which knows all tags and pictures. Tags are put on after the
encoding, by a copy that re-encodes nothing: the samples stay as they are (tests/test_tags.py). What can't be
put on is left out; a tag is never a reason for a track to fail.
"""

from __future__ import annotations

import base64
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepcli import ffmpeg
from sepcli.audio import AudioInfo

# What describes the file and not the music, or would be wrong for a stem: encoder's own notes, container
# brands, gapless data and loudness corrections of the mix.
_DROPPED = frozenset(
    "encoder encoded_by encoding_settings tsse software major_brand minor_version compatible_brands vendor_id"
    " handler_name creation_time duration language itunsmpb itunnorm itunpgap gapless_playback"
    " metadata_block_picture coverart waveformatextensible_channel_mask umid coding_history".split()
)
_DROPPED_PREFIXES = ("replaygain_", "r128_", "duration-", "bps", "number_of_", "_statistics", "id3v2_priv")

# ffmpeg's names -> libsndfile's fields.
SNDFILE_FIELDS = {
    **dict.fromkeys("title artist album date genre comment copyright license".split()),
    "track": "tracknumber",
}


@dataclass(frozen=True)
class Tags:
    """What to put on an output."""

    text: Mapping[str, str] = field(default_factory=dict)  # ffmpeg's names, lower-case
    title: str = ""  # of the track: its title tag, else the name of its file
    source: Path | None = None  # where the cover is
    cover: int | None = None  # the stream of `source` that is the cover; None: there is none

    def for_stem(self, stem: str) -> Tags:
        """The same with the title "TITLE (STEM)"."""
        return replace(self, text={**self.text, "title": f"{self.title} ({stem})"})

    @property
    def sndfile(self) -> dict[str, str]:
        """What libsndfile can carry, by its field names."""
        return {
            SNDFILE_FIELDS[name] or name: text
            for name, text in self.text.items()
            if name in SNDFILE_FIELDS and text
        }


def read_tags(path: Path, info: AudioInfo) -> Tags:
    """The input's tags: all of them and the cover through ffmpeg where it is found, else libsndfile's."""
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


def add_tags(path: Path, container: str, tags: Tags) -> str:
    """Put tags and cover on a finished file, by copying its streams next to it and renaming.

    container: ffmpeg's name of the file's format. Returns "" or why it was left as it was.
    """
    # The same pattern as outputs.py's own temporary files, so that a run's leftovers are cleared alike.
    temporary = path.with_name(f".sepcli-part-{os.getpid()}-{secrets.token_hex(4)}")
    text = dict(tags.text)
    picture: list[str | bytes] = []
    streams: list[str | bytes] = []
    if tags.cover is not None and tags.source is not None:
        if container in ("ogg", "opus"):
            text["METADATA_BLOCK_PICTURE"] = _picture_block(tags.source, tags.cover)
        else:
            picture = ["-i", ffmpeg.url(tags.source)]
            streams = ["-map", f"2:{tags.cover}", "-disposition:v:0", "attached_pic"]
    arguments = [
        *("-i", ffmpeg.url(path), "-f", "ffmetadata", "-i", "pipe:0", *picture, "-map", "0:a", *streams),
        *("-c", "copy", "-map_metadata", "1"),
        *(("-map_metadata:s:a:0", "1:g") if container in ("ogg", "opus") else ()),
        *("-f", container, *CONTAINER_OPTIONS.get(container, ()), ffmpeg.url(temporary)),
    ]
    try:
        status, _, messages = ffmpeg.run(arguments, feed=_ffmetadata(text))
        if status or not temporary.exists() or temporary.stat().st_size == 0:
            return messages[0] if messages else f"ffmpeg ended with status {status}"
        os.replace(temporary, path)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        temporary.unlink(missing_ok=True)
    return ""


# ID3v2.3 is what players of all ages read. (MP4's time scale is the encoder's matter: encode.py.)
CONTAINER_OPTIONS: dict[str, tuple[str, ...]] = {"mp3": ("-id3v2_version", "3")}


def _ffmetadata(text: Mapping[str, str]) -> bytes:
    """ffmpeg's text format for tags; through a pipe there is no limit on their length."""
    lines = [";FFMETADATA1"]
    for name, value in text.items():
        lines.append(f"{_escape(name)}={_escape(value)}")
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _escape(text: str) -> str:
    for special in "\\=;#\n":
        text = text.replace(special, "\\" + special)
    return text


def _picture_block(source: Path, stream: int) -> str:
    """The cover as Ogg carries it: a FLAC picture block (RFC 9639, section 8.8) in base64; "" without one."""
    copy = ("-map", f"0:{stream}", "-c", "copy", "-frames:v", "1", "-f", "image2pipe", "-")
    status, image, _ = ffmpeg.run(["-i", ffmpeg.url(source), *copy])
    if status or not image:
        return ""
    kind = b"image/png" if image.startswith(b"\x89PNG") else b"image/jpeg"
    front_cover = 3
    block = struct.pack(">II", front_cover, len(kind)) + kind + struct.pack(">I", 0)  # no description
    block += struct.pack(">IIII", 0, 0, 0, 0)  # width, height, depth, colours: 0 = see the image
    return base64.b64encode(block + struct.pack(">I", len(image)) + image).decode()
