"""How Open-Unmix and X-UMX are trained: on magnitudes, before any filter; X-UMX on waveforms beside them.

    stems [B, S, C, T] -> mix = their sum -> magnitudes -> networks -> estimates
    "magnitudes"  the criterion (mean squared error) of each estimate and its stem's magnitudes
    "bridged"     the mean over combinations of stems: squared error of magnitudes + `time` (1 - weighted SDR)

A combination is a set of 1 to S - 1 stems: the sum of their estimates is compared with the sum of their
magnitudes, and, with the mix's phase and as a waveform, with the sum of their waveforms.

(Stöter et al. 2019, and the training code of openunmix 1.3.0; Sawata et al. 2021, and the published code of
asteroid. The weighted SDR is that of Choi et al. 2019, "Phase-aware Speech Enhancement with Deep Complex
U-Net".)

Fresh networks begin with what they hear standardised: each bin by its mean and deviation in the first batch.
The programs take those of the whole data set; they are parameters, which learn like any others.

Axes: B batch, S sources, C channels, T samples, N frames, F bins, G combinations.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.distributed as dist
from torch import Tensor

from sepcli.errors import UsageError
from sepcli.models.objective import Examples, Objective, check_on_magnitudes, rest_of
from sepcli.models.openunmix.network import Unmix
from sepcli.nn.losses import Criterion, Loss

LEAST_DEVIATION = 1e-4  # of the largest of all bins, as published
TINY = 1e-10  # beside energies


class Magnitudes(Objective):
    """The first objective of the file's head; the terms of the loss are "l1" or "mse", of magnitudes."""

    def __init__(self, model: Unmix, criterion: Criterion):
        check_on_magnitudes(criterion)
        self.criterion = criterion
        self.rest = rest_of(model)
        self.begun = False

    def __call__(self, model: Unmix, batch: Examples) -> Loss:
        """See Objective."""
        mix = model.spectrogram(batch.stems.sum(dim=1))  # [B, C, N, F]
        stems = batch.stems[:, : len(model.known)]
        estimates = self._estimates(model, mix)
        return self._loss(model, estimates, _heard(model, model.spectrogram(stems)), mix, stems)

    def _loss(self, model: Unmix, estimates: Tensor, stems: Tensor, mix: Tensor, waves: Tensor) -> Loss:
        """Magnitudes [B, S, C, N, F] estimated and true, the mix's spectrogram, waveforms [B, S, C, T]."""
        return self.criterion(estimates.flatten(3), stems.flatten(3))

    def _estimates(self, model: Unmix, mix: Tensor) -> Tensor:
        """The networks' magnitudes of all stems: the mix's [B, C, N, F] -> [B, S, C, N, F]."""
        if not self.begun:
            self.begun = True
            if _is_fresh(model):
                standardise(model, _heard(model, mix[:, None])[:, 0])
        return model.magnitudes(mix.abs(), model.known).float()


class Bridged(Magnitudes):
    """The second objective, of the X-UMX paper: losses in two domains, over combinations of stems.

    time: weight of the waveforms' loss beside that of magnitudes. combined: False for single stems only. All
    combinations count the same, so there are no weights of stems.
    """

    def __init__(self, model: Unmix, criterion: Criterion, *, time: float = 10.0, combined: bool = True):
        super().__init__(model, criterion)
        if (
            len(criterion.terms) != 1
            or criterion.terms[0].kind != "mse"
            or len(set(criterion.weights.tolist())) > 1
        ):
            raise UsageError(
                'The objective "bridged" is its own loss: squared errors of magnitudes, all stems alike.',
                remedy='Set one term, loss.terms = [{kind = "mse"}], and no loss.source_weights.',
            )
        if time < 0:
            raise UsageError(
                f"objective_options.time is {time:g}, but must be 0 or more.",
                remedy="Correct objective_options.time.",
            )
        count = len(model.known)
        sizes = range(1, count if combined else 2)
        self.groups = torch.zeros(0, count)
        for group in (group for size in sizes for group in combinations(range(count), size)):
            self.groups = torch.cat([self.groups, torch.eye(count)[list(group)].sum(dim=0)[None]])
        self.time = time

    def _loss(self, model: Unmix, estimates: Tensor, stems: Tensor, mix: Tensor, waves: Tensor) -> Loss:
        # Sums over groups without a tensor of all of them: the mean of squares over G combinations is a
        # quadratic form of the errors of single stems.
        error = (estimates - stems).transpose(0, 1).flatten(1)  # [S, ...]
        groups = self.groups.to(error)
        products = error @ error.T / error.shape[1]  # [S, S]
        magnitudes = torch.einsum("gs,st,gt->g", groups, products, groups).mean()
        if not self.time:
            return Loss(magnitudes, {"magnitudes": magnitudes.detach()})
        spec = torch.polar(estimates, mix.angle()[:, None].expand_as(estimates))
        samples = waves.shape[-1]
        found = torch.einsum("gs,bsct->gbct", groups, model.wave(spec, samples))
        true = torch.einsum("gs,bsct->gbct", groups, waves)
        wave = 1 - weighted_sdr(found, true, waves.sum(dim=1)).mean()
        parts = {"magnitudes": magnitudes.detach(), "time": wave.detach()}
        return Loss(magnitudes + self.time * wave, parts)


def weighted_sdr(estimate: Tensor, reference: Tensor, mix: Tensor) -> Tensor:
    """[..., T], all of them -> [...], -1 to 1.

    How much an estimate points the way of its reference, and what it leaves of the mix the way of what should
    be left, weighted by the energies of reference and rest.
    """
    rest, left = mix - reference, mix - estimate
    energy, other = reference.square().sum(dim=-1), rest.square().sum(dim=-1)
    share = energy / (energy + other + TINY)
    return share * _cosine(estimate, reference) + (1 - share) * _cosine(left, rest)


def standardise(model: Unmix, mix: Tensor) -> None:
    """Gives what networks hear the statistics of these magnitudes [B, C, N, F], the same in all processes."""
    heard = len(model.targets[0].input_mean)
    values = mix[..., :heard].detach()
    moments = torch.stack([values.mean(dim=(0, 1, 2)), values.square().mean(dim=(0, 1, 2))])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(moments)
        moments /= dist.get_world_size()
    deviation = (moments[1] - moments[0].square()).clamp(min=0).sqrt()
    deviation = deviation.clamp(min=LEAST_DEVIATION * deviation.max().clamp(min=TINY))
    for target in model.targets:
        target.input_mean.data.copy_(-moments[0])
        target.input_scale.data.copy_(1 / deviation)


def _is_fresh(model: Unmix) -> bool:
    return all(not target.input_mean.any() and (target.input_scale == 1).all() for target in model.targets)


def _heard(model: Unmix, spec: Tensor) -> Tensor:
    """Magnitudes [B, S, C, N, F] of a spectrogram; of one channel where the networks are mono."""
    return spec.abs().mean(dim=2, keepdim=True) if model.config.mono else spec.abs()


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """[..., T] -> [...]: of the angle between two; 0 where one is silent."""
    lengths = (one.square().sum(dim=-1) + TINY).sqrt() * (other.square().sum(dim=-1) + TINY).sqrt()
    return (one * other).sum(dim=-1) / lengths
