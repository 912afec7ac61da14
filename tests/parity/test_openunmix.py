"""Open-Unmix against openunmix; X-UMX against what asteroid and NNabla computed (tests/golden/openunmix)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.loading import load_model
from sepcli.models.openunmix import FAMILY, XUMX, UnmixOptions, XUMXConfig
from sepcli.weights.checkpoint import read_checkpoint
from tests.contracts import peak_error, run
from tests.models.test_openunmix import tiny
from tests.needs import package

GOLDEN = Path(__file__).parents[1] / "golden" / "openunmix"
TOLERANCE = 1e-5  # of the peak


# --- Open-Unmix ---


def theirs(model, **how):
    """Their separator with the weights of ours."""
    package("torchaudio"), package("openunmix")  # which imports it
    from openunmix.model import OpenUnmix, Separator

    config = model.config
    targets = {}
    for stem, target in zip(model.sources, model.targets, strict=True):
        targets[stem] = OpenUnmix(
            nb_bins=config.nfft // 2 + 1,
            nb_channels=1 if config.mono else config.channels,
            hidden_size=config.hidden,
            nb_layers=config.layers,
            unidirectional=config.unidirectional,
            max_bin=config.max_bin,
        )
        targets[stem].load_state_dict(target.state_dict(), strict=True)
    return Separator(
        targets, n_fft=config.nfft, n_hop=config.hop, nb_channels=1 if config.mono else 2, **how
    ).eval()


@pytest.mark.parametrize("config", [{}, {"mono": True}, {"unidirectional": True, "hop": 64, "max_bin": 65}])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_openunmix(config, iterations):
    model = tiny(options=UnmixOptions(iterations=iterations, frames=20), **config)
    mix = torch.randn(2, 2, 1601)
    with torch.inference_mode():
        expected = theirs(model, niter=iterations, wiener_win_len=20)(mix)
    assert peak_error(run(model, mix), expected) < TOLERANCE


@pytest.mark.parametrize("how", [{"softmask": True}, {"residual": True}, {"wiener_win_len": None}])
def test_options_of_openunmix(how):
    window = {"frames": 0} if "wiener_win_len" in how else {}
    model = tiny(options=UnmixOptions(**window, **{k: v for k, v in how.items() if v}))
    mix = torch.randn(1, 2, 10001)
    with torch.inference_mode():
        assert peak_error(run(model, mix), theirs(model, niter=1, **how)(mix)[:, :3]) < TOLERANCE


def test_openunmix_without_a_filter_in_a_mix_with_silence():
    mix = torch.randn(1, 2, 8000)
    mix[..., 2000:6000] = 0
    model = tiny(options=UnmixOptions(iterations=0))
    with torch.inference_mode():
        assert peak_error(run(model, mix), theirs(model, niter=0)(mix)) < TOLERANCE


# --- X-UMX ---


def stems(io, model, kind="output"):
    """[1, S, C, T]"""
    return torch.stack([io[f"{kind}.{stem}"] for stem in model.sources])[None]


def test_asteroid():
    """Their inverse STFT gives whole hops only, so the end is missing."""
    io = load_file(GOLDEN / "asteroid" / "io.safetensors")
    model, mix = load_model(str(GOLDEN / "asteroid" / "model.pth")).model, io["input"][None]
    with torch.inference_mode():
        estimates = model.magnitudes(model.spectrogram(mix).abs(), model.sources)
    assert (estimates[0].transpose(1, 2) - io["V"]).abs().max() < 2.4e-5
    expected = stems(io, model)
    assert peak_error(run(model, mix)[..., : expected.shape[-1]], expected) < TOLERANCE
    model.options = UnmixOptions(softmask=True)
    expected = stems(io, model, "output_softmask")
    assert peak_error(run(model, mix)[..., : expected.shape[-1]], expected) < TOLERANCE


def test_nnabla():
    package("h5py")
    io = load_file(GOLDEN / "nnabla" / "io.safetensors")
    model = XUMX(XUMXConfig(nfft=64, hop=16, hidden=16, max_bin=20)).eval()
    model.load_state_dict(FAMILY.convert(read_checkpoint(GOLDEN / "nnabla" / "model.h5"), model), strict=True)
    mix = io["input"].T[None]
    with torch.inference_mode():
        magnitude = model.spectrogram(mix).abs()
        shares = torch.stack(model.shares(magnitude, range(4)), dim=1)  # [1, S, C, N, F]
    assert (magnitude[0].transpose(0, 1) - io["magnitude"]).abs().max() < 1e-5
    assert (shares[0].permute(2, 0, 1, 3).flatten(1, 2) - io["masks"]).abs().max() < 2e-5
    expected = stems(io, model).transpose(-1, -2)
    assert peak_error(run(model, mix)[..., : expected.shape[-1]], expected) < TOLERANCE
