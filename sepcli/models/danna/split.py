"""danna-sep's Demucs: the encoder and the LSTM of Demucs v2, and a decoder for each stem.

    mix -- standardise -- x2 -- encoder --.-- LSTM --.-- a decoder each -- /2 -- undo -- stems
                                          '- skips -'

A level of a decoder is half as wide as the encoder's. All decoders are one in the file: convolutions in groups.
The skip goes through a convolution of its own, before the gate. No length is lost but what the strides leave
over; what goes in is extended with silence to a length that they do not. (Yu and Cheuk, "Danna-Sep: Unite to
separate them all", MDX workshop 2021, arXiv:2112.03752; facts of its published code.)

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
from sepcli.nn.lengths import centred
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.resampling import double_and_halve, downsampled, upsampled

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

KERNEL, STRIDE = 8, 4  # of the levels
CONTEXT = 3  # samples that a decoder's convolutions see
EPSILON = 1e-5  # added to a deviation


@dataclass(frozen=True)
class DemucsSplitConfig:
    """What shapes the weights. Defaults are the published ones."""

    sources: Sequence[str] = ("drums", "bass", "other", "vocals")  # in output order
    samplerate: int = 44100  # Hz
    audio_channels: int = 2
    channels: int = 48  # of the first level; twice as many in each level below
    depth: int = 6  # levels
    lstm_layers: int = 2
    segment_length: int = 441000  # samples of a call


class DemucsSplit(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    def __init__(self, config: DemucsSplitConfig):
        super().__init__()
        if config.channels % 2 or config.depth < 1:
            raise ValueError("channels must be even, and depth at least 1")
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.audio_channels
        self.segment = Segment(
            samples=whole_length(config.segment_length, config),
            valid_length=functools.partial(whole_length, config=config),
        )
        # Filters that double and halve the sample rate, kept by `prepare`.
        self.filters: tuple[Tensor, Tensor] | None = None
        count = len(self.sources)
        self.encoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        self.decoder: ModuleListOf[nn.Sequential] = ModuleListOf()
        self.convs_1x1: ModuleListOf[nn.Conv1d] = ModuleListOf()
        self.dec_pre_convs: ModuleListOf[nn.Conv1d] = ModuleListOf()
        before, width = self.channels, config.channels
        for level in range(config.depth):
            self.encoder.append(
                nn.Sequential(
                    nn.Conv1d(before, width, KERNEL, STRIDE),
                    nn.ReLU(),
                    nn.Conv1d(width, 2 * width, 1),
                    nn.GLU(dim=1),
                )
            )
            half, outputs = width // 2, before // 2 if level else before
            self.convs_1x1.insert(0, nn.Conv1d(width, count * width, CONTEXT, padding=CONTEXT // 2, bias=False))
            self.dec_pre_convs.insert(
                0, nn.Conv1d(count * half, count * width, CONTEXT, padding=CONTEXT // 2, groups=count)
            )
            up = nn.ConvTranspose1d(count * half, count * outputs, KERNEL, STRIDE, groups=count)
            self.decoder.insert(0, nn.Sequential(up, nn.ReLU()) if level else nn.Sequential(up))
            before, width = width, 2 * width
        self.lstm = nn.LSTM(before, before, config.lstm_layers, bidirectional=True)
        self.lstm_linear = nn.Linear(2 * before, count * (before // 2))

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the weights are stored in `dtype`; statistics and resampling stay float32."""
        super().prepare(samples, device, dtype)
        self.to(dtype)
        self.filters = double_and_halve(device)

    def select(self, sources: Sequence[str]) -> DemucsSplit:
        """See Separator: the decoders of other stems are left out."""
        index, count = source_indices(self.sources, sources), len(self.sources)
        narrowed = narrowed_copy(self, sources)
        convs = [*narrowed.dec_pre_convs, *narrowed.convs_1x1, *[layer[0] for layer in narrowed.decoder]]
        for layer in [narrowed.lstm_linear, *convs]:
            for name, parameter in layer.named_parameters():
                parts = parameter.detach().unflatten(0, (count, -1))
                # A transposed convolution has its inputs first, which are the stems' too.
                kept = nn.Parameter(parts[index].flatten(0, 1), parameter.requires_grad)
                setattr(layer, name, kept)
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.groups > 1:
                layer.groups = len(index)
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32; other lengths than valid ones get silence around them."""
        samples = mix.shape[-1]
        missing = whole_length(samples, self.config) - samples
        stems = self.network(F.pad(mix, (missing // 2, missing - missing // 2)))
        return centred(stems, samples)

    # --- the parts ---

    def network(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T], shorter by what the strides leave over."""
        mono = mix.mean(dim=1, keepdim=True)
        variance, mean = torch.var_mean(mono, dim=-1, keepdim=True)
        deviation = variance.sqrt() + EPSILON
        up, down = self.filters or double_and_halve(mix.device)
        if up.device != mix.device:
            up, down = double_and_halve(mix.device)
        x = upsampled((mix - mean) / deviation, up).to(self.lstm_linear.weight.dtype)
        skips = []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.lstm_linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        count = len(self.sources)
        for widen, beside, decode in zip(self.dec_pre_convs, self.convs_1x1, self.decoder, strict=True):
            x = widen(x) + beside(skips.pop()[..., : x.shape[-1]])
            x = decode(F.glu(x.unflatten(1, (count, -1)), dim=2).flatten(1, 2))
        x = downsampled(x.float(), down) * deviation + mean
        return x.unflatten(1, (count, self.channels))


def whole_length(length: int, config: DemucsSplitConfig) -> int:
    """The smallest number of samples, not below `length`, of which the strides leave nothing over."""
    inner = 2 * length - 1
    for _ in range(config.depth):
        inner = max(1, math.ceil((inner - KERNEL) / STRIDE) + 1)
    for _ in range(config.depth):
        inner = (inner - 1) * STRIDE + KERNEL
    return math.ceil(inner / 2)
