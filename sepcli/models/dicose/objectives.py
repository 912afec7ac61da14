"""How the DiCoSe family is trained. An example has one target, drawn at random; its mix is the sum of stems.

    label          Deterministic, DoubleDeterministic: the target from the mix, by the run's criterion
    denoising      Diffusion: the target from itself with noise; MSDM, ISDM: all stems together, without a mix
    consistency    Consistency: a student learns to give in one step the result of several steps of its teacher

For "consistency" the network begins with the weights of its teacher, a Diffusion. Teacher and target are
copies:

    x = clean + sigma_i eps -> teacher, h steps of Heun -> x' at sigma_(i+h)
    L_CD = |g_student(x, sigma_i) - g_target(x', sigma_(i+h))|^2        target: a moving average of the student
    L_DSM = lambda(sigma) |D_student(clean + sigma eps, sigma) - clean|^2

(DiCoSe 2024, section 4; Song et al. 2023, "Consistency models", algorithm 2; Kim et al. 2024, "Consistency
trajectory models", for the long hops and L_DSM. Constants are those of DiCoSe's code.)

Axes: B batch, S sources, C = 1 channel, T samples, L labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sepcli.engine.device import has_bfloat16
from sepcli.errors import UsageError
from sepcli.models.dicose.deterministic import Deterministic, DoubleDeterministic
from sepcli.models.dicose.joint import Joint
from sepcli.models.dicose.refined import Consistency, Diffusion
from sepcli.models.dicose.sampled import told
from sepcli.models.dicose.unet import UNet
from sepcli.models.objective import Examples, Objective, check_trains, check_word
from sepcli.nn.diffusion import Denoise, along, edm_weight, heun_hops, karras_sigma, karras_sigmas
from sepcli.nn.losses import Criterion, Loss, OneTarget, check_squared, drawn_targets

LEVEL_MEAN, LEVEL_DEVIATION = -3.0, 1.0  # of ln sigma in training


# --- the losses, of given noise --------------------------------------------------------------------------


def denoising_errors(denoise: Denoise, clean: Tensor, sigma: Tensor, eps: Tensor, sigma_data: float) -> Tensor:
    """[B]: lambda(sigma) times the mean squared error (Karras et al. 2022, eqs. 2 and 8).

    clean, eps: [B, ...]; sigma: [B].
    """
    denoised = denoise(clean + along(sigma, clean) * eps, sigma)
    return edm_weight(sigma, sigma_data) * (denoised - clean).square().flatten(1).mean(-1)


def distillation_errors(
    student: Denoise,
    target: Denoise,
    teacher: Denoise,
    clean: Tensor,
    grid: Tensor,
    start: Tensor,
    hops: int,
    eps: Tensor,
) -> Tensor:
    """[B]: mean squared error of g_student against g_target, `hops` steps of the teacher later.

    grid: falling levels of noise [N]; start: index of the level at which each example begins, [B], in
    0 ... N - 1 - hops. Only the student's estimate has a gradient.
    """
    x = clean + along(grid[start], clean) * eps
    estimate = student(x, grid[start])
    with torch.no_grad():
        later = heun_hops(teacher, x, grid, start, hops)
        wanted = target(later, grid[start + hops])
    return (estimate - wanted).square().flatten(1).mean(-1)


# --- what is drawn ---------------------------------------------------------------------------------------


def normal_levels(count: int, mean: float, deviation: float) -> Tensor:
    """[count] levels of noise whose logarithms have a normal distribution (Karras et al. 2022, table 1)."""
    return (mean + deviation * torch.randn(count)).exp()


def hop_weights(longest: int, kind: str) -> Tensor:
    """Probabilities of 1 ... longest hops, [longest]: "uniform" (paper), or "weighted" by hops (its code)."""
    weights = torch.arange(1, longest + 1).float() if kind == "weighted" else torch.ones(longest)
    return weights / weights.sum()


# --- objectives ------------------------------------------------------------------------------------------


class Labelled(Objective):
    """One target for each example, by the run's criterion (published: mean squared error)."""

    def __init__(self, model: Deterministic | DoubleDeterministic, criterion: Criterion):
        check_trains("label", model, Deterministic, DoubleDeterministic)
        self.criterion = OneTarget(criterion)

    def __call__(self, model: Deterministic | DoubleDeterministic, batch: Examples) -> Loss:
        mix, target, label = drawn(batch.stems, self.criterion.weights)
        return self.criterion(model.estimate(mix, label), target, mix)


class Denoising(Objective):
    """The network removes noise from the target (Diffusion), or from all stems (MSDM, ISDM).

    For a Diffusion, a source's weight is how often it is the target. level_mean, level_deviation: of the
    logarithms of the levels of noise.
    """

    def __init__(
        self,
        model: Diffusion | Joint,
        criterion: Criterion,
        *,
        level_mean: float = LEVEL_MEAN,
        level_deviation: float = LEVEL_DEVIATION,
    ):
        check_trains("denoising", model, Diffusion, Joint)
        check_squared(criterion)
        self.weights = criterion.weights
        self.levels = level_mean, level_deviation

    def __call__(self, model: Diffusion | Joint, batch: Examples) -> Loss:
        if isinstance(model, Joint):
            clean, denoise = batch.stems.squeeze(2), model.denoise  # [B, S, T]
        else:
            mix, clean, label = drawn(batch.stems, self.weights)
            denoise = model.denoiser(told(model.unet, label, model.hear(mix, label)[1]))
        sigma = normal_levels(len(clean), *self.levels).to(clean)
        errors = denoising_errors(denoise, clean, sigma, torch.randn_like(clean), model.config.sigma_data)
        return Loss(errors.mean(), {"denoising": errors.mean().detach()})


class Distillation(Objective):
    """Consistency distillation, as at the top of this file. The network has the teacher's weights already.

    levels, sigma_max, rho: the grid of levels of noise, down to the network's sigma_min. longest, hops: how
    many steps the teacher makes, 1 to `longest`, "weighted" or "uniform". The number is drawn once for each
    batch, and is the same in all processes, so that none waits for another. decay: of the moving average that
    is the target. dsm: weight of L_DSM; 0 leaves it out. Half of its levels are normal in the logarithm, the
    others uniform in the upper `dsm_share` of the grid's curve. dsm_scaling: "edm", or "consistency" as in the
    paper's runs.

    frozen_precision: in which base, teacher and target compute: "run" (as the student), "bfloat16", or "auto",
    which is bfloat16 where the device computes in it natively. It changes a batch's gradient less than other
    noise does (docs/log.md). The teacher's weights are then stored in bfloat16. The target's are not, because
    rounding would lose its small steps; nor are the base's, which are saved with the student.

    Memory: two U-Nets, without gradients, more than training the network needs.
    """

    def __init__(
        self,
        model: Consistency,
        criterion: Criterion,
        *,
        levels: int = 18,
        sigma_max: float = 10.0,
        rho: float = 9.0,
        longest: int = 17,
        hops: str = "weighted",
        decay: float = 0.999,
        dsm: float = 1.0,
        dsm_share: float = 0.7,
        dsm_scaling: str = "edm",
        frozen_precision: str = "auto",
        level_mean: float = LEVEL_MEAN,
        level_deviation: float = LEVEL_DEVIATION,
    ):
        check_trains("consistency", model, Consistency)
        check_squared(criterion)
        check_word("hops", hops, "weighted", "uniform")
        check_word("dsm_scaling", dsm_scaling, "edm", "consistency")
        check_word("frozen_precision", frozen_precision, "auto", "run", "bfloat16")
        if not 1 <= longest < levels:
            raise UsageError(
                f"objective_options.longest is {longest}, but must be 1 to levels - 1 ({levels - 1}).",
                remedy="Correct objective_options.",
            )
        self.weights = criterion.weights
        low = model.config.sigma_min
        self.curve = low, sigma_max, rho
        self.grid = karras_sigmas(levels, *self.curve)[:-1]  # [N]
        self.hops = hop_weights(longest, hops)
        self.decay, self.dsm, self.dsm_share, self.dsm_scaling = decay, dsm, dsm_share, dsm_scaling
        self.levels = level_mean, level_deviation
        self.teacher = _frozen(model.unet)
        self.target = _frozen(model.unet)
        self.frozen_precision = frozen_precision
        # Objectives are made while all processes still have the same seed.
        self.chance = torch.Generator().manual_seed(torch.initial_seed())

    def __call__(self, model: Consistency, batch: Examples) -> Loss:
        reduced = self._settle(batch.stems.device)
        mix, clean, label = drawn(batch.stems, self.weights)
        _, taps = _cheaper(model.hear, reduced)(mix, label)  # shared by student, teacher and target
        student, target = told(model.unet, label, taps), _cheaper(told(self.target, label, taps), reduced)
        teacher = told(self.teacher, label, taps.to(self.teacher.dtype) if reduced else taps)
        grid, hops = self.grid.to(clean), int(torch.multinomial(self.hops, 1, generator=self.chance)) + 1
        start = torch.randint(len(grid) - hops, (len(clean),)).to(clean.device)
        cd = distillation_errors(
            model.function(student),
            model.function(target),
            model.edm(teacher),
            clean,
            grid,
            start,
            hops,
            torch.randn_like(clean),
        ).mean()
        if not self.dsm:
            return Loss(cd, {"cd": cd.detach()})
        denoise = model.edm(student) if self.dsm_scaling == "edm" else model.function(student)
        dsm = denoising_errors(
            denoise,
            clean,
            self.dsm_levels(len(clean)).to(clean),
            torch.randn_like(clean),
            model.config.sigma_data,
        ).mean()
        return Loss(cd + self.dsm * dsm, {"cd": cd.detach(), "dsm": dsm.detach()})

    def dsm_levels(self, count: int) -> Tensor:
        """Levels for L_DSM, [count]: the first half normal in the logarithm, the rest uniform on the curve."""
        normal = normal_levels(count // 2, *self.levels)
        t = self.dsm_share * torch.rand(count - len(normal))
        return torch.cat([normal, karras_sigma(t, *self.curve)])

    @torch.no_grad()
    def after_step(self, model: Consistency) -> None:
        """target <- decay target + (1 - decay) student."""
        for mine, theirs in zip(self.target.parameters(), model.unet.parameters(), strict=True):
            mine.lerp_(theirs.detach().to(mine), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher.state_dict(),
            "target": self.target.state_dict(),
            "chance": self.chance.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.target.load_state_dict(state["target"])
        self.chance.set_state(state["chance"])

    def _settle(self, device: torch.device) -> bool:
        """Move the copies to the network's device. Returns whether they compute in bfloat16 there."""
        wanted = self.frozen_precision
        reduced = wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(device))
        if reduced and self.teacher.dtype != torch.bfloat16:
            self.teacher.compute_in(torch.bfloat16)
        for unet in (self.teacher, self.target):
            unet.to(device)
        return reduced


def drawn(stems: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """stems [B, S, 1, T] -> mix [B, 1, T], a target for each example [B, 1, T], one-hot labels [B, S]."""
    target, index = drawn_targets(stems, weights)
    return stems.sum(1), target, F.one_hot(index, stems.shape[1]).to(stems)


def _cheaper(network: Callable[[Tensor, Tensor], Any], reduced: bool) -> Callable[[Tensor, Tensor], Any]:
    """The same function; if `reduced`, it computes in bfloat16."""

    def inside(x: Tensor, y: Tensor) -> Any:
        with torch.autocast(x.device.type, torch.bfloat16):
            return network(x, y)

    return inside if reduced else network


def _frozen(unet: UNet) -> UNet:
    """A copy that does not learn."""
    return copy.deepcopy(unet).requires_grad_(False)
