"""What shapes the weights of a BS-RNN, and the spectrogram they are for.

Defaults are the paper's network for vocals, and never change. Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Bins of each band at 2048 samples and 44.1 kHz, 1025 in all (Luo and Yu 2023).
VOCALS = (4,) * 10 + (11,) * 12 + (23,) * 8 + (46,) * 8 + (92, 92, 117)  # and for `other`
BASS = (2,) * 10 + (4,) * 5 + (23,) * 6 + (46,) * 4 + (92,) * 4 + (295,)
DRUMS = (2,) * 20 + (4,) * 10 + (11,) * 8 + (23,) * 8 + (46,) * 8 + (305,)
JOINT = (*DRUMS[:-1], 92, 92, 121)  # of several stems at once


@dataclass(frozen=True)
class BSRNNConfig:
    """See the file."""

    sources: Sequence[str] = ("vocals",)  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    bands: Sequence[int] = VOCALS  # bins of each, from 0 Hz upwards
    dim: int = 128  # D, values of a band in a frame
    depth: int = 12  # blocks
    nfft: int = 2048  # samples of a window
    hop: int = 512  # samples; no tensor depends on it
    mask_expansion: int = 4  # the hidden layers of the masks are dim * mask_expansion wide
    tac: str = ""  # what passes between channels: "" nothing, else the activation: "prelu" or "tanh"
    heads: int = 0  # of attention along time; 0: none
    dim_head: int = 16  # values of a query and of a key in each band; values have dim / heads
    subtract: bool = False  # the last stem is the mix minus the others, without a mask of its own
    chunk: int = 529200  # samples of a call
