"""BS-RoFormer and Mel-Band RoFormer: transformers along time and along bands estimate complex masks.

    mix -> STFT -> bands -> [K, N, D] -> blocks -> masks -> * spectrogram -> inverse STFT -> stems

(Lu et al. 2023, arXiv:2309.02612; Wang et al. 2023, arXiv:2310.01809; facts of their published form, which
lucidrains wrote down and the training toolkit of ZFTurbo made common.)

Axes: B batch, S sources, C channels, T samples, F bins, K bands, N frames of all items, D values of a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.roformer.bands import BandSplit, Layout, mel, side_by_side
from sepcli.models.roformer.config import BSRoformerConfig, MelBandRoformerConfig, RoformerConfig
from sepcli.models.roformer.masks import MaskEstimator
from sepcli.models.roformer.transformer import Polar, RMSNorm, Trunk
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


class Roformer(Separator):
    """What both networks are: [B, C, T] -> [B, S, C, T].

    norm_out: each transformer ends with a norm; otherwise only the last block does.
    """

    keeps_silence = True
    window: Tensor  # [nfft]

    def __init__(self, config: RoformerConfig, layout: Layout, *, norm_out: bool):
        super().__init__()
        self.config, self.layout = config, layout
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.chunk)
        self.band_split = BandSplit(layout, 2 * config.channels, config.dim)
        self.trunk = Trunk(config, config.depth, norm_out=norm_out)
        self.final_norm = nn.Identity() if norm_out else RMSNorm(config.dim)
        self.estimators = ModuleListOf(MaskEstimator(config, layout) for _ in self.sources)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: windows and positions stay float32."""
        super().prepare(samples, device, dtype)
        window, offsets = self.window, [(m, m.bias.detach()) for m in self.modules() if isinstance(m, Polar)]
        self.to(dtype)
        self.window = window.float()
        for positions, offset in offsets:
            positions.bias.data = offset
        for trunk in (module for module in self.modules() if isinstance(module, Trunk)):
            trunk.prepare(samples // self.config.hop + 1, len(self.layout.bands), device)

    def select(self, sources: Sequence[str]) -> Roformer:
        """See Separator: the masks of other stems are not estimated."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        narrowed.estimators = ModuleListOf(narrowed.estimators[k] for k in index)
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        batch, _, samples = mix.shape
        nfft, hop = self.config.nfft, self.config.hop
        # Mirroring at the ends needs more than half a window.
        padded = F.pad(mix, (0, max(nfft // 2 + 1 - samples, 0)))
        spec = centred_stft(padded, self.window, hop, normalized=self.config.normalized)
        spec = spec.permute(0, 3, 2, 1)  # [B, T / hop + 1, F, C]
        bins = torch.view_as_real(spec.contiguous()).flatten(0, 1).flatten(1)  # [N, F * C * 2]
        tokens = self.band_split(bins)
        tokens = self.final_norm(self.trunk(tokens, batch))
        stems = []
        for estimator in self.estimators:
            mask = estimator(tokens, batch).to(bins.dtype).view(*spec.shape, 2)
            masked = torch.view_as_complex(mask) * spec
            if self.config.zero_dc:
                masked = torch.cat([torch.zeros_like(masked[:, :, :1]), masked[:, :, 1:]], dim=2)
            stems.append(masked.permute(0, 3, 2, 1))  # [B, C, F, T / hop + 1]
        waves = centred_istft(
            torch.stack(stems, 1), self.window, hop, padded.shape[-1], normalized=self.config.normalized
        )
        return waves[..., :samples]


class BSRoformer(Roformer):
    """Bands side by side; one norm behind the last block."""

    def __init__(self, config: BSRoformerConfig):
        super().__init__(config, side_by_side(config.bands, config.nfft // 2 + 1), norm_out=False)


class MelBandRoformer(Roformer):
    """Bands that overlap; a norm behind every transformer."""

    def __init__(self, config: MelBandRoformerConfig):
        super().__init__(config, mel(config.bands, config.nfft, config.samplerate), norm_out=True)
