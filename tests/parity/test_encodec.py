"""EnCodec's 48 kHz model against that of transformers, of random weights."""

from __future__ import annotations

import pytest
import torch

from sepcli.models.ldm.codec import Codec, CodecConfig
from tests.needs import package

transformers = package("transformers")

# config.json of the published model, where it differs from transformers' defaults.
PUBLISHED = {
    "sampling_rate": 48000,
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
}


def reference(**config) -> torch.nn.Module:
    """A model of transformers whose affine weights and codebooks are random too."""
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(**PUBLISHED | config)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    for layer in model.quantizer.layers:
        torch.nn.init.normal_(layer.codebook.embed)
    return model


def ours(model: torch.nn.Module, **config) -> Codec:
    codec = Codec(CodecConfig(**config)).eval()
    codec.encoder.load_state_dict(model.encoder.state_dict(), strict=True)
    codec.decoder.load_state_dict(model.decoder.state_dict(), strict=True)
    return codec


def close(result: torch.Tensor, expected: torch.Tensor) -> bool:
    return result.shape == expected.shape and bool(
        (result - expected).abs().max() <= 2e-5 * expected.abs().max()
    )


@pytest.fixture(scope="module")
def full():
    model = reference()
    return model, ours(model)


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 3, 320, 321, 9999])
def test_encoder_and_decoder(full, samples):
    model, codec = full
    wave = torch.randn(1, 2, samples)
    z = model.encoder(wave)
    assert close(codec.encoder(wave), z)
    assert close(codec.decoder(z), model.decoder(z))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("theirs", "config"),
    [
        (
            {"upsampling_ratios": [3, 5], "num_filters": 6, "hidden_size": 5, "num_residual_layers": 3},
            {"ratios": (3, 5), "filters": 6, "latent": 5, "residuals": 3},
        ),
        (
            {
                "upsampling_ratios": [4],
                "num_filters": 8,
                "compress": 4,
                "num_lstm_layers": 1,
                "kernel_size": 4,
                "last_kernel_size": 5,
                "residual_kernel_size": 6,
                "dilation_growth_rate": 3,
                "audio_channels": 1,
            },
            {
                "ratios": (4,),
                "filters": 8,
                "compress": 4,
                "lstm_layers": 1,
                "kernel": 4,
                "last_kernel": 5,
                "residual_kernel": 6,
                "dilation_growth": 3,
                "channels": 1,
            },
        ),
    ],
)
def test_every_setting(theirs, config):
    model = reference(**theirs)
    codec = ours(model, **config)
    for samples in (2, 30, 1001):
        wave = torch.randn(2, codec.channels, samples)
        z = model.encoder(wave)
        assert close(codec.encoder(wave), z)
        assert close(codec.decoder(z), model.decoder(z))


@torch.inference_mode()
@pytest.mark.parametrize("bandwidth", [3.0, 6.0, 12.0, 24.0, 7.0])
def test_quantizer(full, bandwidth):
    model, codec = full
    codec.quantizer.codebooks.copy_(torch.stack([layer.codebook.embed for layer in model.quantizer.layers]))
    z = 3 * torch.randn(2, 128, 40)
    codes = model.quantizer.encode(z, bandwidth)
    assert len(codes) == model.quantizer.get_num_quantizers_for_bandwidth(bandwidth)
    assert torch.equal(codec.quantize(z, bandwidth), codes)
    assert close(codec.dequantize(codes), model.quantizer.decode(codes))
