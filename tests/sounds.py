"""Signals for the tests of audio: [C, T] float32, full scale at 1.0."""

import numpy as np


def music(frames, channels=2, samplerate=44100, seed=0, noise=0.01):
    """Tones below 2 kHz that differ between the channels, with a little noise: lossy codecs keep the tones."""
    random = np.random.default_rng(seed)
    t = np.arange(frames) / samplerate
    hertz = random.uniform(200, 2000, (channels, 3))
    tones = np.sin(2 * np.pi * hertz[..., None] * t + random.uniform(0, 6, (channels, 3, 1))).sum(1) / 6
    return (tones + noise * random.standard_normal((channels, frames))).astype(np.float32)


def lag(one, other, most=50):
    """By how many frames `other` comes after `one`; both [C, T]."""
    n = min(one.shape[1], other.shape[1]) - 2 * most
    middle = one[:, most : most + n]
    return max(range(-most, most + 1), key=lambda d: float((middle * other[:, most + d : most + d + n]).sum()))
