"""How the common training toolkit walks over a track, for comparison with what it wrote of one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def toolkit_walk(
    stems_of: Callable[[Tensor], Tensor], mix: Tensor, chunk: int, overlap: int, *, standardise: bool = False
) -> Tensor:
    """[C, T] -> [S, C, T], by a network that takes [1, C, chunk] to [1, S, C, chunk].

    Mirrored ends, `overlap` calls everywhere, weights that rise and fall in a tenth of a call. standardise: the
    whole track, by the deviation of its mono mean as numpy computes it.
    """
    step, fade = chunk // overlap, chunk // 10
    border, samples = chunk - step, mix.shape[-1]
    mean, scale = torch.zeros(()), torch.ones(())
    if standardise:
        mono = mix.mean(dim=0)
        mean, scale = mono.mean(), mono.std(correction=0)
    heard = (mix - mean) / scale
    mirrored = samples > 2 * border and border > 0
    if mirrored:
        heard = F.pad(heard[None], (border, border), mode="reflect")[0]
    total, weights = torch.tensor(0.0), torch.zeros(heard.shape[-1])
    for start in range(0, heard.shape[-1], step):
        piece = heard[:, start : start + chunk]
        length = piece.shape[-1]
        mode = "reflect" if length > chunk // 2 + 1 else "constant"
        stems = stems_of(F.pad(piece[None], (0, chunk - length), mode=mode))[0, ..., :length]
        weight = torch.ones(chunk)
        if start:
            weight[:fade] = torch.linspace(0, 1, fade)
        if start + step < heard.shape[-1]:
            weight[-fade:] = torch.linspace(1, 0, fade)
        weight = weight[:length]
        if total.ndim == 0:
            total = torch.zeros(*stems.shape[:-1], heard.shape[-1])
        total[..., start : start + length] += stems * weight
        weights[start : start + length] += weight
    made = (total / weights).nan_to_num()
    made = made[..., border : border + samples] if mirrored else made
    return made * scale + mean
