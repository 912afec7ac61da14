"""MDX23C: a U-Net over the spectrogram, whose blocks mix neighbours (TFC) and all frequencies (TDF).

    mix -> STFT -> subbands -> 1 x 1 --[levels down, bottleneck, levels up]--> (*) --> 1 x 1 -> stems' bins
                      |          '----------------------------------------------^       ^
                      '-----------------------------------------------------------------'
    one block     x -> 3 x 3 -> (+) linear layers along frequency -> 3 x 3 -> (+) 1 x 1 of x

TFC-TDF, version 3, of KUIELab's entry to the Sound Demixing Challenge 2023 (arXiv:2306.09382, section 2), known
as MDX23C. Norms and activations stand in front of each layer. An InstanceNorm hears the whole call, so that
every call has one length.

Axes: B batch, S sources, C channels of the audio, T samples, N frames, F bins, f bins of a subband, D channels
of the network. Frames come before bins: convolutions are [D, N, f].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.engine.separator import Segment, Separator, narrowed_copy, source_indices
from sepcli.models.mdx23c.blocks import Down, TfcTdf, Up, activation, frames_at_once
from sepcli.models.mdx23c.config import MDX23CConfig
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.stft import centred_istft, centred_stft

if TYPE_CHECKING:
    from sepcli.engine.noise import Noise


class MDX23C(Separator):
    """[B, C, T] -> [B, S, C, T]. ValueError for a Config whose bins can't be divided as it says."""

    keeps_silence = True
    window: Tensor  # [nfft]

    def __init__(self, config: MDX23CConfig):
        super().__init__()
        self.config = config
        self.sources, self.samplerate, self.channels = (
            tuple(config.sources),
            config.samplerate,
            config.channels,
        )
        self.segment = Segment(samples=config.chunk, exact=True, valid_length=self.valid_length)
        rows, step = 2 * config.channels * config.subbands, config.scale[1]
        f = _whole(config.bins, config.subbands, "subbands")
        _whole(f, step**config.scales, "scale and scales")
        if config.bins > config.nfft // 2 + 1:
            raise ValueError(f"{config.bins} bins are more than a window of {config.nfft} samples has")
        d = config.width
        self.first_conv = nn.Conv2d(rows, d, 1, bias=False)
        encoders, decoders = [], []
        for _ in range(config.scales):
            encoders.append(Encoder(config, d, f))
            d, f = d + config.growth, f // step
        self.encoder_blocks = ModuleListOf(encoders)
        self.bottleneck_block = TfcTdf(config, d, d, f)
        for _ in range(config.scales):
            d, f = d - config.growth, f * step
            decoders.append(Decoder(config, d, f))
        self.decoder_blocks = ModuleListOf(decoders)
        self.final_conv = Ending(config, rows)
        self.register_buffer("window", torch.hann_window(config.nfft), persistent=False)

    def valid_length(self, samples: int) -> int:
        """The shortest call of that many samples or more: the levels halve the number of frames."""
        config = self.config
        frames = -(-max(samples, config.nfft // 2 + 1) // config.hop) + 1
        step = config.scale[0] ** config.scales
        return (-(-frames // step) * step - 1) * config.hop

    # --- Separator ---

    def prepare(self, samples: int, device: torch.device, dtype: torch.dtype) -> None:
        """See Separator: the window stays float32."""
        super().prepare(samples, device, dtype)
        window = self.window
        self.to(dtype)
        self.window = window.float()

    def select(self, sources: Sequence[str]) -> MDX23C:
        """See Separator: of the last layer only these stems' rows are computed."""
        index = source_indices(self.sources, sources)
        narrowed = narrowed_copy(self, sources)
        narrowed.final_conv.select(index, len(self.sources))
        return narrowed

    def forward(self, mix: Tensor, *, noise: Noise | None = None) -> Tensor:
        """[B, C, T] -> [B, S, C, T]. A call of another length than `valid_length` is extended with silence."""
        samples = mix.shape[-1]
        whole = self.valid_length(samples)
        spec = centred_stft(F.pad(mix, (0, whole - samples)), self.window, self.config.hop)  # [B, C, F, N]
        stems = self.spectra(self._rows(spec))
        return centred_istft(self._spec(stems), self.window, self.config.hop, whole)[..., :samples]

    def spectra(self, rows: Tensor) -> Tensor:
        """[B, 2 C K, N, f] of the mix -> [B, S 2 C K, N, f] of the stems, K subbands."""
        dtype = self.first_conv.weight.dtype
        rows = rows.to(dtype)
        first = x = self.first_conv(rows)
        skips: list[Tensor] = []
        for encoder in self.encoder_blocks:
            skip = encoder.tfc_tdf(x)
            skips.append(skip)
            x = encoder.downscale(skip)
            del skip
        x = self.bottleneck_block(x)
        for decoder in self.decoder_blocks:
            x = torch.cat([decoder.upscale(x), skips.pop()], dim=1)
            x = decoder.tfc_tdf(x)
        if torch.is_grad_enabled():
            return self.final_conv(x * first, rows)
        pieces = [part.split(frames_at_once(x), dim=2) for part in (x, first, rows)]
        return torch.cat([self.final_conv(a * b, c) for a, b, c in zip(*pieces, strict=True)], dim=2)

    def _rows(self, spec: Tensor) -> Tensor:
        """Complex [B, C, F, N] -> [B, 2 C K, N, f]: channel, real or imaginary part, subband."""
        parts = torch.view_as_real(spec.transpose(2, 3)[..., : self.config.bins])  # [B, C, N, F, 2]
        parts = parts.unflatten(3, (self.config.subbands, -1))  # [B, C, N, K, f, 2]
        return parts.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)

    def _spec(self, rows: Tensor) -> Tensor:
        """[B, S 2 C K, N, f] -> complex64 [B, S, C, nfft / 2 + 1, N]."""
        parts = rows.float().unflatten(1, (len(self.sources), self.channels, 2, self.config.subbands))
        spec = torch.view_as_complex(parts.permute(0, 1, 2, 5, 4, 6, 3).flatten(4, 5).contiguous())
        return F.pad(spec, (0, self.config.nfft // 2 + 1 - self.config.bins)).transpose(-1, -2)


class Encoder(nn.Module):
    """A level on the way down."""

    def __init__(self, config: MDX23CConfig, d: int, f: int):
        super().__init__()
        self.tfc_tdf = TfcTdf(config, d, d, f)
        self.downscale = Down(config, d, d + config.growth)


class Decoder(nn.Module):
    """A level on the way up."""

    def __init__(self, config: MDX23CConfig, d: int, f: int):
        super().__init__()
        self.upscale = Up(config, d + config.growth, d)
        self.tfc_tdf = TfcTdf(config, 2 * d, d, f)


class Ending(nn.Sequential):
    """[B, D, N, f], and the mix once more as [B, R, N, f] -> [B, S R, N, f]."""

    def __init__(self, config: MDX23CConfig, rows: int):
        super().__init__(
            nn.Conv2d(rows + config.width, config.width, 1, bias=False),
            activation(config.act),
            nn.Conv2d(config.width, rows * len(config.sources), 1, bias=False),
        )

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return super().forward(torch.cat([rows, x], dim=1))

    def select(self, index: Sequence[int], stems: int) -> None:
        """Keep the rows of these stems, of so many."""
        last = self[2]
        assert isinstance(last, nn.Conv2d)
        weight = last.weight.detach().unflatten(0, (stems, -1))[list(index)].flatten(0, 1)
        last.weight = nn.Parameter(weight, last.weight.requires_grad)
        last.out_channels = len(weight)


def _whole(number: int, divisor: int, what: str) -> int:
    """A quotient; ValueError where it is not whole."""
    if number % divisor:
        raise ValueError(f"{number} bins can't be divided by {divisor} ({what})")
    return number // divisor
