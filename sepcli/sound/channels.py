"""Bring a file's channels to the model's, and the stems back.

Knows which channels of a surround file belong together; nothing of rates, files or models: numpy blocks in,
numpy blocks out.

    file   [C, T]  --ChannelMap.split-->  [G, Cm, T]     G calls of Cm channels
    stems  [S, G, Cm, T]  --ChannelMap.join-->  [S, C, T]
"""

from __future__ import annotations

import numpy as np

from sepcli.errors import InputError

# The channels of a file that go through a stereo model together, in the order that WAV, FLAC and ffmpeg share:
# front left, right, centre, LFE, then the back and side pairs. A channel on its own goes in on both sides.
_PAIRS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((0,),),
    2: ((0, 1),),
    3: ((0, 1), (2,)),  # 3.0
    4: ((0, 1), (2, 3)),  # quad
    5: ((0, 1), (2,), (3, 4)),  # 5.0
    6: ((0, 1), (2,), (3,), (4, 5)),  # 5.1
    7: ((0, 1), (2,), (3,), (4,), (5, 6)),  # 6.1
    8: ((0, 1), (2,), (3,), (4, 5), (6, 7)),  # 7.1
}


class ChannelMap:
    """How a file of C channels is taken through a model of Cm channels, and its stems back to C.

    The file becomes G groups of Cm channels, which the model sees as separate mixes of one batch. A group of
    one channel on a stereo model is that channel on both sides; its stems are the mean of both.
    """

    def __init__(self, file_channels: int, model_channels: int):
        assert model_channels in (1, 2), model_channels
        if file_channels not in _PAIRS:
            raise InputError(
                f"The file has {file_channels} channels; up to {max(_PAIRS)} (7.1) can be separated.",
                remedy="Mix it down first, for instance with `ffmpeg -i INPUT -ac 2 OUTPUT.wav`.",
                code="channels",
            )
        self.file_channels, self.model_channels = file_channels, model_channels
        if model_channels == 1:
            self._members: tuple[tuple[int, ...], ...] = tuple((c,) for c in range(file_channels))
        else:
            self._members = _PAIRS[file_channels]
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
