"""HDemucs (Demucs v3, hybrid): both U-Nets meet where the spectrogram has one bin left.

Défossez: Hybrid Spectrogram and Waveform Source Separation (2021). With the published six levels the
branches merge at the fifth; from there on DConv has LSTMs and decaying attention. The decoder starts from
zeros: everything reaches it through the skips.

Variants among the published weights: complex as channels or magnitudes (`cac`), the STFT padding of the
challenge models (`hybrid_old`), frequency bands with weights of their own (`multi_freqs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from sepcli.engine.separator import Segment
from sepcli.models.demucs.hybrid import HybridUNet, freeze_lists, refuse, segment_samples


@dataclass(frozen=True)
class HDemucsConfig:
    """The original constructor's arguments with its defaults."""

    sources: Sequence[str]  # stem names, in output order
    audio_channels: int = 2
    channels: int = 48  # of the first level
    channels_time: int | None = None  # of the time branch's first level, if another
    growth: float = 2  # of the channels from level to level
    nfft: int = 4096  # samples of an STFT window; hop = nfft / 4
    wiener_iters: int = 0  # without cac: 0 = phase of the mix, negative = damped; see spectral.py
    end_iters: int = 0  # the same
    wiener_residual: bool = False  # no effect without iterations
    cac: bool = True  # complex numbers as channels, in and out; else magnitudes
    depth: int = 6  # levels
    rewrite: bool = True  # a second convolution and GLU in each layer
    hybrid: bool = True  # False (no time branch) is refused: no such weights were published
    hybrid_old: bool = False  # STFT padding of the challenge models; see stft.py
    multi_freqs: Sequence[float] | None = None  # edges of bands with weights of their own, fractions of F
    multi_freqs_depth: int = 2  # outermost levels that have bands
    freq_emb: float = 0.2  # weight of the frequency embedding; 0 = none
    emb_scale: float = 10  # its learning rate's factor
    emb_smooth: bool = True  # its initial values change slowly over F
    kernel_size: int = 8
    time_stride: int = 2  # of levels below F = 1
    stride: int = 4
    context: int = 1  # neighbours on each side in the decoders' rewrite
    context_enc: int = 0  # the same in the encoders
    norm_starts: int = 4  # first level with norms
    norm_groups: int = 4
    dconv_mode: int = 1  # DConv in encoders 1, decoders 2, both 3
    dconv_depth: int = 2  # branches; negative: without dilation
    dconv_comp: float = 4  # hidden channels = channels / dconv_comp
    dconv_attn: int = 4  # first level with attention in DConv
    dconv_lstm: int = 4  # first level with LSTMs in DConv
    dconv_init: float = 1e-4  # initial LayerScale
    rescale: float = 0.1  # of initial convolution weights
    samplerate: int = 44100  # Hz
    segment: Fraction | float = 40  # seconds

    def __post_init__(self) -> None:
        freeze_lists(self)


class HDemucs(HybridUNet):
    """The network of the file's head: [B, C, T] -> [B, S, C, T], any length."""

    def __init__(self, config: HDemucsConfig):
        if not config.hybrid:
            raise refuse("HDemucs is here with both branches only; the config has hybrid=False.")
        super().__init__(config, attn_starts=config.dconv_attn, lstm_starts=config.dconv_lstm)
        self.segment = Segment(samples=segment_samples(config.segment, config.samplerate), tail="short")
        self.old_stft = config.hybrid_old

    def bottleneck(self, x: Tensor, xt: Tensor) -> tuple[None, None]:
        """None for both: the decoders start from zeros."""
        return None, None
