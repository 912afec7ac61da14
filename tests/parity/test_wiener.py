"""The multichannel Wiener filter against norbert and openunmix (tests/golden/wiener)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.nn.wiener import wiener
from tests.contracts import peak_error

GOLDEN = Path(__file__).parents[1] / "golden" / "wiener"
DOUBLE = torch.finfo(torch.float64).eps  # what norbert takes of complex128


@pytest.fixture(params=["stereo", "mono"])
def io(request):
    return load_file(GOLDEN / request.param / "io.safetensors")


def inputs(io, dtype):
    """Mix [1, C, N, F] and magnitudes [1, S, C, N, F]."""
    mix = torch.view_as_complex(io["mix"]).permute(2, 0, 1)[None]
    return mix.to(dtype), io["magnitudes"].permute(3, 2, 0, 1)[None].to(dtype.to_real())


def error(stems, io, name):
    """Share of the peak."""
    expected = torch.view_as_complex(io[name]).permute(3, 2, 0, 1)[None]
    return peak_error(*(torch.view_as_real(each) for each in (stems.to(torch.complex64), expected)))


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 1])
def test_norbert(io, start, iterations):
    mix, magnitudes = inputs(io, torch.complex128)
    stems = wiener(mix, magnitudes, eps=DOUBLE, mask_power=1 if start else None, iterations=iterations)
    assert error(stems, io, f"norbert.softmask{start}.it{iterations}") < 1e-5


def test_norbert_in_single_precision(io):
    mix, magnitudes = inputs(io, torch.complex64)
    stems = wiener(mix, magnitudes, eps=torch.finfo(torch.float32).eps, mask_power=1)
    assert error(stems, io, "norbert_complex64.softmask1.it1") < 1e-4


def as_openunmix_has_it(mix):
    """On its way to the mix's phase it sets values of the mix that are 0 to 1, in place. We don't."""
    return torch.where(mix == 0, torch.ones_like(mix), mix)


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("name, dtype", [("f32", torch.complex64), ("f64", torch.complex128)])
def test_openunmix(io, name, dtype, iterations):
    mix, magnitudes = inputs(io, dtype)
    stems = wiener(as_openunmix_has_it(mix), magnitudes, eps=1e-10, iterations=iterations)
    assert error(stems, io, f"openunmix.{name}.it{iterations}") < 1e-5


def test_openunmix_with_a_residual(io):
    mix, magnitudes = inputs(io, torch.complex128)
    stems = wiener(as_openunmix_has_it(mix), magnitudes[:, :-1], eps=1e-10, residual=True)
    assert error(stems, io, "openunmix.f64.residual.it1") < 1e-5


# --- laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_the_stems_add_up_to_the_mix(channels):
    mix = torch.randn(2, channels, 20, 9, dtype=torch.complex128)
    stems = wiener(mix, torch.rand(2, 3, channels, 20, 9).double(), eps=1e-20, iterations=2)
    assert (stems.sum(dim=1) - mix).abs().max() < 1e-3


def test_windows_and_items_know_nothing_of_each_other():
    mix, magnitudes = torch.randn(2, 2, 25, 9, dtype=torch.complex128), torch.rand(2, 3, 2, 25, 9).double()
    mix[1, :, 10:] *= 100
    whole = wiener(mix, magnitudes, eps=1e-10, frames=10)
    for item in range(2):
        for window in (slice(0, 10), slice(10, 20), slice(20, 25)):
            part = wiener(mix[item : item + 1, :, window], magnitudes[item : item + 1, :, :, window], eps=1e-10)
            assert torch.allclose(part, whole[item : item + 1, :, :, window], rtol=1e-9)


def test_sources_from_two_directions_are_told_apart():
    """Magnitudes say nothing here: left and right do."""
    left, right = (torch.randn(200, 5, dtype=torch.complex128) for _ in range(2))
    mix = torch.stack([left, right])[None]
    magnitudes = (
        mix.abs()[:, None] * torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)[:, :, None, None]
    )
    stems = wiener(mix, magnitudes, eps=1e-10, iterations=20)
    assert (stems[0, 0, 0] - left).abs().mean() < 0.05 and stems[0, 0, 1].abs().mean() < 0.05
