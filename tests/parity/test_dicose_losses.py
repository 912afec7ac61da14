"""Losses of training and their gradients against what the originals computed (tests/golden/dicose)."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sepcli.models.dicose.objectives import denoising_errors, distillation_errors, hop_weights
from sepcli.models.dicose.sampled import told
from sepcli.models.dicose.unet import UNet
from sepcli.nn.diffusion import consistency_scalings as cm
from sepcli.nn.diffusion import edm_scalings as edm
from sepcli.nn.diffusion import edm_weight, heun_hops, karras_sigmas, preconditioned
from tests.parity.test_dicose import shape_of
from tests.parity.test_dicose_sampling import LOW, Case, S


class Training(Case):
    """A case with its clean targets, labels and taps; `unet(name)` makes a network of it."""

    def __init__(self, name: str):
        super().__init__(name)
        self.shape = shape_of(self.case["config"])
        base = UNet(self.shape, labels=4)
        base.load_state_dict(load_file(self.folder / "weights_det.safetensors"))
        self.label, stems = self["label"], self["stems"]
        self.clean = (stems * self.label[:, :, None, None]).sum(1)
        self.close(self.clean, self["clean"], "clean")
        with torch.no_grad():
            _, self.taps = base(stems.sum(1), base.condition(self.label))

    def unet(self, weights: str) -> UNet:
        unet = UNet(self.shape, labels=4, timed=True)
        unet.load_state_dict(load_file(self.folder / f"{weights}.safetensors"))
        return unet

    def function(self, unet: UNet, scalings):
        network = told(unet, self.label, self.taps)
        return lambda x, sigma: preconditioned(network, x, sigma, scalings(sigma))

    def check_gradients(self, unet: UNet, prefix: str) -> None:
        wanted = {
            name.removeprefix(prefix): grad for name, grad in self.tensors.items() if name.startswith(prefix)
        }
        found = {name: parameter.grad for name, parameter in unet.named_parameters()}
        assert set(found) == set(wanted)
        largest = max(grad.abs().max().item() for grad in wanted.values())
        for name, grad in wanted.items():
            allowed = 1e-3 * max(grad.abs().max().item(), 1e-3 * largest)
            assert (found[name] - grad).abs().max().item() <= allowed, name


def edm_function(sigma: Tensor):
    return edm(sigma, S)


def consistency_function(sigma: Tensor):
    return cm(sigma, S, LOW)


def test_diffusion_loss():
    case = Training("diffusion_loss")
    unet, seen = case.unet("weights"), {}
    unbounded = case.function(unet, edm_function)

    def denoise(x, sigma):
        seen.update(x_noisy=x, denoised=unbounded(x, sigma).clamp(-1, 1))
        return seen["denoised"]

    loss = denoising_errors(denoise, case.clean, case["sigma"], case["noise"], S).mean()
    case.check(**{name: value.detach() for name, value in seen.items()}, weight=edm_weight(case["sigma"], S))
    case.close(loss.detach()[None], case["loss"], "loss", 1e-4)
    loss.backward()
    case.check_gradients(unet, "grad.")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hops"), [("h3", 3), ("h1", 1), ("h17", 17), ("cmdsm_h3", 3)])
def test_distillation_losses(name, hops):
    case, draws = Training("distillation_losses"), name.removeprefix("cmdsm_")
    grid, start, eps = karras_sigmas(18, LOW, 10.0, 9)[:-1], case[f"{draws}.index"], case[f"{draws}.noise"]
    student, target, teacher = (case.unet(f"weights_{who}") for who in ("student", "target", "teacher"))
    g, wanted = case.function(student, consistency_function), case.function(target, consistency_function)
    walk, seen = case.function(teacher, edm_function), {}

    def estimate(x, sigma):
        seen.update(x_i=x, sigma_i=sigma, estimate=g(x, sigma))
        return seen["estimate"]

    def aim(x, sigma):
        seen.update(x_ih=x, sigma_ih=sigma, target=wanted(x, sigma))
        return seen["target"]

    cd = distillation_errors(estimate, aim, walk, case.clean, grid, start, hops, eps)
    scalings = consistency_function if name != draws else edm_function
    dsm_function = case.function(student, scalings)

    def denoise(x, sigma):
        seen.update(dsm_x=x, dsm_denoised=dsm_function(x, sigma))
        return seen["dsm_denoised"]

    dsm = denoising_errors(denoise, case.clean, case[f"{draws}.dsm_sigma"], case[f"{draws}.dsm_noise"], S)
    found = {f"{name}__{key}": value.detach() for key, value in seen.items()}
    case.check(**found)
    losses = {
        "loss_cd_per_example": cd,
        "loss_dsm_per_example": dsm,
        "loss_cd": cd.mean()[None],
        "loss_dsm": dsm.mean()[None],
        "loss_total": (cd.mean() + dsm.mean())[None],
    }
    case.check(1e-4, **{f"{name}__{key}": value.detach() for key, value in losses.items()})
    (cd.mean() + dsm.mean()).backward()
    assert not any(p.grad is not None for unet in (target, teacher) for p in unet.parameters())
    if name == "h3":
        case.check_gradients(student, "h3.grad.")


@torch.no_grad()
def test_hops_one_by_one():
    case = Training("distillation_losses")
    grid, start = case["grid"], case["h3.index"]
    walk = case.function(case.unet("weights_teacher"), edm_function)
    hop = [heun_hops(walk, case["h3.x_i"], grid, start, hops) for hops in (1, 2, 3)]
    case.check(h3__hop=torch.stack(hop))


def test_how_often_each_number_of_hops_is_drawn():
    Case("distillation_losses").check(h_probability=hop_weights(17, "weighted"))


@torch.no_grad()
def test_the_target_follows():
    case = Training("distillation_losses")
    key = "to_in.module_list.0.block.block1.project.weight"
    student, target = (case.unet(f"weights_{who}").state_dict()[key] for who in ("student", "target"))
    rate = case["ema_rate"].item()
    case.close(target.lerp(student, 1 - rate), case[f"target_after_ema.{key}"], key)
