"""BS-RNN: LSTMs along time and along bands estimate a complex mask for each stem.

    mix -> STFT -> bands -> [N, B, K, D] -> blocks -> masks -> * spectrogram -> inverse STFT -> stems

(Luo and Yu 2023, arXiv:2209.15174; facts of the form that magronp published, with several stems at once, TAC
and attention.)

Axes: B batch, S sources, C channels, T samples, F bins, N frames, K bands, D values of a band. Inside, each
channel is an item of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.bsrnn.bands import BandSplit, Masker, standardised
from sepcli.models.bsrnn.blocks import Block
from sepcli.models.bsrnn.config import BSRNNConfig
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

# A call whose peak is below this is raised to it; the original divides each track by its peak. Norms take any
# level, but for their eps: at -60 dB it counts in the quietest bands.
QUIET = 0.1
FAINTEST = 1e-9  # a peak that is raised as if it were this


class BSRNN(Separator):
    """[B, C, T] -> [B, S, C, T]."""

    keeps_silence = True
    window: Tensor  # [nfft]

    def __init__(self, config: BSRNNConfig):
        super().__init__()
        if sum(config.bands) != config.nfft // 2 + 1:
            bins = f"the bands have {sum(config.bands)} bins together"
            raise ValueError(f"{bins}, the spectrogram has {config.nfft // 2 + 1}")
        if config.subtract and len(config.sources) < 2:
            raise ValueError("subtract needs a stem beside the last one")
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.chunk, tail="short")  # silence around it would count in all norms
        self.split = BandSplit(config)
        self.blocks = ModuleListOf(Block(config) for _ in range(config.depth))
        self.subtracts = config.subtract
        self.maskers = ModuleListOf(Masker(config) for _ in self.sources[: -1 if config.subtract else None])
        self.rows = list(range(len(self.sources)))  # which of the stems that are computed are given
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the window stays float32."""
        super().prepare(samples, device, dtype)
        window = self.window
        self.to(dtype)
        self.window = window.float()

    def select(self, sources: Sequence[str]) -> BSRNN:
        """See Separator: masks of other stems are not estimated, unless they are subtracted from the mix."""
        rows = [self.rows[k] for k in source_indices(self.sources, sources)]
        narrowed = narrowed_copy(self, sources)
        if self.subtracts and len(self.maskers) in rows:
            narrowed.rows = rows
        else:
            narrowed.maskers = ModuleListOf(narrowed.maskers[row] for row in rows)
            narrowed.subtracts, narrowed.rows = False, list(range(len(rows)))
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        gain = (QUIET / mix.abs().amax((1, 2), keepdim=True).clamp(min=FAINTEST)).clamp(min=1)
        stems = self._stems((mix * gain).flatten(0, 1), mix.shape[1])
        return stems.unflatten(0, mix.shape[:2]).transpose(1, 2) / gain[:, None]

    def _stems(self, wave: Tensor, channels: int) -> Tensor:
        """[B * C, T] -> [B * C, S, T]."""
        samples, nfft, hop = wave.shape[-1], self.config.nfft, self.config.hop
        # Mirroring at the ends needs more than half a window.
        padded = F.pad(wave, (0, max(nfft // 2 + 1 - samples, 0)))
        spec = centred_stft(padded, self.window, hop).permute(2, 0, 1).contiguous()  # [N, B, F]
        grid = self.split(torch.view_as_real(spec).flatten(-2))
        for block in self.blocks:
            grid = block(grid)
        # The norms in front of all masks are the same but for their scales and offsets.
        tokens = standardised(grid, (0, 3)).to(grid.dtype).flatten(0, 1).transpose(0, 1)  # [K, N * B, D]
        stems = []
        for masker in self.maskers:
            mask = masker(tokens).to(self.window.dtype).view(*spec.shape, 2)
            stems.append(torch.view_as_complex(mask) * spec)
        if self.subtracts:
            stems.append(spec - torch.stack(stems).sum(0))
        specs = torch.stack([stems[row] for row in self.rows]).permute(2, 0, 3, 1)  # [B, S, F, N]
        return centred_istft(specs, self.window, hop, padded.shape[-1])[..., :samples]
