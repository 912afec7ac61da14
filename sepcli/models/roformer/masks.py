"""What estimates the masks of one stem from the trunk's tokens: an MLP a band, and what may be around it.

    tokens --[refiner: blocks of its own, norm]--> MLPs --------(+)--> masks
           --[head: convolutions]--------------------------------^

Axes: B items, K bands, N = B * T frames of all items, D values of a band, F bins, V = 2 C values of a bin.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from sepcli.models.roformer.bands import BandMasks, Layout
from sepcli.models.roformer.config import RoformerConfig
from sepcli.models.roformer.hyperace import HyperAce
from sepcli.models.roformer.transformer import RMSNorm, Trunk


class MaskEstimator(nn.Module):
    """[K, N, D] -> [N, F * V]."""

    covers: Tensor  # [F * V]: in how many bands each bin is

    def __init__(self, config: RoformerConfig, layout: Layout):
        super().__init__()
        values, dim = 2 * config.channels, config.dim
        self.refiner = self.norm = self.head = None
        if config.refiner:
            plain = replace(config, skip=False, value_residual=False)
            self.refiner = Trunk(plain, config.refiner, norm_out=False)
            self.norm = RMSNorm(dim)
        self.masks = BandMasks(layout, values, dim, config.mask_hidden, dim * config.mask_expansion)
        if config.head:
            self.head = HyperAce(config.head, dim, len(layout.bands), layout.bins, values)
        self.overlaps = layout.overlaps
        self.register_buffer("covers", layout.covers().repeat_interleave(values), persistent=False)

    def forward(self, tokens: Tensor, items: int) -> Tensor:
        """items: B. The tokens stay as they are."""
        if self.refiner is not None and self.norm is not None:
            tokens = self.norm(self.refiner(tokens.clone(), items))
        masks = self.masks(tokens)
        if self.overlaps:
            masks = masks / self.covers
        if self.head is not None:
            grid = tokens.unflatten(1, (items, -1)).permute(1, 3, 2, 0)  # [B, D, T, K]
            masks = masks + self.head(grid).permute(0, 2, 3, 1).reshape(masks.shape)
        return masks
