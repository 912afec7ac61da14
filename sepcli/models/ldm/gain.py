"""The level that a decoded stem had in the mix, and whether it is in there at all. Knows waveforms only.

A decoder whose last norm spans a whole call gives every stem the same level, silence too (`seanet.py`). It does
keep the stem's own envelope. So the level is found by comparing powers in time and frequency, V of the decoded
stem and M of the mix, over the whole call:

    M[f, t] = g^2 V[f, t] + a[f] + ...       g: least squares; a: a constant of each frequency for other sound

    M   .:|:..:|||:.   sound that moves with the stem counts,     g^2 = sum_f cov_t(V, M) / sum_f var_t(V)
    V   ..|....|||..   sound that is always there does not

No phases are compared, because a generative model does not get them right: with random phases the level found
this way is 1 dB too low, while least squares on waveforms finds nothing. Where phases are right, least squares
is better, and otherwise it errs on the low side, so the larger of the two levels counts.

    presence    0 to 1: how much of M, where the stem is, moves with the stem; or how well the waveforms agree
    bound       a stem is at most 3 dB louder than the mix, over the call and around each moment; and around no
                bin of the spectrogram it has more power

Silence that was blown up to full level does not move with the mix, and is taken back. Sound that is drawn where
the mix has nothing is not of the stem, so it is bounded. A true stem has more power than the mix only where the
other sound cancels it; the bound takes 0.1 dB of it in real songs. (The paper does not say how it keeps levels:
all of this is ours. docs/log.md has the measurements behind the constants.)

Axes: B batch, C channels, T samples, F frequencies, N frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NFFT = 2048  # samples; hop a quarter of it
POOL = 4  # of its frames are averaged: 43 ms at 48 kHz, in which the chances of wrong phases even out
FRAME = 1024  # samples of a moment
LOUDER = 10 ** (3 / 20)  # times the mix's amplitude: the most that a stem can have
# From "not in the mix" to "in it". Of the share of M's power that follows V where V is: vocals of other songs
# have less than 0.3 in nine of ten cases, right ones of any phases more than 0.6. Of the correlation of
# waveforms: others less than 0.015, right ones of right phases 0.03 at 30 dB below the mix.
EXPLAINED = (0.3, 0.5)
COHERENT = (0.03, 0.06)
# Of V's variance over its squared mean: noise has 0.5, voices more than 1. What never changes tells nothing.
MOVING = (0.1, 0.3)
TINY = 1e-20


def placed(stem: Tensor, mix: Tensor) -> Tensor:
    """A decoded stem of any level, brought to the level that it has in the mix: [B, C, T] x 2 -> [B, C, T]."""
    return bounded(within(stem * gain(stem, mix), mix), mix)


def gain(stem: Tensor, mix: Tensor) -> Tensor:
    """The factor that gives a stem its level in the mix: [B, C, T] x 2 -> [B, 1, 1]; 0 where it is absent."""
    energy, whole = stem.square().sum((1, 2)), mix.square().sum((1, 2))
    product = (stem * mix).sum((1, 2))
    coherence = product / (energy * whole + TINY).sqrt()
    by_wave = (product / (energy + TINY)).clamp(min=0) * rising(coherence, COHERENT)

    v, m = powers(stem), powers(mix)
    mean, variance = v.mean(-1), v.var(-1, correction=0)  # [B, C F]
    moving = variance.sum(-1) / (mean.square().sum(-1) + TINY)
    covariance = ((v - mean[..., None]) * m).mean(-1).sum(-1)
    square = covariance / (variance.sum(-1) + TINY)
    # With every a = 0; a g above that would mean a mix with less power than silence.
    most = (v * m).sum((1, 2)) / (v.square().sum((1, 2)) + TINY)
    presence = rising(square / (most + TINY), EXPLAINED) * rising(moving, MOVING)
    by_power = torch.minimum(square, most).clamp(min=0).sqrt() * presence

    found = torch.maximum(by_wave, by_power)
    return torch.minimum(found, LOUDER * (whole / (energy + TINY)).sqrt())[:, None, None]


def within(stem: Tensor, mix: Tensor) -> Tensor:
    """The stem, turned down in bins around which it has more power than the mix: [B, C, T] x 2 -> [B, C, T].

    Around: a bin and its two neighbours in frequency. Channels are bounded each by itself.
    """
    ours, theirs = _spectra(stem), _spectra(mix)
    v, m = (F.avg_pool2d(_power(spec), (3, 1), 1, (1, 0), count_include_pad=False) for spec in (ours, theirs))
    gains = (m / (v + TINY)).clamp(max=1).sqrt()
    window = torch.hann_window(NFFT, device=stem.device)
    wave = torch.istft(ours * gains, NFFT, NFFT // 4, window=window, length=stem.shape[-1])
    return wave.unflatten(0, stem.shape[:2])


def bounded(stem: Tensor, mix: Tensor) -> Tensor:
    """The stem, turned down where it is more than 3 dB louder than the mix: [B, C, T] x 2 -> [B, C, T].

    The mix counts with two moments to each side, so that an onset is not cut. Each moment has a gain, the least
    of its own and its neighbours', with straight lines between the centres of moments: no moment is above its
    bound.
    """
    samples = stem.shape[-1]
    ours, theirs = (_moments(wave) for wave in (stem, mix))  # [B, 1, N]
    around = F.max_pool1d(theirs, 5, stride=1, padding=2)
    gains = (LOUDER * around / (ours + TINY)).clamp(max=1)
    gains = -F.max_pool1d(-gains, 3, stride=1, padding=1)
    smooth = F.interpolate(gains, size=gains.shape[-1] * FRAME, mode="linear", align_corners=False)
    return stem * smooth[..., :samples]


def powers(wave: Tensor) -> Tensor:
    """Powers in time and frequency: [B, C, T] -> |STFT|^2, [B, C F, N] float32, means over `POOL` frames.

    Channels count as further frequencies.
    """
    power = _power(_spectra(wave)).unflatten(0, wave.shape[:2]).flatten(1, 2)
    return F.avg_pool1d(power, POOL, ceil_mode=True)


def _spectra(wave: Tensor) -> Tensor:
    """[B, C, T] -> complex64 [B C, F, N], silence around it."""
    window = torch.hann_window(NFFT, device=wave.device)
    return torch.stft(
        wave.float().flatten(0, 1), NFFT, NFFT // 4, window=window, pad_mode="constant", return_complex=True
    )


def _power(spec: Tensor) -> Tensor:
    """Complex [...] -> [...]."""
    return torch.view_as_real(spec).square().sum(-1)


def _moments(wave: Tensor) -> Tensor:
    """[B, C, T] -> the RMS of each moment [B, 1, N], N = ceil(T / FRAME)."""
    padded = F.pad(wave, (0, -wave.shape[-1] % FRAME)).unflatten(-1, (-1, FRAME))
    return padded.square().mean((1, 3)).sqrt()[:, None]


def rising(value: Tensor, edges: tuple[float, float]) -> Tensor:
    """0 below the first edge, 1 above the second, smooth in between: no result depends on a last bit."""
    low, high = edges
    x = ((value - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)
