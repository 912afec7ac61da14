"""What shapes the weights of an MDX23C (TFC-TDF, version 3), and the spectrogram they are for.

Defaults are those of the most used public file (8K FFT, two stems), and never change. Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MDX23CConfig:
    """Names in brackets are those of the original's YAML."""

    sources: Sequence[str] = ("vocals", "instrumental")  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2  # of the audio
    nfft: int = 8192  # samples of a window
    hop: int = 1024  # samples; no tensor depends on it
    bins: int = 4096  # of nfft / 2 + 1, from 0 Hz upwards; those above are silent in every stem [dim_f]
    subbands: int = 4  # equal stretches of the bins, which become channels [num_subbands]
    width: int = 128  # channels of the first level [num_channels]
    growth: int = 128  # channels that each further level has more
    scales: int = 5  # levels below the first [num_scales]
    scale: Sequence[int] = (2, 2)  # frames and bins of a level that become one in the next
    blocks: int = 2  # on each level [num_blocks_per_scale]
    bottleneck: int = 4  # bins of a level over values between the two linear layers [bottleneck_factor]
    norm: str = "InstanceNorm"  # or "BatchNorm", "GroupNorm" and the number of groups, "none"
    act: str = "gelu"  # or "relu", "elu" and its alpha: "elu0.5"
    chunk: int = 261120  # samples of a call: the norms hear all of it
