"""Attention along one axis of a grid of tokens [K, N, D], K bands and N frames of all items of a batch.

    time     sequences of T frames, one for each band and item        N = B * T
    bands    sequences of K bands, one for each frame

The grid keeps that order in memory: both kinds are views of it, and no axis is ever moved. Sequences are
computed a few at a time (pieces.py). A layer:

    x + out(sigmoid(gates u) * softmax(q k^T / sqrt(E)) v)      u = norm(x); q, k turned by their positions
    x + MLP(norm(x))

(Lu et al. 2023, "Music Source Separation with Band-Split RoPE Transformer"; facts of its published form.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.roformer.config import RoformerConfig
from sepcli.models.roformer.pieces import at_once
from sepcli.nn.modules import ModuleListOf

BASE = 10000.0  # of the frequencies of positions


class RMSNorm(nn.Module):
    """x / |x| * sqrt(D) * gamma along the last axis; zeros stay zeros, also in reduced precision."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        precise = x.float() if x.element_size() < 4 else x
        scale = self.gamma.to(precise.dtype) * x.shape[-1] ** 0.5
        return (F.normalize(precise, dim=-1) * scale).to(x.dtype)


# --- positions ---------------------------------------------------------------------------------------------


class Rotary(nn.Module):
    """Queries and keys are turned by their position, each pair of values at its own speed (Su et al. 2021)."""

    table: Tensor | None  # [L, E / 2, 2]: cos and sin

    def __init__(self, heads: int, dim_head: int):
        super().__init__()
        if dim_head % 2:
            raise ValueError(f"dim_head is {dim_head}, but must be even")
        self.dim_head = dim_head
        self.register_buffer("table", None, persistent=False)

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians a position, [E / 2] float32."""
        return BASE ** -(torch.arange(0, self.dim_head, 2, device=device).float() / self.dim_head)

    def prepare(self, length: int, device: torch.device) -> None:
        """Keep the table for sequences of up to `length`, in float32."""
        self.table = self._table(length, device, torch.float32)

    def _table(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        speed = self.frequencies(device).to(dtype)
        angles = torch.arange(length, device=device, dtype=dtype)[:, None] * speed
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def tables(self, length: int, like: Tensor) -> tuple[Tensor, ...]:
        """What `turn` needs for sequences of `length`: complex [L, E / 2]."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        table = self.table
        if table is None or len(table) < length or table.dtype != dtype or table.device != like.device:
            table = self._table(length, like.device, dtype)
        return (torch.view_as_complex(table[:length].contiguous()),)

    def turn(
        self, q: Tensor, k: Tensor, v: Tensor, tables: tuple[Tensor, ...], axis: int
    ) -> tuple[Tensor, ...]:
        """q, k, v [.., .., H, E] with positions along `axis` -> as attention takes them."""
        (table,) = tables
        table = table[:, None] if axis == 1 else table[:, None, None]
        return self._turned(q, table), self._turned(k, table), v

    @staticmethod
    def _turned(x: Tensor, table: Tensor) -> Tensor:
        precise = x.float() if x.element_size() < 4 else x
        pairs = torch.view_as_complex(precise.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


# --- layers ------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """The first line of the file's head, without the x that it is added to."""

    def __init__(self, config: RoformerConfig):
        super().__init__()
        dim, inner = config.dim, config.heads * config.dim_head
        self.heads, self.dim_head, self.dropout = config.heads, config.dim_head, config.dropout
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(dim, config.heads)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int) -> Tensor:
        """[.., .., D], sequences along `axis` (0 or 1) -> the same shape."""
        u = self.norm(x)
        q, k, v = self.to_qkv(u).unflatten(-1, (3, self.heads, self.dim_head)).unbind(2)
        q, k, v = positions.turn(q, k, v, tables, axis)
        sequences = (0, 2, 1, 3) if axis == 1 else (1, 2, 0, 3)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            *(each.permute(sequences) for each in (q, k, v)), dropout_p=dropout, scale=self.dim_head**-0.5
        )
        y = y.permute(sequences if axis == 1 else (2, 0, 1, 3))  # the tokens as they were: [.., .., H, E]
        y = y * self.to_gates(u).sigmoid()[..., None]
        return F.dropout(self.to_out(y.flatten(2)), self.dropout, self.training)


class FeedForward(nn.Module):
    """The second line of the file's head, without the x that it is added to."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm = RMSNorm(dim)
        self.wide = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        y = F.dropout(F.gelu(self.wide(self.norm(x))), self.dropout, self.training)
        return F.dropout(self.narrow(y), self.dropout, self.training)


class Layer(nn.Module):
    """Attention and feed-forward block, each added to its input."""

    def __init__(self, config: RoformerConfig):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, config.dropout)

    def forward(self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int) -> Tensor:
        """See Attention."""
        x = x + self.attention(x, positions, tables, axis)
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """Layers along one axis, then a norm if `norm_out`."""

    def __init__(self, config: RoformerConfig, *, norm_out: bool):
        super().__init__()
        self.layers = ModuleListOf(Layer(config) for _ in range(config.layers))
        self.norm_out = RMSNorm(config.dim) if norm_out else nn.Identity()

    def along(self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int) -> Tensor:
        """[.., .., D], sequences along `axis` -> the same shape. Without gradients it takes the place of x."""
        if torch.is_grad_enabled():
            return self._layers(x, positions, tables, axis)
        for piece in x.split(at_once(x.shape[axis], x.device), dim=1 - axis):
            piece.copy_(self._layers(piece, positions, tables, axis))
        return x

    def _layers(self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int) -> Tensor:
        for layer in self.layers:
            x = layer(x, positions, tables, axis)
        return self.norm_out(x)


class Block(nn.Module):
    """A transformer along time, then one along the bands."""

    def __init__(self, config: RoformerConfig, *, norm_out: bool):
        super().__init__()
        self.time = Transformer(config, norm_out=norm_out)
        self.bands = Transformer(config, norm_out=norm_out)


class Trunk(nn.Module):
    """Blocks one after the other, [K, N, D] -> [K, N, D]; without gradients they may write to their input."""

    def __init__(self, config: RoformerConfig, depth: int, *, norm_out: bool, skip: bool):
        super().__init__()
        self.skip = skip
        self.blocks = ModuleListOf(Block(config, norm_out=norm_out) for _ in range(depth))
        self.time_positions = Rotary(config.heads, config.dim_head)
        self.band_positions = Rotary(config.heads, config.dim_head)

    def prepare(self, frames: int, bands: int, device: torch.device) -> None:
        """Keep what depends on the number of frames of an item and of bands."""
        self.time_positions.prepare(frames, device)
        self.band_positions.prepare(bands, device)

    def forward(self, x: Tensor, items: int) -> Tensor:
        """items: B, of the batch whose frames are N."""
        bands, frames, dim = x.shape
        time = self.time_positions.tables(frames // items, x)
        across = self.band_positions.tables(bands, x)
        outputs: Tensor | None = None  # the sum of all earlier ones
        for block in self.blocks:
            if outputs is not None:
                x = x + outputs
            # A sequence is one band of one item: [K * B, T, D].
            x = block.time.along(x.view(bands * items, -1, dim), self.time_positions, time, 1)
            x = block.bands.along(x.view(bands, frames, dim), self.band_positions, across, 0)
            if self.skip:
                outputs = x.clone() if outputs is None else outputs + x
        return x
