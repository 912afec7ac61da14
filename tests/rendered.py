"""Songs of a moment, made of simple sounds: what a network can learn from in seconds."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rendered_song(number: int, samples: int, samplerate: int = 44100) -> Tensor:
    """Vocals (a trembling tone), drums (bursts of noise), bass and other (a chord): [4, 2, samples].

    number: another song for each; the channels are not equally loud.
    """
    generator = torch.Generator().manual_seed(number)
    time = torch.arange(samples) / samplerate
    root = 55.0 * 2 ** (number / 12)  # Hz

    def tone(hertz: float, trembling: float = 0.0) -> Tensor:
        return torch.sin(2 * math.pi * hertz * time + trembling * torch.sin(2 * math.pi * 6 * time))

    beats = torch.exp(-60 * (time % 0.05))
    stems = [
        0.2 * (tone(8 * root, 8) + 0.5 * tone(16 * root, 16)),
        0.3 * beats * torch.randn(samples, generator=generator),
        0.3 * tone(root),
        0.1 * (tone(4 * root) + tone(5 * root) + tone(6 * root)),
    ]
    sides = torch.linspace(0.6, 1.0, 4)
    return torch.stack(
        [torch.stack([side * stem, (1.6 - side) * stem]) for side, stem in zip(sides, stems, strict=True)]
    )
