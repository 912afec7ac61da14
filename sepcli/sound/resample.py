"""Change the sample rate of a stream, block by block, with an exact number of frames at the end.

Knows nothing of files or models: numpy blocks in, numpy blocks out, never more than a block in memory.

    file   [C, T]  --resampled-->  [C, T']           at the model's rate
    stems  [C, T']  --resampled-->  [C, T]           exactly the T frames of the file
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

# soxr's best: 28 bits of stop band, pass band to 0.95 of Nyquist, linear phase. Its streams compute in
# float32 when given float32, and give bit for bit what its one-shot function gives.
QUALITY = "VHQ"


def frames_at(frames: int, in_rate: int, out_rate: int) -> int:
    """How many frames at `out_rate` cover `frames` at `in_rate`: rounded up, so that nothing is lost.

    Rounding up also means that coming back there is never a frame too few, and that a single frame at a
    high rate does not become none at a low one.
    """
    return -(-frames * out_rate // in_rate)


class Resampler:
    """Sample-rate conversion as a stream; the first output frame stands at the time of the first input frame.

    in_rate, out_rate: Hz. Blocks are [C, T] float32. With equal rates the blocks pass through as they are.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int):
        self.in_rate, self.out_rate, self.channels = in_rate, out_rate, channels
        self._fed = 0  # frames at in_rate
        self._given = 0  # frames at out_rate
        self._stream = None
        if in_rate != out_rate:
            self._stream = soxr.ResampleStream(in_rate, out_rate, channels, dtype="float32", quality=QUALITY)

    def process(self, block: np.ndarray) -> np.ndarray:
        """[C, T] -> [C, T'], the frames that are final. T' may be 0: soxr looks some hundred frames ahead."""
        assert block.shape[0] == self.channels, (block.shape, self.channels)
        self._fed += block.shape[1]
        if self._stream is None:
            self._given += block.shape[1]
            return block
        return self._feed(block)

    def flush(self, frames: int | None = None) -> np.ndarray:
        """The last frames [C, T'], so that `frames` have come out in all.

        None: `frames_at` of those that came in.

        Beyond the end of the input there is silence. It only fills the fraction of a frame that rounding leaves
        open: asking for more is a mistake of the caller.
        """
        natural = frames_at(self._fed, self.in_rate, self.out_rate)
        wanted = natural if frames is None else frames
        slack = frames_at(2, self.in_rate, self.out_rate) + 1
        assert wanted <= natural + slack, f"{wanted} frames wanted of a stream of {natural}"
        if self._stream is None:
            tail = np.zeros((self.channels, max(0, wanted - self._given)), np.float32)
            self._given += tail.shape[1]
            return tail
        # The filter reaches past the end, into silence: soxr's own flush assumes the same zeros, but rounds
        # the number of frames to the nearest.
        zeros = frames_at(max(0, wanted - natural) + 2, self.out_rate, self.in_rate)
        missing = max(0, wanted - self._given)
        tails = [self._feed(np.zeros((self.channels, zeros), np.float32))]
        tails.append(self._feed(np.zeros((self.channels, 0), np.float32), last=True))
        return np.concatenate(tails, axis=1)[:, :missing]

    def _feed(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        assert self._stream is not None
        interleaved = np.ascontiguousarray(block.T, dtype=np.float32)  # [T, C], as soxr wants it
        out = self._stream.resample_chunk(interleaved, last=last).T
        self._given += out.shape[1]
        return np.ascontiguousarray(out)


def resampled(
    blocks: Iterable[np.ndarray], in_rate: int, out_rate: int, channels: int, *, frames: int | None = None
) -> Iterator[np.ndarray]:
    """Bring a stream of [C, T] float32 blocks from `in_rate` to `out_rate` (Hz).

    frames: exactly so many frames come out (the number that a file had before it was brought to the model's
    rate); None: `frames_at` of the frames that came in.
    """
    resampler = Resampler(in_rate, out_rate, channels)
    left = frames
    for block in blocks:
        out = resampler.process(block)
        if left is not None:
            out = out[:, :left]
            left -= out.shape[1]
        if out.shape[1]:
            yield out
    out = resampler.flush(frames)
    if left is not None:
        out = out[:, :left]
    if out.shape[1]:
        yield out
