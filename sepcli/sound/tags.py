"""Text tags and the cover: read from the input, put on each stem.

FFmpeg's libraries (PyAV) know all tags and pictures. WAV and MP3 files get their tags while they are written
(wav.py, id3.py). The others get the texts that libsndfile knows then, and all tags afterwards: AIFF in a chunk
at its end, the rest in a copy that re-encodes nothing, so the samples stay as they are (tests/test_tags.py). A
tag that can't be written is left out: it is never a reason for a track to fail.
"""

from __future__ import annotations

import base64
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO, RawIOBase
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream

from sepcli.errors import from_os
from sepcli.sound import layouts, ogg
from sepcli.sound.boxes import find_box
from sepcli.sound.broadcast import Chunks, read_chunks
from sepcli.sound.formats import Format
from sepcli.sound.id3 import id3v2
from sepcli.sound.packets import MOST_AT_ONCE
from sepcli.sound.probe import AudioInfo
from sepcli.sound.sink import Sink

# Tags that describe the file and not the music, or would be wrong for a stem: notes of the encoder, brands of
# the container, gapless data, and loudness corrections of the mix.
_DROPPED = frozenset(
    "encoder encoded_by encoding_settings tsse software major_brand minor_version compatible_brands vendor_id"
    " handler_name creation_time duration language itunsmpb itunnorm itunpgap gapless_playback"
    " metadata_block_picture coverart waveformatextensible_channel_mask umid coding_history".split()
)
_DROPPED_PREFIXES = ("replaygain_", "r128_", "duration-", "bps", "number_of_", "_statistics", "id3v2_priv")

# Names that FFmpeg leaves as a container has them -> the one that all formats are written from.
_SAME = {"tbpm": "bpm", "tmpo": "bpm", "tsrc": "isrc", "tkey": "initialkey", "tcmp": "compilation"}

# FFmpeg's names -> libsndfile's fields.
SNDFILE_FIELDS = {
    **{name: name for name in "title artist album date genre comment copyright license".split()},
    "track": "tracknumber",
}


@dataclass(frozen=True)
class Tags:
    """Text tags and the cover for the outputs of one input."""

    text: Mapping[str, str] = field(default_factory=dict)  # by FFmpeg's names, lower-case
    title: str = ""  # of the track: its title tag, else the name of its file
    chunks: Chunks = field(default_factory=Chunks)  # of a WAV, for WAVs
    stem: str = ""  # of which the file is; "": of the input itself
    cover: bytes = b""  # the picture as its file would be, JPEG or PNG; b"": there is none

    def for_stem(self, stem: str) -> Tags:
        """The same with the title "TITLE (STEM)"."""
        return replace(self, text={**self.text, "title": f"{self.title} ({stem})"}, stem=stem)

    def moved(self, start: int, samplerate: int, out_rate: int) -> Tags:
        """The same for files of `out_rate` Hz that begin at frame `start` of an input of `samplerate` Hz."""
        chunks = self.chunks.moved(start, samplerate, out_rate)
        text = dict(self.text)
        if "time_reference" in text and chunks.reference is not None:
            text["time_reference"] = str(chunks.reference)
        return replace(self, text=text, chunks=chunks)

    def within(self, size: int) -> tuple[Tags, list[str]]:
        """The tags whose texts fit into `size` bytes together, and the names of the longer ones left out."""
        text = dict(sorted(self.text.items(), key=lambda item: len(item[1].encode("utf-8", "replace"))))
        long = []
        while sum(len(name) + len(value.encode("utf-8", "replace")) for name, value in text.items()) > size:
            long.append(text.popitem()[0])
        return replace(self, text={name: self.text[name] for name in self.text if name in text}), long

    def texts(self, spec: Format) -> dict[str, str]:
        """The texts by the names that FFmpeg's muxer of this format knows."""
        texts = {spec.tag_names.get(name, name): value for name, value in self.text.items() if value}
        if "tmpo" in texts:  # MP4 holds whole numbers there
            with suppress(ValueError, OverflowError):
                texts["tmpo"] = str(round(float(texts["tmpo"])))
        return texts

    @property
    def cover_type(self) -> str:
        """The MIME type of the cover; "" without one."""
        return _mime(self.cover)

    @property
    def sndfile(self) -> dict[str, str]:
        """The texts that libsndfile can write, by its names for them."""
        return {
            SNDFILE_FIELDS[name]: text for name, text in self.text.items() if name in SNDFILE_FIELDS and text
        }


def read_tags(path: Path, info: AudioInfo) -> Tags:
    """All texts and the cover of the file `path`; what `info` has where FFmpeg can't open it."""
    path = Path(path)
    found: dict[str, str] = dict(info.tags)
    cover = b""
    # ValueError: what PyAV says of invalid arguments.
    with ExitStack() as stack:
        stack.enter_context(suppress(OSError, ValueError, FFmpegError))
        file = stack.enter_context(path.open("rb"))
        container = stack.enter_context(av.open(_Excerpt(file), "r", metadata_errors="replace"))
        sound = dict(enumerate(stream.metadata for stream in container.streams.audio)).get(info.track - 1, {})
        # Ogg keeps its tags with the stream, the others with the file.
        merged = {**sound, **container.metadata}
        found = {_name(name): value for name, value in merged.items()} or found
        cover = _cover(container)
        if "mp4" in container.format.name.split(",") and (tempo := _tempo(file)):
            found.setdefault("bpm", tempo)
    chunks = Chunks()
    with suppress(OSError):
        chunks = read_chunks(path)
    text = {name: _clean(value) for name, value in found.items() if is_kept(name) and value.strip()}
    title = text.get("title") or os.fsencode(path.stem).decode("utf-8", "replace")
    return Tags(text=text, title=title, chunks=chunks, cover=cover)


LOOKED_AT = 1 << 26  # bytes of a file that are read in search of its tags
SEEK_COST = 1 << 12  # bytes that a seek counts for


class _Excerpt:
    """A file that ends once so many bytes of it have been read, wherever they are.

    FFmpeg looks behind the samples for more chunks, and would go through gigabytes of nulls there.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.left = LOOKED_AT  # bytes
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's `seek`."""
        self.left = max(0, self.left - SEEK_COST)
        return self._file.seek(offset, whence)

    def read(self, size: int) -> bytes:
        """As a file's `read`."""
        data = self._file.read(min(size, self.left, MOST_AT_ONCE))
        self.left -= len(data)
        return data


def _tempo(file: BinaryIO) -> str:
    """The tempo in the tags of an MP4 file, which FFmpeg writes and does not read; "" for none."""
    data = find_box(file, (b"moov", b"udta", b"meta", b"ilst", b"tmpo", b"data")) or b""
    value = int.from_bytes(data[8:], "big") if len(data) in (9, 10, 12) else 0  # type and country stand before
    return str(value) if value else ""


def _cover(container: InputContainer) -> bytes:
    """The bytes of the first attached picture, as they are in the file; b"" without one."""
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            image = bytes(next(container.demux(stream)))
            return image if _mime(image) else b""
    return b""


def _name(name: str) -> str:
    """FFmpeg's name of a tag as it is kept: in lower case, one for each meaning; lyrics without a language."""
    name = name.lower()
    return "lyrics" if name.startswith("lyrics-") else _SAME.get(name, name)


def is_kept(name: str) -> bool:
    """Whether a tag of this name, in lower case, says something about the music."""
    return name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)


def _clean(text: str) -> str:
    """Valid UTF-8 without null bytes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def add_tags(path: Path, spec: Format, samplerate: int, tags: Tags, layout: tuple[str, ...] = ()) -> str:
    """Put tags and cover on a finished file, and the names of its channels. Its samples stay as they are.

    samplerate: the file's, in Hz. layout: to be stated in the file; () for none. Returns "", or what could not
    be written and why; the file is whole then too.
    """
    reason = ""
    if tags.text or tags.cover or not spec.layout_chunk:
        put = _append_id3 if spec.id3 == "chunk" else _put_in_copy
        reason = put(path, spec, samplerate, tags, layout)
        if reason and tags.cover and not put(path, spec, samplerate, replace(tags, cover=b""), layout):
            reason = f"the cover ({reason})"
    if layout and spec.layout_chunk:
        names = struct.pack(">III", _BITMAP, layouts.mask(layout), 0)
        reason = _append(path, spec, spec.layout_chunk, names) or reason
    return reason


# Core Audio, CoreAudioTypes.h: kAudioChannelLayoutTag_UseChannelBitmap. The bits are those of WAV's mask.
_BITMAP = 0x10000


def _append_id3(path: Path, spec: Format, _: int, tags: Tags, layout: tuple[str, ...]) -> str:
    """Put an ID3 chunk at the end of an AIFF file."""
    return _append(path, spec, b"ID3 ", id3v2(tags.text, tags.cover, tags.cover_type))


def _append(path: Path, spec: Format, name: bytes, payload: bytes) -> str:
    """Put a chunk at the end of an AIFF or CAF file. Returns "", or why that could not be done."""
    aiff = spec.name == "aiff"
    size = path.stat().st_size
    start = size + size % 2 if aiff else size  # of the chunk; the sizes of AIFF are even
    header = name + struct.pack(">I" if aiff else ">Q", len(payload))
    data = bytes(start - size) + header + payload + bytes(len(payload) % 2 if aiff else 0)
    end = size + len(data)
    if spec.max_bytes is not None and end > spec.max_bytes:
        return f"with them the file would be larger than {spec.name} allows"
    try:
        with path.open("r+b", buffering=0) as file:
            try:
                _write_at(file, size, data)
                if aiff:
                    _write_at(file, 4, struct.pack(">I", end - 8))  # the size in the FORM header
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        return from_os(error, path).message.rstrip(".")
    return ""


def _write_at(file: RawIOBase, offset: int, data: bytes) -> None:
    """Write all of `data`."""
    file.seek(offset)
    rest = memoryview(data)
    while rest:  # a nearly full disk takes a part first
        rest = rest[file.write(rest) or 0 :]


def _put_in_copy(path: Path, spec: Format, samplerate: int, tags: Tags, layout: tuple[str, ...]) -> str:
    """Copy the file's packets into a new file with the tags, and rename that."""
    # The folder is the run's work folder, which is removed even if this process dies.
    temporary = path.with_name(f".sepcli-part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with closing(Sink(temporary)) as sink:
            try:
                _copy(path, sink, spec, samplerate, tags, layout)
            finally:
                if sink.error is not None:
                    raise sink.error
        ends = [ogg.granule(ogg.last_page(file)) for file in (temporary, path) if spec.tags_in_stream]
        if len(set(ends)) > 1:  # what lies behind the position is padding
            return "FFmpeg's copy of a file this short would change its length"
        os.replace(temporary, path)
    except FFmpegError as error:
        return f"FFmpeg: {error.strerror}"
    except (ValueError, IndexError):  # no codec that the format takes, or no picture in the cover
        return f"FFmpeg writes no such {spec.name} file"
    except OSError as error:
        return from_os(error, path).message.rstrip(".")
    finally:
        temporary.unlink(missing_ok=True)
    return ""


def _copy(path: Path, sink: Sink, spec: Format, samplerate: int, tags: Tags, layout: tuple[str, ...]) -> None:
    """The file's packets as they are, with these tags instead of its own."""
    text = tags.texts(spec)
    image = tags.cover if spec.covers else b""
    with ExitStack() as stack:
        source = stack.enter_context(av.open(stack.enter_context(path.open("rb")), "r"))
        copy = stack.enter_context(
            av.open(
                sink,
                "w",
                format=spec.container,
                container_options=spec.muxer_options(samplerate),
                metadata_errors="replace",
            )
        )
        sound = source.streams.audio[0]
        stream = copy.add_stream_from_template(sound)
        if layout and spec.name == "flac":
            text["WAVEFORMATEXTENSIBLE_CHANNEL_MASK"] = f"{layouts.mask(layout):#x}"
        packets = [_packets(source, sound, stream)]
        if image and spec.tags_in_stream:
            text["METADATA_BLOCK_PICTURE"] = _picture_block(image, tags.cover_type)
        elif image:
            packets.insert(0, add_cover(stack.enter_context(av.open(BytesIO(image), "r")), copy))
        (stream if spec.tags_in_stream else copy).metadata.update(text)
        copy.start_encoding()
        for packet in chain(*packets):
            copy.mux(packet)


def add_cover(picture: InputContainer, container: OutputContainer) -> Iterator[Packet]:
    """Make a picture the cover of a file that is written; its packets, to be written before the sound."""
    old = picture.streams.video[0]
    cover = container.add_stream_from_template(old)
    cover.disposition = Disposition.attached_pic
    return _packets(picture, old, cover)


def _packets(source: InputContainer, old: Stream, new: Stream) -> Iterator[Packet]:
    """The packets of the stream `old` of a file, made packets of the stream `new`."""
    for packet in source.demux(old):
        if packet.dts is not None:  # the last one only says that there are no more
            packet.stream = new
            yield packet


def _mime(image: bytes) -> str:
    """The type of a picture that every format with covers can hold; "" for others."""
    kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
    return next((kind for magic, kind in kinds.items() if image.startswith(magic)), "")


def _picture_block(image: bytes, kind: str) -> str:
    """The cover as Ogg carries it: a FLAC picture block (RFC 9639, section 8.8) in base64."""
    front_cover = 3
    block = struct.pack(">II", front_cover, len(kind)) + kind.encode() + struct.pack(">I", 0)  # no description
    block += struct.pack(">IIII", 0, 0, 0, 0)  # width, height, depth, colours: 0 = see the image
    return base64.b64encode(block + struct.pack(">I", len(image)) + image).decode()
