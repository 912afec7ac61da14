"""Attention along one axis of a grid of tokens [K, N, D], K bands and N frames of all items of a batch.

    time     sequences of T frames, one for each band and item        N = B * T
    bands    sequences of K bands, one for each frame

The grid keeps that order in memory: both kinds are views of it, and no axis is ever moved. Sequences are
computed a few at a time (nn/pieces.py). A layer:

    x + out(sigmoid(gates u) * softmax(q k^T / sqrt(E)) v)      u = norm(x); q, k turned by their positions
    x + MLP(norm(x))

(Lu et al. 2023, "Music Source Separation with Band-Split RoPE Transformer"; facts of its published form.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.roformer.config import RoformerConfig
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.pieces import at_once

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
        return (torch.view_as_complex(self._kept(length, like)),)

    def _kept(self, length: int, like: Tensor) -> Tensor:
        """The table for sequences of `length`: the one that is kept, if it is long enough."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        table = self.table
        if table is None or len(table) < length or table.dtype != dtype or table.device != like.device:
            table = self._table(length, like.device, dtype)
        return table[:length]

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


class Polar(Rotary):
    """Queries and keys become magnitudes at angles that their positions give (PoPE, arXiv:2509.10534).

    Every value has a speed, and keys have an offset of their own for each head and value. E values become 2 E.
    """

    def __init__(self, heads: int, dim_head: int):
        super().__init__(heads, dim_head)
        self.bias = nn.Parameter(torch.zeros(heads, dim_head))  # radians, used between -2 pi and 0

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians a position, [E] float32."""
        return BASE ** -(torch.arange(self.dim_head, device=device).float() / self.dim_head)

    def tables(self, length: int, like: Tensor) -> tuple[Tensor, ...]:
        """What `turn` needs: cos and sin of queries [L, 1, E], and of keys [L, H, E]."""
        table = self._kept(length, like)[:, None]  # [L, 1, E, 2]
        offset = self.bias.to(table.dtype).clamp(-2 * math.pi, 0)
        cos, sin = table.unbind(-1)
        return (
            cos,
            sin,
            cos * offset.cos() - sin * offset.sin(),
            sin * offset.cos() + cos * offset.sin(),
        )

    def turn(
        self, q: Tensor, k: Tensor, v: Tensor, tables: tuple[Tensor, ...], axis: int
    ) -> tuple[Tensor, ...]:
        """See Rotary. The values get as many zeros, since fast attention wants all of one width."""
        if axis == 0:
            tables = tuple(table[:, None] for table in tables)
        turned = []
        for x, cos, sin in ((q, *tables[:2]), (k, *tables[2:])):
            size = F.softplus(x.float() if x.element_size() < 4 else x)
            turned.append(torch.cat([size * cos, size * sin], dim=-1).to(x.dtype))
        return turned[0], turned[1], F.pad(v, (0, v.shape[-1]))


# --- layers ------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """The first line of the file's head, without the x that it is added to.

    mixes: it takes up values of the first block: v + sigmoid(mix u) * (v_first - v), a gate for each head (Zhou
    et al. 2024, "Value Residual Learning").
    """

    def __init__(self, config: RoformerConfig, *, mixes: bool):
        super().__init__()
        dim, inner = config.dim, config.heads * config.dim_head
        self.heads, self.dim_head, self.dropout = config.heads, config.dim_head, config.dropout
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_gates = nn.Linear(dim, config.heads)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.to_mix = nn.Linear(dim, config.heads) if mixes else None

    def forward(
        self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[.., .., D], sequences along `axis` (0 or 1) -> the same shape, and the values [.., .., H, E].

        first: the values of the first block, which are mixed into those of this one.
        """
        u = self.norm(x)
        q, k, values = self.to_qkv(u).unflatten(-1, (3, self.heads, self.dim_head)).unbind(2)
        mixed = values
        if self.to_mix is not None and first is not None:
            mixed = values + self.to_mix(u).sigmoid()[..., None] * (first - values)
        q, k, v = positions.turn(q, k, mixed, tables, axis)
        sequences = (0, 2, 1, 3) if axis == 1 else (1, 2, 0, 3)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            *(each.permute(sequences) for each in (q, k, v)), dropout_p=dropout, scale=self.dim_head**-0.5
        )
        y = y.permute(sequences if axis == 1 else (2, 0, 1, 3))  # the tokens as they were: [.., .., H, E]
        y = y[..., : self.dim_head] * self.to_gates(u).sigmoid()[..., None]
        return F.dropout(self.to_out(y.flatten(2)), self.dropout, self.training), values


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

    def __init__(self, config: RoformerConfig, *, mixes: bool):
        super().__init__()
        self.attention = Attention(config, mixes=mixes)
        self.feed_forward = FeedForward(config.dim, config.dropout)

    def forward(
        self, x: Tensor, positions: Rotary, tables: tuple[Tensor, ...], axis: int, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See Attention."""
        y, values = self.attention(x, positions, tables, axis, first)
        x = x + y
        return x + self.feed_forward(x), values


class Transformer(nn.Module):
    """Layers along one axis, then a norm if `norm_out`. mixes: see Attention."""

    def __init__(self, config: RoformerConfig, *, norm_out: bool, mixes: bool):
        super().__init__()
        self.layers = ModuleListOf(Layer(config, mixes=mixes) for _ in range(config.layers))
        self.norm_out = RMSNorm(config.dim) if norm_out else nn.Identity()

    def along(
        self,
        x: Tensor,
        positions: Rotary,
        tables: tuple[Tensor, ...],
        axis: int,
        first: list[Tensor] | None,
    ) -> Tensor:
        """[.., .., D], sequences along `axis` -> the same shape. Without gradients it takes the place of x.

        first: the values of the first block, piece by piece; an empty list gets them.
        """
        count = x.shape[1 - axis] if torch.is_grad_enabled() else at_once(x.shape[axis], x.device)
        pieces, given = x.split(count, dim=1 - axis), list(first or ())
        for index, piece in enumerate(pieces):
            y = piece
            for number, layer in enumerate(self.layers):
                y, values = layer(y, positions, tables, axis, given[index] if given else None)
                if first is not None and not given and number == 0:
                    first.append(values.contiguous())
            y = self.norm_out(y)
            if torch.is_grad_enabled():  # there is one piece
                return y
            piece.copy_(y)
        return x


class Block(nn.Module):
    """A transformer along time, then one along the bands."""

    def __init__(self, config: RoformerConfig, *, norm_out: bool, mixes: bool):
        super().__init__()
        self.time = Transformer(config, norm_out=norm_out, mixes=mixes)
        self.bands = Transformer(config, norm_out=norm_out, mixes=mixes)


class Trunk(nn.Module):
    """Blocks one after the other, [K, N, D] -> [K, N, D]; without gradients they may write to their input."""

    def __init__(self, config: RoformerConfig, depth: int, *, norm_out: bool):
        super().__init__()
        self.skip, self.mixes = config.skip, config.value_residual
        self.blocks = ModuleListOf(
            Block(config, norm_out=norm_out, mixes=self.mixes and number > 0) for number in range(depth)
        )
        kind = Polar if config.polar else Rotary
        self.time_positions = kind(config.heads, config.dim_head)
        self.bands_positions = kind(config.heads, config.dim_head)

    def prepare(self, frames: int, bands: int, device: torch.device) -> None:
        """Keep what depends on the number of frames of an item and of bands."""
        self.time_positions.prepare(frames, device)
        self.bands_positions.prepare(bands, device)

    def forward(self, x: Tensor, items: int) -> Tensor:
        """items: B, of the batch whose frames are N."""
        bands, frames, dim = x.shape
        time = self.time_positions.tables(frames // items, x)
        across = self.bands_positions.tables(bands, x)
        time_values: list[Tensor] | None = [] if self.mixes else None
        band_values: list[Tensor] | None = [] if self.mixes else None
        outputs: Tensor | None = None  # the sum of all earlier ones
        for block in self.blocks:
            if outputs is not None:
                x = x + outputs
            x = x.view(bands * items, -1, dim)  # a sequence is one band of one item
            x = block.time.along(x, self.time_positions, time, 1, time_values)
            x = x.view(bands, frames, dim)
            x = block.bands.along(x, self.bands_positions, across, 0, band_values)
            if self.skip:
                outputs = x.clone() if outputs is None else outputs + x
        return x
