"""A video with another sound: packets of the picture and of a sound file, copied as they are into a new file.

Knows containers, packets and their times; nothing of stems. Both files are read in step, so memory does not
depend on their length.

    film    picture | subtitles | sound         | other sound | chapters
    copy    picture | subtitles | the new sound | other sound | chapters

The new sound's first sample gets the time that the old one's had (`packets.Reader.begins`), and all times are
moved together, so that the file begins at 0.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
from av.container import Flags, InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from sepcli.errors import InputError, UsageError, from_os, parameter
from sepcli.sound import packets
from sepcli.sound.encode import ffmpeg_errors
from sepcli.sound.losses import name_of
from sepcli.sound.sink import Sink
from sepcli.sound.tags import is_kept
from sepcli.sound.video import CONTAINERS, Container

if TYPE_CHECKING:
    from av.container.core import Chapter

# Streams that are copied where the container can hold them, least needed first.
_OPTIONAL = ("attachment", "cover", "subtitle", "audio")
# What a muxer writes anew, or what describes the packets of another file.
_STALE = ("duration", "bps", "number_of_", "_statistics", "encoder", "vendor_id")


def check_picture(path: Path, container: str) -> None:
    """InputError where the file has no moving picture; UsageError where the container can't hold it.

    container: its suffix.
    """
    try:
        with packets.opened(path) as film:
            there = bool(packets.pictures(film))
            if there and not _holds(CONTAINERS[container], film):
                raise _unfit(path, film, CONTAINERS[container])
    except OSError as error:
        raise from_os(error, path, reading=InputError) from None
    except FFmpegError:  # libsndfile may know it, but then it is no video
        there = False
    if not there:
        raise InputError(
            f"{name_of(path)} has no moving picture.",
            remedy=f"Leave {parameter('video')} out for it, to have its stems as sound.",
            code="no_picture",
        )


def put_sound(
    film: Path,
    track: int,
    begins: Fraction,
    drifts: Sequence[tuple[Fraction, Fraction]],
    sound: Path,
    target: Path,
    *,
    container: str,
    stem: str,
    tags: bool = True,
) -> list[str]:
    """Write `target`: the video `film` with the file `sound` in the place of its audio track `track` (from 1).

    begins: the time of the first sample, in seconds of the film's clock. drifts: as in `packets.Reader`.
    container: its suffix. stem: what the sound is. tags: whether the film's texts are carried over.

    Returns what had to be left out, as words: "subtitle (ass)". OSError where the system refuses; UsageError
    where the container can't hold the picture.
    """
    kind = CONTAINERS[container]
    with packets.opened(film) as old, packets.opened(sound) as new:
        old.flags |= Flags.gen_pts.value
        text = _text(film, old, stem) if tags else {}
        # A muxer does not say which stream it can't hold, so the less needed ones are left out in turn.
        for leave in range(len(_OPTIONAL) + 1):
            with closing(Sink(target)) as sink:
                copy = _Copy(film, old, new, track, sink, kind, _OPTIONAL[leave:])
                if copy.starts(stem, text, begins):
                    copy.run(drifts)
                    return [*copy.left_out, *_other_shapes(old, target)]
        raise _unfit(film, old, kind)


def _holds(kind: Container, film: InputContainer) -> bool:
    """Whether such a file can have the film's pictures."""
    with av.open(BytesIO(), "w", format=kind.muxer) as trial:
        try:
            for picture in packets.pictures(film):
                cast(OutputContainer, trial).add_stream_from_template(picture, opaque=True)
            cast(OutputContainer, trial).start_encoding()
        except (FFmpegError, ValueError):
            return False
    return True


def _unfit(path: Path, film: InputContainer, kind: Container) -> UsageError:
    codec = packets.pictures(film)[0].codec_context
    return UsageError(
        f"A {kind.suffix} file can't hold the picture of {name_of(path)}"
        f"{f' ({codec.codec.canonical_name})' if codec else ''}.",
        remedy="Convert it first, for example with `ffmpeg -i INPUT OUTPUT.mp4`.",
        code="video",
    )


def _other_shapes(film: InputContainer, target: Path) -> list[str]:
    """What got lost of the shape of pixels that are no squares: some codecs leave that to the container."""
    with packets.opened(target) as copy:
        pairs = zip(packets.pictures(film), packets.pictures(copy), strict=True)
        return [
            f"the shape of its pixels ({old.sample_aspect_ratio})"
            for old, new in pairs
            if (old.sample_aspect_ratio or 1) != (new.sample_aspect_ratio or 1)
        ]


class _Copy:
    """One attempt to write the video."""

    def __init__(
        self,
        film: Path,
        old: InputContainer,
        new: InputContainer,
        track: int,
        sink: Sink,
        kind: Container,
        optional: tuple[str, ...],
    ):
        """optional: kinds of streams beside the picture that are copied."""
        self.left_out: list[str] = []
        self._film, self._old, self._new = film, old, new
        self._sink, self._kind, self._optional = sink, kind, optional
        self._sound = new.streams.audio[0]
        self._replaced = packets.audio_streams(old)[track - 1]
        self._begins = self._zero = Fraction(0)
        self._streams: dict[int, Stream] = {}  # of the copy, by the index of the film's
        self._out = cast(
            OutputContainer,
            av.open(
                sink, "w", format=kind.muxer, container_options=dict(kind.options), metadata_errors="replace"
            ),
        )

    def starts(self, stem: str, text: Mapping[str, str], begins: Fraction) -> bool:
        """Write the header; False where the container can't hold all of these streams."""
        self._out.metadata.update(text)
        self._begins, self._zero = begins, self._beginning(begins)
        first = self._old.streams.audio[0]
        try:
            for stream in self._old.streams:
                if stream.index == first.index:
                    self._added = self._out.add_stream_from_template(self._sound)
                    self._describe(stem)
                if stream.index != self._replaced.index:
                    self._add(stream)
            self._out.set_chapters([self._moved(chapter) for chapter in self._old.chapters()])
            self._out.start_encoding()
        except (FFmpegError, ValueError):
            if self._sink.error is not None:
                raise self._sink.error from None
            return False
        return True

    def _add(self, stream: Stream) -> None:
        """A stream of the film, if it is to be copied. ValueError for a picture that can't be."""
        cover = bool(stream.disposition & Disposition.attached_pic)
        kind = "cover" if cover else stream.type
        try:
            if kind not in (*self._optional, "video"):
                raise ValueError(kind)
            if cover and self._kind.muxer == "matroska":  # which has it as a file beside the tracks
                image, text = _image(self._film, stream.index), stream.metadata
                self._out.add_attachment(text.get("filename", "cover"), text.get("mimetype", ""), image)
                return
            # "opaque": no encoder of this codec is needed.
            copy = self._out.add_stream_from_template(stream, opaque=True)
        except ValueError:
            if kind == "video":
                raise
            # Data are notes for players: muxers make the tracks of time code and of chapters anew.
            if kind != "data":
                codec = stream.codec_context
                self.left_out.append(f"{kind} ({codec.name})" if codec else kind)
            return
        copy.metadata.update(_kept(stream.metadata))
        copy.disposition = stream.disposition
        if stream.type == "audio":
            copy.disposition &= ~Disposition.default
        if isinstance(stream, VideoStream) and (codec := cast(VideoStream, copy).codec_context):
            if stream.sample_aspect_ratio:
                codec.sample_aspect_ratio = stream.sample_aspect_ratio
            if stream.codec_context.codec_tag == "hvc1" and self._kind.muxer in ("mp4", "mov"):
                codec.codec_tag = "hvc1"  # Apple's players show no HEVC under its other name, hev1
        self._streams[stream.index] = copy

    def _describe(self, stem: str) -> None:
        """The new track is what the old one was, in its language for instance, but for its name."""
        text = _kept(self._replaced.metadata)
        names = ("title", "handler_name") if "handler_name" in text else ("title",)
        self._added.metadata.update({**text, **dict.fromkeys(names, stem)})
        self._added.disposition = self._replaced.disposition | Disposition.default

    def run(self, drifts: Sequence[tuple[Fraction, Fraction]]) -> None:
        """Copy all packets, and complete the file."""
        try:
            with ffmpeg_errors(self._sink, ValueError):
                for _, packet in heapq.merge(self._pictures(), self._track(drifts), key=lambda pair: pair[0]):
                    self._out.mux(packet)
                self._out.close()
        except BaseException:
            self._sink.close()
            with suppress(FFmpegError):
                self._out.close()  # what FFmpeg still wants to write goes nowhere
            raise

    def _beginning(self, begins: Fraction) -> Fraction:
        """The film's time at which the copy begins, in whole ticks of the first picture's clock."""
        picture = packets.pictures(self._old)[0]
        start = packets.moment(picture.start_time, picture.time_base)
        if begins >= start or not picture.time_base:
            return start
        return begins // picture.time_base * picture.time_base

    def _moved(self, chapter: Chapter) -> Chapter:
        shift = round(self._zero / (chapter["time_base"] or 1))
        return {**chapter, "start": max(0, chapter["start"] - shift), "end": max(0, chapter["end"] - shift)}

    def _pictures(self) -> Iterator[tuple[float, Packet]]:
        """Packets of the film and when they are decoded, in seconds."""
        last: dict[int, int] = {}
        bases = {index: self._old.streams[index].time_base or Fraction(1) for index in self._streams}
        shifts = {index: round(self._zero / base) for index, base in bases.items()}
        seconds = {index: float(base) for index, base in bases.items()}  # of a tick
        streams = [self._old.streams[index] for index in self._streams]
        for packet in _ordered(packets.demuxed(self._old, *streams)):
            index, pts, dts = packet.stream.index, packet.pts, packet.dts
            shift = shifts[index]
            if packet.stream.disposition & Disposition.attached_pic:
                pts = dts = shift
            pts = dts if pts is None else pts
            if pts is None or not packet.size:
                continue
            # Each has to be decoded after the one before.
            dts = last.get(index, pts - shift - 1) + 1 if dts is None else dts - shift
            dts = max(dts, last.get(index, dts - 1) + 1)
            last[index] = dts
            packet.pts, packet.dts = max(pts - shift, dts), dts
            packet.stream = self._streams[index]
            yield dts * seconds[index], packet

    def _track(self, drifts: Sequence[tuple[Fraction, Fraction]]) -> Iterator[tuple[float, Packet]]:
        """The same of the new sound, which drifts as the old one did."""
        base = self._sound.time_base or Fraction(1)
        starts = packets.moment(self._sound.start_time, base)  # its first sample, in its file
        # In ticks: how far all is moved, and from where on by how much more.
        shift = round((self._begins - self._zero - starts) / base)
        to_come = deque((round((at + starts) / base), round(drift / base)) for at, drift in drifts)
        second, drift, last = float(base), 0, None
        for packet in packets.demuxed(self._new, self._sound):
            if packet.dts is None or not packet.size:
                continue
            while to_come and to_come[0][0] <= packet.dts + (packet.duration or 0) / 2:
                drift = to_come.popleft()[1]
            time = packet.dts + shift + drift
            last = time if last is None else max(time, last + 1)
            packet.pts = packet.dts = last
            packet.stream = self._added
            yield last * second, packet


_MOST_HELD = 64  # packets; no codec shows pictures so far out of order


def _ordered(found: Iterator[Packet]) -> Iterator[Packet]:
    """With times of decoding for the first packets of a stream.

    Matroska states only when a picture is shown. Until FFmpeg has seen how far they are out of order, it does
    not say when they are decoded.
    """
    waiting: dict[int, list[Packet] | None] = {}  # by stream; None once the times are known
    for packet in found:
        index = packet.stream.index
        held = waiting.setdefault(index, [])
        if held is None or packet.stream.disposition & Disposition.attached_pic:
            yield packet
            continue
        held.append(packet)
        if packet.dts is None and packet.size and len(held) < _MOST_HELD:
            continue
        if packet.dts is not None:
            for back, earlier in enumerate(reversed(held)):
                earlier.dts = packet.dts - back * (packet.duration or 1)
        waiting[index] = None
        yield from held
    for held in waiting.values():
        yield from held or []


def _image(film: Path, index: int) -> bytes:
    """The picture file of a cover."""
    with packets.opened(film) as container:
        return bytes(next(container.demux(container.streams[index])))


def _text(film: Path, container: InputContainer, stem: str) -> dict[str, str]:
    """The film's texts, with the stem in its title."""
    found = {name.lower(): text for name, text in container.metadata.items()}
    title = found.get("title", "").strip() or os.fsencode(film.stem).decode("utf-8", "replace")
    return {**{name: text for name, text in found.items() if is_kept(name)}, "title": f"{title} ({stem})"}


def _kept(text: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in text.items() if not name.lower().startswith(_STALE)}
