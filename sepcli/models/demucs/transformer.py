"""The cross-domain transformer between the encoder and the decoder of HTDemucs.

Knows nothing of convolutions or spectrograms: two sequences of tokens in, the same two out.

    spectral   x  --- self ---.--- cross ---.--- self ---.--- ...      N · F tokens, frame by frame
                              X             X                          each branch asks, the other answers
    temporal   xt --- self ---'--- cross ---'--- self ---'--- ...      T tokens

Module names are those of the published checkpoints. Attention is dense, or sparse where asked (sparse.py).
Axes: B batch, N frames, F frequency bins, T time steps, C channels, H heads; tokens are [B, tokens, C].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.errors import ModelError, parameter
from sepcli.models.demucs.dconv import LayerScale
from sepcli.models.demucs.layers import ScaledEmbedding
from sepcli.models.demucs.sparse import SparseWeighing, Sparsity
from sepcli.nn.modules import ModuleListOf


def spectral_positions(
    channels: int, bins: int, frames: int, period: float, device: torch.device | None = None
) -> Tensor:
    """Positions of the spectral tokens, [N · F, C] float32.

    The first half of the channels tells the frame, the second half the bin.
    Sine and cosine alternate; channel pair i turns with the angular frequency period^(-2i / (C/2)).
    """
    half = channels // 2
    rate = torch.exp(torch.arange(0.0, half, 2, device=device) * -(math.log(period) / half))

    def table(count: int) -> Tensor:  # [count, C / 2]
        phase = torch.arange(float(count), device=device)[:, None] * rate
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)

    frame = table(frames)[:, None].expand(-1, bins, -1)
    bin_ = table(bins)[None].expand(frames, -1, -1)
    return torch.cat([frame, bin_], dim=-1).flatten(0, 1)


def temporal_positions(steps: Tensor, channels: int, period: float) -> Tensor:
    """Positions of the temporal tokens: numbers of steps [...] -> [..., C] float32.

    All cosines, then all sines, of the angular frequencies period^(-i / (C/2 - 1)).
    """
    half = channels // 2
    inverse_rate = period ** (torch.arange(half, device=steps.device) / (half - 1))
    phase = steps[..., None] / inverse_rate
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class TokenGroupNorm(nn.GroupNorm):
    """GroupNorm of [B, tokens, C]: over all tokens and the group's channels together."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, tokens, C] -> [B, tokens, C]."""
        if self.num_groups > 1:
            return super().forward(input.transpose(1, 2)).transpose(1, 2)
        # One group needs no transposed copy; its statistics are float32 whatever the input is.
        x = input.float()
        variance, mean = torch.var_mean(x, dim=(1, 2), keepdim=True, correction=0)
        gain = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias - mean * gain, x, gain).to(input.dtype)


class Attention(nn.Module):
    """Multi-head attention, its input projections in one matrix, stored as by nn.MultiheadAttention.

    dropout: of the attention weights; sparse attention has none, as in the original.
    """

    def __init__(self, channels: int, heads: int, dropout: float, sparsity: Sparsity | None = None):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.sparse = None if sparsity is None else SparseWeighing(sparsity, channels // heads)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Queries from x, keys and values from other (None: x itself). [B, tokens, C] -> [B, tokens, C]."""
        channels = x.shape[-1]
        if other is None:
            query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            query = F.linear(x, self.in_proj_weight[:channels], self.in_proj_bias[:channels])
            both = F.linear(other, self.in_proj_weight[channels:], self.in_proj_bias[channels:])
            key, value = both.chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        if self.sparse is not None:
            y = self.sparse(query, key, value)
        else:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward block, each with a norm and a residual.

    The norms come first in each block (`norm_first`), with one more over all tokens and channels at the end
    (`norm_out`); or after each residual. group_norm: groups of TokenGroupNorm; 0 = LayerNorm.
    """

    cross = False  # attends to the other branch

    def __init__(
        self,
        channels: int,
        heads: int,
        hidden: int,
        *,
        dropout: float,
        gelu: bool,
        group_norm: int,
        norm_first: bool,
        norm_out: bool,
        layer_scale: bool,
        sparsity: Sparsity | None = None,
    ):
        super().__init__()

        def norm() -> nn.Module:
            return TokenGroupNorm(group_norm, channels) if group_norm else nn.LayerNorm(channels)

        self.norm_first = norm_first
        self.dropout = dropout
        self.activation = F.gelu if gelu else F.relu
        attention = Attention(channels, heads, dropout, sparsity)
        if self.cross:
            self.cross_attn = attention
        else:
            self.self_attn = attention
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1, self.norm2 = norm(), norm()
        if self.cross:
            self.norm3 = norm()
        self.norm_out = TokenGroupNorm(1, channels) if norm_first and norm_out else None
        self.gamma_1 = LayerScale(channels, 1e-4, channel_last=True) if layer_scale else nn.Identity()
        self.gamma_2 = LayerScale(channels, 1e-4, channel_last=True) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """x [B, tokens, C] -> [B, tokens, C]; a cross layer takes the other branch [B, tokens', C] too."""
        if not self.norm_first:
            x = self.norm1(x + self.gamma_1(self.attend(x, other)))
            return self.norm2(x + self.gamma_2(self.feed_forward(x)))
        if other is None:
            x = x + self.gamma_1(self.attend(self.norm1(x)))
            x = x + self.gamma_2(self.feed_forward(self.norm2(x)))
        else:
            x = x + self.gamma_1(self.attend(self.norm1(x), self.norm2(other)))
            x = x + self.gamma_2(self.feed_forward(self.norm3(x)))
        return x if self.norm_out is None else self.norm_out(x)

    def attend(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """The attention block: tokens [B, tokens, C], in cross layers also the other branch's -> as x."""
        y = self.self_attn(x) if other is None else self.cross_attn(x, other)
        return F.dropout(y, self.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The block of two linear layers, token by token: [B, tokens, C] -> [B, tokens, C]."""
        y = F.dropout(self.activation(self.linear1(x)), self.dropout, self.training)
        return F.dropout(self.linear2(y), self.dropout, self.training)


class CrossLayer(TransformerLayer):
    """A layer whose queries come from one branch, keys and values from the other."""

    cross = True


class CrossTransformer(nn.Module):
    """Layers in two branches: in turn one within each branch, and one across the branches."""

    def __init__(
        self,
        channels: int,
        *,
        layers: int,
        heads: int,
        hidden_scale: float,
        cross_first: bool,
        dropout: float,
        gelu: bool,
        norm_in: bool,
        norm_in_group: int,
        group_norm: int,
        norm_first: bool,
        norm_out: bool,
        layer_scale: bool,
        emb: str,
        max_positions: int,
        max_period: float,
        weight_pos_embed: float,
        sin_random_shift: int,
        cape_mean_normalize: bool,
        cape_augment: bool,
        cape_glob_loc_scale: tuple[float, float, float],
        sparse_self: Sparsity | None = None,
        sparse_cross: Sparsity | None = None,
    ):
        super().__init__()
        if emb not in ("sin", "cape", "scaled"):
            raise ModelError(
                f"HTDemucs has no positional embedding t_emb='{emb}'; there are sin, cape and scaled.",
                remedy="Correct t_emb in the model's config.",
                code="bad_config",
            )
        if channels % 4 or channels % heads:
            raise ModelError(
                f"The transformer has {channels} channels; it takes multiples of 4 and of its {heads} heads.",
                remedy="Change bottom_channels or t_heads in the model's config.",
                code="bad_config",
            )
        self.channels = channels
        self.emb = emb
        self.max_positions = max_positions
        self.max_period = max_period
        self.weight_pos_embed = weight_pos_embed
        self.sin_random_shift = sin_random_shift
        self.cape_mean_normalize = cape_mean_normalize
        self.cape_augment = cape_augment
        self.cape_glob_loc_scale = cape_glob_loc_scale
        if emb == "scaled":
            self.position_embeddings = ScaledEmbedding(max_positions, channels, scale=3.0)
            with torch.no_grad():
                self.position_embeddings.embedding.weight *= 0.2

        def norm() -> nn.Module:
            if norm_in:
                return nn.LayerNorm(channels)
            return TokenGroupNorm(norm_in_group, channels) if norm_in_group else nn.Identity()

        def branch() -> ModuleListOf[TransformerLayer]:
            alone, across = int(cross_first), 1 - int(cross_first)  # parity of a layer's number
            kinds: dict[int, type[TransformerLayer]] = {alone: TransformerLayer, across: CrossLayer}
            sparsities = {alone: sparse_self, across: sparse_cross}
            return ModuleListOf(
                kinds[index % 2](
                    channels,
                    heads,
                    int(channels * hidden_scale),
                    dropout=dropout,
                    gelu=gelu,
                    group_norm=group_norm,
                    norm_first=norm_first,
                    norm_out=norm_out,
                    layer_scale=layer_scale,
                    sparsity=sparsities[index % 2],
                )
                for index in range(layers)
            )

        self.norm_in, self.norm_in_t = norm(), norm()
        self.layers, self.layers_t = branch(), branch()

    def positions(self, bins: int, frames: int, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The positions that are added to the tokens, [1, N · F, C] and [1, T, C].

        They have the type and the device of `like`. Outside training they are the same at every call; in
        training `sin_random_shift` and CAPE move the temporal ones.
        """
        spectral = spectral_positions(self.channels, bins, frames, self.max_period, like.device)
        if self.emb == "scaled":
            if steps > self.max_positions:
                raise ModelError(
                    f"The model has {self.max_positions} learned positions, this segment needs {steps}.",
                    remedy=f"Use a shorter {parameter('segment')}.",
                    code="too_long",
                )
            temporal = self.position_embeddings.weight[:steps][None].float()
        else:
            step = self._steps(steps, like)
            temporal = temporal_positions(step, self.channels, self.max_period)
        return (
            (self.weight_pos_embed * spectral[None]).to(like.dtype),
            (self.weight_pos_embed * temporal).to(like.dtype),
        )

    def _steps(self, steps: int, like: Tensor) -> Tensor:
        """Where the temporal tokens stand, [1 or B, T] float32."""
        step = torch.arange(steps, device=like.device, dtype=torch.float32)[None]
        if self.emb == "sin":
            if self.training and self.sin_random_shift:
                step = step + torch.randint(self.sin_random_shift + 1, (), device=like.device)
            return step
        # CAPE (Likhomanenko et al. 2021): centred positions, in training shifted, jittered and stretched.
        if self.cape_mean_normalize:
            step = step - step.mean()
        if self.training and self.cape_augment:
            batch = like.shape[0]
            shift, jitter, stretch = self.cape_glob_loc_scale

            def uniform(limit: float, width: int) -> Tensor:
                return (2 * torch.rand(batch, width, device=like.device) - 1) * limit

            step = (step + uniform(shift, 1) + uniform(jitter, steps)) * uniform(math.log(stretch), 1).exp()
        return step

    def forward(self, x: Tensor, xt: Tensor, positions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens x [B, N · F, C], xt [B, T, C] and their positions -> both, in the same shapes."""
        x = self.norm_in(x) + positions[0]
        xt = self.norm_in_t(xt) + positions[1]
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            if layer.cross:
                x, xt = layer(x, xt), layer_t(xt, x)  # both ask what the other was before
            else:
                x, xt = layer(x), layer_t(xt)
        return x, xt
