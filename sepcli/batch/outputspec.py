"""What the written files should be: format, depth, rate, clipping, sum; and what that means for one input.

Knows words and numbers only: no files are touched and no torch is loaded, so a command line is judged before
anything slow happens. What each format can hold stands in sound/formats.py. `OutputSpec` is what was asked for,
`Resolved` is what one input gets.

    asked for `keep`        16-bit WAV   24-bit FLAC   32-bit WAV   float WAV   MP3
    wav, aiff, caf          16           24            32           32f         24
    flac                    16           24            24           24          24
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sepcli.errors import UsageError, parameter
from sepcli.sound import video
from sepcli.sound.formats import (
    DEPTHS,
    FORMATS,
    HEADER_BYTES,
    LOSSLESS,
    is_integer,
    listed,
    output_rate,
    sample_bytes,
)

if TYPE_CHECKING:
    from sepcli.sound.probe import AudioInfo

CLIPS = ("gain", "clamp", "none")
SUMS = ("none", "exact")
RATES = (1000, 768000)  # Hz, the sample rates that may be asked for


@dataclass(frozen=True)
class OutputSpec:
    """What the user asks the files to be; the defaults are the command's."""

    format: str = "wav"  # one of FORMATS
    depth: str = "keep"  # one of DEPTHS; of lossless formats only
    bitrate: int | None = None  # kbit/s, of lossy formats only; None = the format's default
    samplerate: str | int = "keep"  # "keep" the input's, the "model"'s, or Hz
    clip: str | None = None  # one of CLIPS; None = gain, or none where the files are float
    sum: str = "none"  # one of SUMS
    rest: bool = False  # also write mix minus stems
    tags: bool = True  # carry the input's tags over
    skip_silent: bool = False  # write no file of a stem that is silent throughout
    video: bool = False  # the files are videos, with the input's picture; `format` is their sound's

    @property
    def ext(self) -> str:
        """The suffix of the files; "" where it is that of the input's kind of video."""
        return "" if self.video else self.format

    @property
    def sound(self) -> str:
        """The format of the sound; of videos the usual one, as far as it does not depend on the input."""
        return video.USUAL if self.video and self.format == video.UNASKED else self.format

    @property
    def packs(self) -> bool:
        """Whether a track becomes one file with all stems in it."""
        return self.format in FORMATS and FORMATS[self.format].stems > 0

    @property
    def sums(self) -> bool:
        """Whether the stems add up to the mix."""
        return self.sum == "exact" or self.packs

    def rest_of(self, sources: Collection[str]) -> bool:
        """Whether the mix minus the stems is a file too, for a model of these stems.

        One stem alone would have to be the whole mix to add up to it.
        """
        return self.rest or (self.sum == "exact" and len(sources) == 1)

    @property
    def lossless(self) -> bool:
        """Whether files give back the samples that were written."""
        return FORMATS[self.format].lossless or self.depth != "keep"

    def validate(self) -> None:
        """UsageError where the request contradicts itself, whatever the input may be."""
        if self.video:
            self._check_video()
            replace(self, format=self.sound, video=False).validate()
            return
        _choice("format", self.format, tuple(FORMATS))
        _choice("bit_depth", self.depth, DEPTHS)
        _choice("sum", self.sum, SUMS)
        if self.clip is not None:
            _choice("clip", self.clip, CLIPS)
        if isinstance(self.samplerate, int):
            if not RATES[0] <= self.samplerate <= RATES[1]:
                asked = parameter("sample_rate", self.samplerate)
                raise UsageError(
                    f"{asked} is out of range: {RATES[0]} to {RATES[1]} Hz.",
                    remedy="Leave it out to keep the input's rate.",
                )
        else:
            _choice("sample_rate", self.samplerate, ("keep", "model"), "or a number of Hz")
        if self.skip_silent and self.sum == "exact":
            raise UsageError(
                f"{parameter('sum', 'exact')} needs all stems, and {parameter('skip_silent')} leaves out some "
                "that are soft, but not zero.",
                remedy="Leave out one of the two.",
            )
        if self.skip_silent and self.packs:
            raise UsageError(
                f"A {self.format} file always has {FORMATS[self.format].stems} stems, so "
                f"{parameter('skip_silent')} has nothing to leave out.",
                remedy="Leave out one of the two.",
            )
        self._check_depth()
        spec = FORMATS[self.format]
        if not self.lossless and self.sum == "exact":
            choice = f"{listed(LOSSLESS, 'or')} with {parameter('format')}"
            if spec.depths:
                choice = f"{listed(spec.depths, 'or')} with {parameter('bit_depth')}"
            raise UsageError(
                f"{parameter('sum', 'exact')} can't hold for {parameter('format', self.format)}: a lossy file "
                f"does not give back the samples it was made from.",
                remedy=f"Choose {choice}, or leave {parameter('sum')} out.",
            )
        if self.bitrate is not None:
            spec.check_bitrate(self.bitrate)
            if self.depth != "keep":
                raise UsageError(
                    f"{parameter('bit_depth', self.depth)} makes {self.format} lossless, and then it has no "
                    f"{parameter('bitrate')}.",
                    remedy="Leave out one of the two.",
                )
        if self.depth == "32f" and self.clip == "clamp":
            raise UsageError(
                f"Float files are never clamped, so {parameter('clip', 'clamp')} contradicts "
                f"{parameter('bit_depth', '32f')}.",
                remedy=f"Leave {parameter('clip')} out, or use {parameter('clip', 'gain')} to bring the peaks "
                f"below full scale.",
            )

    def _check_video(self) -> None:
        _choice("format", self.format, tuple(FORMATS))
        video.check_sound(self.format)
        if self.sum == "exact" and not FORMATS[self.sound].lossless:
            exact = [name for name in video.SOUNDS if FORMATS[name].lossless]
            raise UsageError(
                f"{parameter('sum', 'exact')} can't hold for the sound of these videos: {self.sound} is lossy.",
                remedy=f"Choose {listed(exact, 'or')} with {parameter('format')}, or leave "
                f"{parameter('sum')} out.",
            )

    def _check_depth(self) -> None:
        depths = FORMATS[self.format].depths
        if self.depth == "keep" or self.depth in depths:
            return
        asked, format = parameter("bit_depth", self.depth), parameter("format", self.format)
        if not depths:
            raise UsageError(
                f"{asked} has no meaning for {format}: a lossy file has no bit depth.",
                remedy=f"Use {parameter('bitrate')}, or one of the formats {listed(LOSSLESS, 'and')}.",
            )
        others = [spec.name for spec in FORMATS.values() if self.depth in spec.depths]
        raise UsageError(
            f"{asked} is more than {self.format} holds: it takes {listed(('keep', *depths), 'or')}.",
            remedy=f"Choose {listed(others, 'or')} with {parameter('format')}.",
        )

    def resolve(self, info: AudioInfo, model_rate: int) -> Resolved:
        """What the files of one input are. `validate` has passed; model_rate: Hz.

        UsageError where the input's kind of video can't hold the sound that is asked for.
        """
        if self.video:
            return self._resolve_video(info, model_rate)
        wanted = self.samplerate
        if isinstance(wanted, str):
            wanted = {"keep": info.samplerate, "model": model_rate}[wanted]
        rate, rate_notice = output_rate(self.format, wanted)
        depth = self._depth(info)
        notices = [rate_notice] if rate_notice else []
        clip = self.clip or ("none" if depth == "32f" else "gain")
        if clip == "clamp" and depth == "32f":  # float only because the input is: not the user's contradiction
            notices.append("The input is float and so are the stems; float files are never clamped.")
            clip = "none"
        return Resolved(
            format=self.format,
            depth=depth,
            bitrate=self.bitrate,
            samplerate=rate,
            clip=clip,
            exact=self.sums,
            tags=self.tags,
            skip_silent=self.skip_silent,
            notices=tuple(notices),
        )

    def _resolve_video(self, info: AudioInfo, model_rate: int) -> Resolved:
        given = info.path.suffix.lower().lstrip(".")
        container = video.container_of(given)
        sound = replace(self, format=container.sound(self.format), video=False).resolve(info, model_rate)
        notices = sound.notices
        if given and given != container.suffix:
            notices += (f"A video of the kind {given} is written as {container.suffix}.",)
        return replace(sound, video=container.suffix, notices=notices)

    def _depth(self, info: AudioInfo) -> str:
        spec = FORMATS[self.format]
        if self.depth != "keep":
            return self.depth
        if not spec.lossless:
            return "lossy"
        return spec.kept_depth({"8": "16", "lossy": "24", "64f": "32f"}.get(info.depth, info.depth))


@dataclass(frozen=True)
class Resolved:
    """What the files of one input are."""

    format: str
    depth: str  # "16", "24", "32", "32f" or "lossy"
    bitrate: int | None  # kbit/s
    samplerate: int  # Hz
    clip: str
    exact: bool
    tags: bool
    skip_silent: bool = False
    notices: tuple[str, ...] = ()
    video: str = ""  # the suffix of the videos that they become; "": they stay sound

    @property
    def spools(self) -> bool:
        """Whether the peaks must be known before the first sample is written."""
        return self.clip == "gain"

    @property
    def clamps(self) -> bool:
        """Whether samples beyond full scale are cut off: always in integers, which can't hold them."""
        return self.clip == "clamp" or is_integer(self.depth)

    def check_size(self, frames: int, channels: int) -> None:
        """UsageError where files of so many frames, at the files' own rate, are more than the format holds."""
        if self.depth != "lossy":
            FORMATS[self.format].check_size(frames, channels, self.depth)

    @property
    def _kbits(self) -> int:
        bitrates = FORMATS[self.format].bitrates
        assert bitrates is not None
        return self.bitrate or bitrates.estimate

    def room(self, frames: int, samplerate: int, channels: int, files: int, spooled: int) -> Room:
        """How much disk one track takes: an upper bound for lossless files, a good one for lossy ones.

        frames: of the input at `samplerate` Hz. files: that are written, or tracks of one. spooled: stems, and
        the mix where files are made of it.
        """
        spool = -(-frames * self.samplerate // samplerate) * channels * 4 * spooled if self.spools else 0
        channels = 2 if FORMATS[self.format].stems else channels
        seconds = frames / samplerate
        out = -(-frames * self.samplerate // samplerate)
        if self.depth == "lossy":
            # Bit rates are for stereo and more.
            one = seconds * self._kbits * 1000 / 8 * max(1, channels / 2)
        else:
            one = out * channels * sample_bytes(self.depth)
        return Room(results=int(files * (one + HEADER_BYTES)), spool=spool)


@dataclass(frozen=True)
class Room:
    """Bytes on the output's file system. A batch needs the sum of all results and its largest spool."""

    results: int
    spool: int


def _choice(name: str, value: object, allowed: tuple[str, ...], more: str = "") -> None:
    """UsageError where the parameter `name` is none of the allowed words."""
    if value not in allowed:
        choices = ", ".join(allowed) + (f" {more}" if more else "")
        raise UsageError(
            f"{parameter(name, value)} is unknown; the choices are {choices}.", remedy="Choose one of these."
        )
