"""What shapes the weights of an MDX-Net, the spectrogram they are for, and how a separation may use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sepcli.models.config import check_options


@dataclass(frozen=True)
class MDXNetConfig:
    """TFC-TDF v2; the defaults are those of KUIELab's networks for vocals."""

    sources: Sequence[str] = ("vocals",)  # exactly one: a network estimates one stem
    samplerate: int = 44100  # Hz
    channels: int = 2
    nfft: int = 6144  # samples of a window; no tensor depends on it
    hop: int = 1024  # samples; no tensor depends on it
    bins: int = 2048  # F, from 0 Hz upwards; above them the estimate is silent
    frames: int = 256  # N of a call; no tensor depends on it
    growth: int = 32  # channels of the first level, and how many more each level has
    scales: int = 5  # levels that halve both axes
    convs: int = 3  # of each block
    bottleneck: int = 8  # the inner linear layers have so many times fewer values than there are bins
    folded: bool = False  # convolutions have no norm behind them, because it is part of their weights
    deaf: int = 0  # the lowest bins, which the network gets as 0
    compensate: float | None = None  # what the estimate is multiplied by; None: 1, or what is known of the file


@dataclass(frozen=True)
class MDXNetOptions:
    """denoise: the mean of the estimates from the mix and from the mix upside down, in twice the time."""

    denoise: bool = False
    compensate: float | None = None  # in the place of the model's own

    def __post_init__(self) -> None:
        check_options(self, compensate=(0.0, 10.0))
