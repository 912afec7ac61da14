"""The output formats: one table of what each can hold and who can write it.

The choices of the command line, the checks of a request, the estimate of disk space, the encoder and `sepcli
doctor` all read this table, so a new format is one entry. No library is imported here, since `--help` reads it
too; whether this machine can write a format is asked in writers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sepcli.errors import UsageError, parameter
from sepcli.sound import layouts

SEPCLI, LIBSNDFILE, FFMPEG = "sepcli", "libsndfile", "FFmpeg"  # who writes

# libsndfile's names for the sample types of lossless files: integers of 16, 24 and 32 bits, and float32.
SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "32f": "FLOAT"}

HEADER_BYTES = 1 << 16  # a file's headers, text tags and padding take at most about this


@dataclass(frozen=True)
class BitRates:
    """What can be asked of a lossy encoder, in kbit/s for all channels together."""

    lowest: int
    highest: int
    default: int | None = None  # where none is asked for; None: `quality` is used instead
    quality: int | None = None  # on the encoder's own scale
    peak: int | None = None  # of dense stereo music at `quality`

    @property
    def default_text(self) -> str:
        """The default for help texts: "192" or "quality 8"."""
        return f"quality {self.quality}" if self.default is None else str(self.default)

    @property
    def estimate(self) -> int:
        """The most that stereo takes where no bit rate is asked for, in kbit/s."""
        estimate = self.peak if self.default is None else self.default
        assert estimate is not None
        return estimate


@dataclass(frozen=True)
class Format:
    """One output format. It is lossless if it has `depths` only, lossy if it has `bitrates`.

    One with both is lossy unless a depth is asked for.
    """

    name: str  # also the suffix of its files
    container: str  # FFmpeg's muxer
    max_rate: int  # Hz
    max_channels: int
    depths: tuple[str, ...] = ()  # keys of SUBTYPES
    bitrates: BitRates | None = None
    rates: tuple[int, ...] = ()  # Hz; () = any up to max_rate
    fine_rates: int | None = None  # Hz; higher rates are multiples of 10 Hz
    max_bytes: int | None = None  # the largest file that its headers can describe
    max_text: int | None = None  # bytes of all its text tags
    covers: bool = True  # whether it can hold a picture
    sndfile: str = ""  # libsndfile's format; "" = libsndfile does not write it
    subtype: str = ""  # libsndfile's sample type, if lossy
    codec: str = ""  # FFmpeg's encoder; "" = never by FFmpeg
    exact_codec: str = ""  # FFmpeg's encoder for a depth, where there are bit rates too
    stems: int = 0  # how many a file holds beside the mix, all in stereo; 0 = a file holds one sound
    muxing: Mapping[str, str] = field(default_factory=dict)  # options of FFmpeg's muxer; {rate}: the rate in Hz
    tag_names: Mapping[str, str] = field(default_factory=dict)  # tags that its muxer knows by another name
    tags_in_stream: bool = False  # FFmpeg keeps its tags with the stream of samples, not with the file
    layouts: tuple[tuple[str, ...], ...] = ()  # of channels, that it can state, as stored; () = every layout
    layout_chunk: bytes = b""  # the chunk of Core Audio's channel layout, which sepcli appends
    usual_layout: bool = False  # whether a file that states no layout has the usual one, by the format's rules
    id3: str = ""  # where its ID3v2 tag is: "first", before all else; in a "chunk" at the end; "" = it has none

    @property
    def lossless(self) -> bool:
        """Whether a file gives back the samples that were written."""
        return self.bitrates is None

    @property
    def writers(self) -> tuple[str, ...]:
        """Who can write it, the best first: SEPCLI, LIBSNDFILE, FFMPEG."""
        known = ((LIBSNDFILE, self.sndfile), (FFMPEG, self.codec))
        return tuple(writer for writer, name in known if name) or (SEPCLI,)

    @property
    def subtypes(self) -> tuple[str, ...]:
        """The sample types that libsndfile must be able to write."""
        return (self.subtype,) if self.subtype else tuple(SUBTYPES[depth] for depth in self.depths)

    @property
    def codecs(self) -> tuple[str, ...]:
        """The encoders that FFmpeg must have."""
        return tuple(codec for codec in (self.codec, self.exact_codec) if codec)

    def muxer_options(self, samplerate: int) -> dict[str, str]:
        """Options of FFmpeg's muxer for such a file at `samplerate` Hz."""
        return {name: value.format(rate=samplerate) for name, value in self.muxing.items()}

    def places(self, layout: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        """The layout that a file states for channels of `layout`, one by one; a sentence where it is another.

        () where it states none: then the channels are in the order of `layout`. UsageError where a lossy format
        has no such layout: it would code some channels as what they are not (an LFE keeps low sounds only).
        """
        if not layout or (self.layouts and len(layout) <= 2):
            return layouts.default(len(layout)), ""
        if not self.layouts:
            if layouts.mask(layout):
                return layout, ""
            return (), f"{self.name} has no places for the channels {', '.join(layout)}; their order is kept."
        fitting = layouts.fitting(layout, self.layouts)
        if not fitting:
            raise UsageError(
                f"{self.name} can't say that the channels are {', '.join(layout)}.",
                remedy=f"Choose {listed(LOSSLESS, 'or')} with {parameter('format')}.",
            )
        moved = [f"{old} as {new}" for old, new in zip(layout, fitting, strict=True) if old != new]
        return fitting, f"{self.name} has no such layout: it has {listed(moved, 'and')}." if moved else ""

    def implied_layout(self, channels: int) -> tuple[str, ...]:
        """The layout that a file has if it states none; () for unknown."""
        usual = self.usual_layout and channels not in (5, 6)  # RFC 9639 names those "back/surround"
        return layouts.default(channels) if usual or channels <= 2 else ()

    def kept_depth(self, depth: str) -> str:
        """The depth for samples of `depth`: the same, or the deepest integers if the format lacks it."""
        assert self.lossless
        return depth if depth in self.depths else [each for each in self.depths if is_integer(each)][-1]

    def check_bitrate(self, bitrate: int) -> None:
        """UsageError where the format has no bit rates, or not this one (kbit/s)."""
        if self.bitrates is None:
            raise UsageError(
                f"{parameter('bitrate')} has no meaning for {parameter('format', self.name)}: it is lossless.",
                remedy=f"Leave it out, or choose a lossy format: {', '.join(LOSSY)}.",
            )
        low, high = self.bitrates.lowest, self.bitrates.highest
        if not low <= bitrate <= high:
            raise UsageError(
                f"{parameter('bitrate', bitrate)} is out of range: {self.name} takes {low} to {high} kbit/s.",
                remedy="Choose a number in this range, or leave it out.",
            )

    def check_channels(self, channels: int, layout: tuple[str, ...] = ()) -> None:
        """UsageError where a file can't have so many channels, or not these."""
        if channels > self.max_channels:
            wide = [name for name in LOSSLESS if FORMATS[name].max_channels >= channels]
            raise UsageError(
                f"{self.name} holds up to {self.max_channels} channels, the input has {channels}.",
                remedy=f"Choose {listed(wide, 'or')}.",
            )
        self.places(layout or layouts.default(channels))

    def check_size(self, frames: int, channels: int, depth: str) -> None:
        """UsageError where a file of so many frames would be larger than the format allows."""
        if self.max_bytes is not None:
            self.check_bytes(frames * channels * sample_bytes(depth) + HEADER_BYTES)

    def check_bytes(self, size: int) -> None:
        """UsageError where a file of `size` bytes would be larger than the format allows."""
        if self.max_bytes is None or size <= self.max_bytes:
            return
        larger = [name for name in LOSSLESS if FORMATS[name].max_bytes is None]
        raise UsageError(
            f"{self.name} files end at {_gib(self.max_bytes)} GiB, and each stem of this input would take "
            f"{_gib(size)} GiB or more.",
            remedy=f"Choose {listed(larger, 'or')} with {parameter('format')}, or a smaller "
            f"{parameter('bit_depth')} or {parameter('sample_rate')}.",
            code="too_large",
        )


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MPEG4_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_MPEG4_TAGS = {"bpm": "tmpo"}

_TABLE = (
    Format(
        "wav", "wav",
        max_rate=0xFFFFFFFF, max_channels=0xFFFF,
        depths=("16", "24", "32", "32f"),
        covers=False,
    ),
    Format(
        "flac", "flac",
        max_rate=655350, max_channels=8,
        depths=("16", "24"),
        usual_layout=True,
        fine_rates=65535,  # its frame headers count larger rates in tens of Hz
        sndfile="FLAC",
    ),
    Format(
        "aiff", "aiff",
        # libsndfile writes no larger rate into the 80-bit float of the header, and no more channels.
        max_rate=0x3FFFFFFF, max_channels=1024,
        depths=("16", "24", "32", "32f"),
        max_bytes=0xFFFFFFFF,  # all sizes have 32 bits; libsndfile and FFmpeg would write wrong ones
        max_text=8000,  # libsndfile 1.2.2 writes longer texts, but then can't read the file
        sndfile="AIFF",
        layout_chunk=b"CHAN",
        id3="chunk",
    ),
    Format(
        "caf", "caf",
        max_rate=0x7FFFFFFF, max_channels=1024,
        depths=("16", "24", "32", "32f"),
        max_text=8000,  # libsndfile 1.2.2 leaves out what exceeds 16 KiB, and reads no file with 64 KiB of text
        covers=False,
        layout_chunk=b"chan",
        sndfile="CAF",
    ),
    Format(
        "ogg", "ogg",
        max_rate=192000,  # libvorbis takes up to 200 kHz; above, libsndfile 1.2.2 crashes
        max_channels=255,
        # Quality 8 is about 256 kbit/s for stereo, but for dense music it goes well above.
        bitrates=BitRates(32, 500, quality=8, peak=400),
        tags_in_stream=True,
        layouts=layouts.XIPH,
        sndfile="OGG", subtype="VORBIS",  # the FFmpeg inside PyAV has no libvorbis
    ),
    Format(
        "opus", "opus",
        max_rate=48000, max_channels=255,
        bitrates=BitRates(6, 510, default=192),
        rates=_OPUS_RATES,
        layouts=layouts.XIPH,
        tags_in_stream=True,
        sndfile="OGG", subtype="OPUS", codec="libopus",
    ),
    Format(
        "mp3", "mp3",
        max_rate=48000, max_channels=2,
        bitrates=BitRates(8, 320, default=320),
        rates=_MP3_RATES,
        layouts=layouts.XIPH[:2],
        sndfile="MP3", subtype="MPEG_LAYER_III", codec="libmp3lame",
        muxing={"id3v2_version": "0"},  # no tag of FFmpeg's
        id3="first",
    ),
    Format(
        "m4a", "mp4",
        max_rate=96000, max_channels=8,
        bitrates=BitRates(16, 529, default=256),
        rates=_MPEG4_RATES,
        layouts=layouts.AAC,
        codec="aac",
        # The movie's clock ticks in milliseconds by default: its edit list would cut up to one off the end.
        muxing={"movie_timescale": "{rate}", "brand": "M4A "},
        tag_names=_MPEG4_TAGS,
    ),
    Format(
        "stem.mp4", "mp4",  # NI Stems: stemfile.py
        max_rate=48000, max_channels=2,
        bitrates=BitRates(16, 529, default=256),  # of each stream
        depths=("16", "24"),
        rates=(44100, 48000),
        layouts=layouts.AAC[:2],
        codec="aac", exact_codec="alac",
        stems=4,
        muxing={"movie_timescale": "{rate}", "brand": "M4A "},
        tag_names=_MPEG4_TAGS,
    ),
)  # fmt: skip

FORMATS: dict[str, Format] = {format.name: format for format in _TABLE}
LOSSLESS = tuple(format.name for format in _TABLE if format.lossless)
LOSSY = tuple(format.name for format in _TABLE if not (format.lossless or format.stems))
SOUNDS = (*LOSSLESS, *LOSSY)  # formats of which a file holds one sound
# The depths that may be asked for. 32-bit integers are only kept: the samples are float32, which holds 24 bits.
DEPTHS = ("keep", *(depth for depth in SUBTYPES if depth != "32"))


def is_integer(depth: str) -> bool:
    """Whether `depth` means integers: "16", "24" and "32", but not "32f" or "lossy"."""
    return depth.isdecimal()


def sample_bytes(depth: str) -> int:
    """The bytes of one sample of a lossless file."""
    return int(depth.removesuffix("f")) // 8


def output_rate(format: str, samplerate: int) -> tuple[int, str | None]:
    """The rate in Hz at which `format` holds audio of `samplerate`, and a notice where that is another.

    The nearest higher rate that the format has, else its highest.
    """
    spec = FORMATS[format]
    if spec.rates:
        rate = next((each for each in spec.rates if each >= samplerate), spec.max_rate)
    else:
        rate = min(samplerate, spec.max_rate)
        if spec.fine_rates is not None and rate > spec.fine_rates:
            rate = -(-rate // 10) * 10
    if rate == samplerate:
        return rate, None
    return rate, f"{format} has no {samplerate} Hz; written at {rate} Hz."


def listed(words: Iterable[str], last: str) -> str:
    """["a", "b", "c"] -> "a, b and c", with `last` before the last word."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}"
