"""The codec as a separator of one stem: a mix, into its latents and back. Nothing is taken apart.

    window x -> x / scale -> encoder -> z -> decoder -> times scale -> y       scale = RMS of the mono window

The continuous latents are decoded; the quantiser is left out. A call is one stream: its window's level is taken
away before and given back after, which is all that keeps a level (`seanet.py`).

Axes: B batch, C channels, T samples, D values and N = ceil(T / hop) latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sepcli.models.ldm.seanet import Decoder, Encoder, SeanetConfig
from sepcli.nn.sharing import sharing_copy
from sepcli.separator import Segment, Separator, source_indices

if TYPE_CHECKING:
    from sepcli.noise import Noise

FLOOR = 1e-8  # added to a window's RMS, so that silence is divided by something


@dataclass(frozen=True)
class CodecConfig(SeanetConfig):
    """The defaults are those of the published 48 kHz model."""

    source: str = "reconstruction"  # the name of its one stem
    # Samples of a call. Not `segment`: a model that is trained upon a codec has other calls than the codec.
    window: int = 48000


class Codec(Separator):
    """See the file's head."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        config.check()
        if config.window < 1:
            raise ValueError(f"window is {config.window}, but must be at least 1")
        self.config = config
        self.sources = (config.source,)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.window)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    # --- latents ---

    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, T] -> latents [B, D, N], and the level that they do not hold, [B, 1, 1]."""
        scale = level(wave)
        return self.encoder(wave / scale), scale

    def decode(self, z: Tensor, scale: Tensor, samples: int) -> Tensor:
        """Latents [B, D, N] and levels [B, 1, 1] -> [B, C, T = samples], samples <= hop N."""
        return self.decoder(z)[..., :samples] * scale

    # --- Separator ---

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, 1, C, T]."""
        z, scale = self.encode(mix.float())
        return self.decode(z, scale, mix.shape[-1])[:, None]

    def select(self, sources: Sequence[str]) -> Codec:
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed


def level(wave: Tensor) -> Tensor:
    """[B, C, T] -> [B, 1, 1]: the RMS of the mean over channels, as published; never 0."""
    return wave.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + FLOOR
