"""The Wave-U-Net of 2020, in PyTorch: wider, shallower, with norms, and resampled by filters.

    mix -> convolution -> [skip] convolution, resampling (6 levels) -> convolution
        -> resampling, convolution, [skip] convolution (6 levels) -> stem

(f90/Wave-U-Net-Pytorch, after network.py's paper; facts of the published code.) All convolutions are valid, as
in network.py with `context`; only the stored resampling filters mirror the audio at their ends.

Axes: B batch, S sources, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Separator, narrowed_copy, source_indices
from sepcli.models.waveunet.config import WaveUNetTorchConfig
from sepcli.models.waveunet.windows import Windows
from sepcli.nn.lengths import centred
from sepcli.nn.modules import ModuleListOf

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

TAPS = 15  # of a stored filter
GROUP = 8  # channels that a group norm takes together
NORMS = ("group", "batch", "none")


class WaveUNetTorch(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    def __init__(self, config: WaveUNetTorchConfig):
        super().__init__()
        _check(config)
        self.config = config
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the networks; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        outputs = [1] * len(self.sources) if config.separate else [len(self.sources)]
        self.networks = ModuleListOf(Network(config, count * config.channels) for count in outputs)
        lost, levels = config.kernel - 1, len(config.widths) - 1
        resampling = 0 if config.fixed else lost
        level = (2 * lost + resampling, config.stride)
        # Mirroring needs more samples than half of a filter's.
        least = TAPS // 2 + 1 if config.fixed else 1
        self.windows = Windows([level] * levels, lost, [level] * levels, least=least)
        self.segment = self.windows.segment(config.samples)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> WaveUNetTorch:
        """See Separator: only the networks of the wanted stems, where each has one."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        if self.config.separate:
            narrowed.networks = ModuleListOf(narrowed.networks[k] for k in index)
            narrowed.known = narrowed.sources
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return self.windows.run(self._stems, mix, self.segment)

    def _stems(self, mix: Tensor) -> Tensor:
        stems = torch.cat([network(mix) for network in self.networks], dim=1)
        stems = stems.unflatten(1, (len(self.known), self.channels))
        stems = stems[:, source_indices(self.known, self.sources)]
        return stems if self.training else stems.clamp(-1, 1)


class Network(nn.Module):
    """One U-Net: [B, C, T] -> [B, outputs, T - 2 margins]."""

    def __init__(self, config: WaveUNetTorchConfig, outputs: int):
        super().__init__()
        widths, made = config.widths, range(len(config.widths) - 1)
        self.downs = ModuleListOf(
            Down(config, config.channels if i == 0 else widths[i], widths[i], widths[i + 1]) for i in made
        )
        self.bottom = Conv(config, widths[-1], widths[-1])
        self.ups = ModuleListOf(Up(config, widths[i + 1], widths[i]) for i in reversed(made))
        self.out = nn.Conv1d(widths[0], outputs, 1)

    def forward(self, mix: Tensor) -> Tensor:
        """See the class."""
        skips, x = [], mix
        for down in self.downs:
            x, skip = down(x)
            skips.append(skip)
        x = self.bottom(x)
        for up in self.ups:
            x = up(x, skips.pop())
        return self.out(x)


class Conv(nn.Module):
    """A valid convolution, norm and activation. stride: between what it makes, or up: what it takes."""

    def __init__(
        self, config: WaveUNetTorchConfig, inputs: int, outputs: int, *, stride: int = 1, up: bool = False
    ):
        super().__init__()
        size = config.kernel
        self.conv = (
            nn.ConvTranspose1d(inputs, outputs, size, stride, padding=size - 1)
            if up
            else nn.Conv1d(inputs, outputs, size, stride)
        )
        self.norm = {
            "group": lambda: nn.GroupNorm(outputs // GROUP, outputs),
            "batch": lambda: nn.BatchNorm1d(outputs),
            "none": lambda: None,
        }[config.norm]()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T']."""
        x = self.conv(x)
        return F.leaky_relu(x) if self.norm is None else F.relu(self.norm(x))


class Resampling(nn.Module):
    """A stored filter for each channel, by which a level gets every n-th sample, or up: n times as many."""

    filter: Tensor  # [C, 1, TAPS]

    def __init__(self, channels: int, stride: int, *, up: bool):
        super().__init__()
        self.stride, self.up = stride, up
        # A windowed sinc that lets through what both rates have; with the gain that zeros between samples take.
        time = torch.arange(TAPS) - TAPS // 2
        low = torch.sinc(time / stride) * torch.blackman_window(TAPS, periodic=False)
        low = low / low.sum() * (stride if up else 1)
        self.register_buffer("filter", low.expand(channels, 1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, (T - 1) / stride + 1], or up: [B, C, (T - 1) stride + 1]."""
        samples = x.shape[-1]
        x = F.pad(x, (TAPS // 2, TAPS // 2), mode="reflect")
        if not self.up:
            return F.conv1d(x, self.filter, stride=self.stride, groups=len(self.filter))
        x = F.conv_transpose1d(x, self.filter, stride=self.stride, groups=len(self.filter))
        return centred(x, (samples - 1) * self.stride + 1)


def _resampling(config: WaveUNetTorchConfig, channels: int, *, up: bool) -> Conv | Resampling:
    if config.fixed:
        return Resampling(channels, config.stride, up=up)
    return Conv(config, channels, channels, stride=config.stride, up=up)


class Down(nn.Module):
    """A level on the way down: [B, C, T] -> what goes on, and the skip."""

    def __init__(self, config: WaveUNetTorchConfig, inputs: int, skipped: int, outputs: int):
        super().__init__()
        self.first, self.second = Conv(config, inputs, skipped), Conv(config, skipped, outputs)
        self.resampling = _resampling(config, outputs, up=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        skip = self.first(x)
        return self.resampling(self.second(skip)), skip


class Up(nn.Module):
    """A level on the way up, with the skip: [B, C, T] -> [B, C', T']."""

    def __init__(self, config: WaveUNetTorchConfig, inputs: int, outputs: int):
        super().__init__()
        self.resampling = _resampling(config, inputs, up=True)
        self.first, self.second = Conv(config, inputs, outputs), Conv(config, 2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """See the class."""
        x = self.first(self.resampling(x))
        return self.second(torch.cat([centred(skip, x.shape[-1]), x], dim=1))


def _check(config: WaveUNetTorchConfig) -> None:
    """ValueError for a network that can't be."""
    if config.norm not in NORMS:
        raise ValueError(f"norm is {config.norm!r}, but must be one of {', '.join(NORMS)}")
    if config.norm == "group" and any(width % GROUP for width in config.widths):
        raise ValueError(f"with group norms every width must be a multiple of {GROUP}")
    if config.kernel % 2 == 0 or len(config.widths) < 2:
        raise ValueError("kernel must be odd, and there must be two widths or more")
