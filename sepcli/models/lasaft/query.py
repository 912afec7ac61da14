"""LaSAFT with an audio query: v2 whose target is told by a piece of audio instead of by a label.

    query -> spectrogram -> first_conv -> six strided convolutions -> GRU -> mean over time -> fc -> z

In place of labels, a stem that the model knows by name has a stored latent: the mean of z over that stem's
examples in the training set. ("LaSAFT-Net v2", the part on audio queries, after Lee et al. 2019.)

Axes: B batch, C channels, T samples, N frames, F bins, e embedding, S sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepcli.engine.separator import Queryable
from sepcli.errors import ModelError
from sepcli.models.lasaft.spectral import to_channels
from sepcli.models.lasaft.v2 import LaSAFTv2Config, Unet
from sepcli.nn.modules import ModuleListOf
from sepcli.nn.sharing import sharing_copy
from sepcli.nn.stft import centred_stft

TIME_STRIDES = (2, 1, 1, 2, 1, 1)  # of the six convolutions; along F every one has 2
LEAST_FRAMES = 8  # of a query: two after the strides
QUIET_WINDOW = 1e-3  # of a query's loudest window, by root mean square: quieter ones say nothing (-60 dB)


@dataclass(frozen=True)
class LaSAFTQueryConfig(LaSAFTv2Config):
    """The fields of `LaSAFTv2Config` and those of the Query-net."""

    sources: Sequence[str] = ("vocals", "drums", "bass", "other")  # known by name, each with a stored latent
    query_n_fft: int = 2048  # samples; the hop is the separator's
    query_channels: Sequence[int] = (24, 16, 16, 32, 32, 64, 64)  # of first_conv and the six that follow
    query_hidden: int = 128  # width of the GRU


class StridedConv(nn.Module):
    """Convolution, instance norm, ReLU. Named as published."""

    def __init__(self, channels_in: int, channels: int, time_stride: int):
        super().__init__()
        self.strided_conv = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride=(time_stride, 2), padding=1),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, N, F] -> [B, C', N / time_stride, F / 2], rounded up."""
        return self.strided_conv(x)


class QueryNet(nn.Module):
    """Makes z of a query's spectrogram: [B, 2C, N, F] -> [B, e]."""

    def __init__(self, config: LaSAFTQueryConfig):
        super().__init__()
        first, *rest = config.query_channels
        if len(rest) != len(TIME_STRIDES):
            raise ValueError(f"query_channels has {len(rest) + 1} numbers instead of {len(TIME_STRIDES) + 1}")
        if config.query_n_fft % 2 ** (len(rest) + 1):
            raise ValueError(f"query_n_fft must be a multiple of {2 ** (len(rest) + 1)}")
        self.first_conv = nn.Sequential(
            nn.Conv2d(2 * config.channels, first, (1, 2)), nn.InstanceNorm2d(first), nn.ReLU()
        )
        self.conv_nets = ModuleListOf(
            StridedConv(a, b, stride)
            for a, b, stride in zip(config.query_channels, rest, TIME_STRIDES, strict=False)
        )
        bins = config.query_n_fft // 2 >> len(rest)
        self.gru = nn.GRU(rest[-1] * bins, config.query_hidden, batch_first=True)
        self.fc = nn.Linear(config.query_hidden, config.embedding_dim)

    def forward(self, cac: Tensor) -> Tensor:
        """[B, 2C, N, F] -> z [B, e]."""
        x = self.first_conv(cac)
        for conv in self.conv_nets:
            x = conv(x)
        rows, _ = self.gru(x.transpose(1, 2).flatten(2))  # [B, N', C * F'], channels outside
        return self.fc(rows.mean(dim=1))


class LaSAFTQuery(Unet, Queryable):
    """The network of the file's head. Without a query it makes the stems that it has latents of."""

    mean_latents: Tensor  # [S, e]; a row of zeros is one that is not known yet
    bound: Tensor  # [queries, e]
    query_window: Tensor  # [query_n_fft]

    def __init__(self, config: LaSAFTQueryConfig):
        super().__init__(config)
        self.embedding = QueryNet(config)
        self.start()
        self.register_buffer("mean_latents", torch.zeros(len(config.sources), config.embedding_dim))
        self.register_buffer("bound", torch.zeros(0, config.embedding_dim), persistent=False)
        self.register_buffer("query_window", torch.hann_window(config.query_n_fft), persistent=False)
        # The STFT mirrors half a window at each end.
        least = max(LEAST_FRAMES * config.hop_length, config.query_n_fft // 2 + 1)
        self.min_query = least / config.samplerate

    def condition(self, index: Tensor) -> Tensor:
        """See Conditioned: the mean latents, then the latents of bound queries."""
        return torch.cat([self.mean_latents, self.bound])[index]

    def query_spectrogram(self, wave: Tensor) -> Tensor:
        """The spectrogram that `query` takes: [B, C, T] -> [B, 2C, N', F']."""
        return to_channels(centred_stft(wave, self.query_window.float(), self.config.hop_length))

    def query(self, cac: Tensor) -> Tensor:
        """The latents of queries: [B, 2C, N', F'] -> z [B, e].

        In training the Query-net has seen windows of about config.num_frame frames.
        """
        return self.embedding(cac)

    @torch.no_grad()
    def bind(self, queries: Mapping[str, Tensor]) -> LaSAFTQuery:
        """See Queryable."""
        bound = sharing_copy(self)
        bound.bound = torch.cat([self.bound, *(self._latent(wave)[None] for wave in queries.values())])
        # A name stands for the last row that has it: `condition` counts rows, `known` names them.
        hidden = [None if name in queries else name for name in self.known]
        bound.known = (*hidden, *queries)
        bound.sources, bound.prepared = tuple(dict.fromkeys([*self.sources, *queries])), None
        return bound

    def _latent(self, wave: Tensor) -> Tensor:
        """One query [C, T] -> z [e]: the mean over windows of a segment's length, as it was trained.

        A long query would otherwise be normalised as a whole, which the Query-net never saw. The last window
        ends with the query; silent ones say nothing.
        """
        size, samples = self.config.hop_length * (self.config.num_frame - 1), wave.shape[-1]
        starts = [min(start, max(samples - size, 0)) for start in range(0, samples, size)]
        windows = [wave[:, start : start + size] for start in starts]
        levels = [window.square().mean().sqrt() for window in windows]
        quiet, dtype = QUIET_WINDOW * max(levels), self.mean_latents.dtype
        heard = [window for window, level in zip(windows, levels, strict=True) if level >= quiet]
        return torch.cat([self.query(self.query_spectrogram(w[None]).to(dtype)) for w in heard]).mean(0)

    def _constants(self) -> list[Any]:
        missing = [
            name
            for name, z in zip(self.known, self.mean_latents, strict=False)
            if name in self.sources and not z.any()
        ]
        if missing:
            raise ModelError(
                f"The model has no latent for {', '.join(missing)} yet.",
                remedy="Give it an audio query, or set its latents from training data.",
                code="no_latents",
            )
        return super()._constants()
