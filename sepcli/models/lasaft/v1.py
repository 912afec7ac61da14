"""LaSAFT-GPoCM-Net (v1) and LightSAFT-Net (v1.1): every block knows the target, the gates are in the decoders.

    cac -> first_conv -> [block, down] * n -> block -> [up, block with gate] * n -> last_conv -> cac

    block    t = tfc(x); t = gate(t) in decoders; t + sum over l of a[l] * transform[l](t)

The attention a = softmax(q K / sqrt(dk)) over latent sources depends on the target alone, so it is a constant.
In v1 ("heavy") each latent source has a TDF of its own, all joined in two matrices; in v1.1 ("light") they
share the second half, so the sum is taken in the bottleneck. (Choi et al. 2021; Jeong et al. 2021; facts of
their code.)

Axes: B batch, R rows of conditions (B or 1), C channels, N frames, F bins, u units, L latent sources,
e embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepcli.models.lasaft.blocks import DenseBlock, Unit, activation, bottleneck, gate, initialise
from sepcli.models.lasaft.spectral import Conditioned, ConditionedConfig, last_conv
from sepcli.nn.modules import ModuleListOf

ANALYSERS = ("heavy", "light")


@dataclass(frozen=True)
class LaSAFTv1Config(ConditionedConfig):
    """The fields of `ConditionedConfig` and those of v1 and v1.1."""

    num_tdfs: int = 6  # latent sources
    analyser: str = "heavy"  # the frequency transforms: heavy (v1) or light (v1.1)


class Target(NamedTuple):
    """The numbers that the network needs of a target: an attention for each block, a gate for each decoder."""

    attention: list[Tensor]  # [R, L] each, in the order of the blocks
    gamma: Tensor  # [R, decoders, C, C]
    beta: Tensor  # [R, decoders, C]


class HeavyTransform(nn.Module):
    """A TDF for each latent source, all in two matrices."""

    def __init__(self, config: LaSAFTv1Config, bins: int):
        super().__init__()
        latent = config.num_tdfs
        units = max(bins * latent // config.bn_factor, config.min_bn_units)
        self.tdf = bottleneck(config.internal_channels, bins, units, bins * latent, config.activation)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """[B, C, N, F], weights [R, L] -> [B, C, N, F]."""
        latent = attention.shape[1]
        values = self.tdf(x).unflatten(-1, (-1, latent))  # [B, C, N, F, L]
        return (values @ attention[:, None, None, :, None]).squeeze(-1)


class TargetBlock(nn.Module):
    """The block of the file's head, which knows the target. Attributes have their published names."""

    def __init__(self, config: LaSAFTv1Config, channels_in: int, bins: int):
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
            self.tdfs = HeavyTransform(config, bins)
        self.keys = nn.Parameter(torch.empty(config.dk, latent))
        self.linear_query = nn.Linear(config.embedding_dim, config.dk)

    def attention(self, z: Tensor) -> Tensor:
        """Weights of the latent sources for targets z: [R, e] -> [R, L], of sum 1."""
        return torch.softmax(self.linear_query(z) @ self.keys / math.sqrt(len(self.keys)), dim=-1)

    def transform(self, x: Tensor, attention: Tensor) -> Tensor:
        """The weighted frequency transform: [B, C, N, F], weights [R, L] -> [B, C, N, F]."""
        if not self.light:
            return self.tdfs(x, attention)
        values = self.LaSAFT_bn_layer(x).unflatten(-1, (attention.shape[1], -1))  # [B, C, N, L, u]
        return self.LaSIFT((attention[:, None, None, None] @ values).squeeze(-2))

    def forward(self, dense: Tensor, attention: Tensor) -> Tensor:
        """The output of the dense block (in decoders, of the gate) [B, C, N, F] -> [B, C, N, F]."""
        return dense + self.transform(dense, attention)


class DenseControl(nn.Module):
    """Fully connected layers that widen z: [B, e] -> [B, 8e]. Named as published."""

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
        """[B, e] -> [B, 8e]."""
        return self.linear(z)


class ConditionGenerator(nn.Module):
    """The gates' weights: z [B, e] -> gammas [B, decoders, C, C], betas [B, decoders, C]; the deepest first."""

    def __init__(self, config: LaSAFTv1Config, decoders: int):
        super().__init__()
        e, c = config.embedding_dim, config.internal_channels
        self.shape = (decoders, c)
        self.dense_control_block = DenseControl(e)
        self.linear_gamma, self.linear_beta = (
            nn.Sequential(nn.Linear(8 * e, size), nn.Identity(), nn.BatchNorm1d(size, affine=False))
            for size in (decoders * c * c, decoders * c)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """[B, e] -> [B, decoders, C, C], [B, decoders, C]."""
        hidden = self.dense_control_block(z)
        decoders, c = self.shape
        return (
            self.linear_gamma(hidden).unflatten(1, (decoders, c, c)),
            self.linear_beta(hidden).unflatten(1, (decoders, c)),
        )


class LaSAFTv1(Conditioned):
    """The network of the file's head: [B, C, T] -> [B, S, C, T]."""

    def __init__(self, config: LaSAFTv1Config):
        super().__init__(config)
        c, act, levels = config.internal_channels, config.activation, self.levels
        bins = [config.n_fft // 2 >> level for level in range(levels + 1)]
        self.first_conv = Unit(nn.Conv2d(2 * config.channels, c, (1, 2)), activation(act))
        self.encoders = ModuleListOf(TargetBlock(config, c, f) for f in bins[:-1])
        self.downsamplings = ModuleListOf(
            Unit(nn.Conv2d(c, c, 2, stride=2), nn.Identity()) for _ in range(levels)
        )
        self.mid_block = TargetBlock(config, c, bins[-1])
        self.upsamplings = ModuleListOf(
            Unit(nn.ConvTranspose2d(c, c, 2, stride=2), nn.Identity()) for _ in range(levels)
        )
        self.decoders = ModuleListOf(TargetBlock(config, 2 * c, f) for f in reversed(bins[:-1]))
        self.last_conv = last_conv(config)
        self.embedding = nn.Embedding(len(config.sources), config.embedding_dim)
        self.condition_generator = ConditionGenerator(config, levels)
        initialise(self, nn.init.xavier_normal_)

    def condition(self, index: Tensor) -> Tensor:
        """See Conditioned: the embedding."""
        return self.embedding(index)

    def share(self, cac: Tensor) -> Tensor:
        """See Conditioned: the first dense block's output [B, C, N, F - 1]; the rest knows the target."""
        return self.encoders[0].tfc(self.first_conv(cac))

    def constants(self, z: Tensor) -> Target:
        """See Conditioned: attentions and gates."""
        blocks = [*self.encoders, self.mid_block, *self.decoders]
        return Target([block.attention(z) for block in blocks], *self.condition_generator(z))

    def finish(self, shared: Tensor, constants: Target, seen: list[Tensor] | None = None) -> Tensor:
        """See Conditioned: from the first attention on."""
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
