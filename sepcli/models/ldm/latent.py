"""LDM-dmx: a stem's latents are drawn, given those of the mix, and decoded.

    mix -> / level -> conditioner -> c                                  E_c, a copy of the encoder; may learn
    noise z -> DDIM, `steps` calls of the generator with c -> latents -> decoder -> placed in the mix -> stem
                                                                 or silence, where that was drawn

Latents are normalised with the mean and deviation of each channel, found in training and kept with the weights.
The codec's encoder makes the targets of training; here it only makes the latents of silence. It and the decoder
never learn.
("Efficient and fast generative-based singing voice separation using a latent diffusion model", 2025, section
III. The level: `gain.py`.)

A call is one stream of whole segments: the codec's norms take statistics over the whole call, so a short last
chunk is centred in real audio. `forward` takes any length, and appends silence up to the next length that the
generator takes. Noise belongs to positions in the track, counted in latents: chunks that begin on a latent see
the same noise where they overlap, others the noise of the nearest latent.

Axes: B batch, C channels, T samples, D latent channels, N = ceil(T / hop) latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.noise import Noise
from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.config import check_options
from sepcli.models.ldm.codec import level
from sepcli.models.ldm.gain import placed, rising
from sepcli.models.ldm.generator import Generator, GeneratorShape
from sepcli.models.ldm.seanet import Decoder, Encoder, SeanetConfig
from sepcli.nn.diffusion import v_ddim
from sepcli.nn.sharing import sharing_copy

# RMS, -60 dBFS: a target below counts as digital silence, or its noise would be blown up to full level.
SILENT_TARGET = 1e-3
# From "silence was drawn" to "something was drawn": the distance of latents from the latents of silence, over
# the distance that voices have. A network that was trained for minutes draws 0.08 without a voice, 0.8 with
# one, however short.
DRAWN = (0.25, 0.5)
SETTLED = 64  # latents of silence, after which further ones stay the same
NARROWEST = 1e-3  # of a latent channel's deviation: one that never moves is left as it is


@dataclass(frozen=True)
class LatentDiffusionConfig(GeneratorShape, SeanetConfig):
    """Codec, generator and calls. The defaults are the published codec, and our reading of its generator."""

    sources: tuple[str, ...] = ("vocals",)  # one
    segment: int = 573_440  # samples of a call, 11.9 s; a multiple of `samples_multiple`

    @property
    def samples_multiple(self) -> int:
        """Samples; the length of a call must be a multiple of it."""
        return self.hop * self.multiple


@dataclass(frozen=True)
class LatentDiffusionOptions:
    """Options of the sampler."""

    steps: int = 20  # calls of the generator; the paper's number is not known

    def __post_init__(self) -> None:
        check_options(self, steps=1)


class LatentDiffusion(Separator):
    """The model of the file's head: [B, C, T] -> [B, 1, C, T]."""

    draws_noise = True
    options: LatentDiffusionOptions
    mean: Tensor  # [D], of the targets' latents, over windows and time
    variance: Tensor  # [D]
    windows: Tensor  # [], int64: how many were measured

    def __init__(self, config: LatentDiffusionConfig):
        super().__init__()
        config.check()
        config.check_levels()
        if len(config.sources) != 1:
            raise ValueError(f"sources are {config.sources}, but must be one")
        if config.segment < 1 or config.segment % config.samples_multiple:
            raise ValueError(
                f"segment is {config.segment}, but must be a multiple of {config.samples_multiple}"
            )
        self.config = config
        self.sources = tuple(config.sources)
        self.samplerate, self.channels = config.samplerate, config.channels
        self.segment = Segment(samples=config.segment, multiple=config.samples_multiple)
        self.options = LatentDiffusionOptions()
        self.encoder = Encoder(config).requires_grad_(False)
        self.decoder = Decoder(config).requires_grad_(False)
        self.conditioner = Encoder(config).requires_grad_(False)
        self.generator = Generator(config, config.latent)
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("variance", torch.ones(config.latent))
        self.register_buffer("windows", torch.zeros((), dtype=torch.long))

    # --- latents ---

    def target(self, wave: Tensor) -> Tensor:
        """The latents that the generator learns to draw, not yet normalised: a stem [B, C, T] -> [B, D, N]."""
        heard = wave * (~silent(wave))[:, None, None]
        return self.encoder(heard / level(heard))

    def heard(self, mix: Tensor) -> Tensor:
        """The conditioning latents, not yet normalised: the mix [B, C, T] -> [B, D, N]."""
        return self.conditioner(mix / level(mix))

    def normalised(self, latents: Tensor) -> Tensor:
        """Latents [B, D, N] -> [B, D, N], with channels of mean 0 and deviation 1."""
        return (latents - self.mean[:, None]) / self._deviation()

    def decoded(self, z: Tensor) -> Tensor:
        """Waveforms of normalised latents: [B, D, N] -> [B, C, hop N]. Their level means nothing."""
        return self.decoder(z * self._deviation() + self.mean[:, None])

    def presence(self, z: Tensor) -> Tensor:
        """Whether normalised latents are more than silence, 0 to 1: [B, D, N] -> [B, 1, 1].

        The latents have to tell: decoding blows a faint residue of the mix up to the stem's full level.
        """
        nothing = z.new_zeros(1, self.channels, SETTLED * self.config.hop)
        silence = self.normalised(self.encoder(nothing))[..., -1:]  # [1, D, 1]
        distance = (z - silence).square().mean((1, 2), keepdim=True)
        return rising(distance / (1 + silence.square().mean()), DRAWN)

    def _deviation(self) -> Tensor:
        return self.variance.sqrt().clamp(min=NARROWEST)[:, None]

    @torch.no_grad()
    def measure(self, latents: Tensor) -> None:
        """Add latents of targets [B, D, N] to the statistics; every window has the same weight."""
        count = len(latents)
        if not count:
            return
        rows = latents.detach().float().transpose(0, 1).flatten(1)  # [D, B N]
        mean, variance = rows.mean(-1), rows.var(-1, correction=0)
        share = count / (self.windows.item() + count)
        moved = mean - self.mean
        self.variance.lerp_(variance, share).add_(share * (1 - share) * moved.square())
        self.mean.add_(share * moved)
        self.windows.add_(count)

    # --- Separator ---

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, 1, C, T]."""
        samples = mix.shape[-1]
        padded = F.pad(mix.float(), (0, -samples % self.config.samples_multiple))
        z = self.sample(self.normalised(self.heard(padded)), noise)
        stem = placed(self.decoded(z)[..., :samples], mix.float()) * self.presence(z)
        return stem[:, None]

    def sample(self, c: Tensor, noise: Noise | None = None) -> Tensor:
        """Draw normalised latents of the stem, given conditioning latents: [B, D, N] -> [B, D, N].

        noise: None stands for seed 0, and every item at the beginning of a track.
        """
        noise = noise or Noise(0, [0] * len(c), [0] * len(c))
        z = noise.every(self.config.hop).normal(0, self.config.sources[0], *c.shape[1:]).to(c)
        return v_ddim(lambda z, t: self.generator(z, c, t), z, self.options.steps)

    def select(self, sources: Sequence[str]) -> LatentDiffusion:
        """See Separator; there is one source."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def used(self) -> Mapping[str, Any]:
        """See Separator: the sampler's options."""
        return asdict(self.options)


def silent(wave: Tensor) -> Tensor:
    """Whether a stem counts as silent, below -60 dBFS RMS: [B, C, T] -> [B]."""
    return wave.square().mean((1, 2)) < SILENT_TARGET**2
