"""danna-sep's U-Net: masks for magnitudes, by dense blocks and attention at the bottom; then a Wiener filter.

    mix -> STFT -> magnitudes -> U-Net -> * magnitudes -> Wiener filter -> inverse STFT -> stems

Above the highest bin that the network sees, and in frames that its poolings cut off at the end, every stem has
a quarter of the mix. (Yu and Cheuk, "Danna-Sep: Unite to separate them all", MDX workshop 2021,
arXiv:2112.03752; facts of its published code.)

As published, the network hears pieces of 2584 frames (60 s) and the filter the whole track; here both work on a
call, which is shorter to save memory.

Axes: B batch, S sources, C channels, T samples, F bins, N frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.config import check_options
from sepcli.models.danna.blocks import D3, LocalAttention
from sepcli.nn.doubles import double_place
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft
from sepcli.nn.wiener import wiener

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

BLOCKS = 2  # D2 blocks in a dense block
MOST, LEAST = 5, 2  # layers of a D2 block: at the top, and at the bottom
UNKNOWN = 0.25  # the mask where the network makes none


@dataclass(frozen=True)
class UNetAttnConfig:
    """What shapes the weights, and the spectrogram they are for. Defaults are the published ones."""

    sources: Sequence[str] = ("drums", "bass", "other", "vocals")  # in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    nfft: int = 4096  # samples of an STFT window
    hop: int = 1024  # samples
    bins: int = 1487  # that the network sees, from the lowest
    growth: int = 12  # channels that each layer of a dense block makes
    levels: int = 6  # times that bins and frames are halved
    attended: int = 256  # channels that attention gives
    width: int = 128  # of keys and of values, of all heads together
    heads: int = 8
    frames: int = 640  # of a call


@dataclass(frozen=True)
class UNetAttnOptions:
    """How estimates become stems. iterations: of the Wiener filter; 0 leaves it out."""

    iterations: int = 1

    def __post_init__(self) -> None:
        check_options(self, iterations=0)


class UNetAttn(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for settings that no network can have."""

    keeps_silence = True
    window: Tensor  # [nfft]
    options: UNetAttnOptions

    def __init__(self, config: UNetAttnConfig):
        super().__init__()
        _check(config)
        self.config, self.options = config, UNetAttnOptions()
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the network; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=(config.frames - 1) * config.hop, tail="short")
        layers = [max(LEAST, MOST - level) for level in range(config.levels)]
        channels, skipped = config.channels, []
        self.down_convs: ModuleListOf[nn.Sequential] = ModuleListOf()
        for count in layers:
            block = D3(channels, config.growth, count, BLOCKS)
            self.down_convs.append(nn.Sequential(block, nn.AvgPool2d(2)))
            channels = block.outputs
            skipped.append(channels)
        attended = config.attended
        self.attn = nn.Sequential(
            LocalAttention(channels, attended, config.width, config.heads),
            nn.BatchNorm2d(attended),
            nn.ReLU(),
            LocalAttention(attended, attended, config.width, config.heads),
            nn.BatchNorm2d(attended),
            nn.ReLU(),
        )
        channels += attended
        self.up_convs: ModuleListOf[nn.Sequential] = ModuleListOf()
        for count, beside in zip(reversed(layers[:-1]), reversed(skipped[:-1]), strict=True):
            block = D3(channels, config.growth, count, BLOCKS)
            up = nn.ConvTranspose2d(block.outputs, beside, 3, stride=2, padding=1, bias=False)
            self.up_convs.append(nn.Sequential(block, up, nn.BatchNorm2d(beside), nn.ReLU()))
            channels = 2 * beside
        last = skipped[0]
        self.end = nn.Sequential(
            nn.ConvTranspose2d(channels, last, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Conv2d(last, len(self.sources) * config.channels, 3, dilation=2, padding=2),
        )
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> UNetAttn:
        """See Separator. The filter needs the masks of all stems, which are made by one last layer."""
        return narrowed_copy(self, sources)

    def used(self) -> dict[str, Any]:
        """See Separator."""
        return asdict(self.options)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples, config = mix.shape[-1], self.config
        # A frame more than there is, so that the one that gets no mask is silent, as in the original; and as
        # many as the poolings need.
        whole = max(samples + config.hop, 2**config.levels * config.hop, config.nfft)
        spec = centred_stft(F.pad(mix, (0, whole - samples)), self.window, config.hop)
        magnitudes = spec.abs()
        estimates = (self.masks(magnitudes) * magnitudes[:, None]).transpose(-1, -2)
        mixed = spec.transpose(-1, -2)
        place = double_place(mix.device)
        stems = wiener(
            mixed.to(place, torch.complex128),
            estimates.to(place, torch.float64),
            eps=torch.finfo(torch.float64).eps,
            iterations=self.options.iterations,
        )
        stems = stems[:, source_indices(self.known, self.sources)].to(mix.device, spec.dtype)
        return centred_istft(stems.transpose(-1, -2), self.window, config.hop, samples)

    # --- the parts ---

    def masks(self, magnitudes: Tensor) -> Tensor:
        """[B, C, F, N] -> a mask for each of `known`, [B, S, C, F, N]."""
        x = magnitudes[:, :, : self.config.bins]
        skips = []
        for down in self.down_convs:
            x = down(x)
            skips.append(x)
        x = torch.cat([skips.pop(), self.attn(x)], dim=1)
        for up in self.up_convs:
            skip = skips.pop()
            x = torch.cat([_padded(up(x), skip, 0.0), skip], dim=1)
        x = self.end(x).sigmoid()
        return _padded(x, magnitudes, UNKNOWN).unflatten(1, (len(self.known), -1))


def _padded(x: Tensor, like: Tensor, value: float) -> Tensor:
    """[B, C, F, N] with a value behind its end, so that F and N are those of another."""
    return F.pad(x, (0, like.shape[-1] - x.shape[-1], 0, like.shape[-2] - x.shape[-2]), value=value)


def _check(config: UNetAttnConfig) -> None:
    """ValueError for a network that can't be."""
    bins = config.nfft // 2 + 1
    if not 2**config.levels <= config.bins <= bins:
        raise ValueError(f"bins is {config.bins}, but must be from {2**config.levels} to {bins}")
    if config.width % config.heads:
        raise ValueError(f"width must be a multiple of heads, {config.heads}")
    if config.frames < 2**config.levels:
        raise ValueError(f"frames is {config.frames}, but must be {2**config.levels} or more")
