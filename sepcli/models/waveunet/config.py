"""What shapes the weights of a Wave-U-Net, of 2018 and of 2020.

Defaults are those of the published M5-HighSR, and of the pretrained network in PyTorch; they never change.
Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WaveUNetConfig:
    """Wave-U-Net as published in TensorFlow."""

    sources: Sequence[str] = ("accompaniment", "vocals")  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    layers: int = 12
    width: int = 24  # channels of the first level; each has as many more
    kernel: int = 15  # taps of a convolution on the way down
    merge_kernel: int = 5  # on the way up
    output_kernel: int = 1
    learned: bool = True  # between two samples on the way up lies a learnt mean of them, not their middle
    difference: bool = True  # the last source is what the others leave of the mix
    context: bool = True  # every convolution has real audio at its ends; otherwise zeros
    samples: int = 16384  # of the result of a call, at least
    input_kernel: int = (
        15  # the first convolution as the original reckons the length of a call; it has `kernel`
    )


@dataclass(frozen=True)
class WaveUNetTorchConfig:
    """The authors' later Wave-U-Net, in PyTorch."""

    sources: Sequence[str] = ("bass", "drums", "other", "vocals")
    samplerate: int = 44100  # Hz
    channels: int = 2
    widths: Sequence[int] = (32, 64, 128, 256, 512, 1024)  # of each level
    kernel: int = 5
    stride: int = 4  # samples that one of the next level stands for
    norm: str = "group"  # or "batch", with ReLU; or "none", with leaky ReLU
    fixed: bool = True  # resampling by windowed sincs that are stored, not by learnt convolutions
    separate: bool = True  # a network for each source
    samples: int = 88200  # of the result of a call, at least
