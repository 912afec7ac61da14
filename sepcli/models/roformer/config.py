"""What shapes the weights of a RoFormer, and the spectrogram they are for: one trunk, two layouts of bands.

Defaults are what most published files have, and never change. Nothing here is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Bins of each band of BS-RoFormer at 2048 samples: 62 bands, 1025 bins (Lu et al. 2023, section 4.2).
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


@dataclass(frozen=True)
class RoformerConfig:
    """What both networks have."""

    sources: Sequence[str] = ("vocals",)  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    dim: int = 256  # D, values of a band in a frame
    depth: int = 12  # blocks: a transformer along time, then one along the bands
    layers: int = 1  # of each transformer
    heads: int = 8
    dim_head: int = 64  # E, values of a head; heads * dim_head need not be dim
    nfft: int = 2048  # samples of a window
    hop: int = 512  # samples; no tensor depends on it
    normalized: bool = False  # the spectrogram is scaled by 1 / sqrt(nfft)
    zero_dc: bool = False  # nothing at 0 Hz in any stem
    skip: bool = False  # each block's input has the outputs of all earlier blocks added
    mask_hidden: int = 1  # hidden layers of the mask estimators
    mask_expansion: int = 4  # their width is dim * mask_expansion
    polar: bool = False  # polar position embeddings (PoPE) in place of rotary ones
    value_residual: bool = False  # attention of later blocks mixes in the values of the first
    refiner: int = 0  # blocks of each mask estimator's own, in front of it
    head: Sequence[int] = ()  # widths of a convolutional head beside each mask estimator (HyperACE, version 2)
    chunk: int = 352800  # samples of a call
    dropout: float = 0.0  # in training


@dataclass(frozen=True)
class BSRoformerConfig(RoformerConfig):
    """BS-RoFormer: bands side by side."""

    bands: Sequence[int] = BANDS  # bins of each, from 0 Hz upwards


@dataclass(frozen=True)
class MelBandRoformerConfig(RoformerConfig):
    """Mel-Band RoFormer: bands equally wide on the mel scale, each overlapping with both of its neighbours."""

    dim: int = 384
    depth: int = 6
    hop: int = 441
    mask_hidden: int = 2
    bands: int = 60
