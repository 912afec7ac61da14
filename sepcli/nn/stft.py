"""The STFT conventions of published models, each under the name of the project that set it.

Knows nothing of models. float32 (and complex64), whatever a network computes in.

demucs   periodic Hann of `nfft` samples, hop = nfft / 4, 1 / sqrt(nfft) scaling, N = ceil(T / hop) frames.
         As a convolution of stride `hop` it divides the length exactly; frame n starts at hop * (n - 3/2).

            mix          |=========|=========|=========|
            frame 0 |---------^---------|                 ^ its first sample's hop is centred in the window
            frame 1      |---------^---------|

         Beyond its ends the mix is mirrored; the Nyquist bin is dropped, so F = nfft / 2.

demucs_old   the padding of some models of the 2021 MDX challenge: silence instead of mirrored audio, and the
         inverse begins 3/2 hop early. Their networks were trained to undo that shift.

centred  what torch and librosa do if nothing is said, the convention of LaSAFT's networks: a periodic Hann
         window, any hop, no scaling. Frame n is centred on sample n * hop, so N = T // hop + 1, with mirrored
         audio beyond the ends; all F = nfft / 2 + 1 bins.

spleeter  a periodic Hann window, hop = nfft / 4, no scaling. Silence stands before the mix, a whole window of
         it, and after its end: frame n ends before sample n * hop, so N = ceil((T + nfft) / hop), and the first
         one is silent. All F = nfft / 2 + 1 bins, in the memory order [..., N, F].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def demucs_window(nfft: int, device: torch.device | None = None) -> Tensor:
    """The window of demucs_stft and demucs_istft, [nfft] float32: made once, or on the fly."""
    return torch.hann_window(nfft, periodic=True, dtype=torch.float32, device=device)


def demucs_frames(samples: int, nfft: int) -> int:
    """The number of frames N in the spectrogram of that many samples."""
    return math.ceil(samples / (nfft // 4))


def demucs_stft(wave: Tensor, window: Tensor, *, old: bool = False) -> Tensor:
    """Spectrogram by the `demucs` convention, or `demucs_old`: [..., T] -> complex64 [..., F, N]."""
    nfft = len(window)
    hop = nfft // 4
    *batch, samples = wave.shape
    frames = math.ceil(samples / hop)
    margin = 3 * hop // 2
    after = margin + frames * hop - samples
    wave = wave.float().reshape(-1, samples)
    if old:
        wave = F.pad(wave, (margin, after))
    else:
        # Mirroring needs more samples than it makes: a shorter mix is extended with silence first.
        silence = min(max(after - samples + 1, 0), after)
        wave = F.pad(wave, (0, silence)) if silence else wave
        wave = F.pad(wave, (margin, after - silence), mode="reflect")
    spec = torch.stft(wave, nfft, hop, window=window, center=False, normalized=True, return_complex=True)
    return spec[:, :-1].view(*batch, nfft // 2, frames)


def demucs_istft(spec: Tensor, samples: int, window: Tensor, *, old: bool = False) -> Tensor:
    """Inverse of `demucs_stft`: complex64 [..., F, N] -> [..., T = samples].

    Cheapest where the memory order is [..., N, F].
    Overlap-add of windowed frames over the sum of squared windows, which at hop = nfft / 4 is 3/2. It counts
    two silent frames beyond each end, so the last 3/2 hop on both sides come out fainter than they went in.
    """
    nfft = len(window)
    hop = nfft // 4
    # A missing Nyquist bin counts as zero.
    frames = torch.fft.irfft(spec.transpose(-1, -2), n=nfft, norm="ortho") * (window / 1.5)
    *batch, count, _ = frames.shape
    quarters = frames.view(*batch, count, 4, hop)
    wave = frames.new_zeros(*batch, count + 3, hop)
    for quarter in range(4):
        wave[..., quarter : quarter + count, :] += quarters[..., quarter, :]
    wave = wave.flatten(-2)
    if not old:
        start = 3 * hop // 2
        return wave[..., start : start + samples]
    # Two silent frames stand before the first, but the first hop would need three: its sum of squares lacks
    # the last quarter of a window.
    missing = 1.5 / (1.5 - window[3 * hop :] ** 2)
    return torch.cat([wave[..., :hop] * missing, wave[..., hop:]], dim=-1)[..., :samples]


def centred_stft(wave: Tensor, window: Tensor, hop: int, *, normalized: bool = False) -> Tensor:
    """Spectrogram by the `centred` convention: [..., T] -> complex [..., F, N], in the window's precision.

    T must be above nfft / 2, which mirroring needs. normalized: scaled by 1 / sqrt(nfft).
    """
    *batch, samples = wave.shape
    wave = wave.to(window.dtype).reshape(-1, samples)
    spec = torch.stft(wave, len(window), hop, window=window, normalized=normalized, return_complex=True)
    return spec.view(*batch, *spec.shape[-2:])


def centred_istft(spec: Tensor, window: Tensor, hop: int, samples: int, *, normalized: bool = False) -> Tensor:
    """Inverse of `centred_stft`: complex [..., F, N] -> [..., T = samples], less than hop * N."""
    *batch, bins, frames = spec.shape
    wave = torch.istft(
        spec.reshape(-1, bins, frames),
        len(window),
        hop,
        window=window,
        normalized=normalized,
        length=samples,
    )
    return wave.view(*batch, samples)


def spleeter_stft(wave: Tensor, window: Tensor) -> Tensor:
    """Spectrogram by the `spleeter` convention: [..., T] -> complex64 [..., N, F]."""
    nfft, samples = len(window), wave.shape[-1]
    hop = nfft // 4
    frames = math.ceil((samples + nfft) / hop)
    padded = F.pad(wave.float(), (nfft, (frames - 1) * hop - samples))
    return torch.fft.rfft(padded.unfold(-1, nfft, hop) * window)


def spleeter_istft(spec: Tensor, samples: int, window: Tensor) -> Tensor:
    """Inverse of `spleeter_stft`: complex64 [..., N, F] -> [..., T = samples]; missing bins count as 0.

    Overlap-add of windowed frames over the sum of squared windows, which at hop = nfft / 4 is 3/2.
    """
    nfft = len(window)
    hop = nfft // 4
    frames = torch.fft.irfft(spec, n=nfft) * (window / 1.5)
    *batch, count, _ = frames.shape
    quarters = frames.view(*batch, count, 4, hop)
    wave = frames.new_zeros(*batch, count + 3, hop)
    for quarter in range(4):
        wave[..., quarter : quarter + count, :] += quarters[..., quarter, :]
    return wave.flatten(-2)[..., nfft : nfft + samples]
