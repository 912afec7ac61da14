"""Bring a file's channels to the model's, and the stems back.

Knows which channels of a surround file belong together; nothing of rates, files or models: numpy blocks in,
numpy blocks out.

    file   [C, T]  --ChannelMap.split-->  [G, Cm, T]     G calls of Cm channels
    stems  [S, G, Cm, T]  --ChannelMap.join-->  [S, C, T]
"""

from __future__ import annotations

import numpy as np

from sepcli.errors import InputError
from sepcli.sound import layouts

MOST = 8  # channels of a file that does not say what they are


class ChannelMap:
    """How a file of C channels is taken through a model of Cm channels, and its stems back to C.

    The file becomes G groups of Cm channels, which the model sees as separate mixes of one batch. A left and a
    right channel of one name (front, back, side, ...) are one group. Every other channel is a group of its own:
    on a stereo model it is on both sides, and its stems are the mean of both.

    layout: the names of the file's channels (layouts.py). () means the usual ones for that many. `notice` is a
    sentence where names are not known, so that their channels went through one by one; else "".

    InputError "channels": the file has more than 8, and does not say what they are.
    """

    def __init__(self, file_channels: int, model_channels: int, layout: tuple[str, ...] = ()):
        assert model_channels in (1, 2), model_channels
        assert len(layout) in (0, file_channels), (layout, file_channels)
        names = layout or layouts.default(file_channels)
        if not names:
            raise InputError(
                f"The file has {file_channels} channels and does not say what they are; up to {MOST} of those "
                "(7.1) can be separated.",
                remedy="Mix it down first, for instance with `ffmpeg -i INPUT -ac 2 OUTPUT.wav`.",
                code="channels",
            )
        self.file_channels, self.model_channels = file_channels, model_channels
        self.notice = ""
        if model_channels == 1:
            self._members: tuple[tuple[int, ...], ...] = tuple((c,) for c in range(file_channels))
        else:
            self._members = _groups(names)
            unknown = [name for name in names if not layouts.is_known(name)]
            if unknown:
                listed = ", ".join(unknown)
                self.notice = f"Which channels belong to {listed} is not known: they were separated one by one."
        self.groups = len(self._members)

    def split(self, block: np.ndarray) -> np.ndarray:
        """The groups [G, Cm, T] of a block [C, T]."""
        assert block.shape[0] == self.file_channels, (block.shape, self.file_channels)
        if self._members == (tuple(range(self.model_channels)),):
            return block[None]  # the common case costs no copy
        repeated = [members * (self.model_channels // len(members)) for members in self._members]
        return block[np.array(repeated)]

    def join(self, stems: np.ndarray) -> np.ndarray:
        """The stems [S, C, T] of a file from the stems [S, G, Cm, T] of its groups."""
        assert stems.shape[1:3] == (self.groups, self.model_channels), stems.shape
        if self._members == (tuple(range(self.model_channels)),):
            return stems[:, 0]
        out = np.empty((stems.shape[0], self.file_channels, stems.shape[3]), stems.dtype)
        for group, members in enumerate(self._members):
            if len(members) == self.model_channels:
                out[:, members] = stems[:, group]
            else:
                out[:, members[0]] = stems[:, group].mean(axis=1)
        return out


def _groups(names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The channels that go through a stereo model together, in the order of their first: 5.1 gives
    (0, 1), (2,), (3,), (4, 5)."""
    groups: list[tuple[int, ...]] = []
    other = {left: right for pair in layouts.PAIRS for left, right in (pair, pair[::-1])}
    for at, name in enumerate(names):
        partner = other.get(name)
        if partner is None or names.count(name) > 1 or names.count(partner) != 1:
            groups.append((at,))
        elif (name, partner) in layouts.PAIRS:
            groups.append((at, names.index(partner)))  # left first, wherever it stands
    return tuple(sorted(groups))
