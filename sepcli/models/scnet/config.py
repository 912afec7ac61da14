"""What shapes the weights of an SCNet, and the spectrogram that they are for.

Defaults are those of the original constructor (the small network), and never change. Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SCNetConfig:
    """SCNet, plain or masked."""

    sources: Sequence[str] = ("drums", "bass", "other", "vocals")  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    dims: Sequence[int] = (4, 32, 64, 128)  # of each level; the first is 2 * channels
    nfft: int = 4096  # samples of a window
    hop: int = 1024  # samples; no tensor depends on it
    normalized: bool = True  # the spectrogram is scaled by 1 / sqrt(nfft)
    hann: bool = False  # periodic Hann windows; plain networks have rectangular ones
    shares: Sequence[float] = (0.175, 0.392, 0.433)  # of the rows, low to high; the last band has what is left
    strides: Sequence[int] = (1, 4, 16)  # rows that one row of the next level stands for, in each band
    kernels: Sequence[int] = (3, 4, 16)  # rows of the convolution in each band
    depths: Sequence[int] = (3, 2, 1)  # convolution modules in each band
    compress: int = 4  # they compute in 1 / compress of the channels
    kernel: int = 3  # frames of their convolutions; odd
    layers: int = 6  # of the dual-path trunk; even
    expand: int = 1  # width of its LSTMs, in channels of the layer
    positions: bool = False  # an embedding of each bin is added to the spectrogram
    mask_hidden: int = 0  # width of the hidden layer of a mask estimator; 0: the network makes spectrograms
    standardize: bool = False  # the spectrogram of each call gets mean 0 and deviation 1, undone at the end
    normalize: bool = False  # the track is standardised before
    chunk: int = 485100  # samples of a call
