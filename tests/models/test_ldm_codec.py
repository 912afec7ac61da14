"""The codec of the ldm family: lengths, levels and sizes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sepcli.errors import UsageError
from sepcli.models.ldm import FAMILY
from sepcli.models.ldm.codec import Codec, CodecConfig, CodecOptions
from tests.contracts import Case, check_separator, peak_error, run

TINY = {"filters": 4, "latent": 6, "ratios": (4, 2), "window": 960, "samplerate": 4800, "codebooks": 0}


def tiny(**config) -> Codec:
    """A small codec whose affine weights are not those that norms begin with."""
    torch.manual_seed(0)
    model = FAMILY.archs["Codec"].build(CodecConfig(**TINY | config))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    if model.codebooks:
        torch.nn.init.normal_(model.quantizer.codebooks)
    return model.eval()


CASES = {
    name: Case(partial(tiny, channels=channels), [1, 9, 960]) for name, channels in (("mono", 1), ("stereo", 2))
}


def test_defaults_never_change():
    """They are the published 48 kHz model's."""
    assert vars(CodecConfig()) == dict(
        samplerate=48000,
        channels=2,
        filters=32,
        latent=128,
        ratios=(8, 5, 4, 2),
        residuals=1,
        lstm_layers=2,
        kernel=7,
        last_kernel=7,
        residual_kernel=3,
        dilation_growth=2,
        compress=2,
        source="reconstruction",
        window=48000,
        codebooks=16,
        codebook_size=1024,
    )


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


@pytest.fixture
def quantized() -> Codec:
    """600 latents a second, codebooks of 3 bits: 1.8 kbit/s each."""
    model = tiny(codebooks=5, codebook_size=8)
    z = model.encode(torch.randn(4, 2, 960))[0].transpose(1, 2).flatten(0, 1)  # [B N, D]
    for book in model.quantizer.codebooks:  # each of latents, or of what is left of them
        book.copy_(z[torch.randperm(len(z))[:8]].detach())
        z = z - book[torch.cdist(z, book).argmin(-1)]
    return model


@torch.inference_mode()
def test_more_codebooks_are_nearer(quantized):
    z, _ = quantized.encode(torch.randn(2, 2, 960))
    errors = []
    for bandwidth, count in ((1.8, 1), (3.6, 2), (5.39, 2), (9.0, 5), (None, 5)):
        codes = quantized.quantize(z, bandwidth)
        assert codes.shape == (count, 2, 120) and codes.min() >= 0 and codes.max() < 8
        errors.append((quantized.dequantize(codes) - z).square().mean())
    assert errors[0] > errors[1] == errors[2] > errors[3] == errors[4]


@torch.inference_mode()
def test_the_nearest_vector_is_taken(quantized):
    z = quantized.quantizer.codebooks[0][None, [3, 0, 7]].transpose(1, 2)
    assert quantized.quantize(z, 1.8).tolist() == [[[3, 0, 7]]]
    assert torch.equal(quantized.dequantize(torch.tensor([[[3, 0, 7]]])), z)


def test_a_bandwidth_is_an_option(quantized):
    mix = torch.randn(1, 2, 960)
    plain = run(quantized, mix)
    quantized.options = CodecOptions(bandwidth=9.0)
    assert peak_error(run(quantized, mix), plain) > 1e-3
    check_separator(quantized, [960])


@pytest.mark.parametrize("bandwidth", [0.0, 1.7, 9.1])
def test_bandwidths_that_there_are_not(quantized, bandwidth):
    with pytest.raises(UsageError, match="has 1.8 to 9"):
        quantized.quantize(torch.zeros(1, 6, 3), bandwidth)


def test_no_codebooks_no_bandwidth():
    model = tiny()
    model.options = CodecOptions(bandwidth=6.0)
    with pytest.raises(UsageError, match="no codebooks"):
        run(model, torch.randn(1, 2, 960))


def test_silence_stays_silence():
    assert run(tiny(), torch.zeros(1, 2, 960)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        {"channels": 3},
        {"ratios": ()},
        {"ratios": (1, 2)},
        {"filters": 0},
        {"filters": 5},
        {"window": 0},
        {"codebooks": -1},
        {"codebook_size": 1},
    ],
)
def test_what_cannot_be_built_is_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        tiny(**config)
