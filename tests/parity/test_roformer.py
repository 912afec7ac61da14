"""RoFormers against the training toolkit's own networks (PyPI msst): equal weights, equal results.

The reference data in tests/golden has what no package has.
"""

from __future__ import annotations

import pytest
import torch

from sepcli.models.roformer import FAMILY
from sepcli.models.roformer.bands import mel
from sepcli.models.roformer.toolkit import read_settings
from sepcli.weights.checkpoint import Checkpoint
from tests.contracts import peak_error, run
from tests.needs import need, package

need("beartype", "einops", "rotary_embedding_torch")
msst = package("msst", "models.bs_roformer.bs_roformer", "models.bs_roformer.mel_band_roformer")
THEIRS = {
    "BSRoformer": msst.models.bs_roformer.bs_roformer.BSRoformer,
    "MelBandRoformer": msst.models.bs_roformer.mel_band_roformer.MelBandRoformer,
}
TINY = dict(
    dim=8, depth=2, dim_head=4, heads=2, stereo=True, time_transformer_depth=1, freq_transformer_depth=1
)
SMALL_BS = dict(
    stft_n_fft=256,
    stft_win_length=256,
    stft_hop_length=64,
    dim_freqs_in=129,
    freqs_per_bands=(2,) * 16 + (9,) * 8 + (25,),
)
SMALL_MEL = dict(stft_n_fft=512, stft_win_length=512, stft_hop_length=128, dim_freqs_in=257, num_bands=16)

CASES = {
    "the usual bands": ("BSRoformer", dict(stft_hop_length=441, zero_dc=False)),
    "stems, skip": (
        "BSRoformer",
        dict(SMALL_BS, num_stems=3, skip_connection=True, mask_estimator_depth=3, mlp_expansion_factor=2),
    ),
    "mono": ("BSRoformer", dict(SMALL_BS, stereo=False, stft_normalized=True, stft_hop_length=100)),
    "the usual mel bands": (
        "MelBandRoformer",
        dict(num_bands=60, mask_estimator_depth=2, mlp_expansion_factor=1, stft_hop_length=441, zero_dc=False),
    ),
    "mel, skip": ("MelBandRoformer", dict(SMALL_MEL, num_stems=2, skip_connection=True, depth=3)),
    "mel, deep": (
        "MelBandRoformer",
        dict(SMALL_MEL, num_stems=1, time_transformer_depth=2, freq_transformer_depth=2, sample_rate=48000),
    ),
}


def pair(arch, kwargs):
    """Our network and the original with the same random weights, none of them trivial."""
    torch.manual_seed(0)
    theirs = THEIRS[arch](**{"num_stems": 1, "zero_dc": True, "flash_attn": False, **TINY, **kwargs}).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 1 and "freqs" not in name.rsplit(".", 1)[-1]:
                parameter.add_(0.3 * torch.randn_like(parameter))
    settings = read_settings(arch, {**TINY, "zero_dc": True, **kwargs})
    found = FAMILY.archs[arch]
    stems = [f"stem{number}" for number in range(kwargs.get("num_stems", 1))]
    ours = found.build(found.config(**settings, sources=stems)).eval()
    ours.load_state_dict(FAMILY.convert(Checkpoint("", theirs.state_dict()), ours), strict=True)
    return ours, theirs


@pytest.mark.parametrize("arch, kwargs", CASES.values(), ids=CASES)
@pytest.mark.parametrize("samples", [6000, 7001])
def test_the_original(arch, kwargs, samples):
    ours, theirs = pair(arch, kwargs)
    mix = torch.randn(2, ours.channels, samples) + 0.1
    expected = run(theirs, mix)
    expected = expected if expected.dim() == 4 else expected[:, None]
    assert peak_error(run(ours, mix)[..., : expected.shape[-1]], expected) < 2e-5


@pytest.mark.parametrize("bands, nfft, samplerate", [(60, 2048, 44100), (20, 1024, 48000), (16, 512, 44100)])
def test_mel_bands_are_those_of_librosa(bands, nfft, samplerate):
    inside = package("librosa").filters.mel(sr=samplerate, n_fft=nfft, n_mels=bands) > 0
    inside[0, 0] = inside[-1, -1] = True
    for row, (low, high) in zip(inside, mel(bands, nfft, samplerate).bands, strict=True):
        assert row.nonzero()[0].tolist() == list(range(low, high))
