"""The channels of a file by name, and the orders in which formats store them.

Names are FFmpeg's ("FL", "FR", "FC", "LFE", "BL", ...) for the loudspeakers of WAVE_FORMAT_EXTENSIBLE.
Blocks of samples in sepcli have their channels in the order of that format's mask; FLAC and FFmpeg share
it. Vorbis and Opus have an order of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

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


# Two channels, left and right, that belong together.
PAIRS = (
    *(("FL", "FR"), ("BL", "BR"), ("FLC", "FRC"), ("SL", "SR"), ("TFL", "TFR"), ("TBL", "TBR")),
    *(("WL", "WR"), ("SDL", "SDR"), ("TSL", "TSR"), ("BFL", "BFR"), ("DL", "DR")),
)

# The channels in the order in which Vorbis and Opus store them (Vorbis I, section 4.3.9; RFC 7845,
# section 5.1.1.2).
XIPH: tuple[tuple[str, ...], ...] = (
    ("FC",),
    ("FL", "FR"),
    ("FL", "FC", "FR"),
    ("FL", "FR", "BL", "BR"),
    ("FL", "FC", "FR", "BL", "BR"),
    ("FL", "FC", "FR", "BL", "BR", "LFE"),
    ("FL", "FC", "FR", "SL", "SR", "BC", "LFE"),
    ("FL", "FC", "FR", "SL", "SR", "BL", "BR", "LFE"),
)

# What an AAC stream of FFmpeg's encoder says so that its decoder understands it.
AAC: tuple[tuple[str, ...], ...] = (
    ("FC",),
    ("FL", "FR"),
    ("FL", "FR", "LFE"),
    ("FL", "FR", "FC"),
    ("FL", "FR", "BC"),
    ("FL", "FR", "FC", "BC"),
    ("FL", "FR", "BL", "BR"),
    ("FL", "FR", "FC", "BL", "BR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
)

_ALONE = frozenset("FC LFE BC TC TFC TBC LFE2 BFC".split())


def is_known(name: str) -> bool:
    """Whether it is known which other channel belongs to this one, or that none does."""
    return name in _ALONE or any(name in pair for pair in PAIRS)


_OTHER_SURROUND = {"SL": "BL", "SR": "BR", "BL": "SL", "BR": "SR"}


def fitting(layout: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """What stands for `layout` among the layouts that a format knows; () where nothing does.

    The same channels, or the same with the side ones as back ones, or the reverse: most programs call the
    surround channels of 5.1 either. The result is in the order of `layout`: its channels one by one.
    """
    moved = tuple(_OTHER_SURROUND.get(name, name) for name in layout)
    for wanted in (layout, moved):
        if any(sorted(wanted) == sorted(one) for one in known):
            return wanted
    return ()


def order(layout: tuple[str, ...], stored: Iterable[tuple[str, ...]]) -> list[int]:
    """Which channel of `layout` comes first, second, ... where the same names are stored in another order."""
    wanted = next(one for one in stored if sorted(one) == sorted(layout))
    return [layout.index(name) for name in wanted]
