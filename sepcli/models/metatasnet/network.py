"""Meta-TasNet: Conv-TasNet at three sample rates in turn; a stem's embedding makes the masks' weights.

    mix at 8 kHz   -- encoder -- masks -- decoder -- stems at 8 kHz
                                   '----------.
    mix at 16 kHz  -- encoder ------------- masks -- decoder -- stems at 16 kHz      ... and at 32 kHz

Every stage also hears the masked latents of the stage before. Only the stems of the last one are used. An
encoder has filters of several lengths beside a spectrogram whose mel filters are learnt. (Samuel, Ganeshan,
Naradowsky, "Meta-learning Extractors for Music Source Separation", ICASSP 2020, arXiv:2002.07016; facts of its
published code.)

In the end each stem is scaled so that their sum is as near to the mix as can be: as published over a whole
track, here over each call.

Axes: B batch, S sources, T samples, K frames of an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.metatasnet.masks import GROUPS, Masks, MaskShape
from sepcli.nn.doubles import double_place
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.resampling import double_and_halve, downsampled
from sepcli.nn.stft import centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

FLOOR = 1e-8  # below powers
SPECTRUM = (1024, 256)  # window and hop at 8 kHz, in samples; longer at higher rates


@dataclass(frozen=True)
class MetaTasNetConfig:
    """What shapes the weights. Defaults are the published ones; sizes are those of the first stage."""

    sources: Sequence[str] = ("drums", "bass", "other", "vocals")  # in output order
    samplerate: int = 32000  # Hz, of the last stage; half of it for each stage before
    stages: int = 3
    latent: int = 440  # channels of masks; twice as many in each stage
    length: int = 20  # samples of the shortest filters; twice as many in each stage
    stride: int = 20  # samples; twice as many in each stage
    filters: int = 3  # lengths of filters, each twice the one before
    mels: int = 256
    bottleneck: int = 160  # channels between blocks
    hidden: int = 160  # channels in a block
    kernel: int = 3  # taps of a block's convolution
    layers: int = 6  # blocks in a row
    stack: int = 3  # rows
    embedding: int = 8  # numbers of a stem; 0: each stem has weights of its own
    narrow: int = 5  # that are left of them before each layer
    bias: bool = False  # embedding 0 only: in what blocks add
    chunk: int = 960000  # samples of a call


@dataclass(frozen=True)
class MetaTasNetOptions:
    """fit: scale the stems so that their sum is near to the mix; False: as they leave the network."""

    fit: bool = True


class MetaTasNet(Separator):
    """[B, 1, T] -> [B, S, 1, T]. ValueError for settings that no network can have."""

    normalize = True
    options: MetaTasNetOptions

    def __init__(self, config: MetaTasNetConfig):
        super().__init__()
        _check(config)
        self.config, self.options = config, MetaTasNetOptions()
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the network; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, 1
        # Calls are multiples of this, so that all stages have as many frames.
        self.step = config.stride * 2 ** (config.stages - 1)
        self.segment = Segment(samples=-(-config.chunk // self.step) * self.step, tail="short")
        # The filter that halves the sample rate, kept by `prepare`.
        self.halving: Tensor | None = None
        self.stages = ModuleListOf(Stage(config, number) for number in range(config.stages))

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator."""
        super().prepare(samples, device, dtype)
        self.halving = double_and_halve(device)[1]

    def select(self, sources: Sequence[str]) -> MetaTasNet:
        """See Separator. The masks of all stems depend on each other."""
        return narrowed_copy(self, sources)

    def used(self) -> dict[str, Any]:
        """See Separator."""
        return asdict(self.options)

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, 1, T] -> [B, S, 1, T]."""
        samples = mix.shape[-1]
        whole = max(samples, SPECTRUM[0] * self.samplerate // 8000)  # mirrored ends need some audio
        mix = F.pad(mix, (0, -(-whole // self.step) * self.step - samples))
        mixes = [mix]
        halving = self.halving
        if halving is None or halving.device != mix.device:
            halving = double_and_halve(mix.device)[1]
        for _ in self.stages[1:]:
            mixes.insert(0, downsampled(mixes[0], halving))
        index = source_indices(self.known, self.sources)
        latents = self.latents(mixes)
        decoder = self.stages[-1].decoder
        if not self.options.fit:
            return decoder(latents[:, index])[..., :samples]
        stems = decoder(latents)[..., :samples]
        return (stems * fitting(stems, mix[..., :samples])[:, :, None, None])[:, index]

    # --- the parts ---

    def latents(self, mixes: Sequence[Tensor]) -> Tensor:
        """The masked latents of the last stage: mixes [B, 1, T] at all rates -> [B, S, latent, K]."""
        before: Tensor | None = None
        for stage, mix in zip(self.stages, mixes, strict=True):
            before = stage(mix, before)
        assert before is not None
        return before


class Stage(nn.Module):
    """One sample rate: a mix [B, 1, T] and latents of the stage before -> masked [B, S, latent, K]."""

    def __init__(self, config: MetaTasNetConfig, number: int):
        super().__init__()
        self.stems = len(config.sources)
        factor = 2**number
        latent = factor * config.latent
        rate = config.samplerate // 2 ** (config.stages - 1 - number)
        sizes = [factor * config.length * 2**i for i in range(config.filters)]
        self.encoder = Encoder(latent, sizes, factor * config.stride, config.mels, rate)
        self.decoder = Decoder(latent, sizes, factor * config.stride)
        self.instrument_embedding = nn.Embedding(self.stems, config.embedding) if config.embedding else None
        self.mask = Masks(
            MaskShape(
                self.stems,
                latent,
                latent + latent // 2 if number else latent,
                config.bottleneck,
                config.hidden,
                config.kernel,
                config.layers,
                config.stack,
                config.embedding,
                config.narrow,
                config.bias,
            )
        )

    def forward(self, mix: Tensor, before: Tensor | None) -> Tensor:
        """See the class."""
        latent = self.encoder(mix)[:, None].expand(-1, self.stems, -1, -1)
        heard = latent if before is None else torch.cat([latent, before], dim=2)
        embedding = self.instrument_embedding
        return latent * self.mask(heard, None if embedding is None else embedding.weight)


class Encoder(nn.Module):
    """[B, 1, T] -> [B, latent, K], K = T / stride."""

    def __init__(self, latent: int, sizes: Sequence[int], stride: int, mels: int, rate: int):
        super().__init__()
        each = latent // 4
        self.filters = ModuleListOf(
            nn.Conv1d(1, each, size, stride, padding=(size - stride) // 2, bias=False) for size in sizes
        )
        self.spectrogram = Spectrogram(mels, rate)
        self.bottleneck = nn.Sequential(
            nn.Conv1d(each * len(sizes) + mels, latent, 1, bias=False),
            nn.ReLU(),
            nn.Conv1d(latent, latent, 1, bias=False),
        )

    def forward(self, mix: Tensor) -> Tensor:
        """See the class. The first filters of all lengths are side by side, then the second, ..."""
        x = torch.stack([filters(mix) for filters in self.filters], dim=2).flatten(1, 2).relu()
        return self.bottleneck(torch.cat([x, self.spectrogram(mix, x.shape[-1])], dim=1))


class Spectrogram(nn.Module):
    """Logarithms of powers, standardised, in learnt mel bands: [B, 1, T] -> [B, mels, K]."""

    window: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, mels: int, rate: int):
        super().__init__()
        nfft, self.hop = (samples * rate // 8000 for samples in SPECTRUM)
        bins = nfft // 2 + 1
        self.register_buffer("window", torch.hann_window(nfft))
        self.register_buffer("mean", torch.zeros(1, bins, 1))
        self.register_buffer("std", torch.ones(1, bins, 1))
        self.affine_scale = nn.Parameter(torch.ones(1, bins, 1))
        self.affine_bias = nn.Parameter(torch.zeros(1, bins, 1))
        self.mel_transform = nn.Conv1d(bins, mels, 1)

    def forward(self, mix: Tensor, frames: int) -> Tensor:
        """frames: K."""
        spec = centred_stft(mix[:, 0], self.window, self.hop)
        x = (spec.real.square() + spec.imag.square() + FLOOR).log10()
        x = (x - self.mean) / self.std * self.affine_scale + self.affine_bias
        return F.interpolate(self.mel_transform(x), size=frames, mode="linear", align_corners=True)


class Decoder(nn.Module):
    """[B, S, latent, K] -> [B, S, 1, T]."""

    def __init__(self, latent: int, sizes: Sequence[int], stride: int):
        super().__init__()
        self.widths = [latent // 2 ** (i + 1) for i in range(len(sizes))]
        self.bottleneck = nn.Sequential(nn.ConvTranspose1d(latent, sum(self.widths), 1, bias=False), nn.ReLU())
        self.filters = ModuleListOf(
            nn.ConvTranspose1d(width, 1, size, stride, padding=(size - stride) // 2, bias=False)
            for width, size in zip(self.widths, sizes, strict=True)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """See the class."""
        parts = self.bottleneck(latents.flatten(0, 1)).split(self.widths, dim=1)
        waves = [filters(part) for filters, part in zip(self.filters, parts, strict=True)]
        return torch.stack(waves).sum(dim=0).unflatten(0, latents.shape[:2])


def fitting(stems: Tensor, mix: Tensor) -> Tensor:
    """Factors [B, S] with which the stems [B, S, 1, T] add up to what is nearest to the mix [B, 1, T]."""
    device = double_place(mix.device)
    y, x = (each.to(device, torch.float64).flatten(-2) for each in (stems, mix))
    products, wanted = y @ y.mT, y @ x[..., None]
    return (torch.linalg.pinv(products, hermitian=True) @ wanted)[..., 0].to(mix)


def _check(config: MetaTasNetConfig) -> None:
    """ValueError for a network that can't be."""
    step = 2 ** (config.stages - 1)
    if config.stages < 1 or config.samplerate % (8000 * step):
        raise ValueError(f"samplerate must be a multiple of {8000 * step}")
    if config.latent % 2**config.filters:
        raise ValueError(f"latent must be a multiple of {2**config.filters}, 2 ** filters")
    if any(size % GROUPS for size in (config.latent, config.bottleneck, config.hidden)):
        raise ValueError(f"latent, bottleneck and hidden must be multiples of {GROUPS}")
    if config.length < config.stride or (config.length - config.stride) % 2:
        raise ValueError("length must be stride, or longer by an even number of samples")
    if config.kernel % 2 == 0:
        raise ValueError("kernel must be odd")
    if config.bias and config.embedding:
        raise ValueError("bias is for independent weights (embedding 0)")
