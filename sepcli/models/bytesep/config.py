"""What shapes the weights of a bytesep network.

Defaults are those of ResUNet143 on subbands, and never change. Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ResUNetConfig:
    """A residual U-Net on the spectrograms of subbands."""

    sources: Sequence[str] = ("vocals",)  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    bands: int = 4  # of the filter bank; each has 1 / bands of the samples
    taps: int = 64  # of its filters
    nfft: int = 512  # samples of a window, in a band
    hop: int = 110  # samples, in a band; no tensor depends on it
    widths: Sequence[int] = (32, 64, 128, 256, 384, 384)  # channels of each level
    blocks: int = 4  # residual blocks of a level
    middle: int = 4  # stages of as many blocks below the lowest level
    separable: bool = False  # convolutions of 3 x 3 are three small ones: the MobileNet
    chunk: int = 1323000  # samples of a call: 30 s
