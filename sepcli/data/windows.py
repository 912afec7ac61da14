"""Cut a window from an audio file: seek, read, convert rate and channels. Nothing else of the file is decoded.

Knows files and samples; nothing of tracks or batches. A window is exact: it equals what one would cut out after
converting the whole file, with silence around it.

    file       ...............|--margin--|=============|--margin--|........      at the file's rate
    soxr                      |----------------------------------|
    window                               |=============|                         at the wanted rate

The part that is read begins where a frame of the file and a frame of the result coincide (every 160 frames from
48 kHz to 44.1 kHz), so that the resampler has the same phase for every window. The margin is longer than its
filter, so that the edges are right.

Every window opens its file anew. Keeping files open would save 0.4 of the 6 ms that a window of 6 s takes from
a FLAC, but the samples of libsndfile's Vorbis decoder would then depend on what it has read before.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soxr

from sepcli.errors import InputError, first_line, from_os
from sepcli.sound import sndfile

QUALITY = "HQ"  # of soxr: a stop band of 20 bits; "VHQ", as in sound/resample.py, takes 1.4 times as long
_MARGIN = 1024  # frames at the lower of both rates; the filter of HQ reaches less than 128 to each side


def read_window(
    path: Path | str, start_seconds: float, samples: int, samplerate: int, channels: int
) -> np.ndarray:
    """float32 [C, T]: `samples` frames at `samplerate` (Hz), from the nearest one to `start_seconds` on.

    Before the beginning of the file and after its end there is silence. channels: 1 or 2. For stereo, a mono
    file is on both sides; for mono, two channels become their mean; of more than two channels the front pair is
    used. InputError, naming the file, where it can't be opened, ends before its header says, or has a sample
    that is not a finite number.
    """
    assert channels in (1, 2), channels
    path = Path(path)
    try:
        with sndfile.opened(path) as file:
            window = _window(file, round(start_seconds * samplerate), samples, samplerate, channels)
    except OSError as error:
        raise from_os(error, path, reading=InputError) from None
    except (sndfile.Error, TypeError, ValueError) as error:
        raise InputError(
            f"'{path}' can't be read: {first_line(error)}.", remedy="Replace it.", code="broken"
        ) from None
    # The sum is finite only if every sample is; this takes a tenth of the time of testing each.
    if not math.isfinite(float(window.sum(dtype=np.float32))):
        raise InputError(
            f"'{path}' has samples that are NaN or infinite, after {start_seconds:.1f} s.",
            remedy="Replace it.",
            code="not_finite",
        )
    return window


def _window(file: sndfile.Sequential, start: int, samples: int, samplerate: int, channels: int) -> np.ndarray:
    """The window [C, T] of an open file. start, samples: frames at `samplerate`."""
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
    # Channels become fewer before resampling, or more after it, so that as few as possible are resampled.
    frames = to_channels(_read(file, first, last - first), min(channels, file.channels))
    frames = soxr.resample(np.ascontiguousarray(frames), file.samplerate, samplerate, quality=QUALITY)
    skip = start - first // p * q
    frames = to_channels(frames[skip : skip + samples], channels)
    assert len(frames) == samples, (len(frames), samples)
    return np.ascontiguousarray(frames.T)


def _read(file: sndfile.Sequential, first: int, count: int) -> np.ndarray:
    """float32 [T, C]: `count` frames of the file from `first` on, zeros outside of it."""
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
    """[T, C] -> [T, channels]: mono on both sides; the mean of two; the front pair of more."""
    if frames.shape[1] == channels:
        return frames
    if frames.shape[1] == 1:
        return np.repeat(frames, channels, axis=1)
    front = frames[:, :2]
    return front if channels == 2 else front.mean(axis=1, keepdims=True)
