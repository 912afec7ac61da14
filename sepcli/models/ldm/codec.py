"""The codec as a separator of one stem: a mix, into its latents and back. Nothing is taken apart.

    window x -> x / scale -> encoder -> z -> decoder -> times scale -> y       scale = RMS of the mono window
                                    (-> quantiser ->)

The continuous latents are decoded; they go through the quantiser where a bandwidth is asked for. A call is one
stream: the level of its window is divided out before and multiplied in again after, because the network in
between loses it (`seanet.py`).

Axes: B batch, C channels, T samples, D values and N = ceil(T / hop) latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sepcli.engine.separator import Coder, Segment, source_indices
from sepcli.errors import UsageError
from sepcli.models.ldm.quantizer import Quantizer
from sepcli.models.ldm.seanet import Decoder, Encoder, SeanetConfig
from sepcli.nn.sharing import sharing_copy

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

FLOOR = 1e-8  # added to a window's RMS, so that silence is divided by something


@dataclass(frozen=True)
class CodecConfig(SeanetConfig):
    """`SeanetConfig`, the calls and the quantiser. The defaults are those of the published 48 kHz model."""

    source: str = "reconstruction"  # the name of its one stem
    # Samples of a call. Not `segment`: a model that is trained upon a codec has other calls than the codec.
    window: int = 48000
    codebooks: int = 16  # of the quantiser; 0 where there is none
    codebook_size: int = 1024  # vectors of a codebook


@dataclass(frozen=True)
class CodecOptions:
    """Options of a run."""

    bandwidth: float | None = None  # kbit/s of the quantised latents; None: they are not quantised


class Codec(Coder):
    """See the file's head."""

    options: CodecOptions

    def __init__(self, config: CodecConfig):
        super().__init__()
        config.check()
        for name, least in (("window", 1), ("codebooks", 0), ("codebook_size", 2)):
            if getattr(config, name) < least:
                raise ValueError(f"{name} is {getattr(config, name)}, but must be at least {least}")
        self.config = config
        self.sources = (config.source,)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.window)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.hop, self.codebooks, self.codebook_size = config.hop, config.codebooks, config.codebook_size
        if config.codebooks:
            rate = math.ceil(config.samplerate / config.hop)  # latents a second, whole as published
            self.quantizer = Quantizer(config.codebooks, config.codebook_size, config.latent, rate)
        self.options = CodecOptions()

    # --- latents ---

    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> latents [B, D, N], and the level that they do not hold, [B, 1, 1]."""
        scale = level(wave)
        return self.encoder(wave / scale), scale

    def decode(self, z: Tensor, scale: Tensor, samples: int) -> Tensor:
        """Latents [B, D, N] and levels [B, 1, 1] -> [B, C, T = samples], samples <= hop N."""
        return self.decoder(z)[..., :samples] * scale

    def quantize(self, z: Tensor, bandwidth: float | None = None) -> Tensor:
        """Latents [B, D, N] -> codes [Q, B, N] of that bandwidth, kbit/s; None: of all codebooks.

        UsageError without a quantiser, and for a bandwidth that it does not have.
        """
        if not self.codebooks:
            raise UsageError(
                "This codec has no codebooks, so its latents can't be quantised.",
                remedy="Leave the bandwidth out, or use a codec that has a quantiser.",
            )
        return self.quantizer.encode(z, bandwidth)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [Q, B, N] -> latents [B, D, N]."""
        return self.quantizer.decode(codes)

    # --- Separator ---

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, 1, C, T]."""
        z, scale = self.encode(mix.float())
        if self.options.bandwidth is not None:
            z = self.dequantize(self.quantize(z, self.options.bandwidth))
        return self.decode(z, scale, mix.shape[-1])[:, None]

    def select(self, sources: Sequence[str]) -> Codec:
        """See Separator; there is one source."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed


def level(wave: Tensor) -> Tensor:
    """A window's level: [B, C, T] -> [B, 1, 1], the RMS of the mean over channels, as published; never 0."""
    return wave.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + FLOOR
