"""CU-Net's control: from the stem that is asked for to a factor and a summand for each layer of the U-Net.

(Meseguer-Brocal and Peeters, "Conditioned-U-Net: introducing a control mechanism in the U-Net for multiple
source separations", ISMIR 2019, section 4.2; facts of its published code.)

Axes: B batch, S stems, C features, K conditions: a number for each layer, or for each channel of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepcli.nn.modules import ModuleListOf
from sepcli.nn.norm import Norm

CONTROLS = ("dense", "cnn")
EPSILON, MOMENTUM = 1e-3, 0.01  # of Keras's batch norms
DROPOUT = 0.5


class Control(nn.Module):
    """One-hot vectors [B, S] -> gamma and beta, [B, K] each."""

    def __init__(self, kind: str, stems: int, widths: Sequence[int], conditions: int):
        """kind: "dense" layers, or "cnn", convolutions along the one-hot vector. ValueError for another."""
        super().__init__()
        if kind not in CONTROLS:
            raise ValueError(f"control is '{kind}', but must be one of {', '.join(CONTROLS)}")
        self.kind, self.stems = kind, stems
        before = [stems if kind == "dense" else 1, *widths[:-1]]
        pairs = list(zip(before, widths, strict=True))
        self.layers = nn.ModuleList(
            nn.Linear(a, b) if kind == "dense" else nn.Conv1d(a, b, stems) for a, b in pairs
        )
        self.norms = ModuleListOf(Norm(b, epsilon=EPSILON, momentum=MOMENTUM) for b in widths[1:])
        self.gamma, self.beta = (nn.Linear(widths[-1], conditions) for _ in range(2))

    def forward(self, hot: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x, last = hot if self.kind == "dense" else hot[:, None], len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            if self.kind == "cnn" and i < last:  # as long as before; the last leaves one value of each
                x = F.pad(x, ((self.stems - 1) // 2, self.stems // 2))
            x = F.relu(layer(x))
            if i:
                x = self.norms[i - 1](F.dropout(x, DROPOUT, self.training))
        x = x.flatten(1)
        return self.gamma(x), self.beta(x)


def one_hot(index: Sequence[int], stems: int, like: Tensor) -> Tensor:
    """[len(index), S], in the type and on the device of `like`."""
    return torch.eye(stems, dtype=like.dtype, device=like.device)[list(index)]
