"""LightSAFT: a frequency transform shared by latent sources, weighted by attention that may listen (v2).

    out = transform( sum over l of a[l] * value[l] )        a = softmax(K q / sqrt(dk)), l = 1..L latent sources

What the query q and the keys K come from is `listening`:

                none               query                            key             query_key
    q           embedding          frames, by generated weights     embedding       frames, by generated weights
    K           learned            learned                          frames          frames

With "none" the weights are one vector a target; otherwise one a frame and target.
(Choi et al., "LaSAFT-Net v2", sections on LightSAFT and listening; what code and paper say differently is as in
the code: the sum is taken in the bottleneck, and a layer norm stands in the query's path.)

Axes: B batch, R rows of conditions (B or 1), C channels, N frames, F bins, u units, L latent sources.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.lasaft.blocks import DenseBlock, Foldable, activation, folded_conv, gate, generator

LISTENING = ("none", "query", "key", "query_key")


class Target(NamedTuple):
    """What one decoder needs to know of a target; of two kinds of query one is there."""

    gamma: Tensor  # [R, C, C], of the gate
    beta: Tensor  # [R, C]
    query: Tensor | None  # [R, 1, dk]
    query_weights: Tensor | None  # [R, C + 1], where the query listens


class LightSAFT(Foldable):
    """A dense block, and behind the gate a frequency transform. Names as published."""

    def __init__(self, config, channels_in: int, bins: int):
        super().__init__()
        channels, latent, dk, act = config.internal_channels, config.num_tdfs, config.dk, config.activation
        if config.listening not in LISTENING:
            raise ValueError(f"listening is '{config.listening}', but must be one of {', '.join(LISTENING)}")
        self.query_listens = config.listening in ("query", "query_key")
        self.key_listens = config.listening in ("key", "query_key")
        self.latent, self.dk = latent, dk
        units = max(bins // config.bn_factor, config.min_bn_units)
        self.tfc = DenseBlock(channels_in, channels, config.n_internal_layers, act)
        self.LaSAFT_bn_layer = nn.Sequential(
            nn.Linear(bins, units * latent, bias=False), nn.BatchNorm2d(channels), activation(act)
        )
        self.LaSIFT = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Linear(units, bins, bias=False), activation(act)
        )
        if self.query_listens:
            self.query_pocm_generator = generator(config.embedding_dim, channels + 1)
            self.linear_query = nn.Sequential(nn.LayerNorm(bins), nn.ReLU(), nn.Linear(bins, dk))
        else:
            self.linear_query = nn.Linear(config.embedding_dim, dk)
        if self.key_listens:
            self.keys = nn.Sequential(
                nn.Conv2d(channels, latent, 1), nn.BatchNorm2d(latent), nn.ReLU(), nn.Linear(bins, dk)
            )
        else:
            self.keys = nn.Parameter(torch.empty(1, 1, dk, latent))
            nn.init.kaiming_normal_(self.keys)

    def fold(self, dtype: torch.dtype) -> None:
        """folded: the keys' convolution with its norm."""
        if self.key_listens:
            self.folded = tuple(tensor.to(dtype) for tensor in folded_conv(self.keys[0], self.keys[1]))

    def ask(self, z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """z [R, e] -> the query [R, 1, dk], or the weights [R, C + 1] that make it of frames."""
        if self.query_listens:
            return None, self.query_pocm_generator(z)
        return self.linear_query(z)[:, None], None

    def attention(self, x: Tensor, target: Target) -> Tensor:
        """[B, C, N, F] -> weights [B or R, N or 1, L], of sum 1."""
        query = self._query(x, target)  # [., ., dk]
        if not self.key_listens:
            scores = query @ self.keys[0, 0]
        else:
            scores = torch.einsum("blnk,bnk->bnl", self._keys(x), query.expand(len(x), x.shape[2], -1))
        return torch.softmax(scores / math.sqrt(self.dk), dim=-1)

    def _query(self, x: Tensor, target: Target) -> Tensor:
        """-> [B, N, dk], or [R, 1, dk] where it does not listen."""
        if target.query_weights is None:
            assert target.query is not None
            return target.query
        batch, _, frames, bins = x.shape
        gamma, beta = target.query_weights[:, None, :-1], target.query_weights[:, -1:]
        heard = (gamma @ x.flatten(2)).view(batch, frames, bins) + beta[:, :, None]
        return self.linear_query(heard)

    def _keys(self, x: Tensor) -> Tensor:
        """-> [B, L, N, dk]."""
        if self.folded is None:
            return self.keys(x)
        return self.keys[3](F.relu_(F.conv2d(x, *self.folded)))

    def transform(self, x: Tensor, attention: Tensor) -> Tensor:
        """[B, C, N, F], weights [B or R, N or 1, L] -> [B, C, N, F]."""
        values = self.LaSAFT_bn_layer(x).unflatten(-1, (-1, self.latent))  # [B, C, N, u, L]
        attended = (values @ attention[:, None, :, :, None]).squeeze(-1)  # [B, C, N, u]
        return self.LaSIFT(attended)


class Decoder(nn.Module):
    """tfc, gate and LightSAFT of one level; the attention hears what the gate let through."""

    def __init__(self, config, bins: int):
        super().__init__()
        channels = config.internal_channels
        self.tfc_lightsaft = LightSAFT(config, 2 * channels, bins)
        self.pocm_generator = generator(config.embedding_dim, channels**2 + channels)

    @property
    def dense(self) -> DenseBlock:
        return self.tfc_lightsaft.tfc

    def target(self, z: Tensor) -> Target:
        """z [R, e] -> its constants."""
        weights = self.pocm_generator(z)
        channels = self.dense.channels
        gamma = weights[:, : channels**2].unflatten(1, (channels, channels))
        return Target(gamma, weights[:, channels**2 :], *self.tfc_lightsaft.ask(z))

    def forward(self, dense: Tensor, target: Target, seen: list[Tensor] | None = None) -> Tensor:
        """What the dense block gave [B, C, N, F] -> [B, C, N, F]. seen: gets the attention."""
        x = gate(dense, target.gamma, target.beta)
        attention = self.tfc_lightsaft.attention(x, target)
        if seen is not None:
            seen.append(attention)
        return x + self.tfc_lightsaft.transform(x, attention)
