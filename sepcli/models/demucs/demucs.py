"""Demucs (v3, time domain): one U-Net over the wave, at twice the sample rate.

Knows no spectrogram and no files. Défossez, Usunier, Bottou, Bach: Music Source Separation in the Waveform
Domain (2019), with the later DConv branches in its encoders.

    mix -- standardise -- pad -- x2 -- encoder --.-- [LSTM] --.-- decoder -- /2 -- undo -- crop -- stems
                                                  '-- skips --'

Convolutions are unpadded: a level turns n samples into (n - kernel) / stride + 1, so that only certain
lengths go through without remainder (`valid_length`), and skips are cropped to the decoder's length.

Axes: B batch, S sources, C channels, T samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.demucs.dconv import BLSTM, DConv
from sepcli.models.demucs.hybrid import EPSILON, freeze_lists, segment_samples
from sepcli.models.demucs.layers import ToWave, group_norm, keep_outputs, rescale_convolutions
from sepcli.nn.lengths import centred
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.resampling import double_and_halve, downsampled, upsampled

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class DemucsConfig:
    """The original constructor's arguments with its defaults."""

    sources: Sequence[str]  # stem names, in output order
    audio_channels: int = 2
    channels: int = 64  # of the first level
    growth: float = 2.0  # of the channels from level to level
    depth: int = 6  # levels
    rewrite: bool = True  # a second convolution and gate in each layer
    lstm_layers: int = 0  # at the bottom; 0 = none
    kernel_size: int = 8
    stride: int = 4
    context: int = 1  # neighbours on each side in the decoders' rewrite
    gelu: bool = True  # else ReLU
    glu: bool = True  # gates of the rewrite; else ReLU
    norm_starts: int = 4  # first level with norms
    norm_groups: int = 4
    dconv_mode: int = 1  # DConv in encoders 1, decoders 2, both 3
    dconv_depth: int = 2  # branches; negative: without dilation
    dconv_comp: float = 4  # hidden channels = channels / dconv_comp
    dconv_attn: int = 4  # first level with attention in DConv
    dconv_lstm: int = 4  # first level with LSTMs in DConv
    dconv_init: float = 1e-4  # initial LayerScale
    normalize: bool = True  # standardise each call by its mono mix, and undo it
    resample: bool = True  # work at twice the sample rate
    rescale: float = 0.1  # of initial convolution weights
    samplerate: int = 44100  # Hz
    segment: Fraction | float = 40  # seconds

    def __post_init__(self) -> None:
        freeze_lists(self)


class Demucs(Separator):
    """The network of the file's head: [B, C, T] -> [B, S, C, T], any length.

    extra: channels that the U-Net is given besides the mix's.
    """

    normalize = True

    def __init__(self, config: DemucsConfig, extra: int = 0):
        super().__init__()
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate = config.samplerate
        self.channels = config.audio_channels
        self.segment = Segment(
            samples=segment_samples(config.segment, config.samplerate),
            valid_length=functools.partial(valid_length, config=config),
        )
        # Filters that double and halve the sample rate, kept by `prepare`.
        self.filters: tuple[Tensor, Tensor] | None = None
        self.encoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        self.decoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        chin, chout = config.audio_channels, config.channels
        for index in range(config.depth):
            out = chin if index else len(self.sources) * chin
            self.encoder.append(_encoder_layer(config, index, chin if index else chin + extra, chout))
            self.decoder.insert(0, _decoder_layer(config, index, chout, out))
            chin, chout = chout, int(config.growth * chout)
        self.lstm = BLSTM(chin, config.lstm_layers) if config.lstm_layers else None
        if config.rescale:
            rescale_convolutions(self, config.rescale)

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the weights are stored in `dtype`; statistics and resampling stay float32."""
        super().prepare(samples, device, dtype)
        self.to(dtype)
        self.filters = double_and_halve(device)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32."""
        return self.with_extra(mix)

    def with_extra(self, mix: Tensor, extra: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Separate with further inputs: [B, C, T] float32 -> [B, S, C, T] float32.

        extra: gives the extra channels [B, E, T]. It is called with the mean and the scale by which the mix is
        standardised, each [B, 1, 1].
        """
        batch, channels, samples = mix.shape
        x, mean, deviation = mix, mix.new_zeros(1, 1, 1), mix.new_ones(1, 1, 1)
        divisor = deviation
        if self.config.normalize:
            mono = mix.mean(dim=1, keepdim=True)
            unbiased = 1 if samples > 1 else 0  # a single value has no unbiased deviation
            variance, mean = torch.var_mean(mono, dim=-1, keepdim=True, correction=unbiased)
            deviation = variance.sqrt()
            divisor = EPSILON + deviation
            x = (x - mean) / divisor
        if extra is not None:
            x = torch.cat([x, extra(mean, divisor)], dim=1)
        x = self._inner(x)
        if self.config.normalize:
            x = torch.addcmul(mean, x, deviation)
        return x.view(batch, -1, channels, samples)

    def _inner(self, x: Tensor) -> Tensor:
        """Standardised [B, C + E, T] -> [B, S·C, T], as long."""
        samples, filters = x.shape[-1], self.filters
        if filters is None or filters[0].device != x.device:
            filters = double_and_halve(x.device)
        missing = valid_length(samples, self.config) - samples
        x = F.pad(x, (missing // 2, missing - missing // 2))
        if self.config.resample:
            x = upsampled(x, filters[0])
        x = self.unet(x.to(next(self.parameters()).dtype)).float()
        if self.config.resample:
            x = downsampled(x, filters[1])
        return centred(x, samples)

    def unet(self, x: Tensor) -> Tensor:
        """The U-Net itself: wave [B, C, T] -> waves of all sources [B, S·C, T], at the inner sample rate."""
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        for decode in self.decoder:
            x = decode(x + centred(skips.pop(), x.shape[-1]))
        return x

    def select(self, sources: Sequence[str]) -> Demucs:
        """See Separator. Only the very last convolution knows the sources: it is narrowed."""
        positions = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        last = narrowed.decoder[-1][-1]
        assert isinstance(last, nn.ConvTranspose1d)
        keep_outputs(last, [self.channels * p + c for p in positions for c in range(self.channels)])
        return narrowed


def valid_length(length: int, config: DemucsConfig) -> int:
    """The smallest number of samples, not below `length`, that passes all levels without remainder."""
    inner = 2 * length if config.resample else length
    for _ in range(config.depth):
        inner = max(1, math.ceil((inner - config.kernel_size) / config.stride) + 1)
    for _ in range(config.depth):
        inner = (inner - 1) * config.stride + config.kernel_size
    return math.ceil(inner / 2) if config.resample else inner


# Layers are plain sequences: their positions are the published names, Identity where a norm is missing.


def _activation(gelu: bool) -> nn.Module:
    return nn.GELU() if gelu else nn.ReLU()


def _refinement(config: DemucsConfig, index: int, channels: int) -> DConv:
    return DConv(
        channels,
        compress=config.dconv_comp,
        depth=config.dconv_depth,
        init=config.dconv_init,
        attn=index >= config.dconv_attn,
        lstm=index >= config.dconv_lstm,
    )


def _rewrite(config: DemucsConfig, groups: int, channels: int, context: int) -> list[nn.Module]:
    wide = 2 * channels if config.glu else channels
    return [
        nn.Conv1d(channels, wide, 2 * context + 1, padding=context),
        group_norm(groups, wide),
        nn.GLU(dim=1) if config.glu else nn.ReLU(),
    ]


def _encoder_layer(config: DemucsConfig, index: int, chin: int, chout: int) -> nn.Sequential:
    groups = config.norm_groups if index >= config.norm_starts else 0
    layers: list[nn.Module] = [
        nn.Conv1d(chin, chout, config.kernel_size, config.stride),
        group_norm(groups, chout),
        _activation(config.gelu),
    ]
    if config.dconv_mode & 1:
        layers.append(_refinement(config, index, chout))
    if config.rewrite:
        layers += _rewrite(config, groups, chout, context=0)
    return nn.Sequential(*layers)


def _decoder_layer(config: DemucsConfig, index: int, chin: int, chout: int) -> nn.Sequential:
    """Layer 0, the last to run, ends with its convolution: the result."""
    groups = config.norm_groups if index >= config.norm_starts else 0
    layers: list[nn.Module] = []
    if config.rewrite:
        layers += _rewrite(config, groups, chin, config.context)
    if config.dconv_mode & 2:
        layers.append(_refinement(config, index, chin))
    upwards = nn.ConvTranspose1d if index else ToWave
    layers.append(upwards(chin, chout, config.kernel_size, config.stride))
    if index:
        layers += [group_norm(groups, chout), _activation(config.gelu)]
    return nn.Sequential(*layers)
