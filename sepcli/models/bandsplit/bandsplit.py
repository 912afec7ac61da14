"""BandSplit: our own small separator, made of operations that a CPU does fast: matrix products, convolutions.

The spectrogram is cut into bands, narrow at the bottom and wide at the top, as in Band-Split RNN (Luo and Yu
2023); each becomes a vector of D values a frame. Blocks of the kind of TFC-TDF (Choi et al. 2020) work on that
grid, with a recurrent layer in the bottleneck that sees all bands at once:

    mix -> STFT -> bands --------> [B, N, K, D] -> blocks -> masks -> * spectrogram -> inverse STFT -> stems
                          K bands, N frames
    block    + conv 3x3, SiLU, conv 3x3                              near in time and frequency
             + D -> t a band, K*t -> M, LSTM over N, M -> K*t, t -> D    far: harmonics, and seconds

Log of the choice among candidates: docs/log.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.nn.modules import ModuleListOf

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

COMPRESSION = 0.4  # exponent of the modulus in the features: quiet partials count too
FLOOR = 1e-6  # of a modulus, under the root


@dataclass(frozen=True)
class BandSplitConfig:
    """The shape of the network, its spectrogram and its sources."""

    sources: Sequence[str]  # stem names, in output order
    samplerate: int = 44100  # Hz
    channels: int = 2
    nfft: int = 4096  # samples of an STFT window
    hop: int = 1024  # samples
    # (bands, bins a band, bins that share a mask value), from 0 Hz upwards; they add up to nfft / 2 bins
    zones: Sequence[Sequence[int]] = ((24, 4, 1), (24, 12, 1), (12, 48, 4), (4, 272, 8))
    dim: int = 64  # D, values of a band in a frame
    blocks: int = 5
    squeeze: int = 8  # t, values of a band on their way to the bottleneck
    bottleneck: int = 192  # M, width of the recurrent layer
    mask_dim: int = 128  # width of the layer before the masks
    segment: float = 8.0  # seconds of a chunk in `separate`


class BandBlock(nn.Module):
    """A block of the file's head: what is near, then what is far, each added to its input.

    [B, N, K, D] -> [B, N, K, D].
    """

    def __init__(self, config: BandSplitConfig, bands: int):
        super().__init__()
        dim, squeeze, width = config.dim, config.squeeze, config.bottleneck
        self.near_norm = nn.LayerNorm(dim)
        self.near_in = nn.Conv2d(dim, dim, 3, padding=1)
        self.near_out = nn.Conv2d(dim, dim, 3, padding=1)
        self.far_norm = nn.LayerNorm(dim)
        self.squeeze = nn.Linear(dim, squeeze)
        self.gather = nn.Linear(bands * squeeze, width)
        self.memory = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.spread = nn.Linear(width, bands * squeeze)
        self.expand = nn.Linear(squeeze, dim)
        nn.init.zeros_(self.near_out.weight)  # a block begins as the identity
        nn.init.zeros_(self.expand.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """[B, N, K, D] -> [B, N, K, D]."""
        # In channels-last order [B, D, N, K] is the same memory as [B, N, K, D]: nothing is copied.
        near = self.near_norm(grid).permute(0, 3, 1, 2)
        near = self.near_out(F.silu(self.near_in(near))).permute(0, 2, 3, 1)
        grid = grid + near
        far = self.squeeze(self.far_norm(grid))  # [B, N, K, t]
        frames = F.silu(self.gather(far.flatten(2)))  # [B, N, M]
        frames = frames + self.memory(frames)[0]
        far = self.spread(frames).view(far.shape)
        return grid + self.expand(far)


class BandSplit(Separator):
    """The network of the file's head: [B, C, T] -> [B, S, C, T].

    A chunk may have any length; the published use is config.segment seconds.
    """

    normalize = True
    window: Tensor  # [nfft]

    def __init__(self, config: BandSplitConfig):
        super().__init__()
        zones = [tuple(int(value) for value in zone) for zone in config.zones]
        if sum(bands * bins for bands, bins, _ in zones) != config.nfft // 2:
            raise ValueError(f"zones cover {sum(b * w for b, w, _ in zones)} of {config.nfft // 2} bins")
        if any(bins % shared for _, bins, shared in zones):
            raise ValueError("the bins of a band must be a multiple of those that share a mask value")
        self.config, self.zones = config, zones
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.share = 1 / len(self.sources)  # of the mix, that each source begins with
        self.segment = Segment(samples=round(config.segment * config.samplerate))
        dim, hidden, values = config.dim, config.mask_dim, 3 * config.channels
        self.split = nn.ParameterList(
            nn.Parameter(torch.randn(bands, bins * values, dim) / (bins * values) ** 0.5)
            for bands, bins, _ in zones
        )
        self.bands = sum(bands for bands, _, _ in zones)
        self.band_bias = nn.Parameter(0.02 * torch.randn(self.bands, dim))
        self.blocks = ModuleListOf(BandBlock(config, self.bands) for _ in range(config.blocks))
        self.mask_norm = nn.LayerNorm(dim)
        self.mask_in = nn.Linear(dim, 2 * hidden)
        # [bands, hidden, S, values of a mask]: one matrix a band and source
        self.mask_out = nn.ParameterList(
            nn.Parameter(
                torch.randn(bands, hidden, len(self.sources), bins // shared * 2 * config.channels)
                * 0.5
                / hidden**0.5
            )
            for bands, bins, shared in zones
        )
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)
        # torch documents the argument; its stub has left it out.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the window stays float32."""
        super().prepare(samples, device, dtype)
        window = self.window
        self.to(dtype)
        self.window = window.float()

    def select(self, sources: Sequence[str]) -> BandSplit:
        """See Separator: the masks of other stems are not computed; the blocks know no stems and are shared."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        narrowed.mask_out = nn.ParameterList(
            nn.Parameter(weight[:, :, index], weight.requires_grad) for weight in self.mask_out
        )
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples = mix.shape[-1]
        spec = self._spec(mix.float())
        grid = self._split(spec)
        for block in self.blocks:
            grid = block(grid)
        return self._wave(self._masked(grid, spec), samples)

    # --- the parts ---

    def _spec(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex64 [F, B, N, C]: bins first, so that a band is a slice; no Nyquist bin."""
        batch, channels, samples = mix.shape
        nfft = self.config.nfft
        if samples <= nfft // 2:  # mirroring at the ends needs more than that
            mix = F.pad(mix, (0, nfft // 2 + 1 - samples))
        spec = torch.stft(
            mix.flatten(0, 1), nfft, self.config.hop, window=self.window, normalized=True, return_complex=True
        )
        return spec[:, :-1].unflatten(0, (batch, channels)).permute(2, 0, 3, 1).contiguous()

    def _split(self, spec: Tensor) -> Tensor:
        """complex [F, B, N, C] -> [B, N, K, D]: compressed real and imaginary parts and log-moduli of bands."""
        modulus = spec.abs().clamp(min=FLOOR)
        compressed = torch.view_as_real(spec * modulus.pow(COMPRESSION - 1)).flatten(-2)
        features = torch.cat([compressed, torch.log(modulus + 1e-3) / 3], dim=-1)  # [F, B, N, 3C]
        features = features.to(self.band_bias.dtype)
        _, batch, frames, values = features.shape
        edges = [0, *accumulate(bands * bins for bands, bins, _ in self.zones)]
        rows = []
        for (bands, bins, _), weight, start, end in zip(self.zones, self.split, edges, edges[1:], strict=False):
            zone = features[start:end].view(bands, bins, batch * frames, values).transpose(1, 2)
            rows.append(torch.bmm(zone.reshape(bands, batch * frames, bins * values), weight))
        grid = torch.cat(rows) + self.band_bias[:, None]  # [K, B*N, D]
        return grid.view(self.bands, batch, frames, -1).permute(1, 2, 0, 3).contiguous()

    def _masked(self, grid: Tensor, spec: Tensor) -> Tensor:
        """[B, N, K, D], complex [F, B, N, C] -> complex [B, S, C, F, N]: a complex mask times the mix.

        The masks begin around an equal share for each source, which is where a network that knows nothing
        should stand.
        """
        batch, frames, _, _ = grid.shape
        value, gate = self.mask_in(self.mask_norm(grid)).chunk(2, dim=-1)
        hidden = (F.silu(gate) * value).permute(2, 0, 1, 3).flatten(1, 2)  # [K, B*N, H]
        sources, channels = len(self.sources), self.channels
        parts, at = [], 0
        for (bands, bins, shared), weight in zip(self.zones, self.mask_out, strict=True):
            rows = bins // shared  # mask values of a band
            mask = torch.bmm(hidden[at : at + bands], weight.flatten(2))  # [bands, B*N, S * rows * C * 2]
            mask = mask.view(bands, batch * frames, sources, rows, channels * 2).permute(0, 3, 1, 2, 4)
            mask = mask.reshape(bands * rows, batch * frames, sources, channels * 2)
            parts.append(mask.repeat_interleave(shared, 0) if shared > 1 else mask)
            at += bands
        mask = torch.cat(parts).float().view(-1, batch, frames, sources, channels, 2)
        masked = (torch.view_as_complex(mask) + self.share) * spec[:, :, :, None]  # [F, B, N, S, C]
        return masked.permute(1, 3, 4, 0, 2)

    def _wave(self, specs: Tensor, samples: int) -> Tensor:
        """complex [B, S, C, F, N] -> [B, S, C, T = samples]; the Nyquist bin is silent."""
        batch, sources, channels = specs.shape[:3]
        nfft = self.config.nfft
        padded = F.pad(torch.view_as_real(specs.flatten(0, 2)), (0, 0, 0, 0, 0, 1))
        wave = torch.istft(
            torch.view_as_complex(padded),
            nfft,
            self.config.hop,
            window=self.window,
            normalized=True,
            length=max(samples, nfft // 2 + 1),
        )
        return wave.view(batch, sources, channels, -1)[..., :samples]
