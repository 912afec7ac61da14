"""LightSAFT: a frequency transform that latent sources share, weighted by attention that may listen (v2).

    out = transform( sum over l of a[l] * value[l] )        a = softmax(K q / sqrt(dk)), l = 1..L latent sources

The config's `listening` says what the query q and the keys K are made of:

                none               query                            key             query_key
    q           embedding          frames, by generated weights     embedding       frames, by generated weights
    K           learned            learned                          frames          frames

With "none" there is one vector of weights for a target; otherwise one for each frame and target.
(Choi et al., "LaSAFT-Net v2", sections on LightSAFT and listening. Where code and paper differ, this is as in
the code: the sum is taken in the bottleneck, and a layer norm stands in the query's path.)

Axes: B batch, R rows of conditions (B or 1), C channels, N frames, F bins, u units, L latent sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.lasaft.blocks import DenseBlock, Foldable, activation, folded_conv, gate, generator
from sepcli.models.lasaft.spectral import ConditionedConfig

LISTENING = ("none", "query", "key", "query_key")


@dataclass(frozen=True)
class LightSAFTConfig(ConditionedConfig):
    """The fields of `ConditionedConfig` and those of LightSAFT."""

    num_tdfs: int = 16  # latent sources
    listening: str = "query_key"  # what of the attention hears the frames: none, query, key, query_key


class Target(NamedTuple):
    """The numbers that one decoder needs of a target; exactly one of the two kinds of query is given."""

    gamma: Tensor  # [R, C, C], of the gate
    beta: Tensor  # [R, C]
    query: Tensor | None  # [R, 1, dk]
    query_weights: Tensor | None  # [R, C + 1], where the query listens


class LightSAFT(Foldable):
    """A dense block, and behind the gate a frequency transform. Attributes have their published names.

    keys: learned ones [1, 1, dk, L], or a network that makes them of frames.
    """

    keys: nn.Sequential | nn.Parameter

    def __init__(self, config: LightSAFTConfig, channels_in: int, bins: int):
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
        if isinstance(self.keys, nn.Sequential):
            conv, norm, _, _ = self.keys
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            self.folded = tuple(tensor.to(dtype) for tensor in folded_conv(conv, norm))

    def ask(self, z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Targets z [R, e] -> the query [R, 1, dk], or the weights [R, C + 1] that make it of frames."""
        if self.query_listens:
            return None, self.query_pocm_generator(z)
        return self.linear_query(z)[:, None], None

    def attention(self, x: Tensor, target: Target) -> Tensor:
        """[B, C, N, F] -> weights [B or R, N or 1, L], of sum 1."""
        query, keys = self._query(x, target), self.keys  # query: [., ., dk]
        if isinstance(keys, nn.Sequential):
            heard = self._keys(keys, x)
            scores = torch.einsum("blnk,bnk->bnl", heard, query.expand(len(x), x.shape[2], -1))
        else:
            scores = query @ keys[0, 0]
        return torch.softmax(scores / math.sqrt(self.dk), dim=-1)

    def _query(self, x: Tensor, target: Target) -> Tensor:
        """[B, C, N, F] -> the query [B, N, dk], or [R, 1, dk] where it does not listen."""
        if target.query_weights is None:
            assert target.query is not None
            return target.query
        batch, _, frames, bins = x.shape
        gamma, beta = target.query_weights[:, None, :-1], target.query_weights[:, -1:]
        heard = (gamma @ x.flatten(2)).view(batch, frames, bins) + beta[:, :, None]
        return self.linear_query(heard)

    def _keys(self, keys: nn.Sequential, x: Tensor) -> Tensor:
        """[B, C, N, F] -> the keys [B, L, N, dk]."""
        if self.folded is None:
            return keys(x)
        weight, bias = self.folded
        return keys[3](F.relu_(F.conv2d(x, weight, bias)))

    def transform(self, x: Tensor, attention: Tensor) -> Tensor:
        """The weighted frequency transform: [B, C, N, F], weights [B or R, N or 1, L] -> [B, C, N, F]."""
        values = self.LaSAFT_bn_layer(x).unflatten(-1, (-1, self.latent))  # [B, C, N, u, L]
        attended = (values @ attention[:, None, :, :, None]).squeeze(-1)  # [B, C, N, u]
        return self.LaSIFT(attended)


class Decoder(nn.Module):
    """Dense block, gate and LightSAFT of one level; the attention hears the output of the gate."""

    def __init__(self, config: LightSAFTConfig, bins: int):
        super().__init__()
        channels = config.internal_channels
        self.tfc_lightsaft = LightSAFT(config, 2 * channels, bins)
        self.pocm_generator = generator(config.embedding_dim, channels**2 + channels)

    @property
    def dense(self) -> DenseBlock:
        """The dense block, which knows no target and is called apart."""
        return self.tfc_lightsaft.tfc

    def target(self, z: Tensor) -> Target:
        """The constants of targets z [R, e]."""
        weights = self.pocm_generator(z)
        channels = self.dense.channels
        gamma = weights[:, : channels**2].unflatten(1, (channels, channels))
        return Target(gamma, weights[:, channels**2 :], *self.tfc_lightsaft.ask(z))

    def forward(self, dense: Tensor, target: Target, seen: list[Tensor] | None = None) -> Tensor:
        """The dense block's output [B, C, N, F] -> [B, C, N, F]. seen: the attention is appended to it."""
        x = gate(dense, target.gamma, target.beta)
        attention = self.tfc_lightsaft.attention(x, target)
        if seen is not None:
            seen.append(attention)
        return x + self.tfc_lightsaft.transform(x, attention)
