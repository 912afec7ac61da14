"""Standard normals as a function of where they are used, for models that sample.

Knows nothing of models or schedules. A value depends only on (seed, draw, source, channel, position in the
track), never on who asks first: overlapping chunks, any batch size, a narrowed model, CPU and CUDA all see the
same noise where they see the same audio. Drawn on the CPU in float32, then moved.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the
position is the counter, the rest is the key, so any stretch can be drawn without the stretch before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WORDS = 4  # 64-bit words that Philox makes per counter step
_ORIGIN = 1 << 40  # added to positions, so that samples before the track's beginning have noise too
_BLOCK = 1 << 16  # positions drawn at once, so that intermediate values stay in a CPU's cache


@dataclass(frozen=True)
class Noise:
    """The noise of one batch of windows.

    seed: any int. starts: the position in the track (samples at the model's rate, may be negative) of each
    batch item. groups: which group of channels each item is (the sides of a stereo file under a mono model).
    """

    seed: int
    starts: Sequence[int]
    groups: Sequence[int]

    def part(self, first: int, end: int) -> Noise:
        """The noise of the batch items from `first` to before `end`."""
        return Noise(self.seed, self.starts[first:end], self.groups[first:end])

    def every(self, hop: int) -> Noise:
        """The noise of a series with one value every `hop` samples; a window begins at the nearest value."""
        return Noise(self.seed, [(start + hop // 2) // hop for start in self.starts], self.groups)

    def normal(self, draw: int, source: str, channels: int, length: int) -> Tensor:
        """[B, C, T] float32 on the CPU; `draw` counts the sampler's draws, `source` names the stem."""
        out = np.empty((len(self.starts), channels, length), np.float32)
        for item, (start, group) in enumerate(zip(self.starts, self.groups, strict=True)):
            for channel in range(channels):
                _fill(out[item, channel], (self.seed, draw, source, group, channel), start)
        return torch.from_numpy(out)


def _fill(out: np.ndarray, key: tuple[int | str, ...], start: int) -> None:
    """Normals into out [T] float32: positions start .. start + T of the stream that `key` names."""
    # The key's parts are hashed to 128 bits by numpy's SeedSequence, which takes ints only.
    entropy = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in key]
    words = np.random.SeedSequence([abs(part) for part in entropy]).generate_state(2, np.uint64)
    for begin in range(0, len(out), _BLOCK):
        part = out[begin : begin + _BLOCK]
        step, skip = divmod(start + begin + _ORIGIN, 2 * _WORDS)
        steps = -(-(skip + len(part)) // (2 * _WORDS))
        bits = np.random.Philox(key=words, counter=step).random_raw(steps * _WORDS)
        part[:] = _normals(bits)[skip : skip + len(part)]


def _normals(bits: np.ndarray) -> np.ndarray:
    """Words [N] -> [2 N] float32 normals, two a word: Box and Muller 1958.

    The high half gives the radius, the low half the angle. All in single precision, which is several times as
    fast: samplers draw hundreds of these a chunk. The radius is between 0 and 6.8.
    """
    low, high = bits.astype("<u8", copy=False).view("<u4").reshape(-1, 2).T.astype(np.float32, order="C")
    radius = np.sqrt(np.float32(-2) * np.log((high + np.float32(0.5)) * np.float32(2**-32)))
    angle = low * np.float32(2 * np.pi * 2**-32)
    pairs = np.empty((len(radius), 2), np.float32)
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])
    return pairs.reshape(-1)
