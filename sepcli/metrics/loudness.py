"""How loud a sound is: ITU-R BS.1770-4, in LUFS, for left, right or both.

Knows arrays only. The sound is filtered (K: a shelf of 4 dB from 1.7 kHz up, which imitates a head, and a
high-pass at 38 Hz). Of its blocks of 400 ms, one every 100 ms, only those count that are loud enough:

    l = -0.691 + 10 log10 sum over channels of the mean square       of a block, or of the mean of some blocks
    L = l of the blocks with l > max(-70, l of those above -70, minus 10)

The recommendation gives both filters as coefficients for 48 kHz. For other rates the coefficients are computed
from the analogue filters behind them, by the bilinear transform; at 48 kHz this gives the coefficients of the
recommendation. All is float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OFFSET = -0.691  # dB: cancels K's gain at 997 Hz
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
BLOCK_STEPS, STEP_SECONDS = 4, 0.1
# The analogue filters: frequency (Hz), quality, gain of the shelf.
SHELF = 1681.974450955533, 0.7071752369554196, 10 ** (3.999843853973347 / 20)
SHELF_BEND = 0.4996667741545416  # the gain's exponent at the shelf's own frequency
HIGH_PASS = 38.13547087602444, 0.5003270373238773


def loudness(wave: NDArray, samplerate: int) -> float:
    """The loudness of [C, T], C up to 2, in LUFS; minus infinity below 400 ms, or if no block reaches -70."""
    steps = _k_weighted_steps(np.asarray(wave, np.float64), samplerate)  # the power of each 100 ms
    powers = np.array([steps[k : k + BLOCK_STEPS].mean() for k in range(len(steps) - BLOCK_STEPS + 1)])
    powers = powers[powers > _power(ABSOLUTE_GATE)]
    return _level(powers[powers > _power(_level(powers) + RELATIVE_GATE)])


def _power(level: float) -> float:
    return 10 ** ((level - OFFSET) / 10)


def _level(powers: Floats) -> float:
    return OFFSET + 10 * math.log10(powers.mean()) if len(powers) else -math.inf


def _k_weighted_steps(wave: Floats, samplerate: int) -> Floats:
    """[C, T] -> [N]: the mean square of each whole step of the filtered sound, summed over channels."""
    step = round(STEP_SECONDS * samplerate)
    count = wave.shape[-1] // step
    size = wave.shape[-1] + samplerate  # a second more, so that the filters' ringing does not wrap around
    heard = np.fft.irfft(np.fft.rfft(wave, size) * k_filter(np.fft.rfftfreq(size), samplerate), size)
    return (heard[:, : count * step].reshape(len(wave), count, step) ** 2).mean(axis=-1).sum(axis=0)


def k_filter(frequencies: NDArray[np.floating], samplerate: int) -> NDArray[np.complex128]:
    """The response [F] of both filters together. frequencies: [F] in cycles per sample."""
    z = np.exp(-2j * math.pi * frequencies)  # a sample's delay
    hertz, quality, gain = SHELF
    k, bend = math.tan(math.pi * hertz / samplerate), gain**SHELF_BEND
    even, odd = gain + k**2, bend * k / quality
    shelf = (even + odd + 2 * (k**2 - gain) * z + (even - odd) * z**2) / _poles(k, quality, z)
    hertz, quality = HIGH_PASS
    k = math.tan(math.pi * hertz / samplerate)
    # The recommendation gives its numerator as 1, -2, 1: not divided by a0.
    return shelf * (1 - z) ** 2 * (1 + k / quality + k**2) / _poles(k, quality, z)


def _poles(k: float, quality: float, z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    return 1 + k / quality + k**2 + 2 * (k**2 - 1) * z + (1 - k / quality + k**2) * z**2
