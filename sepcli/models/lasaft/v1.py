"""LaSAFT-GPoCM-Net (v1) and LightSAFT-Net (v1.1): every block knows the target, the gates are in the decoders.

    cac -> first_conv -> [block, down] * n -> block -> [up, block with gate] * n -> last_conv -> cac

    block    t = tfc(x); t = gate(t) in decoders; t + sum over l of a[l] * transform[l](t)

The attention a = softmax(q K / sqrt(dk)) over latent sources depends on the target alone, so it is a constant.
v1's transforms ("heavy") are each a TDF of their own, joined in two matrices; v1.1's ("light") share the second
half, so the sum is taken in the bottleneck. (Choi et al. 2021; Jeong et al. 2021; facts of their code.)

Axes: B batch, R rows of conditions (B or 1), C channels, N frames, F bins, u units, L latent sources,
e embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepcli.models.lasaft.blocks import DenseBlock, FrequencyTransform, Unit, activation, gate, initialise
from sepcli.models.lasaft.spectral import Conditioned, ConditionedConfig, last_conv

ANALYSERS = ("heavy", "light")


@dataclass(frozen=True)
class LaSAFTv1Config(ConditionedConfig):
    num_tdfs: int = 6  # latent sources
    analyser: str = "heavy"  # the frequency transforms: heavy (v1) or light (v1.1)


class Target(NamedTuple):
    """What the network needs to know of a target: one attention a block in its order, one gate a decoder."""

    attention: list[Tensor]  # [R, L]
    gamma: Tensor  # [R, decoders, C, C]
    beta: Tensor  # [R, decoders, C]


class Heavy(FrequencyTransform):
    """One transform a latent source."""

    def __init__(self, config, bins: int):
        latent = config.num_tdfs
        units = max(bins * latent // config.bn_factor, config.min_bn_units)
        super().__init__(config.internal_channels, bins, units, bins * latent, config.activation)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """[B, C, N, F], weights [R, L] -> [B, C, N, F]."""
        latent = attention.shape[1]
        values = self.tdf(x).unflatten(-1, (-1, latent))  # [B, C, N, F, L]
        return (values @ attention[:, None, None, :, None]).squeeze(-1)


class Block(nn.Module):
    """See the file's head. Names as published."""

    def __init__(self, config, channels_in: int, bins: int):
        super().__init__()
        if config.analyser not in ANALYSERS:
            raise ValueError(f"analyser is '{config.analyser}', but must be one of {', '.join(ANALYSERS)}")
        channels, latent, act = config.internal_channels, config.num_tdfs, config.activation
        self.light = config.analyser == "light"
        self.tfc = DenseBlock(channels_in, channels, config.n_internal_layers, act)
        if self.light:
            units = max(bins // config.bn_factor, config.min_bn_units)
            self.LaSAFT_bn_layer = nn.Sequential(
                nn.Linear(bins, units * latent, bias=False), nn.BatchNorm2d(channels), activation(act)
            )
            self.LaSIFT = nn.Sequential(
                nn.Linear(units, bins, bias=False), nn.BatchNorm2d(channels), activation(act)
            )
        else:
            self.tdfs = Heavy(config, bins)
        self.keys = nn.Parameter(torch.empty(config.dk, latent))
        self.linear_query = nn.Linear(config.embedding_dim, config.dk)

    def attention(self, z: Tensor) -> Tensor:
        """[R, e] -> [R, L], of sum 1."""
        return torch.softmax(self.linear_query(z) @ self.keys / math.sqrt(len(self.keys)), dim=-1)

    def transform(self, x: Tensor, attention: Tensor) -> Tensor:
        """[B, C, N, F], weights [R, L] -> [B, C, N, F]."""
        if not self.light:
            return self.tdfs(x, attention)
        values = self.LaSAFT_bn_layer(x).unflatten(-1, (attention.shape[1], -1))  # [B, C, N, L, u]
        return self.LaSIFT((attention[:, None, None, None] @ values).squeeze(-2))

    def forward(self, dense: Tensor, attention: Tensor) -> Tensor:
        """What the dense block (and the gate) gave -> [B, C, N, F]."""
        return dense + self.transform(dense, attention)


class DenseControl(nn.Module):
    """[B, e] -> [B, 8e]. Named as published."""

    def __init__(self, e: int):
        super().__init__()
        self.linear = nn.Sequential(
            nn.Linear(e, 2 * e),
            nn.ReLU(),
            nn.Linear(2 * e, 4 * e),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.BatchNorm1d(4 * e),
            nn.Linear(4 * e, 8 * e),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.BatchNorm1d(8 * e),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)


class ConditionGenerator(nn.Module):
    """z [B, e] -> gammas [B, decoders, C, C] and betas [B, decoders, C], the deepest decoder's first."""

    def __init__(self, config, decoders: int):
        super().__init__()
        e, c = config.embedding_dim, config.internal_channels
        self.shape = (decoders, c)
        self.dense_control_block = DenseControl(e)
        self.linear_gamma, self.linear_beta = (
            nn.Sequential(nn.Linear(8 * e, size), nn.Identity(), nn.BatchNorm1d(size, affine=False))
            for size in (decoders * c * c, decoders * c)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dense_control_block(z)
        decoders, c = self.shape
        return (
            self.linear_gamma(hidden).unflatten(1, (decoders, c, c)),
            self.linear_beta(hidden).unflatten(1, (decoders, c)),
        )


class LaSAFTv1(Conditioned):
    """See the file's head."""

    def __init__(self, config: LaSAFTv1Config):
        super().__init__(config)
        c, act, levels = config.internal_channels, config.activation, self.levels
        bins = [config.n_fft // 2 >> level for level in range(levels + 1)]
        self.first_conv = Unit(nn.Conv2d(2 * config.channels, c, (1, 2)), activation(act))
        self.encoders = nn.ModuleList(Block(config, c, f) for f in bins[:-1])
        self.downsamplings = nn.ModuleList(
            Unit(nn.Conv2d(c, c, 2, stride=2), nn.Identity()) for _ in range(levels)
        )
        self.mid_block = Block(config, c, bins[-1])
        self.upsamplings = nn.ModuleList(
            Unit(nn.ConvTranspose2d(c, c, 2, stride=2), nn.Identity()) for _ in range(levels)
        )
        self.decoders = nn.ModuleList(Block(config, 2 * c, f) for f in reversed(bins[:-1]))
        self.last_conv = last_conv(config)
        self.embedding = nn.Embedding(len(config.sources), config.embedding_dim)
        self.condition_generator = ConditionGenerator(config, levels)
        initialise(self, nn.init.xavier_normal_)

    def condition(self, index: Tensor) -> Tensor:
        return self.embedding(index)

    def share(self, cac: Tensor) -> Tensor:
        """-> what the first dense block gives [B, C, N, F - 1]: all that no target changes."""
        return self.encoders[0].tfc(self.first_conv(cac))

    def constants(self, z: Tensor) -> Target:
        blocks = [*self.encoders, self.mid_block, *self.decoders]
        return Target([block.attention(z) for block in blocks], *self.condition_generator(z))

    def finish(self, shared: Tensor, constants: Target, seen: list[Tensor] | None = None) -> Tensor:
        attention = iter(constants.attention)
        skips = [self.encoders[0](shared, next(attention))]
        for down, encoder in zip(self.downsamplings[:-1], self.encoders[1:], strict=True):
            skips.append(encoder(encoder.tfc(down(skips[-1])), next(attention)))
        x = self.downsamplings[-1](skips[-1])
        x = self.mid_block(self.mid_block.tfc(x), next(attention))
        for i, (up, decoder) in enumerate(zip(self.upsamplings, self.decoders, strict=True)):
            dense = decoder.tfc(torch.cat([up(x), skips.pop()], dim=1))
            weights = next(attention)
            if seen is not None:
                seen.append(weights[:, None])
            x = decoder(gate(dense, constants.gamma[:, i], constants.beta[:, i]), weights)
        return self.last_conv(x)
