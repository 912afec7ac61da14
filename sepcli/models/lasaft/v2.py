"""LaSAFT-Net v2, and v1.2 (LightSAFT-Net+): only the decoders know the target.

    cac -> first_conv -> [tfc + tdf, down] * n -> tfc + tdf -> [up, tfc, gate, LightSAFT] * n -> last_conv
                                  `---------------- skip -----------^     target ^

Up to the dense block of the first decoder nothing depends on the target, so it runs once for all stems; so do
the convolutions of the skip connections (blocks.DenseBlock). (Choi et al., "LaSAFT-Net v2"; facts of its code.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepcli.models.lasaft.blocks import DenseBlock, FrequencyTransform, Unit, activation, initialise
from sepcli.models.lasaft.lightsaft import Decoder, LightSAFTConfig, Target
from sepcli.models.lasaft.spectral import Conditioned, last_conv
from sepcli.nn.modules import ModuleListOf


@dataclass(frozen=True)
class LaSAFTv2Config(LightSAFTConfig):
    """The fields of `LightSAFTConfig` and the kind of output."""

    output: str = "spectrogram"  # the target's, as published; or a "mask", complex, on the mix's (ours)


OUTPUTS = ("spectrogram", "mask")
MASK_START = 0.5  # real part of a fresh network's mask: half of the mix goes to any target


class Shared(NamedTuple):
    """What all targets have in common: the network up to the first decoder's gate."""

    cac: Tensor  # [B, 2C, N, F], of the mix
    dense: Tensor  # [B, c, N', F'], of the first decoder
    begun: list[Tensor]  # results of DenseBlock.begin for the other decoders


class TfcTdf(nn.Module):
    """A dense block and a frequency transform, which know no target: [B, c, N, F] -> [B, c, N, F]."""

    def __init__(self, config: LaSAFTv2Config, bins: int):
        super().__init__()
        channels, act = config.internal_channels, config.activation
        self.tfc = DenseBlock(channels, channels, config.n_internal_layers, act)
        units = max(bins // config.bn_factor, config.min_bn_units)
        self.tdf = FrequencyTransform(channels, bins, units, act)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, N, F] -> [B, c, N, F]."""
        x = self.tfc(x)
        return x + self.tdf(x)


class Unet(Conditioned):
    """The network of the file's head; subclasses say where z comes from."""

    def __init__(self, config: LaSAFTv2Config):
        super().__init__(config)
        if config.output not in OUTPUTS:
            raise ValueError(f"output is '{config.output}', but must be one of {', '.join(OUTPUTS)}")
        c, act, levels = config.internal_channels, config.activation, self.levels
        bins = [config.n_fft // 2 >> level for level in range(levels + 1)]
        self.first_conv = Unit(nn.Conv2d(2 * config.channels, c, (1, 2)), activation(act))
        self.encoders = ModuleListOf(TfcTdf(config, f) for f in bins[:-1])
        self.downsamplings = ModuleListOf(
            Unit(nn.Conv2d(c, c, 2, stride=2), activation(act)) for _ in range(levels)
        )
        self.mid_block = TfcTdf(config, bins[-1])
        self.upsamplings = ModuleListOf(
            Unit(nn.ConvTranspose2d(c, c, 2, stride=2), activation(act)) for _ in range(levels)
        )
        self.decoders = ModuleListOf(Decoder(config, f) for f in reversed(bins[:-1]))
        self.last_conv = last_conv(config)

    def share(self, cac: Tensor) -> Shared:
        """See Conditioned."""
        x = self.first_conv(cac)
        skips = []
        for encoder, down in zip(self.encoders, self.downsamplings, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.upsamplings[0](self.mid_block(x))
        pairs = zip(self.decoders, reversed(skips), strict=True)
        begun = [decoder.dense.begin(skip) for decoder, skip in pairs]
        return Shared(cac, self.decoders[0].dense(x, begun[0]), begun[1:])

    def constants(self, z: Tensor) -> list[Target]:
        """See Conditioned: the constants of each decoder, the deepest first."""
        return [decoder.target(z) for decoder in self.decoders]

    def finish(self, shared: Shared, constants: list[Target], seen: list[Tensor] | None = None) -> Tensor:
        """See Conditioned: from the first decoder's gate on."""
        x = self.decoders[0](shared.dense, constants[0], seen)
        rest = zip(self.upsamplings[1:], self.decoders[1:], shared.begun, constants[1:], strict=True)
        for up, decoder, begun, target in rest:
            x = decoder(decoder.dense(up(x), begun), target, seen)
        out = self.last_conv(x)
        return out if self.config.output == "spectrogram" else masked(out, shared.cac)

    def start(self) -> None:
        """Draw the weights of a fresh network."""
        initialise(self, nn.init.kaiming_normal_)
        if self.config.output == "mask":
            conv = self.last_conv[0]
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            with torch.no_grad():
                conv.weight.mul_(0.1)
                conv.bias.zero_()[: self.config.channels] = MASK_START


def masked(mask: Tensor, cac: Tensor) -> Tensor:
    """The complex product of a mask and the mix, both [B, 2C, N, F] with complex values as channels."""
    (a, b), (x, y) = mask.chunk(2, dim=1), cac.chunk(2, dim=1)
    return torch.cat([a * x - b * y, a * y + b * x], dim=1)


class LaSAFTv2(Unet):
    """LaSAFT v2 (and v1.2) whose targets are told by their labels: z is an embedding."""

    def __init__(self, config: LaSAFTv2Config):
        super().__init__(config)
        self.embedding = nn.Embedding(len(config.sources), config.embedding_dim)
        self.start()

    def condition(self, index: Tensor) -> Tensor:
        """See Conditioned: the embedding."""
        return self.embedding(index)
