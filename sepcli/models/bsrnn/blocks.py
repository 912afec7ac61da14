"""A block of a BS-RNN, on a grid of tokens [N, B, K, D]: N frames, B batch, K bands, D values.

    x + linear(BiLSTM(norm(x)))     along time: sequences of N frames, one for each item and band
    x + linear(BiLSTM(norm(x)))     along bands: sequences of K bands, one for each item and frame
    x + TAC(x)                      between channels, which are items of the batch side by side
    x + attention(x)                along time, over all bands at once

(Luo and Yu 2023, "Music Source Separation with Band-Split RNN"; for TAC, "transform, average,
concatenate", Luo et al. 2020, arXiv:1910.14104; facts of the form that magronp published.)

What knows nothing of its neighbours is computed a few sequences at a time (nn/pieces.py); without gradients the
result then takes the place of the input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.models.bsrnn.bands import EPS, standardised
from sepcli.models.bsrnn.config import BSRNNConfig
from sepcli.nn.pieces import at_once

TAC_EXPANSION = 3  # the inner width is D times that
SEQUENCES = 32  # of an LSTM at once, at least: fewer make poor use of its matrices


def added(x: Tensor, change: Callable[[Tensor], Tensor], axis: int, count: int) -> Tensor:
    """x + change(x), `count` places of `axis` at a time. Without gradients it is written to x."""
    if torch.is_grad_enabled():
        return x + change(x)
    for piece in x.split(count, axis):
        piece += change(piece)
    return x


class Recurrent(nn.Module):
    """[L, S, D]: S sequences of length L, each normalised over both its axes -> what is added to them."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))
        self.lstm = nn.LSTM(dim, 2 * dim, bidirectional=True)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = standardised(x, (0, 2)).to(self.gamma.dtype)
        y = torch.addcmul(self.beta, y, self.gamma)
        return self.out(self.lstm(y.contiguous())[0])


class ChannelMixing(nn.Module):
    """TAC: each channel hears the mean of all. [N, B, C, K, D] -> what is added to it."""

    def __init__(self, dim: int, activation: str):
        super().__init__()
        if activation not in ("prelu", "tanh"):
            raise ValueError(f"tac is '{activation}', but must be prelu, tanh or empty")
        wide = TAC_EXPANSION * dim
        self.transform = nn.Linear(dim, wide)
        self.average = nn.Linear(wide, wide)
        self.concat = nn.Linear(2 * wide, dim)
        self.slope = nn.Parameter(torch.full((1,), 0.25)) if activation == "prelu" else None

    def _active(self, x: Tensor) -> Tensor:
        return x.tanh() if self.slope is None else F.prelu(x, self.slope)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        own = self._active(self.transform(x))
        mean = self._active(self.average(own.mean(2, keepdim=True)))
        of_own, of_mean = self.concat.weight.chunk(2, dim=1)  # the mean is the same for all channels
        y = F.linear(own, of_own, self.concat.bias)
        return self._active(y + F.linear(mean, of_mean))


class Heads(nn.Module):
    """Linear, PReLU and a norm over bands and values, for each of H heads: [N, B, K, D] -> [B, H, N, K * E]."""

    def __init__(self, dim: int, heads: int, width: int, bands: int):
        super().__init__()
        self.linear = nn.Linear(dim, heads * width)
        self.slope = nn.Parameter(torch.full((heads,), 0.25))
        self.gamma = nn.Parameter(torch.ones(heads, bands, width))
        self.beta = nn.Parameter(torch.zeros(heads, bands, width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        heads, bands, width = self.gamma.shape
        y = self.linear(x).unflatten(-1, (heads, width)).permute(1, 3, 0, 2, 4)  # [B, H, N, K, E]
        y = F.prelu(y.contiguous(), self.slope)
        precise = y.float() if y.element_size() < 4 else y
        normal = F.layer_norm(precise, (bands, width), eps=EPS).to(y.dtype)
        return torch.addcmul(self.beta[:, None], normal, self.gamma[:, None]).flatten(3)


class Attention(nn.Module):
    """Attention along time, where a frame's query and key are all its bands: [N, B, K, D] -> what is added."""

    def __init__(self, config: BSRNNConfig):
        super().__init__()
        dim, heads, bands = config.dim, config.heads, len(config.bands)
        if dim % heads:
            raise ValueError(f"dim is {dim}, but must be a multiple of heads = {heads}")
        self.queries = Heads(dim, heads, config.dim_head, bands)
        self.keys = Heads(dim, heads, config.dim_head, bands)
        self.values = Heads(dim, heads, dim // heads, bands)
        self.out = Heads(dim, 1, dim, bands)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = F.scaled_dot_product_attention(self.queries(x), self.keys(x), self.values(x))
        y = y.unflatten(3, (x.shape[2], -1)).permute(2, 0, 3, 1, 4).flatten(3)  # [N, B, K, D], head by head
        return self.out(y)[:, 0].unflatten(2, x.shape[2:]).transpose(0, 1)


class Block(nn.Module):
    """The lines of the file's head, one after the other."""

    def __init__(self, config: BSRNNConfig):
        super().__init__()
        self.channels = config.channels
        self.time = Recurrent(config.dim)
        self.bands = Recurrent(config.dim)
        self.mixing = ChannelMixing(config.dim, config.tac) if config.tac else None
        self.attention = Attention(config) if config.heads else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, B, K, D] -> the same shape; without gradients it may be written to x."""
        frames, items, bands, dim = x.shape
        x = x.view(frames, items * bands, dim)
        x = added(x, self.time, 1, max(SEQUENCES, at_once(frames, x.device)))
        x = x.view(frames * items, bands, dim)
        x = added(x, self._along_bands, 0, max(SEQUENCES, at_once(bands, x.device)))
        if self.mixing is not None:
            x = x.view(frames, -1, self.channels, bands, dim)
            x = added(x, self.mixing, 0, at_once(items * bands, x.device))
        x = x.view(frames, items, bands, dim)
        return x if self.attention is None else x + self.attention(x)

    def _along_bands(self, x: Tensor) -> Tensor:
        return self.bands(x.transpose(0, 1)).transpose(0, 1)
