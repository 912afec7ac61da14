"""Conv-TasNet for music, as published with Demucs v1 and v2: a mask for each source on a learnt transform.

Knows no spectrogram and no files. Luo, Mesgarani: Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude
Masking for Speech Separation (2019); in stereo after Défossez, Usunier, Bottou, Bach: Music Source Separation
in the Waveform Domain (2019).

    mix -- encoder, ReLU --.-- norm -- 1x1 -- R times X blocks -- 1x1, ReLU -- masks
                           '------------------------------------------------- * -- decoder -- stems

    block   + ( 1x1 -- PReLU -- norm -- by channel, dilation 1, 2, 4, ... -- PReLU -- norm -- 1x1 )

Sizes have the paper's letters: N filters of L samples, one every L / 2; B channels, in blocks H, kernels of P.

Axes: B batch, S sources, C channels, T samples, K frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.demucs.hybrid import freeze_lists
from sepcli.models.demucs.layers import keep_outputs
from sepcli.nn.modules import ModuleListOf

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

EPSILON = 1e-8  # added to variances


@dataclass(frozen=True)
class ConvTasNetConfig:
    """The arguments of v2's constructor with its defaults, but that it is never causal."""

    sources: Sequence[str]  # stem names, in output order
    N: int = 256  # filters of the encoder
    L: int = 20  # samples of a filter
    B: int = 256  # channels between blocks
    H: int = 512  # channels inside blocks
    P: int = 3  # kernel of the blocks' convolutions
    X: int = 8  # blocks in a row, each with twice the dilation of the last one
    R: int = 4  # such rows
    audio_channels: int = 2
    norm_type: str = "gLN"  # statistics over channels and time; or "cLN": over channels, frame by frame
    mask_nonlinear: str = "relu"  # or "softmax", over the sources
    samplerate: int = 44100  # Hz
    segment_length: int = 352800  # samples of a call

    def __post_init__(self) -> None:
        freeze_lists(self)


class ConvTasNet(Separator):
    """The network of the file's head: [B, C, T] -> [B, S, C, T], any length."""

    normalize = True

    def __init__(self, config: ConvTasNetConfig):
        super().__init__()
        for name, value, known in (
            ("norm_type", config.norm_type, ("gLN", "cLN")),
            ("mask_nonlinear", config.mask_nonlinear, ("relu", "softmax")),
        ):
            if value not in known:
                raise ValueError(f"{name} is '{value}', but must be {' or '.join(known)}")
        if config.L % 2 or not config.P % 2:
            raise ValueError("L must be even, and P odd")
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate = config.samplerate
        self.channels = config.audio_channels
        self.segment = Segment(samples=config.segment_length, tail="short")
        self.kept: tuple[int, ...] | None = None  # of a narrowed softmax: which masks are used
        hop, n, bottleneck = config.L // 2, config.N, config.B
        self.encoder = nn.Conv1d(self.channels, n, config.L, hop, bias=False)
        self.norm = Norm(n, framewise=True)
        self.bottleneck = nn.Conv1d(n, bottleneck, 1, bias=False)
        self.blocks = ModuleListOf(Block(config, 2**x) for _ in range(config.R) for x in range(config.X))
        self.masks = nn.Conv1d(bottleneck, len(self.sources) * n, 1, bias=False)
        self.decoder = nn.Linear(n, self.channels * config.L, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the weights are stored in `dtype`; statistics and the stems' sums stay float32."""
        super().prepare(samples, device, dtype)
        self.to(dtype)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] float32 -> [B, S, C, T] float32; a call shorter than a filter is extended with silence."""
        samples, config = mix.shape[-1], self.config
        x = F.pad(mix, (0, max(0, config.L - samples))).to(self.encoder.weight.dtype)
        frames = F.relu(self.encoder(x)).transpose(1, 2).contiguous()  # [B, K, N]
        x = by_frame(self.bottleneck, self.norm(frames))
        for block in self.blocks:
            x = block(x)
        scores = by_frame(self.masks, x).unflatten(2, (-1, config.N))  # [B, K, S, N]
        if config.mask_nonlinear == "relu":
            masks = F.relu(scores)
        else:
            masks = scores.softmax(dim=2)
            masks = masks if self.kept is None else masks[:, :, self.kept]
        stems = self.decoder(frames[:, :, None] * masks)  # [B, K, S, C · L]
        wave = self._overlapped(stems.float())
        return F.pad(wave, (0, samples - wave.shape[-1]))

    def _overlapped(self, stems: Tensor) -> Tensor:
        """Frames [B, K, S, C · L] added up, one every L / 2 samples: [B, S, C, (K + 1) · L / 2]."""
        halves = stems.unflatten(3, (self.channels, 2, -1)).permute(0, 2, 3, 4, 1, 5)  # [B, S, C, 2, K, L / 2]
        first, second = halves.unbind(3)
        return (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(3)

    def select(self, sources: Sequence[str]) -> ConvTasNet:
        """See Separator. The convolution that makes masks is narrowed, but a softmax needs all of them."""
        positions = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        if self.config.mask_nonlinear == "softmax":
            kept = range(len(self.sources)) if self.kept is None else self.kept
            narrowed.kept = tuple(kept[position] for position in positions)
        else:
            n = self.config.N
            keep_outputs(narrowed.masks, [p * n + filter for p in positions for filter in range(n)])
        return narrowed


def by_frame(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution whose kernel is one frame: [B, K, C] -> [B, K, C'].

    With channels last it is one matrix product, faster on a CPU than torch's convolution.
    """
    return F.linear(x, conv.weight[..., 0])


class Norm(nn.Module):
    """Zero mean and unit deviation, then a gain and an offset for each channel.

    framewise: each frame by itself, over channels (cLN); else over channels and time together (gLN).
    """

    def __init__(self, channels: int, *, framewise: bool):
        super().__init__()
        self.framewise = framewise
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, K, C] -> [B, K, C]; statistics in float32."""
        gain, offset = self.gamma.flatten().float(), self.beta.flatten().float()
        if self.framewise:
            return F.layer_norm(x.float(), gain.shape, gain, offset, EPSILON).to(x.dtype)
        image = x.float().transpose(1, 2)[:, :, None]  # [B, C, 1, K] with channels last: the order they have
        return F.group_norm(image, 1, gain, offset, EPSILON)[:, :, 0].transpose(1, 2).to(x.dtype)


class Block(nn.Module):
    """A residual block: [B, K, C] -> [B, K, C]."""

    def __init__(self, config: ConvTasNetConfig, dilation: int):
        super().__init__()
        hidden, framewise = config.H, config.norm_type == "cLN"
        padding = (config.P - 1) * dilation // 2
        self.widen = nn.Conv1d(config.B, hidden, 1, bias=False)
        self.activation1 = nn.PReLU()
        self.norm1 = Norm(hidden, framewise=framewise)
        self.depthwise = nn.Conv1d(
            hidden, hidden, config.P, padding=padding, dilation=dilation, groups=hidden, bias=False
        )
        self.activation2 = nn.PReLU()
        self.norm2 = Norm(hidden, framewise=framewise)
        self.narrow = nn.Conv1d(hidden, config.B, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.norm1(self.activation1(by_frame(self.widen, x)))
        y = self.norm2(self.activation2(self._along_time(y)))
        return x + by_frame(self.narrow, y)

    def _along_time(self, x: Tensor) -> Tensor:
        """The convolution of each channel by itself: [B, K, C] -> [B, K, C].

        A sum of few products: with channels last, torch's convolution takes eight times as long as otherwise.
        """
        taps = self.depthwise.weight[:, 0].unbind(1)  # P of [C]
        middle, (dilation,) = len(taps) // 2, self.depthwise.dilation
        total = x * taps[middle]
        for k, tap in enumerate(taps):
            shift = (k - middle) * dilation  # of the frames that this tap hears
            if 0 < shift < x.shape[1]:
                total[:, :-shift] += x[:, shift:] * tap
            elif 0 < -shift < x.shape[1]:
                total[:, -shift:] += x[:, :shift] * tap
        return total
