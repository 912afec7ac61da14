"""How far an estimate is from its reference, as a loss to descend on.

Knows tensors only: no model, no data. Every distance is a function [B, S, C, T] x 2 -> [B, S], so that sources
can be weighted; `Criterion` sums weighted terms into one `Loss`. `C` channels are averaged over, never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sepcli.errors import UsageError

MR_STFT_SIZES = (512, 1024, 2048)  # samples; Yamamoto et al. 2020, table 1, rounded to powers of two
MR_COMPLEX_WINDOWS = (4096, 2048, 1024, 512, 256)  # samples; as RoFormers are trained, with the next two
MR_COMPLEX_NFFT = 2048  # samples, at least: shorter windows stand among zeros
MR_COMPLEX_HOP = 147  # samples
SDR_CEILING = 30.0  # dB, of SDR and SI-SDR: beyond it a source is as good as done and stops pulling
LEAST_SQUARE = 1e-14  # mean square under which there is no error: the root has no slope at 0
SILENT_POWER = 1e-8  # mean square under which a reference counts as silent: SI-SDR is not defined there


@dataclass(frozen=True)
class Loss:
    """The result of an objective: `total` to descend on; `parts` for the log, detached, by name."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One weighted distance of a Criterion."""

    kind: str = "l1"  # l1 | mse | rmse | mrstft | mrcomplex | sdr | sisdr
    on: str = "wave"  # l1, mse and rmse: the waveform, or its complex spectrogram
    weight: float = 1.0
    nfft: int = 2048  # samples, of the spectrogram
    hop: int = 512  # samples, of the spectrogram

    def __post_init__(self) -> None:
        for name, value, allowed in (("kind", self.kind, tuple(_KINDS)), ("on", self.on, _DOMAINS)):
            if value not in allowed:
                raise UsageError(
                    f"A loss term has {name} = '{value}', but it can be {', '.join(allowed)}.",
                    remedy="Correct [[loss.terms]].",
                )

    @property
    def name(self) -> str:
        """The term's name in the log: "l1", "mse_spectrogram", ..."""
        return f"{self.kind}_{self.on}" if self.on != "wave" else self.kind


def complex_spec(wave: Tensor, nfft: int, hop: int) -> Tensor:
    """[..., T] -> complex64 [..., F, N]: periodic Hann, centred, scaled by 1 / sqrt(nfft), always in float32.

    With that scaling white noise keeps its level, so weights mean the same at every `nfft`.
    """
    *batch, samples = wave.shape
    window = torch.hann_window(nfft, device=wave.device)
    pad = "reflect" if samples > nfft // 2 else "constant"
    spec = torch.stft(
        wave.float().reshape(-1, samples),
        nfft,
        hop,
        window=window,
        pad_mode=pad,
        normalized=True,
        return_complex=True,
    )
    return spec.view(*batch, *spec.shape[-2:])


def l1(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, ...] -> [B, S]: mean absolute error; of complex values, the mean modulus of the error."""
    return (estimate - reference).abs().flatten(2).mean(-1)


def mse(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, ...] -> [B, S]: mean squared error; of complex values, that of real plus imaginary part."""
    error = estimate - reference
    if error.is_complex():
        error = torch.view_as_real(error)
    return error.square().flatten(2).mean(-1)


def rmse(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, ...] -> [B, S]: the root of `mse`, so that a quiet source pulls as much as a loud one.

    The gradient of an estimate without error is 0.
    """
    return mse(estimate, reference).clamp(min=LEAST_SQUARE).sqrt()


def multi_resolution_stft(estimate: Tensor, reference: Tensor, sizes: Sequence[int] = MR_STFT_SIZES) -> Tensor:
    """[B, S, C, T] -> [B, S]: spectral convergence plus log-magnitude L1, averaged over resolutions.

    Yamamoto et al. 2020 (Parallel WaveGAN), equations 3 to 6, with a quarter of the window as hop. The
    convergence of a silent reference is relative to the floor, so that it stays finite.
    """
    total = torch.zeros(estimate.shape[:2], device=estimate.device)
    for nfft in sizes:
        ours, theirs = (
            complex_spec(wave, nfft, nfft // 4).abs().clamp(min=1e-5) for wave in (estimate, reference)
        )
        distance = (ours - theirs).flatten(2).norm(dim=-1) / theirs.flatten(2).norm(dim=-1).clamp(min=1e-2)
        total = total + distance + (ours.log() - theirs.log()).abs().flatten(2).mean(-1)
    return total / len(sizes)


def multi_resolution_complex(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, C, T] -> [B, S]: mean modulus of the error's spectrogram, summed over five windows.

    Lu et al. 2023 ("Music Source Separation with Band-Split RoPE Transformer"), with the windows and the hop of
    the code that public RoFormers were trained with; spectrograms are not scaled. They are linear, so that of
    the error is the difference of both.
    """
    error = (estimate - reference).float()
    total = error.new_zeros(error.shape[:2])
    for size in MR_COMPLEX_WINDOWS:
        nfft = max(size, MR_COMPLEX_NFFT)
        spec = torch.stft(
            error.flatten(0, 2),
            nfft,
            MR_COMPLEX_HOP,
            size,
            torch.hann_window(size, device=error.device),
            pad_mode="reflect" if error.shape[-1] > nfft // 2 else "constant",
            return_complex=True,
        )
        total = total + spec.abs().unflatten(0, error.shape[:3]).flatten(2).mean(-1)
    return total


def negative_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, C, T] -> [B, S]: minus the SI-SDR in dB (Le Roux et al. 2019, eq. 4), no mean removed.

    Bounded at 30 dB. A silent reference has no scale to be invariant to: there it is the estimate's level in
    dB instead, which asks for silence.
    """
    s, e = reference.float().flatten(2), estimate.float().flatten(2)
    energy = s.square().mean(-1)
    alpha = (e * s).mean(-1) / (energy + SILENT_POWER)
    target = alpha[..., None] * s
    signal, noise = target.square().mean(-1), (e - target).square().mean(-1)
    floor = 10 ** (-SDR_CEILING / 10)
    ratio = 10 * torch.log10((signal + SILENT_POWER) / (noise + floor * signal + SILENT_POWER))
    level = 10 * torch.log10(e.square().mean(-1) + SILENT_POWER)
    return torch.where(energy > SILENT_POWER, -ratio, level)


def negative_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """[B, S, C, T] -> [B, S]: minus the SDR in dB, so that a quiet source pulls as much as a loud one.

    The error is counted down to 30 dB below the source and to 30 dB below the mix (the sum of the references);
    of a silent source only its level beside the mix counts, which asks for silence (Wisdom et al. 2021,
    "What's all the fuss about free universal sound separation data?", section 3).
    """
    s, e = reference.float().flatten(2), estimate.float().flatten(2)
    energy, error = s.square().mean(-1), (e - s).square().mean(-1)
    mix = s.sum(1, keepdim=True).square().mean(-1)
    floor = 10 ** (-SDR_CEILING / 10) * (energy + mix) + SILENT_POWER
    reached = energy + floor
    return 10 * torch.log10((error + floor) / reached)


_DOMAINS = ("wave", "spectrogram")
_KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "rmse": rmse,
    "mrstft": multi_resolution_stft,
    "mrcomplex": multi_resolution_complex,
    "sdr": negative_sdr,
    "sisdr": negative_si_sdr,
}


class Criterion:
    """A weighted sum of terms and sources: [B, S, C, T] x 2 -> Loss.

    source_weights: one a source, relative; the total is their weighted mean, so scaling all of them changes
    nothing. A weight of 0 leaves a source out (per-source fine-tuning).
    """

    def __init__(self, terms: Sequence[Term], source_weights: Sequence[float]):
        if not terms or sum(source_weights) <= 0 or min(source_weights) < 0:
            raise UsageError(
                "A loss needs at least one term, and source weights of 0 or more, not all 0.",
                remedy="Correct [loss].",
            )
        self.terms = tuple(terms)
        self.weights = torch.tensor(source_weights).float() / sum(source_weights)  # [S]

    def __call__(self, estimate: Tensor, reference: Tensor) -> Loss:
        """Two of [B, S, C, T] -> the weighted sum, and each term by name."""
        estimate = estimate.float()
        weights = self.weights.to(estimate.device)
        specs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        total, parts = estimate.new_zeros(()), {}
        for term in self.terms:
            pair = (estimate, reference)
            if term.on == "spectrogram":
                size = (term.nfft, term.hop)
                if size not in specs:
                    specs[size] = (complex_spec(estimate, *size), complex_spec(reference, *size))
                pair = specs[size]
            value = (_KINDS[term.kind](*pair) * weights).sum(-1).mean()
            total = total + term.weight * value
            name = term.name if term.name not in parts else f"{term.name}_{term.nfft}"
            parts[name] = value.detach()
        return Loss(total, parts)


def check_squared(criterion: Criterion) -> None:
    """UsageError where a criterion is anything but the mean squared error of a network's output."""
    if any((term.kind, term.on) != ("mse", "wave") for term in criterion.terms):
        raise UsageError(
            "Denoisers are means, so their loss is the mean squared error and nothing else.",
            remedy='Set one term, loss.terms = [{kind = "mse"}].',
        )


class OneTarget:
    """A criterion for networks that give one target an example, drawn at random.

    A source's weight is how often it is the target, relative to others. The residual of the mix is the
    second source, for terms that relate a source to its mix.
    """

    def __init__(self, criterion: Criterion):
        self.weights = criterion.weights
        self.criterion = Criterion(criterion.terms, [1.0, 0.0])

    def __call__(self, estimate: Tensor, target: Tensor, mix: Tensor) -> Loss:
        """Waveforms [B, C, T] of the estimate, of the target and of the mix it is in -> Loss."""
        return self.criterion(
            torch.stack([estimate, mix - estimate], 1), torch.stack([target, mix - target], 1)
        )


def drawn_targets(stems: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one source of each example: stems [B, S, C, T], weights [S] -> [B, C, T], and its position [B]."""
    index = torch.multinomial(weights, len(stems), replacement=True).to(stems.device)
    return stems[torch.arange(len(stems), device=stems.device), index], index
