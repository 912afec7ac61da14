"""Samplers on data whose denoiser is known: a normal law of deviation s, D(x, sigma) = x s^2 / (sigma^2 + s^2).

On the way down x keeps its direction, its length goes with sqrt(sigma^2 + s^2): every sampler has an answer.
"""

from __future__ import annotations

import math

import pytest
import torch

from sepcli.nn.diffusion import (
    consistency_sample,
    consistency_scalings,
    consistency_sigmas,
    edm_scalings,
    edm_weight,
    heun,
    heun_hops,
    karras_sigma,
    karras_sigmas,
    preconditioned,
    stochastic_euler,
    v_ddim,
    v_noised,
)

S, LOW, HIGH, RHO = 0.2, 1e-4, 10.0, 9.0


def exact(x, sigma):
    """The denoiser of that law."""
    sigma = sigma.reshape(-1, *[1] * (x.dim() - 1)) if sigma.dim() else sigma
    return x * S**2 / (sigma.square() + S**2)


def length(sigma):
    return (torch.as_tensor(sigma, dtype=torch.float64).square() + S**2).sqrt()


def normals(*shape):
    generator = torch.Generator().manual_seed(0)
    return lambda k: torch.randn(*shape, generator=generator)


# --- noise levels ---


def test_levels_go_from_the_highest_to_the_lowest_then_to_nothing():
    sigmas = karras_sigmas(18, LOW, HIGH, RHO)
    assert len(sigmas) == 19 and (sigmas.diff() < 0).all()
    assert sigmas[0] == HIGH and sigmas[-2] == pytest.approx(LOW) and sigmas[-1] == 0
    roots = sigmas[:-1].double() ** (1 / RHO)
    assert torch.allclose(roots.diff(), roots.diff()[:1], rtol=1e-4)  # equal steps of the root
    assert torch.allclose(karras_sigma(torch.linspace(0, 1, 18), LOW, HIGH, RHO), sigmas[:-1], rtol=1e-4)


def test_one_step_begins_at_the_highest_level():
    assert karras_sigmas(1, LOW, 0.01, RHO).tolist() == pytest.approx([0.01, 0])
    assert consistency_sigmas(1, LOW, 0.01244, RHO).tolist() == pytest.approx([0.01244])


def test_published_levels_of_multistep_consistency():
    assert consistency_sigmas(2, LOW, 0.2497, RHO).tolist() == pytest.approx([0.2497, 0.0114], rel=5e-3)
    assert consistency_sigmas(4, LOW, 0.2495, RHO).tolist() == pytest.approx(
        [0.2495, 0.0608, 0.0114, 0.00145], rel=5e-3
    )


# --- preconditioning ---


def test_input_and_target_of_the_network_have_unit_variance():
    sigma = torch.tensor([1e-3, 0.05, 0.2, 3.0], dtype=torch.float64)
    skip, out, in_, noise = edm_scalings(sigma, S)
    assert torch.allclose(in_.square() * (sigma.square() + S**2), torch.ones(4).double())
    # F = (x_0 - skip x) / out with x = x_0 + sigma eps
    variance = ((1 - skip).square() * S**2 + (skip * sigma).square()) / out.square()
    assert torch.allclose(variance, torch.ones(4).double())
    assert torch.allclose(noise, sigma.log() / 4)
    assert torch.allclose(edm_weight(sigma, S), out.square().reciprocal())


def test_a_consistency_function_changes_nothing_at_the_lowest_level():
    x = torch.randn(3, 1, 50)
    for sigma in (karras_sigmas(18, LOW, HIGH, RHO)[-2], torch.full((3,), LOW)):
        scalings = consistency_scalings(sigma, S, LOW)
        g = preconditioned(lambda x, noise: torch.full_like(x, 1e3), x, sigma, scalings)
        assert torch.equal(g, x)


def test_it_is_the_denoiser_far_above_the_lowest_level():
    x = torch.randn(2, 1, 50)
    for sigma in torch.tensor([0.01, 0.1, 1.0]):
        both = [
            preconditioned(lambda x, noise: x.sin(), x, sigma, scalings)
            for scalings in (edm_scalings(sigma, S), consistency_scalings(sigma, S, LOW))
        ]
        difference = (both[0] - both[1]).abs().max() / x.abs().max()
        assert 0 < difference < 2 * LOW / sigma


def test_one_sigma_an_example_is_the_same_as_one_by_one():
    x, sigma = torch.randn(3, 2, 40), torch.tensor([0.01, 0.2, 4.0])

    def network(x, noise):
        assert noise.shape == x.shape[:1]
        return (x + noise[:, None, None]).tanh()

    together = preconditioned(network, x, sigma, edm_scalings(sigma, S))
    for i in range(3):
        alone = preconditioned(network, x[i : i + 1], sigma[i], edm_scalings(sigma[i], S))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


# --- samplers ---


def heun_error(steps):
    sigmas = karras_sigmas(steps, 0.01, 1.0, 7)[:-1].double()
    x = torch.ones(1, 1, dtype=torch.float64)
    return abs((heun(exact, x, sigmas) - length(0.01) / length(1.0)).item())


def euler_error(steps):
    sigmas = karras_sigmas(steps, 0.01, 1.0, 7)[:-1].double()
    x = torch.ones(1, 1, dtype=torch.float64)
    return abs((stochastic_euler(exact, x, sigmas, normals(1)) - length(0.01) / length(1.0)).item())


def test_heun_follows_the_exact_way_to_second_order_and_euler_to_first():
    assert heun_error(161) < 2e-5
    for coarse, fine in ((21, 41), (41, 81), (81, 161)):  # twice as many steps
        assert heun_error(coarse) / heun_error(fine) == pytest.approx(4, rel=0.15)
        assert euler_error(coarse) / euler_error(fine) == pytest.approx(2, rel=0.15)


def test_the_last_step_to_nothing_asks_no_direction_there():
    asked = []

    def denoise(x, sigma):
        asked.append(sigma.item())
        return exact(x, sigma)

    sigmas = karras_sigmas(3, LOW, 1.0, 7)
    out = heun(denoise, torch.ones(1, 4), sigmas)
    assert out.isfinite().all() and len(asked) == 5 and min(asked) > 0


def test_hops_take_each_example_from_its_own_level_to_another():
    grid = karras_sigmas(18, LOW, HIGH, RHO)[:-1]
    x, start = torch.randn(3, 1, 20), torch.tensor([0, 9, 14])
    hopped = heun_hops(exact, x, grid, start, 3)
    for i, first in enumerate(start.tolist()):
        alone = heun(exact, x[i : i + 1], grid[first : first + 4])
        assert torch.allclose(hopped[i : i + 1], alone, atol=1e-6)
    fine = karras_sigmas(300, LOW, HIGH, RHO)[:-1]
    hopped = heun_hops(exact, x, fine, torch.tensor([0, 100, 200]), 90)
    ratio = length(fine[[90, 190, 290]]) / length(fine[[0, 100, 200]])
    assert torch.allclose(hopped, x * ratio[:, None, None].float(), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("churn", "corrections"), [(0.0, 1), (20.0, 1), (40.0, 1), (20.0, 2), (0.0, 3)])
def test_churn_and_corrections_keep_the_law(churn, corrections):
    samples, steps = 50_000, 800  # Euler's error is of the first order in 1 / steps
    draw = normals(samples)
    x = draw(0) * length(1.0).float()
    out = stochastic_euler(
        exact, x, karras_sigmas(steps, LOW, 1.0, 7), draw, churn=churn, corrections=corrections
    )
    assert out.std().item() == pytest.approx(S, rel=0.025)
    assert abs(out.mean().item()) < 0.02 * S
    kurtosis = (out / out.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("corrections", [1, 2, 3])
def test_calls_and_draws_of_a_corrected_sampler(corrections):
    calls, draws = [], []

    def denoise(x, sigma):
        calls.append(sigma.item())
        return exact(x, sigma)

    def draw(k):
        draws.append(k)
        return torch.zeros(1)

    stochastic_euler(
        denoise, torch.ones(1), karras_sigmas(5, LOW, 0.01, RHO), draw, churn=20, corrections=corrections
    )
    assert len(calls) == 5 * corrections
    assert draws == list(range(5 * (2 * corrections - 1)))
    assert calls[0] == pytest.approx(0.01 * math.sqrt(2))  # 20 / 5 is above the largest churn


def exact_consistency(x, sigma):
    """Where the exact way ends, at LOW."""
    return x * (length(LOW) / length(sigma)).float()


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_multistep_consistency_keeps_the_law_with_one_noise_less_than_calls(steps):
    samples, draws, calls = 200_000, [], []
    noise = normals(samples)

    def draw(k):
        draws.append(k)
        return noise(k)

    def g(x, sigma):
        calls.append(sigma.item())
        return exact_consistency(x, sigma)

    sigmas = consistency_sigmas(steps, LOW, HIGH, RHO)
    out = consistency_sample(g, noise(0) * length(HIGH).float(), sigmas, draw, sigma_min=LOW)
    assert out.std().item() == pytest.approx(S, rel=0.01)
    assert calls == sigmas.tolist() and draws == list(range(steps - 1))


def test_the_consistency_function_of_the_law_solves_its_own_equation():
    """g is the same all along a way; and our scalings carry it with a network that gives a plain multiple."""
    grid = karras_sigmas(2000, LOW, HIGH, RHO)[:-1]
    x = torch.randn(1, 30)
    end = exact_consistency(x, grid[20])
    for hops in (1, 500, 1900):
        later = heun_hops(exact, x, grid, torch.tensor([20]), hops)
        assert torch.allclose(exact_consistency(later, grid[20 + hops]), end, rtol=1e-3)

    sigma = torch.tensor([0.001, 0.05, 1.0], dtype=torch.float64)
    x = torch.randn(3, 30, dtype=torch.float64)
    scalings = consistency_scalings(sigma, S, LOW)
    wanted = length(LOW) / length(sigma)

    def network(x, noise):
        sigma = (4 * noise).exp()  # it is told the level by noise alone
        skip, out, in_, _ = consistency_scalings(sigma, S, LOW)
        return ((length(LOW) / length(sigma) - skip) / (out * in_))[:, None] * x

    assert torch.allclose(preconditioned(network, x, sigma, scalings), x * wanted[:, None], rtol=1e-9)


def exact_v(s):
    """v of data with deviation s, given z."""

    def predict(z, t):
        cos, sin = (t * math.pi / 2).cos(), (t * math.pi / 2).sin()
        return cos * sin * (1 - s**2) / (cos.square() * s**2 + sin.square()) * z

    return predict


@pytest.mark.parametrize("s", [0.3, 1.0, 2.0])
def test_v_ddim_recovers_the_law(s):
    z = normals(100_000)(0)
    deviations = [v_ddim(exact_v(s), z, steps).std().item() / z.std().item() for steps in (50, 100, 800)]
    errors = [abs(deviation - s) for deviation in deviations]
    assert errors[2] < 0.005 * max(s, 1) and errors[0] / errors[1] == pytest.approx(2, rel=0.15)


def test_what_is_learnt_of_v_is_what_ddim_wants():
    """From anywhere the true v gives data and noise; z is data at one end, and at the other noise."""
    clean, eps = torch.randn(2, 5, 3)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    z, v = v_noised(clean, eps, t)
    phi = t[:, None] * math.pi / 2
    torch.testing.assert_close(phi.cos() * z - phi.sin() * v, clean)
    torch.testing.assert_close(phi.sin() * z + phi.cos() * v, eps)
    torch.testing.assert_close(z[[0, 4]], torch.stack([clean[0], eps[4]]))
    torch.testing.assert_close(v[[0, 4]], torch.stack([eps[0], -clean[4]]))
    pairs = [v_noised(clean, z, torch.ones(5))[1]]  # of the start z, which is all noise
    assert torch.allclose(v_ddim(lambda z, t: pairs.pop(), eps, 1), clean, atol=1e-6)


def test_v_ddim_of_one_point_needs_one_step():
    """Data that is one point: v is known exactly at pure noise."""
    point = torch.tensor([0.3, -0.7])

    def predict(z, t):
        cos, sin = (t * math.pi / 2).cos(), (t * math.pi / 2).sin()
        return cos * (z - cos * point) / sin - sin * point

    for steps in (1, 5):
        assert torch.allclose(v_ddim(predict, torch.randn(2), steps), point, atol=1e-5)
