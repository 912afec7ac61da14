"""The codec of the ldm family: the contract, lengths, levels and sizes."""

from __future__ import annotations

import pytest
import torch

from sepcli.models.ldm import FAMILY
from sepcli.models.ldm.codec import Codec, CodecConfig
from tests.contracts import check_separator, peak_error, run

TINY = {"filters": 4, "latent": 6, "ratios": (4, 2), "window": 960, "samplerate": 4800}


def tiny(**config) -> Codec:
    """A small codec whose affine weights are not those that norms begin with."""
    torch.manual_seed(0)
    model = FAMILY.archs["Codec"].build(CodecConfig(**TINY | config))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return model.eval()


@pytest.mark.parametrize("channels", [1, 2])
def test_contract(channels):
    check_separator(tiny(channels=channels), [1, 9, 960])


def test_published_size():
    with torch.device("meta"):
        model = Codec(CodecConfig())
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    assert sizes == [7_428_336, 7_427_958]
    assert (model.config.hop, model.samplerate, model.channels) == (320, 48000, 2)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 16, 961])
def test_a_latent_for_every_hop_begun(samples):
    model = tiny()
    z, scale = model.encode(torch.randn(2, 2, samples))
    assert z.shape == (2, 6, -(-samples // 8)) and scale.shape == (2, 1, 1)
    assert model.decoder(z).shape == (2, 2, 8 * z.shape[-1])
    assert model.decode(z, scale, samples).shape == (2, 2, samples)


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_the_level_goes_through(gain):
    model, mix = tiny(), torch.randn(1, 2, 960)
    assert peak_error(run(model, gain * mix), gain * run(model, mix)) < 1e-4


def test_the_decoder_has_no_level():
    """What the latents' level is makes no difference, up to the floor of the norms: hence `scale`."""
    model, z = tiny(), torch.randn(1, 6, 120)
    model.decoder.layers[0].conv.bias.data.zero_()
    wave = model.decoder(z)
    assert peak_error(model.decoder(10 * z), wave) < 1e-3


def test_silence_stays_silence():
    assert run(tiny(), torch.zeros(1, 2, 960)).abs().max() < 1e-6


@pytest.mark.parametrize("config", [
    {"channels": 3}, {"ratios": ()}, {"ratios": (1, 2)}, {"filters": 0}, {"filters": 5}, {"window": 0}])
def test_what_cannot_be_built_is_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        tiny(**config)
