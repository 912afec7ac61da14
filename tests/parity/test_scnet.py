"""SCNet against the training toolkit's own networks (PyPI msst): equal weights, equal results."""

from __future__ import annotations

import pytest
import torch

from sepcli.models.scnet import FAMILY
from sepcli.models.scnet.network import SCNet
from sepcli.models.scnet.toolkit import read_settings
from sepcli.weights.checkpoint import Checkpoint
from tests.contracts import peak_error, run
from tests.needs import package

msst = package("msst", "models.scnet.scnet", "models.scnet.scnet_masked")
THEIRS = {False: msst.models.scnet.scnet.SCNet, True: msst.models.scnet.scnet_masked.SCNet}
TINY = dict(dims=[4, 8, 12], nfft=128, hop_size=32, win_size=128, num_dplayer=2)
CASES = {
    "three stems": (False, dict(sources=["a", "b", "c"], expand=2)),
    "wide bands": (
        False,
        dict(sources=["a", "b"], band_SR=[0.23, 0.37, 0.4], band_stride=[1, 4, 4], band_kernel=[3, 4, 4]),
    ),
    "not scaled": (
        False,
        dict(sources=["a"], normalized=False, hop_size=24, compress=2, conv_depths=[1, 3, 2]),
    ),
    "masked": (True, dict(sources=["a", "b", "c"], conv_kernel=5)),
}


def pair(is_masked, kwargs):
    """The original with random weights, none of them trivial, and our network with the same."""
    torch.manual_seed(0)
    kwargs = {**TINY, **kwargs}
    theirs = THEIRS[is_masked](**kwargs).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    switches = {"hann": True, "positions": True, "mask_hidden": 64} if is_masked else {}
    arch = FAMILY.archs["SCNet"]
    settings = read_settings("SCNet", kwargs)
    ours = SCNet(arch.config(**settings, **switches, sources=tuple(kwargs["sources"]))).eval()
    ours.load_state_dict(FAMILY.convert(Checkpoint("", theirs.state_dict()), ours), strict=True)
    return ours, theirs


@pytest.mark.parametrize(("is_masked", "kwargs"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("samples", [768, 1001])
def test_the_original(is_masked, kwargs, samples):
    ours, theirs = pair(is_masked, kwargs)
    mix = torch.randn(2, ours.channels, samples) + 0.1
    assert peak_error(run(ours, mix), run(theirs, mix)) < 2e-5
