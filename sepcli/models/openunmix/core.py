"""The layers that Open-Unmix has for one stem: magnitudes of a mix in, the stem's share of them out.

    x  -> (x + input_mean) * input_scale -> linear -> norm -> tanh  = e
    e  -> LSTM, along the frames                                    = l
    e,l -> linear -> norm -> ReLU -> linear -> norm -> * output_scale + output_mean -> ReLU

The three lines are methods, because X-UMX puts the means over all stems between them. (Stöter et al.,
"Open-Unmix - A Reference Implementation for Music Source Separation", JOSS 4(41), 2019; facts of its published
code.)

Axes: B batch, C channels, N frames, F bins, K bins that are heard, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

DROPOUT = 0.4  # between the layers of the LSTM, in training


class Target(nn.Module):
    """The layers of one stem. Parameters have the names of the published files."""

    def __init__(self, channels: int, bins: int, heard: int, hidden: int, layers: int, unidirectional: bool):
        """bins: F. heard: K, the lowest of them. hidden: H. layers: of the LSTM."""
        super().__init__()
        self.channels = channels
        self.input_mean = nn.Parameter(torch.zeros(heard))  # minus the mean of the bin
        self.input_scale = nn.Parameter(torch.ones(heard))  # one over its deviation
        self.fc1 = nn.Linear(channels * heard, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden if unidirectional else hidden // 2,
            layers,
            batch_first=True,
            dropout=DROPOUT if layers > 1 else 0.0,
            bidirectional=not unidirectional,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, channels * bins, bias=False)
        self.bn3 = nn.BatchNorm1d(channels * bins)
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))

    def encode(self, mix: Tensor) -> Tensor:
        """The first line of the file's head: magnitudes [B, C, N, F] -> e [B, N, H]."""
        x = (mix[..., : len(self.input_mean)] + self.input_mean) * self.input_scale
        return _normed(self.fc1(x.transpose(1, 2).flatten(2)), self.bn1).tanh()

    def recur(self, e: Tensor) -> Tensor:
        """The second line: [B, N, H] -> l [B, N, H]."""
        return self.lstm(e)[0]

    def decode(self, e: Tensor, l: Tensor) -> Tensor:  # noqa: E741  (the letter of the head)
        """The third line: two of [B, N, H] -> [B, C, N, F]."""
        x = _normed(self.fc2(torch.cat([e, l], dim=-1)), self.bn2).relu()
        x = _normed(self.fc3(x), self.bn3).unflatten(-1, (self.channels, -1))
        return (x * self.output_scale + self.output_mean).relu().transpose(1, 2)


def _normed(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """[B, N, H] -> the same, each of H by its statistics."""
    return norm(x.flatten(0, 1)).view_as(x)
