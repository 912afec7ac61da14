"""The channels of a file by name, and the orders in which formats store them.

Names are FFmpeg's ("FL", "FR", "FC", "LFE", "BL", ...) for the loudspeakers of WAVE_FORMAT_EXTENSIBLE.
Blocks of samples in sepcli have their channels in the order of that format's mask; FLAC and FFmpeg share
it. Vorbis and Opus have an order of their own.
"""

from __future__ import annotations

# Bit 0 of the mask first (Microsoft, "WAVEFORMATEXTENSIBLE").
NAMES = tuple("FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split())

_DEFAULTS: dict[int, tuple[str, ...]] = {
    1: ("FC",),
    2: ("FL", "FR"),
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),  # quad
    5: ("FL", "FR", "FC", "BL", "BR"),  # 5.0
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),  # 5.1
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),  # 6.1
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),  # 7.1
}


def default(channels: int) -> tuple[str, ...]:
    """What so many channels are where a file does not say it; () beyond 8 (RFC 9639, section 9.1.3)."""
    return _DEFAULTS.get(channels, ())


def mask(layout: tuple[str, ...]) -> int:
    """The mask of WAVE_FORMAT_EXTENSIBLE; 0 where a name is not in it."""
    if not set(layout) <= set(NAMES):
        return 0
    return sum(1 << NAMES.index(name) for name in layout)


def from_mask(mask: int, channels: int) -> tuple[str, ...]:
    """The layout that a mask states; () where it does not name so many channels."""
    layout = tuple(name for bit, name in enumerate(NAMES) if mask >> bit & 1)
    return layout if len(layout) == channels else ()
