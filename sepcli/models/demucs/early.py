"""Demucs v1 and v2: the first U-Nets on the wave, with an LSTM at the bottom and convolutions without padding.

Knows no spectrogram and no files. Défossez, Usunier, Bottou, Bach: Music Source Separation in the Waveform
Domain (2019; v2 is the code of 2021).

    mix -- / deviation -- [x2] -- encoder --.-- LSTM --.-- decoder -- [/2] -- undo -- stems
                                             '- skips -'

    v1    neither divides the mix nor doubles its rate; calls of 10 s
    v2    both (it divides by 1 + 1e-5 where it does not standardise); calls of 40 s

An encoder level turns n samples into (n - kernel) / stride + 1, and the convolution in front of each decoder
level takes `context` - 1 of them off. So only certain lengths go through without remainder, and the result is
shorter than the input by the same number of samples at each end, whatever the length: the segment's margin.

    in     |--margin--|=========================|--margin--|
    out               |=========================|                   the rest of the result is silence

Axes: B batch, S sources, C channels, T samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.demucs.dconv import BLSTM
from sepcli.models.demucs.hybrid import freeze_lists
from sepcli.models.demucs.layers import ToWave, keep_outputs, rescale_convolutions
from sepcli.nn.lengths import centred
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.resampling import double_and_halve, downsampled, upsampled

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class EarlyDemucsConfig:
    """The arguments of v2's constructor with its defaults, and what v1 does differently.

    v1 is `resample` False, `epsilon` 0 and `segment_length` 441000.
    """

    sources: Sequence[str]  # stem names, in output order
    audio_channels: int = 2
    channels: int = 64  # of the first level
    depth: int = 6  # levels
    rewrite: bool = True  # a second convolution and gate in each layer
    glu: bool = True  # gates of the rewrite; else ReLU
    rescale: float = 0.1  # of initial convolution weights
    resample: bool = True  # work at twice the sample rate
    kernel_size: int = 8
    stride: int = 4
    growth: float = 2.0  # of the channels from level to level
    lstm_layers: int = 2  # at the bottom; 0 = none
    context: int = 3  # samples that the decoders' rewrite sees
    normalize: bool = False  # standardise each call by its mono mix, and undo it
    samplerate: int = 44100  # Hz
    segment_length: int = 1764000  # samples of a call, without its margins
    epsilon: float = 1e-5  # added to the deviation by which the input is divided: 1, or the call's own
    upsample: bool = False  # v1: strides are steps over samples and linear interpolation, as in Wave-U-Net

    def __post_init__(self) -> None:
        freeze_lists(self)


class EarlyDemucs(Separator):
    """The network of the file's head: [B, C, T] -> [B, S, C, T], silent in the margins at both ends."""

    normalize = True

    def __init__(self, config: EarlyDemucsConfig):
        super().__init__()
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate = config.samplerate
        self.channels = config.audio_channels
        lost = lost_samples(config)
        self.segment = Segment(
            samples=config.segment_length + 2 * (lost // 2),
            margin=lost // 2,
            valid_length=functools.partial(_without_margins, config=config),
        )
        # Filters that double and halve the sample rate, kept by `prepare`.
        self.filters: tuple[Tensor, Tensor] | None = None
        self.encoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        self.decoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        outputs = len(self.sources) * self.channels
        chin, chout = self.channels, config.channels
        for index in range(config.depth):
            first = chout if config.upsample else outputs  # what the level that runs last gives
            self.encoder.append(_encoder_layer(config, chin, chout))
            self.decoder.insert(0, _decoder_layer(config, index, chout, chin if index else first))
            chin, chout = chout, int(config.growth * chout)
        self.lstm = BLSTM(chin, config.lstm_layers) if config.lstm_layers else None
        joined = config.channels + self.channels
        self.final = nn.Conv1d(joined, outputs, 1) if config.upsample else None
        if config.rescale:
            rescale_convolutions(self, config.rescale)

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the weights are stored in `dtype`; statistics and resampling stay float32."""
        super().prepare(samples, device, dtype)
        self.to(dtype)
        self.filters = double_and_halve(device)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32. Other lengths than valid ones get silence around them."""
        batch, channels, samples = mix.shape
        config = self.config
        x, mean, deviation = mix, mix.new_zeros(1, 1, 1), mix.new_ones(1, 1, 1)
        if config.normalize:
            unbiased = 1 if samples > 1 else 0  # a single value has no unbiased deviation
            mono = mix.mean(dim=1, keepdim=True)
            variance, mean = torch.var_mean(mono, dim=-1, keepdim=True, correction=unbiased)
            deviation = variance.sqrt()
        if config.normalize or config.epsilon:
            x = (x - mean) / (config.epsilon + deviation)
        whole = max(whole_length(samples, config), valid_length(1, config))
        missing = whole - samples
        x = self._unet(F.pad(x, (missing // 2, missing - missing // 2)))
        if config.normalize:
            x = torch.addcmul(mean, x, deviation)
        lost = whole - x.shape[-1]
        x = centred(F.pad(x, (lost // 2, lost - lost // 2)), samples)
        return x.reshape(batch, -1, channels, samples)

    def _unet(self, x: Tensor) -> Tensor:
        """A wave of valid length [B, C, T] -> the middle of the waves of all sources, [B, S·C, T - lost]."""
        config, filters = self.config, self.filters
        if config.resample:
            if filters is None or filters[0].device != x.device:
                filters = double_and_halve(x.device)
            x = upsampled(x, filters[0])
        x = wave = x.to(next(self.parameters()).dtype)
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
            if config.upsample:
                x = x[..., :: config.stride]
        if self.lstm is not None:
            x = self.lstm(x)
        for decode in self.decoder:
            if config.upsample:
                x = _interpolated(x, config.stride)
            x = decode(x + centred(skips.pop(), x.shape[-1]))
        if self.final is not None:
            x = self.final(torch.cat([x, centred(wave, x.shape[-1])], dim=1))
        x = x.float()
        return downsampled(x, filters[1]) if config.resample and filters is not None else x

    def select(self, sources: Sequence[str]) -> EarlyDemucs:
        """See Separator. Only the very last convolution knows the sources: it is narrowed."""
        positions = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        last = narrowed.decoder[-1][-1] if narrowed.final is None else narrowed.final
        assert isinstance(last, nn.Conv1d | nn.ConvTranspose1d)
        keep_outputs(last, [self.channels * p + c for p in positions for c in range(self.channels)])
        return narrowed


# --- lengths ---


def valid_length(length: int, config: EarlyDemucsConfig) -> int:
    """A number of samples that passes without remainder and gives `length` or more, as in the original."""
    inner, kernel, stride = 2 * length if config.resample else length, config.kernel_size, config.stride
    for _ in range(config.depth):
        if config.upsample:
            inner = math.ceil(inner / stride) + kernel - 1
        else:
            inner = math.ceil((inner - kernel) / stride) + 1
        inner = max(1, inner) + _shortening(config)
    return _outer(inner, config)


def whole_length(length: int, config: EarlyDemucsConfig) -> int:
    """The smallest number of samples, not below `length`, that passes all levels without remainder."""
    inner, kernel, stride = 2 * length - 1 if config.resample else length, config.kernel_size, config.stride
    for _ in range(config.depth):
        steps = (inner - kernel + 1) / stride if config.upsample else (inner - kernel) / stride + 1
        inner = max(1, math.ceil(steps))
    return _outer(inner, config)


def _outer(bottom: int, config: EarlyDemucsConfig) -> int:
    """The samples of which so many steps are left below the last level."""
    inner, kernel, stride = bottom, config.kernel_size, config.stride
    for _ in range(config.depth):
        inner = inner * stride + kernel - 1 if config.upsample else (inner - 1) * stride + kernel
    return math.ceil(inner / 2) if config.resample else inner


def lost_samples(config: EarlyDemucsConfig) -> int:
    """By how many samples the result is shorter than an input of any valid length."""
    inner, stride = 0, config.stride
    for _ in range(config.depth):
        if config.upsample:
            inner = stride * (inner + 1) + _shortening(config) + 2 * (config.kernel_size - 1)
        else:
            inner = stride * (inner + _shortening(config))
    return inner // 2 if config.resample else inner


def _shortening(config: EarlyDemucsConfig) -> int:
    """Samples that a decoder level's rewrite takes off."""
    return config.context - 1 if config.rewrite else 0


def _without_margins(length: int, config: EarlyDemucsConfig) -> int:
    return valid_length(length, config) - 2 * (lost_samples(config) // 2)


# --- layers: their positions in the sequences are the published names ---


def _encoder_layer(config: EarlyDemucsConfig, chin: int, chout: int) -> nn.Sequential:
    stride = 1 if config.upsample else config.stride
    layers: list[nn.Module] = [nn.Conv1d(chin, chout, config.kernel_size, stride), nn.ReLU()]
    if config.rewrite:
        layers += _rewrite(config, chout, 1)
    return nn.Sequential(*layers)


def _decoder_layer(config: EarlyDemucsConfig, index: int, chin: int, chout: int) -> nn.Sequential:
    """Layer 0, the last to run, ends with its convolution."""
    layers = _rewrite(config, chin, config.context) if config.rewrite else []
    if config.upsample:
        layers.append(nn.Conv1d(chin, chout, config.kernel_size))
    else:
        upwards = nn.ConvTranspose1d if index else ToWave
        layers.append(upwards(chin, chout, config.kernel_size, config.stride))
    if index:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _rewrite(config: EarlyDemucsConfig, channels: int, size: int) -> list[nn.Module]:
    wide = 2 * channels if config.glu else channels
    return [nn.Conv1d(channels, wide, size), nn.GLU(dim=1) if config.glu else nn.ReLU()]


def _interpolated(x: Tensor, steps: int) -> Tensor:
    """Straight lines between neighbours: [B, C, T] -> [B, C, (T - 1) · steps]."""
    share = torch.arange(steps, device=x.device, dtype=x.dtype) / steps
    return torch.lerp(x[..., :-1, None], x[..., 1:, None], share).flatten(2)
