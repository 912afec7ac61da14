"""STFT conventions: frame counts, inversion, alignment. Against the original: tests/parity/test_hybrid.py."""

from __future__ import annotations

import pytest
import torch

from sepcli.nn.stft import centred_istft, centred_stft, demucs_frames, demucs_istft, demucs_stft, demucs_window

LENGTHS = [1, 2, 63, 64, 65, 191, 192, 1000, 1024]


@pytest.mark.parametrize("samples", LENGTHS)
def test_demucs_divides_the_length(samples: int) -> None:
    window = demucs_window(256)
    wave = torch.randn(2, 3, samples)
    spec = demucs_stft(wave, window)
    assert spec.shape == (2, 3, 128, demucs_frames(samples, 256)) and spec.dtype == torch.complex64
    assert demucs_istft(spec, samples, window).shape == wave.shape


def test_demucs_is_inverted_but_for_its_ends() -> None:
    window = demucs_window(256)
    wave = torch.sin(torch.arange(2048.0) * 0.37)  # nothing at Nyquist, whose bin is dropped
    again = demucs_istft(demucs_stft(wave, window), 2048, window)
    ends = 96  # 3/2 hop
    assert (again - wave)[ends:-ends].abs().max() < 1e-3  # the mirrored ends bend the sine a little
    assert (again - wave)[300:-300].abs().max() < 1e-5
    assert again[:ends].square().sum() < 0.9 * wave[:ends].square().sum()


def test_demucs_old_begins_late() -> None:
    """Its inverse leaves the 3/2 hop of padding in place: a shift, as its networks were trained with."""
    window = demucs_window(256)
    wave = torch.sin(torch.arange(2000.0) * 0.37)
    again = demucs_istft(demucs_stft(wave, window, old=True), 2000, window, old=True)
    assert (again[96 + 300 : -300] - wave[300 : -300 - 96]).abs().max() < 1e-5


@pytest.mark.parametrize("old", [False, True])
def test_demucs_is_always_float32(old: bool) -> None:
    window = demucs_window(256)
    spec = demucs_stft(torch.randn(1, 500, dtype=torch.float64), window, old=old)
    assert spec.dtype == torch.complex64
    assert demucs_istft(spec, 500, window, old=old).dtype == torch.float32


@pytest.mark.parametrize("old", [False, True])
def test_demucs_has_exact_gradients(old: bool) -> None:
    """The inverse is linear: its gradient is its transpose."""
    window = demucs_window(64)
    spec = torch.randn(1, 32, 8, dtype=torch.complex64, requires_grad=True)
    direction, weight = torch.randn_like(spec), torch.randn(1, 120)
    (demucs_istft(spec, 120, window, old=old) * weight).sum().backward()
    expected = (demucs_istft(direction, 120, window, old=old) * weight).sum()
    assert torch.allclose((spec.grad.conj() * direction).real.sum(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [129, 640, 1000])
def test_centred_is_inverted(samples: int) -> None:
    """Every sample that a frame's centre reaches: all of them where the hop divides the length."""
    window, hop = torch.hann_window(256), 64
    wave = torch.randn(2, 3, samples)
    spec = centred_stft(wave, window, hop)
    assert spec.shape == (2, 3, 129, samples // hop + 1)
    inside = samples // hop * hop
    assert (centred_istft(spec, window, hop, inside) - wave[..., :inside]).abs().max() < 1e-5
