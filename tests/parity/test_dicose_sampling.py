"""Denoisers, samplers and posteriors against what the originals computed with the same noise (tests/golden)."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sepcli.models.dicose import FAMILY
from sepcli.models.dicose.joint import ISDM, MSDM, Joint, JointOptions, complete, dirac, gaussian
from sepcli.models.dicose.refined import ConsistencyOptions, DiffusionOptions
from sepcli.models.dicose.sampled import SampledConfig, told
from sepcli.models.dicose.unet import UNet
from sepcli.nn.diffusion import (
    consistency_sample,
    consistency_scalings,
    consistency_sigmas,
    edm_scalings,
    edm_weight,
    karras_sigmas,
    preconditioned,
    stochastic_euler,
)
from tests.parity.test_dicose import GOLDEN, shape_of

STEMS = ("bass", "drums", "guitar", "piano")
S, LOW, RHO = 0.2, 1e-4, 9.0


class Case:
    """Tensors of a case, by name, and the comparison."""

    def __init__(self, name: str):
        self.folder = GOLDEN / name
        self.case = json.loads((self.folder / "case.json").read_text())
        self.tensors = load_file(self.folder / "io.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def check(self, tolerance: float | None = None, /, **found: Tensor) -> None:
        for name, result in found.items():
            self.close(result, self.tensors[name.replace("__", ".")], name, tolerance)

    def close(self, result: Tensor, expected: Tensor, name: str, tolerance: float | None = None) -> None:
        tolerance = tolerance or self.case["tolerance"]["rel_to_max"]
        assert result.shape == expected.shape, name
        allowed = tolerance * expected.abs().max().item() + 1e-6
        assert (result - expected).abs().max().item() <= allowed, name


class Refined(Case):
    """A case of a network that is given the deterministic one's taps."""

    @torch.no_grad()
    def __init__(self, name: str, weights: str = "weights"):
        super().__init__(name)
        shape = shape_of(self.case["config"])
        base, self.unet = UNet(shape, labels=4), UNet(shape, labels=4, timed=True)
        base.load_state_dict(load_file(self.folder / "weights_det.safetensors"))
        self.unet.load_state_dict(load_file(self.folder / f"{weights}.safetensors"))
        label = self["label"]
        self.det, taps = base(self["stems"].sum(1), base.condition(label))
        self.run = told(self.unet, label, taps)

    def edm(self, x: Tensor, sigma: Tensor) -> Tensor:
        return preconditioned(self.run, x, sigma, edm_scalings(sigma, S))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.edm(x, sigma).clamp(-1, 1)

    def g(self, x: Tensor, sigma: Tensor) -> Tensor:
        return preconditioned(self.run, x, sigma, consistency_scalings(sigma, S, LOW))


# --- denoisers ---


@torch.no_grad()
def test_denoiser():
    case = Refined("edm_denoise")
    sigma = case["sigma"]
    skip, out, in_, noise = edm_scalings(sigma, S)
    case.check(c_skip=skip, c_out=out, c_in=in_, c_noise=noise, loss_weight=edm_weight(sigma, S), f07=case.det)
    pairs = list(zip(case["x"], sigma, strict=True))
    case.check(
        D=torch.stack([case.denoise(*pair) for pair in pairs]),
        D_before_clamp=torch.stack([case.edm(*pair) for pair in pairs]),
        D_per_example=case.denoise(case["x_per_example"], case["sigma_per_example"]),
    )


@torch.no_grad()
def test_consistency_function():
    case = Refined("consistency")
    sigma = case["sigma"]
    skip, out, in_, _ = consistency_scalings(sigma, S, LOW)
    edm = edm_scalings(sigma, S)
    case.check(c_skip=skip, c_out=out, c_in=in_, c_skip_edm=edm.skip, c_out_edm=edm.out, det=case.det)
    pairs = list(zip(case["x"], sigma, strict=True))
    case.check(
        g=torch.stack([case.g(*pair) for pair in pairs]),
        g_edm_scaling=torch.stack([case.edm(*pair) for pair in pairs]),
    )


# --- samplers ---


def test_schedules():
    case = Case("euler_sampler")
    for steps in (1, 2, 5, 10):
        case.close(karras_sigmas(steps, LOW, 0.01, 9), case[f"schedule.dicose_T{steps}"], str(steps))
    case.close(karras_sigmas(150, LOW, 1.0, 7), case["schedule.msdm_T150"], "msdm")
    case.close(karras_sigmas(18, LOW, 10.0, 9), case["schedule.cd_grid_N18"], "grid")


# steps, corrections, churn, sigma_max, rho
EULER = {
    "t5r2": (5, 2, 20, 0.01, 9),
    "t2r2": (2, 2, 20, 0.01, 9),
    "t1r1": (1, 1, 20, 0.01, 9),
    "t5r1first": (5, 1, 20, 0.001, 9),
    "wide": (4, 2, 1, 0.5, 7),
}


@pytest.mark.parametrize("variant", EULER)
@torch.no_grad()
def test_stochastic_euler(variant):
    case = Refined("euler_sampler")
    steps, corrections, churn, sigma_max, rho = EULER[variant]
    sigmas, seen = karras_sigmas(steps, LOW, sigma_max, rho), []

    def denoise(x, sigma):
        seen.append((sigma, case.denoise(x, sigma)))
        return seen[-1][1]

    start = case.det + sigmas[0] * case[f"{variant}.eps_start"]
    noise = case[f"{variant}.noise"]
    out = stochastic_euler(denoise, start, sigmas, lambda k: noise[k], churn=churn, corrections=corrections)
    found = {
        "sigmas": sigmas,
        "sigma_hat": torch.stack([sigma for sigma, _ in seen]),
        "out": out.clamp(-1, 1),
        "denoised": torch.stack([denoised for _, denoised in seen]),
    }
    case.check(
        **{f"{variant}__{name}": value for name, value in found.items() if f"{variant}.{name}" in case.tensors}
    )
    assert len(noise) == steps * (2 * corrections - 1)


@pytest.mark.parametrize(
    ("variant", "steps", "sigma_max"),
    [("k1", 1, 0.01244), ("k2", 2, 0.2497), ("k4", 4, 0.2495), ("k4wide", 4, 10.0)],
)
@torch.no_grad()
def test_consistency_sampling(variant, steps, sigma_max):
    """As published: the present repository adds noise once too seldom, which is told apart."""
    case, seen = Refined("consistency"), []

    def g(x, sigma):
        seen.append(case.g(x, sigma))
        return seen[-1]

    sigmas = consistency_sigmas(steps, LOW, sigma_max, RHO)
    case.close(sigmas, case[f"{variant}.sigmas"][:-1], "sigmas")
    start = case.det + sigmas[0] * case[f"{variant}.eps_start"]
    out = consistency_sample(g, start, sigmas, lambda k: case[f"{variant}.noise"][k], sigma_min=LOW)
    case.check(**{f"{variant}__out": out.clamp(-1, 1)})
    if f"{variant}.g" in case.tensors:
        case.check(**{f"{variant}__g": torch.stack(seen)})
    if steps > 1:
        regressed = case[f"{variant}.out_of_regressed_HEAD"]
        assert (out - regressed).abs().max() > 1e-3 * regressed.abs().max()


# --- all stems together ---

# steps, corrections, churn, sigma_min, sigma_max, constrained stem
JOINT = {
    ("msdm_dirac", "t6r2"): (6, 2, 20, LOW, 0),
    ("msdm_dirac", "t6r2tame"): (6, 2, 0.3, 0.1, 0),
    ("msdm_dirac", "t4r1src2tame"): (4, 1, 0.3, 0.1, 2),
    ("msdm_dirac", "t40r1"): (40, 1, 20, LOW, 0),
    ("msdm_gaussian", "t6r2"): (6, 2, 40, LOW, None),
    ("msdm_gaussian", "t6r2tame"): (6, 2, 0.3, 0.1, None),
    ("isdm_dirac", "t6r2"): (6, 2, 40, LOW, 0),
    ("isdm_dirac", "t6r2s20"): (6, 2, 20, LOW, 0),
    ("isdm_dirac", "t6r2tame"): (6, 2, 0.3, 0.1, 0),
    ("isdm_gaussian", "t6r2"): (6, 2, 40, LOW, None),
    ("isdm_gaussian", "t6r2tame"): (6, 2, 0.3, 0.1, None),
}


def joint_model(name: str, said: dict) -> Joint:
    config = SampledConfig(**asdict(shape_of(said)), sources=STEMS, segment=512)
    model, folder = (MSDM if name == "msdm" else ISDM)(config), GOLDEN / f"{name}_dirac"
    if isinstance(model, MSDM):
        model.unet.load_state_dict(load_file(folder / "weights.safetensors"))
    else:
        for stem, unet in zip(STEMS, model.unets, strict=True):
            unet.load_state_dict(load_file(folder / f"weights_{stem}.safetensors"))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), JOINT)
@torch.no_grad()
def test_joint(name, variant):
    """Under Dirac our constrained stem is made from the others at the end; theirs is left as it was."""
    steps, corrections, churn, sigma_min, constrained = JOINT[name, variant]
    case = Case(name)
    model = joint_model(name[:4], Case(f"{name[:4]}_dirac").case["config"])
    mix, noise, seen = case["mixture"], case[f"{variant}.noise"], []
    free = [k for k in range(4) if k != constrained]
    posterior = gaussian(model.denoise, mix) if constrained is None else dirac(model.denoise, mix, constrained)

    def denoise(x, sigma):
        seen.append(sigma)
        return posterior(x, sigma)

    sigmas = karras_sigmas(steps, sigma_min, 1.0, 7)
    start = sigmas[0] * case[f"{variant}.eps_start"][:, free]
    out = stochastic_euler(
        denoise, start, sigmas, lambda k: noise[k][:, free], churn=churn, corrections=corrections
    )
    case.check(**{f"{variant}__sigmas": sigmas, f"{variant}__sigma_hat": torch.stack(seen)})
    expected = case[f"{variant}.out"]
    tolerance = 2e-4 if variant == "t40r1" else None
    peak = expected.abs().max()
    case.close(out / peak, expected[:, free] / peak, "out", tolerance)
    if constrained is not None:
        whole = complete(out, mix, constrained)
        assert torch.equal(whole[:, free], out)
        case.close(whole.sum(1, keepdim=True) / peak, mix / peak, "sum")


# --- the separators themselves, from mix to stems ---


class Given:
    """Noise that was drawn before, by the number of the draw: [B, 4, T] each, of all stems."""

    def __init__(self, start: Tensor, others: Tensor):
        self.draws = [start, *others]

    def normal(self, draw: int, source: str, channels: int, length: int) -> Tensor:
        row = STEMS.index(source)
        return self.draws[draw][:, row : row + 1, :length]


@pytest.mark.parametrize(
    ("case", "variant", "options"),
    [
        *[
            ("euler_sampler", name, DiffusionOptions(steps, corrections, sigma_max, LOW, churn))
            for name, (steps, corrections, churn, sigma_max, rho) in EULER.items()
            if rho == RHO
        ],
        ("consistency", "k1", ConsistencyOptions(1)),
        ("consistency", "k2", ConsistencyOptions(2)),
        ("consistency", "k4", ConsistencyOptions(4)),
        ("consistency", "k4wide", ConsistencyOptions(4, 10.0)),
    ],
)
@torch.no_grad()
def test_refined_separators(case, variant, options):
    arch = FAMILY.archs["Diffusion" if case == "euler_sampler" else "Consistency"]
    case = Case(case)
    model = arch.build(arch.config(**asdict(shape_of(case.case["config"])), segment=1024))
    model.base.load_state_dict(load_file(case.folder / "weights_det.safetensors"))
    model.unet.load_state_dict(load_file(case.folder / "weights.safetensors"))
    model.options = options
    draws = [case[f"{variant}.eps_start"], *case.tensors.get(f"{variant}.noise", ())]
    estimate, taps = model.hear(case["stems"].sum(1), case["label"])
    out = model.refine(told(model.unet, case["label"], taps), estimate, draws.__getitem__)
    case.check(**{f"{variant}__out": out.clamp(-1, 1)})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [key for key in JOINT if "src2" not in key[1]])
@torch.no_grad()
def test_joint_separators(name, variant):
    steps, corrections, churn, sigma_min, constrained = JOINT[name, variant]
    case = Case(name)
    model = joint_model(name[:4], Case(f"{name[:4]}_dirac").case["config"])
    model.options = JointOptions(steps, corrections, name[5:], churn, sigma_min=sigma_min)
    noise = Given(case[f"{variant}.eps_start"], case[f"{variant}.noise"])
    out, expected = model(case["mixture"], noise=noise)[:, :, 0], case[f"{variant}.out"]
    free = [k for k in range(4) if k != constrained]
    peak = expected.abs().max()
    case.close(out[:, free] / peak, expected[:, free] / peak, "out", 2e-4 if variant == "t40r1" else None)
