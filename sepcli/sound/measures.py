"""How loud a stem is, measured while it is written: peak, RMS, integrated loudness and silence.

Knows blocks of samples, a rate and the names of channels; no files and no models. The memory that a meter takes
does not depend on the length of the stem.

The loudness is that of ITU-R BS.1770-4, by FFmpeg's filter ebur128: blocks of 400 ms, one every 100 ms, with
an absolute gate at -70 LUFS and a relative one 10 LU below the mean. Side channels, or those at the back where
there are no side channels, weigh 1.41 (+1.5 dB), all others 1; LFE is left out (Annex 1; for 7.1 Annex 3).

Silence is a window of 100 ms whose RMS over all channels is below -60 dBFS.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log10

import numpy as np
from av import error
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

from sepcli.sound import layouts

SILENCE_DBFS = -60.0  # RMS of a window below which it is silent
WINDOW_SECONDS = 0.1
LOWEST_RATE = 4000  # Hz; the filter of BS.1770 has its bend at 1682 Hz, which must be below half the rate
_PIECE = 1 << 16  # frames that are converted at a time
_PLAIN = ("FL", "FR", "FC", "FLC", "FRC", "TC", "TFL", "TFC", "TFR")  # that weigh 1 in FFmpeg
_SIDES, _BACK, _LFE = ("SL", "SR"), ("BL", "BR"), ("LFE", "LFE2")


@dataclass(frozen=True)
class StemLevels:
    """The levels of one written stem, all its channels together. 0 dBFS is a sample at full scale."""

    peak_dbfs: float | None  # the largest sample; None: every sample is 0
    rms_dbfs: float | None  # None: every sample is 0
    lufs: float | None  # integrated loudness; None: no block of 400 ms is louder than -70 LUFS
    silence: float  # the share of its time that is silent, 0 to 1

    @property
    def silent(self) -> bool:
        """Whether it is silent from beginning to end."""
        return self.silence == 1.0

    def as_json(self) -> dict[str, float | None]:
        """The object of `--json`, in hundredths of a decibel."""
        return {
            "peak_dbfs": _rounded(self.peak_dbfs, 2),
            "rms_dbfs": _rounded(self.rms_dbfs, 2),
            "lufs": _rounded(self.lufs, 2),
            # Not rounded up to 1, which means that nothing can be heard.
            "silence": self.silence if self.silent else min(round(self.silence, 4), 0.9999),
        }


class StemMeter:
    """Takes a stem block by block; `levels` at the end."""

    def __init__(self, samplerate: int, channels: int, layout: tuple[str, ...] = ()):
        """samplerate: Hz. layout: the names of the channels (layouts.py); () where they have none."""
        self._loudness = _Loudness(samplerate, channels, layout)
        self._window = max(1, round(WINDOW_SECONDS * samplerate))  # frames
        self._limit = 10 ** (SILENCE_DBFS / 10) * channels  # power of a silent frame, summed over channels
        self._channels = channels
        self._frames = self._silent = 0
        self._peak = self._power = 0.0
        self._open_frames, self._open_power = 0, 0.0  # of the window that is not full yet

    def add(self, block: NDArray) -> None:
        """block [C, T], float, full scale at 1.0."""
        for start in range(0, block.shape[-1], _PIECE):
            piece = block[:, start : start + _PIECE]
            self._peak = max(self._peak, float(piece.max()), -float(piece.min()))
            self._add_powers(np.einsum("ct,ct->t", piece, piece, dtype=np.float64))
            self._loudness.add(piece)

    def levels(self) -> StemLevels:
        """What was heard. Called once, after the last block."""
        self._close_window()
        power = self._power / max(1, self._frames * self._channels)
        return StemLevels(
            peak_dbfs=20 * log10(self._peak) if self._peak else None,
            rms_dbfs=10 * log10(power) if power else None,
            lufs=self._loudness.integrated(),
            silence=self._silent / self._frames if self._frames else 1.0,
        )

    def _add_powers(self, powers: NDArray[np.float64]) -> None:
        """powers: [T], of each frame, summed over channels."""
        self._frames += len(powers)
        self._power += float(powers.sum())
        first = min(len(powers), self._window - self._open_frames)
        self._open_frames += first
        self._open_power += float(powers[:first].sum())
        if self._open_frames < self._window:
            return
        self._close_window()
        whole = (len(powers) - first) // self._window
        windows = powers[first : first + whole * self._window].reshape(whole, self._window).sum(axis=1)
        self._silent += self._window * int(np.count_nonzero(windows < self._limit * self._window))
        left = powers[first + whole * self._window :]
        self._open_frames, self._open_power = len(left), float(left.sum())

    def _close_window(self) -> None:
        if self._open_power < self._limit * self._open_frames:
            self._silent += self._open_frames
        self._open_frames, self._open_power = 0, 0.0


class _Loudness:
    """Integrated loudness of a stream of [C, T] blocks."""

    def __init__(self, samplerate: int, channels: int, layout: tuple[str, ...]):
        names = _filter_channels(channels, layout)
        self._order = [index for _, index in names]
        self._layout = "+".join(name for name, _ in names)
        self._samplerate = samplerate
        self._frames = 0
        self._last: str | None = None
        self._graph: Graph | None = None
        if names and samplerate >= LOWEST_RATE:
            self._graph = graph = Graph()
            source = graph.add_abuffer(
                sample_rate=samplerate, format="fltp", layout=self._layout, time_base=Fraction(1, samplerate)
            )
            meter = graph.add("ebur128", "metadata=1:framelog=quiet")
            sink = graph.add("abuffersink")
            source.link_to(meter)
            meter.link_to(sink)
            graph.configure()

    def add(self, block: NDArray) -> None:
        if self._graph is None:
            return
        samples = np.ascontiguousarray(block[self._order], dtype=np.float32)
        frame = AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base = self._samplerate, Fraction(1, self._samplerate)
        frame.pts = self._frames
        self._frames += samples.shape[1]
        self._graph.push(frame)
        self._pull()

    def integrated(self) -> float | None:
        """LUFS; None where no block is above the absolute gate."""
        if self._graph is None:
            return None
        self._graph.push(None)
        self._pull()
        self._graph = None
        found = float(self._last) if self._last is not None else -70.0
        return found if found > -70.0 else None

    def _pull(self) -> None:
        """Take the frames that the filter gives back, with what it has found so far."""
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (error.BlockingIOError, error.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            self._last = frame.metadata.get("lavfi.r128.I", self._last)  # a short last frame has none


def _filter_channels(channels: int, layout: tuple[str, ...]) -> list[tuple[str, int]]:
    """The channels that count, as (a name that FFmpeg gives the right weight, index), in FFmpeg's order."""
    names = layout or ("",) * channels
    surround = _SIDES if set(_SIDES) & set(names) else _BACK
    plain = iter(_PLAIN if channels > 1 else ("FC",))
    found = []
    for index, name in enumerate(names):
        if name in surround:
            found.append((_SIDES[surround.index(name)], index))
        elif name not in _LFE:
            found.append((next(plain), index))
    return sorted(found, key=lambda pair: layouts.NAMES.index(pair[0]))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
