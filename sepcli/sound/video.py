"""Which kinds of video can be written, and what sound they hold. No library is imported here.

The copying itself is remux.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sepcli.errors import UsageError, parameter
from sepcli.sound.formats import FORMATS, listed

# The format of sound files where none is asked for; a video then has its container's usual sound.
UNASKED = "wav"


@dataclass(frozen=True)
class Container:
    """A kind of video file."""

    suffix: str
    muxer: str  # FFmpeg's
    sounds: tuple[str, ...]  # formats whose sound it holds, the usual one first
    options: Mapping[str, str] = field(default_factory=dict)  # of the muxer

    def sound(self, format: str) -> str:
        """The format of the sound where `format` is asked for. UsageError where a file can't hold it."""
        if format == UNASKED:
            return self.sounds[0]
        if format not in self.sounds:
            raise UsageError(
                f"A {self.suffix} file can't hold {format} sound.",
                remedy=f"Choose {listed(self.sounds, 'or')} with {parameter('format')}, or leave it out.",
                code="video",
            )
        return format


# The movie's clock ticks in milliseconds by default, and so would the beginning of each track.
_CLOCK = {"movie_timescale": "48000"}
_TABLE = (
    Container("mp4", "mp4", ("m4a", "opus", "flac", "mp3"), _CLOCK),
    Container("m4v", "mp4", ("m4a", "mp3"), _CLOCK),
    Container("mov", "mov", ("m4a", "mp3"), _CLOCK),
    Container("webm", "webm", ("opus", "ogg")),
    Container("mkv", "matroska", ("m4a", "opus", "flac", "mp3", "ogg")),
)
CONTAINERS = {container.suffix: container for container in _TABLE}
SOUNDS = tuple(name for name in FORMATS if any(name in container.sounds for container in _TABLE))
USUAL = "m4a"  # the sound of most


def container_of(suffix: str) -> Container:
    """What a video with this suffix (without the dot) becomes: the same kind, or else Matroska."""
    return CONTAINERS.get(suffix.lower(), CONTAINERS["mkv"])


def check_sound(format: str) -> None:
    """UsageError where no video can have sound of this format."""
    if format != UNASKED and format not in SOUNDS:
        raise UsageError(
            f"No video has {format} sound, so {parameter('format', format)} and {parameter('video', True)} "
            "contradict each other.",
            remedy=f"Choose {listed(SOUNDS, 'or')} with {parameter('format')}, or leave it out.",
            code="video",
        )
