"""Time-domain Demucs: its lengths, its resampling, its narrowing."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from functools import partial

import pytest
import torch

from sepcli.models.demucs.demucs import Demucs, DemucsConfig, valid_length
from sepcli.models.demucs.layers import ToWave
from sepcli.nn.resampling import downsampled, sinc_filters, upsampled
from tests.contracts import Case, check_reduced
from tests.needs import package

SMALL = {"sources": ("drums", "bass", "vocals"), "channels": 16, "depth": 3, "samplerate": 8000, "segment": 1}
DEEP = {"norm_starts": 1, "dconv_attn": 1, "dconv_lstm": 1}
VARIANTS = {
    "plain": {},
    "deep layers from the second level": DEEP,
    "no rewrite": {**DEEP, "rewrite": False},
    "mono, no resampling": {"audio_channels": 1, "resample": False},
    "not standardised, LSTM": {"normalize": False, "lstm_layers": 1},
}


def network(**changes) -> Demucs:
    torch.manual_seed(0)
    model = Demucs(DemucsConfig(**{**SMALL, **changes}))
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            parameter.data.uniform_(0.2, 0.5)
    return model.eval()


CASES = {  # the last length is long enough for framed LSTMs
    variant: Case(partial(network, **changes), [1, 77, 2001]) for variant, changes in VARIANTS.items()
}


def test_reduced_precision_is_close():
    check_reduced(network(**DEEP), torch.randn(1, 2, 8000), torch.bfloat16, decibels=25)


def test_defaults_are_the_original_constructors():
    demucs = package("demucs", "demucs")
    parameters = inspect.signature(demucs.demucs.Demucs.__init__).parameters
    theirs = {name: p.default for name, p in parameters.items() if name != "self"}
    ours = {field.name: field.default for field in dataclasses.fields(DemucsConfig)}
    assert list(ours) == list(theirs)  # also in order: checkpoints may hold positional arguments
    del ours["sources"], theirs["sources"]
    assert ours == theirs


@pytest.mark.parametrize("resample", [True, False])
@pytest.mark.parametrize("sizes", [(8, 4, 6), (8, 2, 3), (6, 3, 4), (4, 4, 2)], ids=str)
def test_valid_length(sizes, resample):
    """At least as long, passes without remainder, is itself valid, and equals the original's."""
    kernel_size, stride, depth = sizes
    kwargs = {
        "kernel_size": kernel_size,
        "stride": stride,
        "depth": depth,
        "resample": resample,
        "channels": 4,
    }
    config = DemucsConfig(sources=("a",), **kwargs)
    demucs = package("demucs", "demucs")
    original = demucs.demucs.Demucs(["a"], dconv_attn=9, dconv_lstm=9, norm_starts=9, **kwargs)
    for length in [1, 2, 3, 100, 1001, 44100, 44 * 44100]:
        valid = valid_length(length, config)
        assert valid == original.valid_length(length)
        assert valid >= length
        if not resample or stride % 2 == 0:  # an odd inner length is rounded up, beyond what passes
            assert valid_length(valid, config) == valid


def test_segment_tells_the_lengths():
    model = Demucs(DemucsConfig(sources=("a",), channels=4, dconv_attn=9, dconv_lstm=9))
    assert model.segment.samples == 40 * 44100 and model.segment.tail == "context"
    assert model.segment.valid_length(44 * 44100) == 44 * 44100 + 1786
    assert pickle.loads(pickle.dumps(model.segment)).valid_length(5) == model.segment.valid_length(5)


def test_select_computes_less():
    model = network()
    narrowed = model.select(["vocals"])
    assert narrowed.decoder[-1][-1].weight.shape[1] == model.channels
    assert narrowed.encoder[0][0].weight.data_ptr() == model.encoder[0][0].weight.data_ptr()


@pytest.mark.parametrize("samples", [1, 2, 3, 30, 53, 104, 1001, 4096])
def test_resampling_equals_julius(samples):
    julius = package("julius")
    x = torch.randn(2, 3, samples)
    torch.testing.assert_close(upsampled(x, sinc_filters(1, 2)), julius.resample_frac(x, 1, 2))
    torch.testing.assert_close(downsampled(x, sinc_filters(2, 1)), julius.resample_frac(x, 2, 1))


def test_resampling_keeps_constants_and_slow_sines():
    up, down = sinc_filters(1, 2), sinc_filters(2, 1)
    constant = torch.full((1, 1, 300), 0.7)
    torch.testing.assert_close(upsampled(constant, up), torch.full((1, 1, 600), 0.7))
    sine = torch.sin(torch.arange(3000) * 0.1).view(1, 1, -1)
    back = downsampled(upsampled(sine, up), down)
    torch.testing.assert_close(back[..., 100:-100], sine[..., 100:-100], atol=1e-3, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 37])
@pytest.mark.parametrize("kernel, stride", [(8, 4), (2, 1), (8, 2)])
def test_the_way_to_the_wave_is_a_transposed_convolution(kernel, stride, steps, bias):
    """Whichever way it is computed, and with the weights of torch's own layer."""
    ours, torchs = (
        ToWave(12, 3, kernel, stride, bias=bias),
        torch.nn.ConvTranspose1d(12, 3, kernel, stride, bias=bias),
    )
    ours.load_state_dict(torchs.state_dict())
    x = torch.randn(2, 12, steps)
    with torch.no_grad():
        assert torch.allclose(ours(x), torchs(x), atol=1e-6)
    assert torch.equal(ours(x), torchs(x))  # with gradients it is torch's
