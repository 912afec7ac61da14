"""Wave-U-Net: a U-Net on samples, whose levels have every second sample of the one above.

    mix -> convolution, decimation (12 x) -> convolution -> interpolation, convolution (12 x) -> stems

(Stoller, Ewert, Dixon, "Wave-U-Net: A Multi-Scale Neural Network for End-to-End Audio Source Separation", ISMIR
2018, arXiv:1806.03185; facts of the published code.)

With `context` no convolution sees zeros that are no audio: the result is shorter than what goes in, by a margin
at each end. A call of the segment's length has the margins; to any other silence is added there.

Axes: B batch, S sources, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy
from sepcli.models.waveunet.config import WaveUNetConfig
from sepcli.models.waveunet.windows import Windows
from sepcli.nn.lengths import centred
from sepcli.nn.modules import ModuleListOf

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

SLOPE = 0.2  # of the leaky ReLU


class WaveUNet(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    def __init__(self, config: WaveUNetConfig):
        super().__init__()
        _check(config)
        self.config = config
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the network; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        widths = [config.width * (level + 1) for level in range(config.layers)]
        below = [*widths[1:], config.width * (config.layers + 1)]
        self.downs = ModuleListOf(
            self._conv(one, other, config.kernel) for one, other in pairwise([config.channels, *widths])
        )
        self.bottom = self._conv(widths[-1], below[-1], config.kernel)
        self.ups = ModuleListOf(
            self._conv(widths[i] + below[i], widths[i], config.merge_kernel)
            for i in reversed(range(config.layers))
        )
        # For each channel the share of the sample before, through a sigmoid, in the one between.
        self.between = nn.ParameterList(
            nn.Parameter(torch.zeros(below[i])) for i in reversed(range(config.layers)) if config.learned
        )
        outputs = len(self.sources) - int(config.difference)
        self.outs = ModuleListOf(
            self._conv(config.width + config.channels, config.channels, config.output_kernel)
            for _ in range(outputs)
        )
        if config.context:
            self.windows = Windows(
                [(config.input_kernel - 1, 2), *[(config.kernel - 1, 2)] * (config.layers - 1)],
                config.kernel - 1,
                [(config.merge_kernel - 1, 2)] * config.layers,
                config.output_kernel - 1,
            )
            self.segment = self.windows.segment(config.samples)
        else:
            step = 2**config.layers
            self.segment = Segment(samples=-(-config.samples // step) * step, multiple=step)

    def _conv(self, inputs: int, outputs: int, kernel: int) -> nn.Conv1d:
        return nn.Conv1d(inputs, outputs, kernel, padding=0 if self.config.context else kernel // 2)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> WaveUNet:
        """See Separator: only the last layers of the wanted stems run, or all of them for the difference."""
        return narrowed_copy(self, sources)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        if self.config.context:
            return self.windows.run(self._stems, mix, self.segment)
        samples, step = mix.shape[-1], self.segment.multiple
        return self._stems(F.pad(mix, (0, -samples % step)))[..., :samples]

    # --- the parts ---

    def _stems(self, mix: Tensor) -> Tensor:
        """A window of the mix [B, C, T] -> the selected stems, [B, S, C, T - 2 margins]."""
        skips, x = [], mix
        for down in self.downs:
            skips.append(F.leaky_relu(down(x), SLOPE))
            x = skips[-1][..., ::2]
        x = F.leaky_relu(self.bottom(x), SLOPE)
        for level, up in enumerate(self.ups):
            x = self._doubled(x, level)
            x = F.leaky_relu(up(torch.cat([centred(skips.pop(), x.shape[-1]), x], dim=1)), SLOPE)
        heard = centred(mix, x.shape[-1])
        x = torch.cat([heard, x], dim=1)
        last = self.known[-1] if self.config.difference else None
        whole = last in self.sources
        needed = [k for k in range(len(self.outs)) if whole or self.known[k] in self.sources]
        stems = {self.known[k]: self.outs[k](x).tanh() for k in needed}
        if last is not None and whole:
            others = torch.stack([*stems.values()]).sum(dim=0)
            stems[last] = (centred(heard, others.shape[-1]) - others).clamp(-1, 1)
        return torch.stack([stems[name] for name in self.sources], dim=1)

    def _doubled(self, x: Tensor, level: int) -> Tensor:
        """[B, C, T] -> [B, C, 2 T - 1]: one sample between two. Without context one more, the last again."""
        share = self.between[level].sigmoid()[:, None] if self.config.learned else 0.5
        after = x[..., 1:]
        if not self.config.context:
            after = torch.cat([after, x[..., -1:]], dim=-1)
        made = share * x[..., : after.shape[-1]] + (1 - share) * after
        pairs = torch.stack([x[..., : after.shape[-1]], made], dim=-1).flatten(-2)
        return pairs if not self.config.context else torch.cat([pairs, x[..., -1:]], dim=-1)


def _check(config: WaveUNetConfig) -> None:
    """ValueError for a network that can't be."""
    kernels = (config.input_kernel, config.kernel, config.merge_kernel, config.output_kernel)
    if any(kernel % 2 == 0 for kernel in kernels):
        raise ValueError("kernels must have an odd number of taps")
    if config.layers < 1:
        raise ValueError("layers must be at least 1")
    if config.difference and len(config.sources) < 2:
        raise ValueError("difference needs two sources or more")
