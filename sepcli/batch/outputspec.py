"""What the written files should be: format, depth, rate, clipping, sum; and what that means for one input.

Knows words and numbers only: no files are touched and no torch is loaded, so a command line is judged before
anything slow happens. `OutputSpec` is what was asked for, `Resolved` what one input gets.

    asked for `keep`      16-bit WAV   24-bit FLAC   32-bit WAV   float WAV   MP3
    --format wav          16           24            32           32f         24
    --format flac         16           24            24           24          24
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sepcli.errors import UsageError

if TYPE_CHECKING:
    from sepcli.sound.decode import AudioInfo

LOSSLESS = ("wav", "flac")
LOSSY = ("ogg", "opus", "mp3", "m4a")
FORMATS = LOSSLESS + LOSSY
DEPTHS = ("keep", "16", "24", "32f")
CLIPS = ("gain", "clamp", "none")
SUMS = ("none", "exact")
RATES = (1000, 768000)  # Hz, the sample rates that may be asked for

# The most a second of a lossy stem takes where no bit rate is asked for, in kbit/s. Ogg at quality 8 is about
# 256 for stereo, but for dense music it goes well above.
_LOSSY_KBITS = {"ogg": 400, "opus": 192, "mp3": 320, "m4a": 256}
_HEADER_BYTES = 1 << 16  # headers, tags and a block of padding, a file


@dataclass(frozen=True)
class OutputSpec:
    """What the user asks the files to be; the defaults are the command's."""

    format: str = "wav"  # one of FORMATS
    depth: str = "keep"  # one of DEPTHS; of wav and flac only
    bitrate: int | None = None  # kbit/s, of lossy formats only; None = the format's default
    samplerate: str | int = "keep"  # "keep" the input's, the "model"'s, or Hz
    clip: str | None = None  # one of CLIPS; None = gain, or none where the files are float
    sum: str = "none"  # one of SUMS
    rest: bool = False  # also write mix minus stems
    tags: bool = True  # carry the input's tags over

    def validate(self) -> None:
        """UsageError where the request contradicts itself, whatever the input may be."""
        _choice("--format", self.format, FORMATS)
        _choice("--bit-depth", self.depth, DEPTHS)
        _choice("--sum", self.sum, SUMS)
        if self.clip is not None:
            _choice("--clip", self.clip, CLIPS)
        if isinstance(self.samplerate, int):
            if not RATES[0] <= self.samplerate <= RATES[1]:
                raise UsageError(
                    f"--sample-rate {self.samplerate} is out of range: {RATES[0]} to {RATES[1]} Hz.",
                    remedy="Leave it out to keep the input's rate.",
                )
        else:
            _choice("--sample-rate", self.samplerate, ("keep", "model"), "or a number of Hz")
        lossy = self.format in LOSSY
        if lossy and self.sum == "exact":
            raise UsageError(
                f"--sum exact can't hold for --format {self.format}: a lossy file does not give back the "
                f"samples it was made from.",
                remedy="Use --format wav or --format flac, or leave --sum out.",
            )
        if lossy and self.depth != "keep":
            raise UsageError(
                f"--bit-depth {self.depth} has no meaning for --format {self.format}: a lossy file has no "
                f"bit depth.",
                remedy="Use --bitrate, or one of the formats wav and flac.",
            )
        if not lossy and self.bitrate is not None:
            raise UsageError(
                f"--bitrate has no meaning for --format {self.format}: it is lossless.",
                remedy=f"Leave it out, or choose a lossy format: {', '.join(LOSSY)}.",
            )
        if self.bitrate is not None and self.bitrate < 1:
            raise UsageError(
                f"--bitrate {self.bitrate} is not a number of kbit/s above 0.", remedy="Leave it out."
            )
        if self.format == "flac" and self.depth == "32f":
            raise UsageError(
                "FLAC holds integers only: --format flac takes --bit-depth keep, 16 or 24.",
                remedy="Use --format wav for 32f.",
            )
        if self.depth == "32f" and self.clip == "clamp":
            raise UsageError(
                "Float files are never clamped, so --clip clamp contradicts --bit-depth 32f.",
                remedy="Leave --clip out, or use --clip gain to bring the peaks below full scale.",
            )

    def resolve(self, info: AudioInfo, model_rate: int) -> Resolved:
        """What the files of one input are. `validate` has passed; model_rate: Hz."""
        from sepcli.sound.formats import output_rate

        wanted = {"keep": info.samplerate, "model": model_rate}.get(self.samplerate, self.samplerate)
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
            exact=self.sum == "exact",
            rest=self.rest,
            tags=self.tags,
            notices=tuple(notices),
        )

    def _depth(self, info: AudioInfo) -> str:
        if self.format in LOSSY:
            return "lossy"
        if self.depth != "keep":
            return self.depth
        depth = {"8": "16", "lossy": "24", "64f": "32f"}.get(info.depth, info.depth)
        return "24" if self.format == "flac" and depth in ("32", "32f") else depth


@dataclass(frozen=True)
class Resolved:
    """What the files of one input are."""

    format: str
    depth: str  # "16", "24", "32", "32f" or "lossy"
    bitrate: int | None  # kbit/s
    samplerate: int  # Hz
    clip: str
    exact: bool
    rest: bool
    tags: bool
    notices: tuple[str, ...] = ()

    @property
    def spools(self) -> bool:
        """Whether the peaks must be known before the first sample is written."""
        return self.clip == "gain"

    @property
    def clamps(self) -> bool:
        """Whether samples beyond full scale are cut off: always in integers, which can't hold them."""
        return self.clip == "clamp" or self.depth not in ("32f", "lossy")

    @property
    def needs_mix(self) -> bool:
        return self.rest or self.exact

    def room(self, frames: int, samplerate: int, channels: int, stems: int) -> Room:
        """How much disk one track takes: an upper bound for lossless files, a good one for lossy ones.

        frames: of the input at `samplerate` Hz. stems: without the rest.
        """
        seconds = frames / samplerate
        out = -(-frames * self.samplerate // samplerate)
        files = stems + self.rest
        if self.depth == "lossy":
            # Bit rates are for stereo and more.
            one = seconds * (self.bitrate or _LOSSY_KBITS[self.format]) * 1000 / 8 * max(1, channels / 2)
        else:
            one = out * channels * int(self.depth.removesuffix("f")) / 8
        spool = out * channels * 4 * (stems + self.needs_mix) if self.spools else 0
        return Room(results=int(files * (one + _HEADER_BYTES)), spool=spool)


@dataclass(frozen=True)
class Room:
    """Bytes on the output's file system. A batch needs the sum of all results and its largest spool."""

    results: int
    spool: int


def _choice(option: str, value: object, allowed: tuple[str, ...], more: str = "") -> None:
    if value not in allowed:
        choices = ", ".join(allowed) + (f" {more}" if more else "")
        raise UsageError(
            f"{option} {value} is unknown; the choices are {choices}.", remedy="Choose one of these."
        )
