"""Stems that are mixed anew, sample by sample, from all stems of an ensemble and the mix.

Knows no family. The pipeline runs the ensemble, each member by its own plan of chunks, and mixes what has
become final. (The Mixer of Kim et al., "KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing",
arXiv:2111.12203: a linear layer that is trained behind networks that were trained alone.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sepcli.engine.ensemble import Ensemble
from sepcli.engine.noise import Noise
from sepcli.engine.separator import Separator, source_indices


class Mixed(Separator):
    """The stems `sources`, each a sum over the channels of all stems of `ensemble` and of the mix.

    matrix: [S', C, S + 1, C] float32: for each stem and channel that comes out, the factors of the channels of
    the ensemble's S stems and of the mix. sources: the S' stems that come out, in the order of the matrix.
    """

    matrix: Tensor

    def __init__(self, ensemble: Ensemble, matrix: Tensor, sources: Sequence[str]):
        super().__init__()
        shape = (len(sources), ensemble.channels, len(ensemble.sources) + 1, ensemble.channels)
        assert matrix.shape == shape, f"{tuple(matrix.shape)} is not {shape}"
        self.ensemble, self.sources = ensemble, tuple(sources)
        self.register_buffer("matrix", matrix)
        self.samplerate, self.channels, self.segment = ensemble.samplerate, ensemble.channels, ensemble.segment
        self.normalize, self.half = ensemble.normalize, ensemble.half

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator. The matrix stays where stems are handed out, on the CPU in float32."""
        self.ensemble.prepare(samples, device, dtype)

    def notices(self, device: torch.device) -> Sequence[str]:
        """See Separator."""
        return self.ensemble.notices(device)

    def used(self) -> Mapping[str, Any]:
        """See Separator."""
        return self.ensemble.used()

    def select(self, sources: Sequence[str]) -> Mixed:
        """See Separator. Every stem needs every network."""
        rows = source_indices(self.sources, sources)
        narrowed = Mixed(self.ensemble, self.matrix[rows], sources)
        narrowed.whole = self.whole or self.sources
        return narrowed.eval()

    def mix(self, stems: Tensor, mix: Tensor) -> Tensor:
        """The ensemble's stems [S, ..., C, T] and the mix [..., C, T], on the CPU -> [S', ..., C, T]."""
        return torch.einsum("scij,i...jt->s...ct", self.matrix, torch.cat([stems, mix[None]]))

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S', C, T], in one call of each network; all must take this T."""
        return self.mix(self.ensemble(mix, noise=noise).transpose(0, 1), mix).transpose(0, 1)
