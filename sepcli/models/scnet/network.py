"""SCNet: a spectrogram is compressed, the less the lower; LSTMs along both axes; and widened again into stems.

    mix -> STFT -> encoder levels -> trunk -> decoder levels -> [masks * spectrogram] -> inverse STFT -> stems
                        |________________________|  skips

(Tong et al. 2024, "SCNet: Sparse Compression Network for Music Source Separation", arXiv:2401.13276; the masked
form is that of the training toolkit of ZFTurbo.)

Axes: B batch, S sources, C channels, T samples, F bins, N frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.scnet.config import SCNetConfig
from sepcli.models.scnet.levels import (
    EncoderLevel,
    Fusion,
    Rows,
    Widening,
    channels_last,
    row_plan,
    rows_made,
    widened,
)
from sepcli.models.scnet.trunk import Trunk
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


class SCNet(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    window: Tensor  # [nfft]

    def __init__(self, config: SCNetConfig):
        super().__init__()
        _check(config)
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment, self.normalize = Segment(samples=config.chunk), config.normalize
        self.keeps_silence = config.mask_hidden > 0
        self.plans: list[tuple[Rows, ...]] = []
        rows = config.nfft // 2 + 1
        for _ in config.dims[1:]:
            self.plans.append(row_plan(rows, config))
            rows = rows_made(self.plans[-1])
        values, dims = config.dims[0], config.dims
        self.positions = (
            nn.Parameter(0.02 * torch.randn(1, values, config.nfft // 2 + 1, 1)) if config.positions else None
        )
        self.encoder = ModuleListOf(EncoderLevel(one, other, config) for one, other in pairwise(dims))
        self.trunk = Trunk(dims[-1], config.layers, config.expand)
        self.fusions = ModuleListOf(Fusion(dim) for dim in reversed(dims[1:]))
        self.widenings = ModuleListOf(
            Widening(one, other, config) for one, other in pairwise(reversed(dims[1:]))
        )
        self.heads = ModuleListOf(Widening(dims[1], values, config) for _ in self.sources)
        self.masks = MaskEstimator(values, len(self.sources), config) if config.mask_hidden else None
        window = torch.hann_window(config.nfft) if config.hann else torch.ones(config.nfft)
        self.register_buffer("window", window, persistent=False)

    # --- Separator ---

    @torch.inference_mode(False)  # the network may be trained later
    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the window stays float32."""
        super().prepare(samples, device, dtype)
        window = self.window
        self.to(dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.window = window.float()
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                module.flatten_parameters()  # one piece of memory, as cuDNN wants it

    def select(self, sources: Sequence[str]) -> SCNet:
        """See Separator: other stems are not widened to the spectrogram; masks need all of them that far."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        if narrowed.masks is not None:
            narrowed.masks.outs = ModuleListOf(narrowed.masks.outs[k] for k in index)
        else:
            narrowed.heads = ModuleListOf(narrowed.heads[k] for k in index)
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples, hop = mix.shape[-1], self.config.hop
        padded = F.pad(mix, (0, self.padding(samples)))
        spec = centred_stft(padded, self.window, hop, normalized=self.config.normalized)  # [B, C, F, N]
        values = torch.view_as_real(spec).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, 2 C, F, N]
        stems = self._stems(channels_last(values)).unflatten(1, (-1, self.channels, 2))
        stems = torch.view_as_complex(stems.permute(0, 1, 2, 5, 4, 3).contiguous())  # [B, S, C, N, F]
        if self.masks is not None:
            stems = stems * spec.transpose(-1, -2)[:, None]
        waves = centred_istft(
            stems.transpose(-1, -2), self.window, hop, padded.shape[-1], normalized=self.config.normalized
        )
        return waves[..., :samples]

    def padding(self, samples: int) -> int:
        """Silence behind a call: at least a sample, up to whole hops and an even number of frames.

        A call shorter than half a window gets more, for mirroring at the ends.
        """
        hops = max(samples, self.config.nfft // 2) // self.config.hop + 1
        return (hops + (hops + 1) % 2) * self.config.hop - samples

    def _stems(self, values: Tensor) -> Tensor:
        """Spectrogram [B, 2 C, F, N] -> the stems' spectrograms, or masks, [B, S * 2 C, F, N] in float32."""
        mean, deviation = values.new_zeros(()), values.new_ones(())
        if self.config.standardize:
            axes = (1, 2, 3)
            deviation, mean = torch.std_mean(values, axes, keepdim=True)
            values = (values - mean) / (1e-5 + deviation)
        x = values.to(self.fusions[0].conv.weight.dtype)
        if self.positions is not None:
            x = x + self.positions
        skips = []
        for level, plan in zip(self.encoder, self.plans, strict=True):
            x, skip = level(x, plan)
            skips.append(skip)
        x = self.trunk(x)
        for fusion, plan, layers in zip(
            self.fusions, reversed(self.plans), [*([each] for each in self.widenings), self.heads], strict=True
        ):
            x = widened(fusion(x, skips.pop()), plan, list(layers))
        if self.masks is not None:
            return self.masks(x).float()
        return x.float() * deviation + mean if self.config.standardize else x.float()


class MaskEstimator(nn.Module):
    """[B, S * 2 C, F, N] -> complex masks of the same shape, real and imaginary parts between -1 and 1."""

    def __init__(self, values: int, stems: int, config: SCNetConfig):
        super().__init__()
        self.hidden = nn.Conv2d(stems * values, config.mask_hidden, 3, padding=1)
        self.outs = ModuleListOf(nn.Conv2d(config.mask_hidden, values, 1) for _ in range(stems))

    def forward(self, x: Tensor) -> Tensor:
        """All stems go in; the masks of `outs` come out."""
        hidden = F.gelu(self.hidden(x))
        biases = [out.bias for out in self.outs if out.bias is not None]
        return F.conv2d(hidden, torch.cat([out.weight for out in self.outs]), torch.cat(biases)).tanh()


def _check(config: SCNetConfig) -> None:
    bands = {len(config.shares), len(config.strides), len(config.kernels), len(config.depths)}
    rules = {
        "shares, strides, kernels and depths must have one value for each band": len(bands) == 1,
        "the first of dims must be 2 * channels": config.dims[0] == 2 * config.channels,
        "layers must be even": config.layers % 2 == 0,
        "kernel must be odd": config.kernel % 2 == 1,
        "kernels must be no smaller than strides": all(map(int.__ge__, config.kernels, config.strides)),
        "nfft must be even": config.nfft % 2 == 0,
    }
    for rule, kept in rules.items():
        if not kept:
            raise ValueError(f"{rule}: {config}")
