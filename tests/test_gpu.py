"""What only a CUDA device can show: run with `pytest -m gpu`."""

from dataclasses import replace

import pytest
import torch

from sepcli.cli.app import main
from sepcli.engine import stage
from sepcli.engine.pipeline import Engine, measure
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.models.demucs import sparse
from sepcli.models.family import get_family
from sepcli.training.run import read_metrics
from tests.stems import track
from tests.test_cli_train import PRESET
from tests.toys import Split

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


@pytest.mark.parametrize("tf32, least", [(False, 80), (True, 35)], ids=["float32", "TF32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_equals_the_cpu(name, tf32, least, monkeypatch):
    # cuDNN's convolutions are TF32 by default, with ten bits. These random networks make much of each rounding:
    # 42 to 49 dB on an H200, where htdemucs at its real size has 64 (docs/benchmarks.md).
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    model, x = build(name), torch.randn(1, 2, 400_000)
    expected, _ = separate(model, x, CPU)
    for batch in (None, 1, 3):
        result, engine = separate(model, x, CUDA, batch_size=batch)
        assert snr(expected, result) > least
        if batch is None:
            assert engine.stage.batches[0].size > 1, "batches follow the free memory"


def test_half_precision_on_tensor_cores():
    model, x = build("HTDemucs"), torch.randn(1, 2, 400_000)
    expected, _ = separate(model, x, CPU)
    result, _ = separate(model, x, CUDA, torch.float16)
    assert snr(expected, result) > 40


def test_windows_from_pinned_memory_are_the_same(monkeypatch):
    model, x = Split(("drums", "bass"), Segment(1000)), torch.randn(1, 2, 50_000)
    pinned = [separate(model, x, CUDA, batch_size=batch)[0] for batch in (None, 1, 3)]
    monkeypatch.setattr(stage, "sent", lambda windows, device: windows.to(device))
    plain, _ = separate(model, x, CUDA)
    assert all(torch.equal(stems, plain) for stems in pinned)


def test_running_out_of_memory_halves_the_batch():
    class Hungry(Split):
        def forward(self, mix, *, noise=None):
            torch.empty(len(mix), 2**28, device=mix.device)  # 1 GiB a window
            return super().forward(mix)

        def select(self, sources):
            return self

    x = torch.randn(1, 2, 20_000)
    expected, _ = separate(Split(), x, CPU)
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved(CUDA) + 2.5 * 2**30
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(CUDA).total_memory, CUDA)
    try:
        result, engine = separate(Hungry(), x, CUDA, batch_size=8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert engine.stage.batches[0].size == 2 and snr(expected, result) > 80


@pytest.mark.parametrize("head_channels", [48, 64])  # of dimensions 384 and 512
def test_flex_attention_equals_the_reference(head_channels):
    """Sparse HT Demucs: result and gradients, with queries that keep no key."""
    backend = sparse.choose_backend("cuda", head_channels)
    assert backend.name == "flex", backend.reason
    inputs = [torch.randn(2, 8, 700, head_channels, device=CUDA, requires_grad=True) for _ in range(3)]
    for keep in (0.002, 0.1):
        pairs = sparse.HashedPairs(inputs[0], inputs[1], keep, torch.Generator().manual_seed(0))
        found = []
        for result in (
            sparse.masked_attention(*inputs, pairs),
            sparse.compiled_flex()(*inputs, *sparse.flex_arguments(pairs)),
        ):
            found.append([result, *torch.autograd.grad(result.square().sum(), inputs)])
        for reference, other in zip(*found, strict=True):
            assert snr(reference, other) > 50


def test_sparse_network_on_cuda_equals_the_cpu():
    model, x = build("HTDemucs"), torch.randn(1, 2, 400_000)
    sparse_self = {"t_sparse_self_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.9}
    model = get_family("demucs").archs["HTDemucs"].build(replace(model.config, **sparse_self)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("scale"):
                parameter.fill_(0.2)
    expected, _ = separate(model, x, CPU)
    result, _ = separate(model, x, CUDA)
    assert snr(expected, result) > 40  # rounding moves a few pairs over the threshold


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_goes_on_where_it_stopped(tmp_path, precision):
    """The whole of `sepcli train` on the device: scaler, averages, validation, a state taken up again."""
    (tmp_path / "small.toml").write_text(PRESET)
    for index in range(3):
        track(tmp_path / f"data/song{index}", ["vocals", "drums"], seed=index)
    track(tmp_path / "valid/song", ["vocals", "drums"], seed=9)
    command = [
        "train",
        "--preset",
        str(tmp_path / "small.toml"),
        "--data",
        str(tmp_path / "data"),
        "--valid",
        str(tmp_path / "valid"),
        "-o",
        str(tmp_path / "run"),
        "--device",
        "cuda",
        "--precision",
        precision,
    ]
    assert main([*command, "--max-steps", "5", "-q"]) == 0
    assert main([*command, "--max-steps", "12", "-q"]) == 0
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert not any(line.get("bad") for line in lines)


@pytest.mark.parametrize("batch", [1, 3])
def test_replayed_graphs_follow_their_input(batch):
    """`--compile on`: CUDA graphs of whole segments, with inputs that change, against the network as it is."""
    model, x = build("HTDemucs"), torch.randn(1, 2, 600_000)
    for mix in (x, x.flip(-1), 0.1 * x):
        expected, _ = separate(model, mix, CUDA, batch_size=batch)
        stems, _ = separate(model, mix, CUDA, batch_size=batch, compile=True)
        assert snr(expected, stems) > 60
