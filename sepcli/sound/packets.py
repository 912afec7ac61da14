"""Read compressed audio with FFmpeg's libraries (PyAV), packet by packet, and go on behind damage.

Knows containers, packets and their times; nothing of models or files' names. It gives samples at one rate and
in one layout, whatever the file changes on its way, and says what the file lacks:

- A packet that does not decode becomes silence of its length.
- Times that go forward where no packet is become silence of that length.
- A file that ends before what its header states is said to be cut short.

FFmpeg's programs do less: they stop at the first joined part whose rate changes, drop damaged packets without a
trace in time, and write what follows a gap too early.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import av.logging
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.error import FFmpegError as Error
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from sepcli.sound import icy, layouts, ogg
from sepcli.sound.losses import CUT_SHORT, DAMAGED, GAP, JOINED, LATE, TIMES, Loss
from sepcli.sound.resample import Resampler

if TYPE_CHECKING:
    from av.container import InputContainer

# Containers that state the time of each packet. The others count packets or bytes.
_TIMED = frozenset("matroska,webm mov,mp4,m4a,3gp,3g2,mj2 mpegts mpeg flv asf ogg flac".split())
# In these the times are counted in samples of this very stream: whoever wrote them left no gap.
_UNBROKEN = frozenset(("ogg", "flac"))
# Their headers state the length of the stream; that of other containers is another stream's, or a guess.
_STATED = frozenset("ogg flac mov,mp4,m4a,3gp,3g2,mj2 wv ape tta tak mpc mpc8 dsf iff aiff caf w64 wav".split())
# Their frames carry checksums that are right in intact files.
_CHECKED = frozenset("flac ac3 eac3 mlp truehd tta wavpack ape".split())

JITTER = Fraction(50, 1000)  # seconds: times of packets are rounded, and blocks of different size overlap
MOST_AT_ONCE = 1 << 20  # bytes of a file
ROUNDED = Fraction(2, 1000)  # seconds: that much is rounding of times, in Matroska to a millisecond
_MOST_DRIFTS = 100_000  # that are noted
PATIENCE = 16  # errors of a container in a row, behind which more packets are looked for
LONGEST_GAP = 600  # seconds: a greater leap is another clock, and no sound is missing
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}  # of samples
_SCALES = {"u8": 1 / 128, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}


@dataclass(frozen=True)
class Track:
    """One of the audio tracks of a file."""

    number: int  # from 1, among the audio tracks
    language: str
    title: str
    default: bool

    def __str__(self) -> str:
        about = ", ".join(text for text in (self.language, f'"{self.title}"' if self.title else "") if text)
        return f"{self.number} ({about})" if about else str(self.number)


@dataclass(frozen=True)
class Header:
    """What a container says of one audio track."""

    samplerate: int  # Hz
    layout: tuple[str, ...]  # names of the channels; () where FFmpeg knows only their number
    channels: int
    format: str  # FFmpeg's name of the container
    codec: str
    sample_format: str  # FFmpeg's, of decoded samples: "fltp", "s32", ...
    extradata: bytes
    frames: int | None  # as stated; None: only decoding would tell
    seconds: float | None  # the same, or an estimate
    tags: dict[str, str]
    tracks: tuple[Track, ...]
    track: int


class NoAudio(Exception):
    """The file has no sound that can be decoded. has_codec: it has sound, of an unknown kind."""

    def __init__(self, format: str, has_codec: bool):
        super().__init__(format)
        self.format, self.has_codec = format, has_codec


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The file as FFmpeg's libraries see it; Error where they know no such container.

    Opened by Python, so that its name can have any bytes, and so that a playlist can't make FFmpeg open other
    files or addresses.
    """
    av.logging.set_level(None)
    blocks = icy.find_blocks(path)
    with path.open("rb") as file:
        whole = icy.WithoutBlocks(file, blocks) if blocks else file
        source = _Named(whole, "input" + path.suffix.lower().encode("ascii", "ignore").decode())
        with av.open(
            source, metadata_errors="replace", container_options={"protocol_whitelist": "none"}
        ) as container:
            yield cast("InputContainer", container)


class _Named:
    """A file with a name of our choice, whose suffix is a hint for FFmpeg."""

    def __init__(self, file: Any, name: str):
        self.name, self._file = name, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Python makes room for all it is asked for, which a damaged file may say."""
        return self._file.read(min(size, MOST_AT_ONCE))


def audio_streams(container: InputContainer) -> list[AudioStream]:
    """The audio streams that can be decoded, in the file's order."""
    return [
        stream
        for stream in container.streams.audio
        if stream.codec_context is not None and stream.codec_context.sample_rate > 0 and _channels(stream) > 0
    ]


def _channels(stream: AudioStream) -> int:
    return stream.codec_context.layout.nb_channels


def pictures(container: InputContainer) -> list[VideoStream]:
    """The streams whose pictures move: no covers."""
    still = Disposition.attached_pic | Disposition.still_image
    return [stream for stream in container.streams.video if not stream.disposition & still]


def demuxed(container: InputContainer, *streams: Stream) -> Generator[Packet, None, bool]:
    """The packets of these streams in the file's order, also behind damage of the container.

    The last one of a stream has no data. Returns whether they were read to their end.
    """
    stuck = 0
    while stuck < PATIENCE:
        try:
            for packet in container.demux(*streams):
                stuck = 0
                yield packet
            return True
        except Error:
            stuck += 1
    return False


def default_track(streams: list[AudioStream]) -> int:
    """The index of the track that is meant to be heard: the first that is marked so, else the first."""
    marked = [i for i, stream in enumerate(streams) if stream.disposition & Disposition.default]
    return marked[0] if marked else 0


def read_header(path: Path, track: int | None = None) -> Header:
    """What the file states; NoAudio or Error where it has no sound. track: from 1; None: the default."""
    with opened(path) as container:
        streams = audio_streams(container)
        if not streams:
            known = [stream for stream in container.streams if stream.type == "audio"]
            raise NoAudio(container.format.name if container.streams else "", bool(known))
        index = default_track(streams) if track is None else track - 1
        stream = streams[index]
        context = stream.codec_context
        seconds = _seconds(stream.duration, stream.time_base)
        frames = _stated_frames(path, container, stream)
        if seconds is None and container.duration is not None:
            seconds = container.duration / av.time_base
        tags = {**container.metadata, **stream.metadata}
        return Header(
            samplerate=context.sample_rate,
            layout=layout_names(context.layout),
            channels=_channels(stream),
            format=container.format.name,
            codec=context.codec.canonical_name,
            sample_format=context.format.name if context.format else "",
            extradata=context.extradata or b"",
            frames=frames,
            seconds=seconds,
            tags={name.lower(): str(text) for name, text in tags.items()},
            tracks=tuple(_track(number, each) for number, each in enumerate(streams, 1)),
            track=index + 1,
        )


def _track(number: int, stream: AudioStream) -> Track:
    language = stream.language or ""
    return Track(
        number,
        "" if language == "und" else language,
        stream.metadata.get("title", "") or stream.metadata.get("handler_name", ""),
        bool(stream.disposition & Disposition.default),
    )


def layout_names(layout: Any) -> tuple[str, ...]:
    """FFmpeg's layout as names in the order of the samples; () where it knows only their number."""
    names = tuple(channel.name for channel in layout.channels)
    return names if set(names) <= set(layouts.NAMES) else ()


def _seconds(ticks: int | None, base: Fraction | None) -> float | None:
    return float(ticks * base) if ticks and base else None


def moment(ticks: int | None, base: Fraction | None) -> Fraction:
    """In seconds; 0 where it is not known."""
    return ticks * base if ticks and base else Fraction(0)


def _stated_frames(path: Path, container: InputContainer, stream: AudioStream) -> int | None:
    """How many frames the header states for this track, where headers of this kind are to be believed."""
    name, rate = container.format.name, stream.codec_context.sample_rate
    if stream.frames and stream.codec_context.codec.canonical_name.startswith("pcm_"):
        return stream.frames  # a frame of PCM is a sample of each channel
    if name == "matroska,webm":
        text = stream.metadata.get("DURATION", "")
        if re.fullmatch(r"\d+:\d\d:\d\d\.\d+", text):
            hours, minutes, seconds = text.split(":")
            return round((60 * (60 * int(hours) + int(minutes)) + Fraction(seconds)) * rate)
        if len(container.streams) > 1 or container.duration is None:
            return None
        return round(Fraction(container.duration, av.time_base) * rate)
    if stream.duration is None or stream.time_base is None or stream.duration <= 0:
        return None
    if name not in _STATED and not (name == "mp3" and _counts_frames(path)):
        return None
    frames = round(stream.duration * stream.time_base * rate)
    head = stream.codec_context.extradata or b""
    if name == "ogg" and head[:8] == b"OpusHead":  # the pre-skip is in the last page's position (RFC 7845)
        frames -= struct.unpack_from("<H", head, 10)[0]
    return frames if frames > 0 else None


def _counts_frames(path: Path) -> bool:
    """Whether an MP3 begins with a frame that states how many there are (Xing, Info or VBRI)."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            file.seek(10 + size)
            head = b""
        else:
            file.seek(0)
        first = file.read(4096)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


class Reader:
    """The samples of one audio track, and what it lacks.

    Iterate `blocks` once. `losses` is complete when the iteration has ended.
    """

    def __init__(self, path: Path, header: Header, channels: int):
        """header: as `read_header` gave it. channels: of the blocks."""
        self.path, self.header, self.channels = path, header, channels
        self.rate = header.samplerate
        self.layout = header.layout or layouts.default(channels)
        self.losses: list[Loss] = []
        self.given = 0  # frames
        self.begins: Fraction | None = None  # the file's time of the first sample, in seconds
        # From this second of the samples on, the file's times are later by this, also in seconds, which is too
        # little to be filled with silence.
        self.drifts: list[tuple[Fraction, Fraction]] = []
        self._clock = Fraction(0)  # seconds of sound so far, at the rates that the parts have
        self._timed = header.format in _TIMED
        self._origin: Fraction | None = None  # the file's time at which the output begins
        self._resampler: Resampler | None = None
        self._part: tuple[int, tuple[str, ...], int] | None = None  # rate, layout, channels of the current part
        self._lost: list[tuple[int, bytes]] = []  # packets in a row that did not decode: size, first bytes
        self._sizes = 0.0  # of packets that decoded: a running mean, bytes
        self._length = Fraction(0)  # of the last frame that decoded, seconds
        self._longest = Fraction(0)  # of all frames, seconds
        self._sync = b""  # the first bytes of the last packet that decoded
        self._chained = False  # another stream has begun, which counts its time from its own beginning
        self._several = False  # there is more than one recording in the file
        self._broken = False  # the file could not be read to its last byte

    def blocks(self) -> Generator[np.ndarray, None, None]:
        """[C, T] float32 blocks, as long as the packets are."""
        with opened(self.path) as container:
            stream = audio_streams(container)[self.header.track - 1]
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            context = stream.codec_context
            context.thread_count = 1
            if self.header.codec in _CHECKED:
                context.options = {"err_detect": "crccheck+explode"}
            yield from self._trimmed(self._decoded(container, stream))

    def _decoded(self, container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
        yield from self._late(container, stream)
        for packet in self._packets(container, stream):
            if self.given and packet.has_sidedata("new_extradata"):
                self._chained = self._several = True
            try:
                frames = cast("list[AudioFrame]", stream.codec_context.decode(packet))
            except Error:
                self._lost.append((packet.size, bytes(packet)[:2]))
                continue
            for frame in frames:
                yield from self._frame(frame)
            if frames and packet.size:
                mean = self._sizes or packet.size
                self._sizes = mean + (packet.size - mean) / 16
                self._sync = bytes(packet)[:2]
        yield from self._end()

    def _trimmed(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Without padding: FFmpeg leaves some at the end of an MP3 that lacks a packet, and of a short Ogg."""
        stated = self.header.frames
        held: deque[np.ndarray] = deque()
        for block in blocks:
            held.append(block)
            if len(held) > 2:
                yield held.popleft()
        extra = self.given - stated if stated is not None and self.header.format in ("mp3", "ogg") else 0
        most = sum(block.shape[1] for block in held)
        rest = np.concatenate(held, axis=1) if held else np.empty((self.channels, 0), np.float32)
        if 0 < extra < most and not self._several:  # more than that is another part, joined to the first
            self.given -= extra
            rest = rest[:, :-extra]
        yield rest

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[Packet]:
        """`demuxed` of the track."""
        if not (yield from demuxed(container, stream)):
            self._broken = True

    def _late(self, container: InputContainer, stream: AudioStream) -> Iterator[np.ndarray]:
        """Silence from the beginning of the picture to that of the sound."""
        starts = [
            moment(each.start_time, each.time_base)
            for each in pictures(container)
            if each.start_time is not None
        ]
        if not starts or stream.start_time is None or not self._timed:
            return
        begin = min(starts)
        late = moment(stream.start_time, stream.time_base) - begin
        whole = container.duration / av.time_base if container.duration else 0
        if 0 < late <= whole:
            self._origin = self.begins = begin
            frames = round(late * self.rate)
            if late > JITTER:
                self.losses.append(Loss(LATE, 0.0, float(late)))
            yield from self._silence(frames)
            self._clock = Fraction(frames, self.rate)

    def _frame(self, frame: AudioFrame) -> Iterator[np.ndarray]:
        """The samples of a frame, behind the silence that belongs before it."""
        rate, channels = frame.sample_rate or self.rate, frame.layout.nb_channels
        length = Fraction(frame.samples, rate)
        time = None
        if frame.pts is not None and frame.time_base:
            time = frame.pts * frame.time_base
        if self._timed and time is not None:
            yield from self._until(time)
        elif self._lost:
            yield from self._silence_for_lost()
        if self.begins is None and time is not None:
            self.begins = time - self._clock
        part = (rate, layout_names(frame.layout), channels)
        if part != self._part:
            yield from self._flushed()
            if self._part is not None:
                self._joined(f"{rate} Hz, {channels} channels")
            self._part = part
        if self._resampler is None and rate != self.rate:
            self._resampler = Resampler(rate, self.rate, self.channels)
        samples = _float32(frame)
        if channels != self.channels or (part[1] and part[1] != self.layout):
            samples = _fitted(samples, part[1] or layouts.default(channels), self.layout, self.channels)
        yield from self._resampled(samples)
        self._clock += length
        self._length, self._longest = length, max(length, self._longest)

    def _until(self, time: Fraction) -> Iterator[np.ndarray]:
        """Silence until a frame's time, if sound is missing there; a new origin if the time can't be meant."""
        if self._origin is None:
            self._origin = time - self._clock
        ahead = time - self._origin - self._clock
        exact = self.header.format == "flac"
        if self._lost and ahead <= 0:
            yield from self._silence_for_lost()
            self._origin = time - self._clock
            return
        tolerance = 0 if exact or self._lost else JITTER
        if abs(ahead) <= tolerance:
            self._drifted(ahead)
            return
        self._drifted(Fraction(0))
        if self._chained:
            self._chained, self._lost = False, []
            self._joined("")
            self._origin = time - self._clock
            return
        if 0 < ahead <= LONGEST_GAP:
            damaged = self._lost or self.header.format in _UNBROKEN
            self._lost = []
            yield from self._missing(DAMAGED if damaged else GAP, ahead)
            return
        self._origin = time - self._clock
        self._lost = []
        if not any(loss.code == TIMES for loss in self.losses):
            self.losses.append(Loss(TIMES, float(self._clock), 0.0))

    def _drifted(self, ahead: Fraction) -> None:
        before = self.drifts[-1][1] if self.drifts else 0
        if abs(ahead - before) > ROUNDED and len(self.drifts) < _MOST_DRIFTS:
            self.drifts.append((self._clock, ahead))

    def _silence_for_lost(self) -> Iterator[np.ndarray]:
        """Silence for packets that did not decode, where only their sizes tell how long they were."""
        # A remainder is rather foreign bytes between packets than a packet.
        size = sum(size for size, _ in self._lost)
        count = max(1, int(size / self._sizes + 0.3)) if self._sizes else 0
        self._lost = []
        if count and self._length:
            yield from self._missing(DAMAGED, count * self._length)

    def _missing(self, code: str, seconds: Fraction) -> Iterator[np.ndarray]:
        frames = round(seconds * self.rate)
        if frames:
            yield from self._flushed()
            self.losses.append(Loss(code, self.given / self.rate, frames / self.rate))
            yield from self._silence(frames)
            self._clock += seconds

    def _silence(self, frames: int) -> Iterator[np.ndarray]:
        while frames > 0:
            some = min(frames, 1 << 16)
            self.given += some
            frames -= some
            yield np.zeros((self.channels, some), np.float32)

    def _joined(self, text: str) -> None:
        """Another recording begins. FFmpeg may need a packet to find its rate: two notes at once are one."""
        self._several = True
        at = float(self._clock)
        if self.losses and self.losses[-1].code == JOINED and at - self.losses[-1].start < 2 * JITTER:
            at = self.losses.pop().start
        self.losses.append(Loss(JOINED, at, 0.0, text))

    def _resampled(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        if self._resampler is not None:
            samples = self._resampler.process(samples)
        if samples.shape[1]:
            self.given += samples.shape[1]
            yield samples

    def _flushed(self) -> Iterator[np.ndarray]:
        if self._resampler is not None:
            rest = self._resampler.flush()
            self._resampler = None
            if rest.shape[1]:
                self.given += rest.shape[1]
                yield rest

    def _end(self) -> Iterator[np.ndarray]:
        """What is left when no packet comes any more."""
        yield from self._flushed()
        stated = self.header.frames
        page = ogg.last_page(self.path) if self.header.format == "ogg" else b""
        if page and not ogg.is_whole(page):
            self.losses.append(Loss(CUT_SHORT, self.given / self.rate, 0.0, "the last page is not whole"))
            return
        if stated is not None and not self._several:
            lacking = (stated - self.given) / self.rate
            if self.header.format == "matroska,webm":  # it states when the track ends
                lacking -= float(self._origin or 0)
            else:
                lacking += sum(loss.seconds for loss in self.losses if loss.code == LATE)
            # Containers round to their own clocks, count an encoder's delay in or out, and may take a short
            # last packet for a whole one.
            if lacking > (0 if self.header.format == "flac" else 0.1 + float(self._longest)):
                self.losses.append(Loss(CUT_SHORT, self.given / self.rate, lacking))
                return
        # A tag or other bytes behind the last packet don't begin as packets of this codec do.
        if self._lost and self._sync and self._lost[0][1] == self._sync:
            length = float(self._length)
            self.losses.append(Loss(CUT_SHORT, self.given / self.rate, length, "the last packet is not whole"))
            return
        if self._broken:
            self.losses.append(Loss(CUT_SHORT, self.given / self.rate, 0.0, "the end can't be read"))


def _float32(frame: AudioFrame) -> np.ndarray:
    """[C, T] float32, full scale at 1.0."""
    kind = frame.format.name.removesuffix("p")
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= 8:
        # Plane by plane: PyAV 18.1 looks for the end of a list that ends only where there are fewer than eight.
        planes = [memoryview(AudioPlane(frame, i)) for i in range(channels)]
        samples = np.stack([np.frombuffer(plane, _TYPES[kind])[: frame.samples] for plane in planes])
    else:
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, channels).T
    floats = np.ascontiguousarray(samples, dtype=np.float32)
    if kind in _SCALES:
        floats = (floats - (128 if kind == "u8" else 0)) * np.float32(_SCALES[kind])  # exact: a power of two
    return floats


def _fitted(samples: np.ndarray, have: tuple[str, ...], want: tuple[str, ...], channels: int) -> np.ndarray:
    """The samples of a later part in the channels of the first: [C', T] -> [C, T].

    One channel goes to all; to one channel goes the mean. Otherwise each channel keeps its name, and those that
    only one side has are silent or left out.
    """
    if len(samples) == channels and not (have and want and set(have) != set(want)):
        return samples
    if len(samples) == 1:
        return np.repeat(samples, channels, axis=0)
    if channels == 1:
        return samples.mean(axis=0, keepdims=True)
    out = np.zeros((channels, samples.shape[1]), np.float32)
    for index in range(channels):
        source = have.index(want[index]) if want and want[index] in have else None
        if source is not None:
            out[index] = samples[source]
    return out
