"""Audio files as streams of samples, block by block.

The decoded samples are the truth: a length in a header is only an expectation. Whatever a file lacks stands in
`AudioReader.losses` and, as sentences, in `warnings`. One block is in memory, however long the file is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np

from sepcli.errors import InputError, Warned, parameter
from sepcli.sound import packets, sndfile
from sepcli.sound.losses import CUT_SHORT, Loss, name_of, said
from sepcli.sound.probe import AudioInfo, probe, unreadable

_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "32f": 4, "64f": 8}  # of a sample, by depth


class AudioReader:
    """A file's samples as [C, T] float32 blocks at the file's own rate, full scale at 1.0.

    start, duration: the part of the file to read, in seconds, exact to the frame. block: frames in a block.
    Iterate once. `losses`, `warnings` and `frames_read` are complete when the iteration has ended.

    InputError: "not_finite" for NaN or infinite samples, "no_frames" where nothing decodes, "start" where
    `start` lies beyond the end.
    """

    def __init__(
        self,
        path: Path,
        info: AudioInfo | None = None,
        *,
        start: float = 0.0,
        duration: float | None = None,
        block: int = 65536,
    ):
        self.path = Path(path)
        self.info = info or probe(self.path)
        self.samplerate, self.channels = self.info.samplerate, self.info.channels
        self.losses: list[Loss] = []  # times in the file, not in the part
        self.frames_read = 0
        # The file's time of its first sample, in seconds, and how times drift (packets.Reader); None: no times.
        self.begins: Fraction | None = None
        self.drifts: list[tuple[Fraction, Fraction]] = []
        self._block = block
        self._start = round(start * self.samplerate)  # frames
        self._limit = None if duration is None else round(duration * self.samplerate)

    @property
    def warnings(self) -> list[Warned]:
        """The losses as sentences."""
        return said(self.losses)

    @property
    def expected(self) -> int | None:
        """How many frames will probably come, for a progress bar; None where nothing is known."""
        total = self.info.frames
        if total is None and self.info.duration is not None:
            total = round(self.info.duration * self.samplerate)
        if total is None:
            return self._limit
        rest = max(0, total - self._start)
        return rest if self._limit is None else min(rest, self._limit)

    def __iter__(self) -> Iterator[np.ndarray]:
        decode = self._plain_blocks if self.info.decoder == "soundfile" else self._packet_blocks
        left, skip = self._limit, self._start
        waiting: list[np.ndarray] = []  # what has not been given yet
        count = 0  # frames in it
        with closing(decode()) as blocks:
            for block in blocks:  # [C, T], of any length
                dropped = min(skip, block.shape[1])
                skip -= dropped
                block = block[:, dropped:] if left is None else block[:, dropped : dropped + left]
                if left is not None:
                    left -= block.shape[1]
                waiting.append(block)
                count += block.shape[1]
                if count >= self._block:
                    yield from self._blocks(waiting, whole=False)
                    count %= self._block
                if left == 0:
                    break
        yield from self._blocks(waiting, whole=True)
        if self.frames_read == 0:
            raise self._nothing()

    def _blocks(self, waiting: list[np.ndarray], *, whole: bool) -> Iterator[np.ndarray]:
        """Full blocks of what is waiting, which keeps the rest; whole: the rest too."""
        if not waiting:
            return
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting, axis=1)
        waiting.clear()
        at = 0
        while joined.shape[1] - at >= self._block or (whole and at < joined.shape[1]):
            block = np.ascontiguousarray(joined[:, at : at + self._block])
            at += block.shape[1]
            if not np.isfinite(block).all():
                raise self._not_finite(block)
            self.frames_read += block.shape[1]
            yield block
        if not whole:
            waiting.append(joined[:, at:])

    def _packet_blocks(self) -> Generator[np.ndarray, None, None]:
        """Blocks from the beginning to the end, by FFmpeg's libraries."""
        assert self.info.header is not None
        reader = packets.Reader(self.path, self.info.header, self.channels)
        try:
            yield from reader.blocks()
        except packets.Error as error:
            raise unreadable(self.path, error) from None
        except OSError as error:
            raise unreadable(self.path, error) from None
        finally:
            self.begins, self.drifts = reader.begins, reader.drifts
            begin = self._start / self.samplerate
            self.losses = [loss for loss in reader.losses if loss.start + loss.seconds >= begin]

    def _plain_blocks(self) -> Generator[np.ndarray, None, None]:
        """Blocks from the beginning to the end, by libsndfile; up to `start` zeros that nobody reads."""
        try:
            with sndfile.opened(self.path) as file:
                at, failure = 0, ""
                if self._start and not self.info.lossy:  # a seek is exact where each sample stands for itself
                    at = file.seek(min(self._start, file.frames))
                    yield np.broadcast_to(np.float32(0), (self.channels, at))
                while True:
                    buffer = np.empty((self._block, self.channels), np.float32)
                    try:
                        got = len(file.read(out=buffer))
                    except sndfile.Error as error:
                        got = sndfile.frames_before_error(file, at)
                        failure = str(error).removeprefix("Error : ").rstrip(".")
                    at += got
                    if got:
                        yield buffer[:got].T
                    if got == 0 or failure:
                        break
                self._note_end(at, failure, *sndfile.missing_end(file.extra_info))
        except sndfile.Error as error:  # on opening or seeking
            raise unreadable(self.path, error) from None
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _note_end(self, frames: int, failure: str, reason: str, lacking: int) -> None:
        """Remember it where plain samples end before what the header states. lacking: bytes."""
        assert self.info.frames is not None
        lacking //= self.channels * _BYTES.get(self.info.depth, 1)
        lacking = max(lacking, self.info.frames - frames)
        if failure or reason or lacking:
            at = frames / self.samplerate
            self.losses.append(Loss(CUT_SHORT, at, lacking / self.samplerate, failure or reason))

    def _not_finite(self, block: np.ndarray) -> InputError:
        where = self._start + self.frames_read + int(np.argmin(np.isfinite(block).all(axis=0)))
        return InputError(
            f"{name_of(self.path)} has a sample that is NaN or infinite, at {where / self.samplerate:.3f} s.",
            remedy="Export it again from the program that made it, as integers for instance.",
            code="not_finite",
        )

    def _nothing(self) -> InputError:
        if self._start and not self.losses:
            return InputError(
                f"{name_of(self.path)} ends before {self._start / self.samplerate:.3f} s.",
                remedy=f"Give a smaller {parameter('start')}.",
                code="start",
            )
        reason = f" ({self.warnings[0]})" if self.losses else ""
        return InputError(
            f"{name_of(self.path)} has no audio frames{reason}.",
            remedy="Copy, download or export it again.",
            code="no_frames",
        )
