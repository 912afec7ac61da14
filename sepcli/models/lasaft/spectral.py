"""The frame of every LaSAFT network: waveforms to complex-as-channels spectrograms and back, targets, segments.

Knows nothing of what a network does with a spectrogram. The estimate is direct: the network gives the complex
bins of the target, no mask (Choi et al. 2020), so real and imaginary parts are channels,

    [re_L, re_R, im_L, im_R]           the order in the published code; the paper's text has another

and the layout is [B, 2C, N, F]: B batch, C channels of audio, N frames, F = n_fft / 2 + 1 bins, e embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Inspectable, Segment, source_indices
from sepcli.models.lasaft.blocks import fold_all
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


@dataclass(frozen=True)
class ConditionedConfig:
    """The fields that the configs of all versions have."""

    sources: Sequence[str] = ("vocals", "drums", "bass", "other")  # in the embedding's order
    samplerate: int = 44100  # Hz
    channels: int = 2
    n_fft: int = 2048  # samples of an STFT window
    hop_length: int = 1024  # samples
    num_frame: int = 128  # frames of a segment
    margin: int = 5120  # samples of a segment's ends that are not kept
    n_blocks: int = 7  # encoders, middle and decoders
    internal_channels: int = 24
    n_internal_layers: int = 5  # convolutions of a dense block
    bn_factor: int = 16  # bins a unit of the bottlenecks
    min_bn_units: int = 16
    embedding_dim: int = 32
    dk: int = 32  # length of a query
    activation: str = "relu"  # of the backbone: relu or leaky_relu


class Conditioned(Inspectable):
    """A network that gives one target at a time; a vector z tells which.

    A subclass has `share(cac)`, the part that all targets have in common; `constants(z)`, all that depends on
    the target only; and `finish(shared, constants)`, the rest of the way to the target's spectrogram.
    """

    window: Tensor  # [n_fft]

    def __init__(self, config: Any):
        super().__init__()
        if config.n_blocks % 2 == 0 or config.n_blocks < 3:
            raise ValueError(f"n_blocks is {config.n_blocks}, but must be odd and at least 3")
        self.config = config
        self.levels = config.n_blocks // 2
        if config.num_frame % 2**self.levels or config.n_fft // 2 % 2**self.levels:
            raise ValueError(f"num_frame and n_fft / 2 must be multiples of {2**self.levels}")
        if config.hop_length * (config.num_frame - 1) <= 2 * config.margin:
            raise ValueError("num_frame - 1 hops must be longer than two margins")
        self.sources = tuple(config.sources)
        self.known = self.sources  # the rows of `condition`; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, config.channels
        self.attention_hop, self.attention_levels = config.hop_length, self.levels
        self.segment = Segment(
            samples=config.hop_length * (config.num_frame - 1), exact=True, margin=config.margin
        )
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        # Of each target in `sources`, kept by `prepare`.
        self.prepared: list[Any] | None = None

    # --- what a subclass is ---

    def condition(self, index: Tensor) -> Tensor:
        """The vectors of targets: positions in `known`, int64 [B] -> z [B, e]."""
        raise NotImplementedError

    def share(self, cac: Tensor) -> Any:
        """Compute once, for all targets, the part of the network that knows no target: [B, 2C, N, F] -> a value
        for `finish`."""
        raise NotImplementedError

    def constants(self, z: Tensor) -> Any:
        """Compute once what depends on the target only: z [R, e] -> a value for `finish`.

        R is B, or 1 for all items of a batch.
        """
        raise NotImplementedError

    def finish(self, shared: Any, constants: Any, seen: list[Tensor] | None = None) -> Tensor:
        """The target's spectrogram [B, 2C, N, F], of the results of `share` and `constants`.

        seen: each decoder appends its attention to latent sources, [B or 1, N' or 1, L].
        """
        raise NotImplementedError

    # --- Separator ---

    @torch.no_grad()  # what is kept has no history
    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the window stays float32; what depends on the targets only is computed here."""
        super().prepare(samples, device, dtype)
        window = self.window
        self.to(dtype)
        self.window = window.float()
        fold_all(self, dtype)
        self.prepared = self._constants()

    def train(self, mode: bool = True) -> Conditioned:
        """See nn.Module; drops what `prepare` kept, which would not follow weights that learn."""
        if mode:
            self.prepared = None
        return super().train(mode)

    def select(self, sources: Sequence[str]) -> Conditioned:
        """See Separator: one pass for each target, so fewer targets are fewer passes."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources, narrowed.prepared = tuple(sources), None
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples = mix.shape[-1]
        shared = self.share(self._heard(mix))
        return torch.stack(
            [self.waveform(self.finish(shared, constants), samples) for constants in self._targets()], dim=1
        )

    # --- training and looking inside ---

    def estimate(self, cac: Tensor, z: Tensor) -> Tensor:
        """The spectrograms of one target for each item: mix [B, 2C, N, F], z [B, e] -> [B, 2C, N, F]."""
        return self.finish(self.share(cac), self.constants(z))

    def attention(self, cac: Tensor, z: Tensor) -> list[Tensor]:
        """The weights of latent sources in each decoder: [B, N' or 1, L], the deepest decoder's first.

        cac: [B, 2C, N, F], the mix. z: [B, e].
        N': frames at that level, from N / 2^(levels - 1) to N; 1 where the weights do not change in time.
        """
        seen: list[Tensor] = []
        self.finish(self.share(cac), self.constants(z), seen)
        return seen

    def attention_maps(self, mix: Tensor, level: int = 1) -> Tensor:
        """See Inspectable; levels are the decoders, the last one first."""
        cac = self._heard(mix)
        shared, maps = self.share(cac), []
        for constants in self._targets():
            seen: list[Tensor] = []
            self.finish(shared, constants, seen)
            weights = seen[-level].float().repeat_interleave(cac.shape[2] // seen[-level].shape[1], dim=1)
            maps.append(weights.expand(len(mix), -1, -1))
        return torch.stack(maps, dim=1)[:, :, : mix.shape[-1] // self.attention_hop + 1]

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Spectrogram: [B, C, T] -> [B, 2C, N, F], N = T // hop + 1; T must be above n_fft / 2."""
        return to_channels(centred_stft(wave, self.window, self.config.hop_length))

    def waveform(self, cac: Tensor, samples: int) -> Tensor:
        """The inverse of `spectrogram`: [B, 2C, N, F] -> [B, C, T = samples]."""
        return centred_istft(from_channels(cac.float()), self.window, self.config.hop_length, samples)

    # --- details ---

    def _heard(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, 2C, N, F], with as many frames as all levels take."""
        samples = mix.shape[-1]
        mix = F.pad(mix.float(), (0, self._feed(samples) - samples))
        return self.spectrogram(mix).to(self._dtype())

    def _targets(self) -> list[Any]:
        return self._constants() if self.prepared is None else self.prepared

    def _constants(self) -> list[Any]:
        index = torch.tensor(source_indices(self.known, self.sources), device=self.window.device)
        return [self.constants(z[None]) for z in self.condition(index)]

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _feed(self, samples: int) -> int:
        """The least number of samples from `samples` on that the STFT and all levels take."""
        hop, least = self.config.hop_length, max(samples, self.config.n_fft // 2 + 1)
        multiple = 2**self.levels
        frames = math.ceil((math.ceil(least / hop) + 1) / multiple) * multiple
        return hop * (frames - 1)


def to_channels(spec: Tensor) -> Tensor:
    """Complex values as channels: complex [B, C, F, N] -> real [B, 2C, N, F]."""
    return torch.cat([spec.real, spec.imag], dim=1).transpose(2, 3).contiguous()


def from_channels(cac: Tensor) -> Tensor:
    """The inverse of `to_channels`: real [B, 2C, N, F] -> complex [B, C, F, N]."""
    real, imaginary = cac.transpose(2, 3).chunk(2, dim=1)
    return torch.complex(real, imaginary)


def last_conv(config: Any) -> nn.Sequential:
    """The last layer: [B, c, N, F - 1] -> [B, 2C, N, F]. Its kernel of two bins gives back the bin that
    `first_conv` took."""
    return nn.Sequential(nn.Conv2d(config.internal_channels, 2 * config.channels, (1, 2), padding=(0, 1)))
