"""Cut a window from an audio file: seek, read, convert rate and channels. Nothing else of the file is decoded.

Knows files and samples; nothing of tracks or batches. A window is exact: it is what one would cut from the
whole file, with silence around it, after converting all of it.

    file       ...............|--margin--|=============|--margin--|........      at the file's rate
    soxr                      |----------------------------------|
    window                               |=============|                         at the wanted rate

The part that is read begins where a frame of the file and a frame of the result fall together (every 160
frames from 48 kHz to 44.1 kHz), so that the phase of the resampler is the same whatever the window; the margin
is longer than its filter, so that edges are right.

Every window opens its file anew. Keeping files open would save 0.4 ms of the 6 ms that a 6 s window of a FLAC
takes, but libsndfile's Vorbis decoder then gives samples that depend on what it read before.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soxr

from sepcli.errors import InputError
from sepcli.sound import sndfile

QUALITY = "HQ"  # soxr: 20 bits of stop band; `resample.VHQ` takes 1.4 times as long
_MARGIN = 1024  # frames at the lower of both rates; the filter of HQ is shorter than 128 either side


def read_window(
    path: Path | str, start_seconds: float, samples: int, samplerate: int, channels: int
) -> np.ndarray:
    """float32 [C, T]: `samples` frames at `samplerate` (Hz), from the nearest one to `start_seconds` on.

    Before the file's beginning and after its end there is silence. channels: 1 or 2; a mono file stands on
    both sides, two channels become their mean, and of more than two the front pair is taken.
    InputError names the file where it can't be opened, ends before its header says, or has a sample that is
    no finite number.
    """
    assert channels in (1, 2), channels
    path = Path(path)
    try:
        with sndfile.opened(path) as file:
            window = _window(file, round(start_seconds * samplerate), samples, samplerate, channels)
    except (sndfile.Error, OSError, TypeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
        raise InputError(f"{path} can't be read: {reason}.", remedy="Replace it.", code="broken") from None
    # The sum is finite only if every sample is, and takes a tenth of the time of asking each.
    if not math.isfinite(float(window.sum(dtype=np.float32))):
        raise InputError(
            f"{path} has samples that are NaN or infinite, after {start_seconds:.1f} s.",
            remedy="Replace it.",
            code="not_finite",
        )
    return window


def _window(file: sndfile.Sequential, start: int, samples: int, samplerate: int, channels: int) -> np.ndarray:
    """start, samples: frames at `samplerate`."""
    common = math.gcd(file.samplerate, samplerate)
    p, q = file.samplerate // common, samplerate // common  # p frames of the file last as long as q wanted
    if p == q:
        frames = to_channels(_read(file, start, samples), channels)
        return np.ascontiguousarray(frames.T)
    margin = -(-_MARGIN * max(p, q) // q)
    first = (start * p // q - margin) // p * p
    last = -(-(start + samples) * p // q) + margin
    if last <= 0 or first >= file.frames:
        return np.zeros((channels, samples), np.float32)
    # Fewer channels first, or more last: what is resampled is then the least.
    frames = to_channels(_read(file, first, last - first), min(channels, file.channels))
    frames = soxr.resample(np.ascontiguousarray(frames), file.samplerate, samplerate, quality=QUALITY)
    skip = start - first // p * q
    frames = to_channels(frames[skip : skip + samples], channels)
    assert len(frames) == samples, (len(frames), samples)
    return np.ascontiguousarray(frames.T)


def _read(file: sndfile.Sequential, first: int, count: int) -> np.ndarray:
    """float32 [T, C]: `count` frames of the file from `first` on, zeros where it has none."""
    frames = np.zeros((count, file.channels), np.float32)
    begin, end = max(0, first), min(file.frames, first + count)
    if begin < end:
        file.seek(begin)
        got = len(file.read(out=frames[begin - first : end - first]))
        # MP3 headers may only estimate the length.
        if got < end - begin and file.format != "MP3":
            raise ValueError(f"it ends at {(begin + got) / file.samplerate:.1f} s, before its header says")
    return frames


def to_channels(frames: np.ndarray, channels: int) -> np.ndarray:
    """[T, C] -> [T, channels]: mono on both sides, the mean of two, the front pair of more."""
    if frames.shape[1] == channels:
        return frames
    if frames.shape[1] == 1:
        return np.repeat(frames, channels, axis=1)
    front = frames[:, :2]
    return front if channels == 2 else front.mean(axis=1, keepdims=True)
