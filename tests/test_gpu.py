"""What only a CUDA device can show: run with `pytest -m gpu`."""

import pytest
import torch

from sepcli.family import get_family
from sepcli.pipeline import Engine, Settings, measure

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SOURCES = ("drums", "bass", "other", "vocals")
NETWORKS = {
    "HTDemucs": {"channels": 16, "t_layers": 2, "bottom_channels": 64, "segment": 2, "dconv_mode": 3},
    "HDemucs": {"channels": 8, "segment": 3},
    "Demucs": {"channels": 8, "segment": 3},
}


def build(name):
    torch.manual_seed(0)
    arch = get_family("demucs").archs[name]
    model = arch.build(arch.config(SOURCES, **NETWORKS[name])).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("scale"):
                parameter.fill_(0.2)
    return model


def separate(model, x, device, dtype=torch.float32, **settings):
    engine = Engine(model.select(model.sources), Settings(**settings), device, dtype)
    blocks = x.split(10_000, dim=-1)
    return torch.cat(list(engine.separate(iter(blocks), measure(iter(blocks)))), dim=-1), engine


def snr(reference, other):
    return 10 * torch.log10(reference.square().sum() / (reference - other).square().sum()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_equals_the_cpu(name):
    model, x = build(name), torch.randn(1, 2, 400_000)
    expected, _ = separate(model, x, CPU)
    for batch in (None, 1, 3):
        result, engine = separate(model, x, CUDA, batch_size=batch)
        # cuDNN's TF32 convolutions have ten bits: far below audible, far above rounding.
        assert snr(expected, result) > 55
        if batch is None:
            assert engine.batches[0].size > 1, "batches follow the free memory"


def test_half_precision_on_tensor_cores():
    model, x = build("HTDemucs"), torch.randn(1, 2, 400_000)
    expected, _ = separate(model, x, CPU)
    result, _ = separate(model, x, CUDA, torch.float16)
    assert snr(expected, result) > 40
