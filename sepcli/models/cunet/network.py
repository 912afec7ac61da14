"""CU-Net: one U-Net for all stems; which one it makes is told to it by a control network, layer by layer.

    mix -> STFT -> magnitudes -> U-Net, on blocks of frames -> mask -> * spectrogram -> inverse STFT -> stem
                                  ^ each norm on the way down: * gamma + beta of the stem

    down   conv 5x5, stride 2 -> norm -> gamma, beta -> LeakyReLU -> kept
    up     with what was kept behind it (not the first) -> transposed conv 5x5, stride 2 -> norm -> ReLU

All stems of a call are items of one batch. The Nyquist bin is not heard, and silent in every stem. Blocks are
not normalised: the published program scales each by values of the true stem. (Meseguer-Brocal and Peeters,
"Conditioned-U-Net", ISMIR 2019; facts of its published code.)

Axes: B batch, S sources, C channels, T samples, N frames, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, source_indices
from sepcli.models.cunet.control import DROPOUT, EPSILON, MOMENTUM, Control, one_hot
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.norm import Norm
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise

FILMS = ("simple", "complex")


@dataclass(frozen=True)
class CUNetConfig:
    """What shapes the weights, and the spectrogram they are for."""

    sources: Sequence[str] = ("bass", "drums", "rest", "vocals")  # in the order of the one-hot vector
    samplerate: int = 8192  # Hz
    nfft: int = 1024  # samples of an STFT window
    hop: int = 256  # samples
    frames: int = 128  # of a block
    filters: Sequence[int] = (16, 32, 64, 128, 256, 512)  # channels of the convolutions
    film: str = "simple"  # one gamma and beta a layer; "complex": one a channel
    control: str = "dense"  # what makes them: dense layers, or "cnn"
    widths: Sequence[int] = (16, 64, 256)  # features of its layers


class CUNet(Separator):
    """The networks of the file's head: [B, 1, T] -> [B, S, 1, T]."""

    keeps_silence = True
    window: Tensor  # [nfft]

    def __init__(self, config: CUNetConfig):
        super().__init__()
        if config.film not in FILMS:
            raise ValueError(f"film is '{config.film}', but must be one of {', '.join(FILMS)}")
        multiple = 2 ** len(config.filters)
        if config.frames % multiple or config.nfft // 2 % multiple:
            raise ValueError(f"frames and half of nfft must be multiples of {multiple}")
        self.config = config
        self.sources = tuple(config.sources)
        self.known = self.sources  # of the control; `sources` are those that were selected
        self.samplerate, self.channels = config.samplerate, 1
        self.segment = Segment(samples=(config.frames - 1) * config.hop, tail="short")
        filters = list(config.filters)
        self.counts = [1] * len(filters) if config.film == "simple" else filters  # conditions of each layer
        self.control = Control(config.control, len(self.sources), config.widths, sum(self.counts))
        self.down = ModuleListOf(
            nn.Conv2d(a, b, 5, stride=2) for a, b in zip([1, *filters[:-1]], filters, strict=True)
        )
        self.down_norms = ModuleListOf(_norm(count) for count in filters)
        after = [*reversed(filters[:-1]), 1]
        inputs = [filters[-1], *(2 * count for count in after[:-1])]
        self.up = ModuleListOf(
            nn.ConvTranspose2d(a, b, 5, stride=2, padding=1) for a, b in zip(inputs, after, strict=True)
        )
        self.up_norms = ModuleListOf(_norm(count) for count in after)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    # --- Separator ---

    def select(self, sources: Sequence[str]) -> CUNet:
        """See Separator."""
        source_indices(self.sources, sources)
        narrowed = sharing_copy(self)
        narrowed.sources = tuple(sources)
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, 1, T] -> [B, S, 1, T]."""
        samples, frames = mix.shape[-1], self.config.frames
        mix = F.pad(mix, (0, max(0, self.config.nfft // 2 + 1 - samples)))  # the ends are mirrored
        spec = centred_stft(mix[:, 0], self.window, self.config.hop)  # [B, F, N]
        heard = spec[:, :-1].abs()
        count = heard.shape[-1]
        heard = F.pad(heard, (0, -count % frames))
        masks = torch.cat([self.masks(block, self.sources) for block in heard.split(frames, -1)], dim=-1)
        stems = F.pad(masks[..., :count], (0, 0, 0, 1)) * spec[:, None]  # [B, S, F, N]
        return centred_istft(stems, self.window, self.config.hop, mix.shape[-1])[:, :, None, :samples]

    # --- the parts ---

    def masks(self, mix: Tensor, sources: Sequence[str]) -> Tensor:
        """One block: magnitudes [B, F, N], without the Nyquist bin, -> shares of these stems [B, S, F, N]."""
        hot = one_hot(source_indices(self.known, sources), len(self.known), mix)
        batch, stems = len(mix), len(sources)
        x = mix.repeat(stems, 1, 1)[:, None]  # [S * B, 1, F, N]
        gamma, beta = (each.repeat_interleave(batch, 0) for each in self.control(hot))
        return self.unet(x, gamma, beta).view(stems, batch, *mix.shape[1:]).transpose(0, 1)

    def unet(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Magnitudes [B, 1, F, N] and conditions [B, K] -> shares [B, 1, F, N]."""
        kept = []
        factors, summands = gamma.split(self.counts, 1), beta.split(self.counts, 1)
        for conv, norm, factor, summand in zip(self.down, self.down_norms, factors, summands, strict=True):
            x = norm(conv(F.pad(x, (1, 2, 1, 2))))
            x = F.leaky_relu(x * factor[..., None, None] + summand[..., None, None], 0.2)
            kept.append(x)
        x = kept.pop()
        for k, (conv, norm) in enumerate(zip(self.up, self.up_norms, strict=True)):
            if k:
                x = torch.cat([x, kept.pop()], dim=1)
            x = norm(conv(x)[..., :-1, :-1])
            if k == len(self.up) - 1:
                return x.sigmoid()
            if 0 < k < 4:
                x = F.dropout(x, DROPOUT, self.training)
            x = F.relu(x)
        raise AssertionError("there is at least one layer")


def _norm(channels: int) -> Norm:
    return Norm(channels, epsilon=EPSILON, momentum=MOMENTUM)
