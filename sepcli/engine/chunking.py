"""Cut a long mix into segments and cross-fade the results back together.

Knows nothing about models, files or devices: tensors in, tensors out, and never the whole track at once.

    mix   |----------------------------------|
    seg 0 |-----------\\
    seg 1        /-----------\\               each weight is a triangle; we divide
    seg 2               /-----------\\        by their sum: identity in, identity out

Where two triangles overlap by a quarter of a segment (the default), weighting and dividing is exactly a linear
cross-fade. A segment begins every `stride` samples for as long as there is audio left, so the last one may lie
wholly inside the one before it. (Demucs' `apply_model`; Défossez et al., "Hybrid Spectrogram and Waveform
Source Separation", 2021, and its published code.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sepcli.engine.separator import Segment
from sepcli.errors import UsageError, parameter

ANY_LENGTH_SECONDS = 30.0  # the segment of a model that takes any length: memory must stay bounded


@dataclass(frozen=True)
class Chunk:
    """A stretch of the track and the (longer or equal) window that the model is given for it.

    start, length: what the result is for. feed_start, feed_length: the window, which holds real neighbouring
    audio around the chunk and zeros beyond the ends of the track. All in samples; starts may be negative.
    """

    start: int
    length: int
    feed_start: int
    feed_length: int

    @property
    def feed_end(self) -> int:
        """The first position after the window."""
        return self.feed_start + self.feed_length

    def trim(self, out: Tensor) -> Tensor:
        """[..., feed_length] -> [..., length]: the chunk's own part of the window."""
        lead = self.start - self.feed_start
        return out[..., lead : lead + self.length]


@dataclass(frozen=True)
class ChunkPlan:
    """How a track is cut for one model: chunks of `size` samples (margins not counted), one every `stride`."""

    segment: Segment
    size: int
    stride: int

    def chunk(self, start: int, end: int | None) -> Chunk:
        """The chunk at `start` of a track that ends at `end`; None = farther away than this chunk reaches."""
        length = self.size if end is None else min(self.size, end - start)
        assert length > 0, "a chunk begins inside the track"
        feed = self._feed_length(length) + 2 * self.segment.margin
        # Centred, the odd sample on the right: the same split as the published centre trim.
        return Chunk(start, length, start - (feed - length) // 2, feed)

    def _feed_length(self, length: int) -> int:
        if self.segment.valid_length is not None:
            return self.segment.valid_length(self.size if self.segment.exact else length)
        if self.segment.exact or self.segment.tail == "context":
            return self.size
        return -(-length // self.segment.multiple) * self.segment.multiple


def plan_chunks(segment: Segment, overlap: float, samplerate: int, seconds: float | None = None) -> ChunkPlan:
    """The plan for a model of `segment`; seconds: the length of a chunk, where the user chose one.

    overlap: share of a chunk that the next one covers, 0 <= overlap < 1 (engine.settings has checked it).
    UsageError where the model can't be cut like that.
    """
    assert 0 <= overlap < 1, overlap
    if seconds is not None:
        segment = _shorten(segment, round(seconds * samplerate), samplerate)
    samples = segment.samples or int(ANY_LENGTH_SECONDS * samplerate)
    size = samples - 2 * segment.margin
    stride = int((1 - overlap) * size)
    if stride < 1:
        raise UsageError(
            f"With an overlap of {overlap} a segment of {size} samples never advances.",
            remedy=f"Choose a smaller {parameter('overlap')}.",
        )
    return ChunkPlan(segment, size, stride)


def _shorten(segment: Segment, samples: int, samplerate: int) -> Segment:
    """`segment` with calls of `samples`; UsageError where the model can't be called like that."""
    most = segment.samples if segment.exact else None
    least = max(segment.multiple, 2 * segment.margin + 1)
    if samples < least or (most is not None and samples > most):
        up_to = f" and at most {most / samplerate:g} s" if most is not None else ""
        raise UsageError(
            f"A segment of {samples / samplerate:g} s does not fit this model: it takes at least "
            f"{max(least / samplerate, 0.001):.3g} s{up_to}.",
            remedy=f"Choose {parameter('segment')} in that range, or leave it out.",
        )
    return replace(segment, samples=samples // segment.multiple * segment.multiple)


def triangle(size: int) -> Tensor:
    """[size] float32 weights that rise to 1 in the middle and fall again; never 0."""
    half = size // 2
    rise = torch.arange(1, half + 1, dtype=torch.float32)
    fall = torch.arange(size - half, 0, -1, dtype=torch.float32)
    weight = torch.cat([rise, fall])
    return weight / weight.max()


class OverlapAdd:
    """Adds up overlapping chunks in order and hands out what no later chunk will touch.

    Holds one chunk's worth of samples, however long the track is.
    """

    def __init__(self, size: int, stride: int):
        self.stride = stride
        self._weight = triangle(size)
        self._sum: Tensor | None = None  # [..., size], from the newest chunk's start on
        self._weight_sum = torch.zeros(size)

    def add(self, chunk: Tensor, *, last: bool) -> Tensor:
        """[..., T] float32, the next chunk -> [..., M] final samples, M = stride, or T after the last one."""
        length = chunk.shape[-1]
        if self._sum is None:
            self._weight = self._weight.to(chunk.device)
            self._weight_sum = self._weight_sum.to(chunk.device)
            self._sum = chunk.new_zeros(*chunk.shape[:-1], len(self._weight))
        weight = self._weight[:length]
        self._sum[..., :length] += weight * chunk
        self._weight_sum[:length] += weight
        done = length if last else self.stride
        final = self._sum[..., :done] / self._weight_sum[:done]
        self._advance(self._sum, done)
        return final

    def _advance(self, total: Tensor, done: int) -> None:
        """Move the sums `done` samples towards the beginning."""
        # Cloned: source and target overlap.
        keep = total.shape[-1] - done
        total[..., :keep] = total[..., done:].clone()
        total[..., keep:] = 0
        self._weight_sum[:keep] = self._weight_sum[done:].clone()
        self._weight_sum[keep:] = 0


class BlockQueue:
    """Blocks [..., T] that wait; taken out in other lengths than they came in."""

    def __init__(self) -> None:
        self._blocks: deque[Tensor] = deque()
        self.end = 0  # samples that have come in
        self.held = 0  # samples that wait

    def put(self, block: Tensor) -> None:
        """Add a block behind the others."""
        self._blocks.append(block)
        self.end += block.shape[-1]
        self.held += block.shape[-1]

    def take(self, count: int) -> Tensor:
        """The first `count` samples, [..., count]; as many wait."""
        parts, missing = [], count
        while missing:
            block = self._blocks.popleft()
            if block.shape[-1] > missing:
                self._blocks.appendleft(block[..., missing:])
                block = block[..., :missing]
            parts.append(block)
            missing -= block.shape[-1]
        self.held -= count
        return torch.cat(parts, dim=-1)


class StreamBuffer:
    """A window over a stream of blocks [..., T], addressed by absolute sample positions.

    Reads ahead as far as asked, forgets what is left behind, gives zeros outside the stream.
    """

    def __init__(self, blocks: Iterator[Tensor]):
        self._blocks = blocks
        self._parts: list[Tensor] = []
        self._start = 0  # position of the first sample that is held
        self._stop = 0  # position after the last one
        self._like: Tensor | None = None  # an empty block: axes, dtype and device for zeros
        self.end: int | None = None  # length of the stream, once known

    def reach(self, position: int) -> None:
        """Read until `position` is held or the stream has ended."""
        while self.end is None and self._stop < position:
            block = next(self._blocks, None)
            if block is None:
                self.end = self._stop
                return
            self._like = block[..., :0]
            self._parts.append(block)
            self._stop += block.shape[-1]

    def read(self, start: int, length: int) -> Tensor:
        """[..., length] from `start`; the caller has reached its end and not forgotten its beginning."""
        assert self._like is not None, "nothing has been read yet"
        assert start >= self._start or self._start == 0, "forgotten too early"
        pieces, position, stop = [], self._start, start + length
        if start < 0:
            pieces.append(self._zeros(min(-start, length)))
        for part in self._parts:
            low, high = max(start - position, 0), min(stop - position, part.shape[-1])
            if low < high:
                pieces.append(part[..., low:high])
            position += part.shape[-1]
        missing = length - sum(piece.shape[-1] for piece in pieces)
        if missing:
            pieces.append(self._zeros(missing))
        return torch.cat(pieces, dim=-1)

    def forget(self, position: int) -> None:
        """Nothing before `position` will be read again."""
        while self._parts and self._start + self._parts[0].shape[-1] <= position:
            self._start += self._parts.pop(0).shape[-1]

    def _zeros(self, length: int) -> Tensor:
        assert self._like is not None
        return self._like.new_zeros(*self._like.shape[:-1], length)
