"""ResUNet on subbands: a residual U-Net masks magnitudes, turns phases, and adds what a mask can't give.

    mix -> filter bank -> STFT of each band -> U-Net -> magnitude and phase of each band -> filter bank -> stem

(Kong, Cao, Liu, Choi, Wang, "Decoupling magnitude and phase estimation with deep ResUNet for music source
separation", arXiv:2109.05418, and the subband networks of its published code.)

Axes: B batch, S sources, C channels, K bands, T samples, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.bytesep.blocks import Stage, Up
from sepcli.models.bytesep.config import ResUNetConfig
from sepcli.models.bytesep.filters import FilterBank
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

VALUES = 4  # for each bin: mask, real and imaginary part of a turn, and what is added
FLOOR = 1e-10  # of squared magnitudes


class ResUNet(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    keeps_silence = True
    window: Tensor  # [nfft]

    def __init__(self, config: ResUNetConfig):
        super().__init__()
        _check(config)
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.chunk)
        levels, inputs = len(config.widths), config.channels * config.bands
        self.factors = [(2, 2)] * (levels - 1) + [(1, 2)]  # frames and bins of a level for one of the next

        def stage(one: int, other: int) -> Stage:
            return Stage(one, other, config.blocks, separable=config.separable)

        self.filters = FilterBank(config.bands, config.taps)
        self.norm = nn.BatchNorm2d(config.nfft // 2 + 1)  # bins stand for channels
        widths = [inputs, *config.widths]
        self.downs = ModuleListOf(stage(widths[i], widths[i + 1]) for i in range(levels))
        self.middle = ModuleListOf(stage(widths[-1], widths[-1]) for _ in range(config.middle))
        below = [*config.widths[1:], config.widths[-1]]
        self.ups = ModuleListOf(
            Up(below[i], config.widths[i], self.factors[i], config.blocks, separable=config.separable)
            for i in reversed(range(levels))
        )
        self.after = stage(widths[1], widths[1])
        self.head = nn.Conv2d(widths[1], len(self.sources) * inputs * VALUES, 1)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    @torch.inference_mode(False)  # the network may be trained later
    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: always in float32."""
        super().prepare(samples, device, dtype)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def select(self, sources: Sequence[str]) -> ResUNet:
        """See Separator: all stems come from one network; only its last layer becomes smaller."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        head, count = narrowed.head, len(self.sources)
        assert head.bias is not None
        weight, bias = head.weight.unflatten(0, (count, -1)), head.bias.unflatten(0, (count, -1))
        head.weight, head.bias = (
            nn.Parameter(tensor[index].flatten(0, 1).detach()) for tensor in (weight, bias)
        )
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        config, samples = self.config, mix.shape[-1]
        padded = F.pad(mix, (0, self._whole(samples) - samples))
        bands = self.filters.split(padded)
        spec = centred_stft(bands, self.window, config.hop).transpose(-1, -2)  # [B, C K, N, F]
        magnitude = _size(spec)
        values = self.network(magnitude).unflatten(1, (-1, self.channels, VALUES, config.bands))
        mask, real, imaginary, added = values.unbind(3)  # [B, S, C, K, N, F]
        turn = torch.complex(real.tanh(), imaginary.tanh())
        turn = turn / _size(turn)
        magnitude, spec = (x.unflatten(1, (self.channels, -1))[:, None] for x in (magnitude, spec))
        stems = F.relu(magnitude * mask.sigmoid() + added.tanh()) * (spec / magnitude) * turn
        waves = centred_istft(stems.transpose(-1, -2), self.window, config.hop, bands.shape[-1])
        waves = self.filters.join(waves.flatten(0, 1).flatten(1, 2))
        return waves.unflatten(0, (len(mix), -1))[..., :samples]

    # --- the parts ---

    def network(self, magnitude: Tensor) -> Tensor:
        """Magnitudes [B, C K, N, F] -> the values of each bin, [B, S * C * VALUES * K, N, F]; 0 in the last."""
        frames = magnitude.shape[2]
        x = self.norm(magnitude.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)[..., :-1]
        step = 2 ** (len(self.factors) - 1)
        x = F.pad(x, (0, 0, 0, -frames % step)).contiguous(memory_format=torch.channels_last)
        skips = []
        for down, factors in zip(self.downs, self.factors, strict=True):
            skips.append(down(x))
            x = F.avg_pool2d(skips[-1], factors)
        for stage in self.middle:
            x = stage(x)
        for up in self.ups:
            x = up(x, skips.pop())
        return F.pad(self.head(self.after(x)), (0, 1))[:, :, :frames]

    def _whole(self, samples: int) -> int:
        """The next length that the bands divide, and that mirroring at the ends of a band can do with."""
        bands, config = self.config.bands, self.config
        least = bands * (config.nfft // 2 + 1) - config.taps
        return -(-max(samples, least) // bands) * bands


def _size(x: Tensor) -> Tensor:
    """Absolute values, never 0."""
    return (x.real.square() + x.imag.square()).clamp(min=FLOOR).sqrt()


def _check(config: ResUNetConfig) -> None:
    """ValueError for a network that can't be."""
    step = 2 ** len(config.widths)
    if config.nfft % (2 * step):
        raise ValueError(f"nfft must be a multiple of {2 * step} (2 ** (levels + 1))")
    if config.taps % config.bands:
        raise ValueError("taps must be a multiple of bands")
    if min(config.blocks, config.middle, len(config.widths)) < 1:
        raise ValueError("blocks, middle and widths must not be empty")
