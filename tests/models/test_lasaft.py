"""LaSAFT: tiny networks of every variant, and what is computed once, for whom."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.models.family import get_family
from sepcli.models.lasaft import FAMILY
from sepcli.models.lasaft.blocks import DenseBlock, fold_all
from tests.contracts import Case, check_reduced, peak_error, run

CPU = torch.device("cpu")
TINY = dict(
    n_fft=256,
    hop_length=64,
    num_frame=16,
    margin=192,
    n_blocks=5,
    internal_channels=6,
    n_internal_layers=3,
    min_bn_units=4,
    embedding_dim=8,
    num_tdfs=3,
    dk=5,
)
QUERY = dict(query_n_fft=256, query_channels=(4, 4, 4, 6, 6, 8, 8), query_hidden=10)
VARIANTS = {
    "v1": ("LaSAFTv1", {}),
    "v1.1": ("LaSAFTv1", {"analyser": "light"}),
    "v1.2": ("LaSAFTv2", {"listening": "none", "n_blocks": 7, "n_internal_layers": 2}),
    **{f"v2 {kind}": ("LaSAFTv2", {"listening": kind}) for kind in ("none", "query", "key", "query_key")},
    "v2 mask": ("LaSAFTv2", {"output": "mask"}),
    "v2 leaky": ("LaSAFTv2", {"activation": "leaky_relu", "bn_factor": 8}),
    "v2 mono": ("LaSAFTv2", {"channels": 1, "sources": ("singing", "rest")}),
    "query": ("LaSAFTQuery", QUERY),
    "query key": ("LaSAFTQuery", {**QUERY, "listening": "key"}),
}


def tiny(variant: str, **other):
    """With weights, norms and latents that all do something.

    The norms have seen a few batches, half of each as loud as the loudest mix of the laws (contracts.py, ten
    times the others). Otherwise levels grow from block to block, to some hundreds before the gates, whose
    sigmoids then jump and magnify the rounding of float32. That differs with the size of a batch and from
    processor to processor, and came to 1.1e-5 of the peak, where the laws allow 1e-5. As it is, it is 2e-6.
    """
    name, changes = VARIANTS[variant]
    arch = FAMILY.archs[name]
    torch.manual_seed(0)
    model = arch.build(arch.config(**{**TINY, **changes, **other}))
    model.train()
    for _ in range(20):  # the norms' statistics
        mix = torch.randn(4, model.channels, 960)
        mix[2:] *= 10
        model.estimate(model.spectrogram(mix), torch.randn(4, 8))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
        for name, parameter in model.named_parameters():
            # Gates and attention that jump would magnify the rounding of float32.
            if name.endswith("weight_g") or ".keys.3." in name:
                parameter.mul_(0.03)
        if hasattr(model, "mean_latents"):
            model.mean_latents.normal_()
    return model.eval()


@pytest.fixture(params=VARIANTS)
def model(request):
    return tiny(request.param)


NETWORKS: dict[str, dict[str, Case]] = {}
for _variant, (_arch, _) in VARIANTS.items():
    # 960 samples are a segment; forward takes whatever else it is given.
    NETWORKS.setdefault(_arch, {})[_variant] = Case(partial(tiny, _variant), [129, 960, 961])


def test_segment(model):
    segment = model.segment
    assert (segment.samples, segment.exact, segment.margin) == (960, True, 192)
    assert model.spectrogram(torch.zeros(1, model.channels, 960)).shape == (1, 2 * model.channels, 16, 129)


def check_identity(overlap: float, samples: int, arch: str = "LaSAFTv2", **geometry) -> None:
    """A network that hands its spectrogram on gives the mix: each sample of weight 1, up to both ends."""
    arch = FAMILY.archs[arch]
    model = arch.build(arch.config(sources=("a",), n_blocks=3, internal_channels=2, **geometry)).eval()
    model.share = lambda cac: cac
    model.finish = lambda shared, constants, seen=None: shared
    mix = torch.randn(1, 2, samples)
    engine = Engine(model, Settings(overlap=overlap), CPU, torch.float32)
    stems = torch.cat(list(engine.separate(iter(mix.split(16_000, dim=-1)))), dim=-1)
    assert peak_error(stems[0], mix) < 1e-5


@pytest.mark.parametrize("samples", [1, 100, 191, 192, 575, 576, 577, 576 * 2 - 1, 576 * 2 + 191, 3000])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
def test_every_length(samples, overlap):
    check_identity(overlap, samples, n_fft=256, hop_length=64, num_frame=16, margin=192)


# Of the published windows: shorter than any chunk, where the original fails; up to 5,120 (8,192) samples more
# than whole chunks, where the end is half as loud again; and beside them.
@pytest.mark.parametrize("samples", [1, 100, 59_903, 59_904, 119_809, 119_808 + 5_120, 119_808 + 5_121])
@pytest.mark.parametrize("n_fft", [2048, 4096])
def test_lengths_that_the_original_gets_wrong(samples, n_fft):
    check_identity(0.5, samples, n_fft=n_fft)


@pytest.mark.parametrize("samples", [1, 122_367, 244_737, 244_736 + 8_192])
def test_lengths_of_the_long_windows(samples):
    check_identity(0, samples, "LaSAFTv1", analyser="light", num_frame=256, margin=8192)


def test_margins_are_real_audio():
    """A chunk's result is the network's for the window around it, and nothing of its ends is kept."""
    model = tiny("v2 query_key").select(["drums"])
    mix = torch.randn(1, 2, 576 * 3)
    engine = Engine(copy.deepcopy(model), Settings(overlap=0), CPU, torch.float32)
    stems = torch.cat(list(engine.separate(iter([mix]))), dim=-1)[0]
    window = run(model, mix[..., 576 - 192 : 2 * 576 + 192])[:, 0]
    assert peak_error(stems[..., 576 : 2 * 576], window[..., 192:-192]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("targets", [1, None])
def test_what_runs_how_often(model, targets):
    """Through the engine: a decoder pass a target, and (v2) one pass of all before them, however many targets;
    what only depends on the target runs once for each, before the first chunk."""
    stems = targets or len(model.sources)
    model = model.select(model.sources[:targets])
    calls = Counter()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    engine = Engine(model, Settings(overlap=0.5), CPU, torch.float32)
    prepared = calls.copy()
    assert any("generator" in name for name in prepared)
    assert all(count == (1 if name == "embedding" else stems) for name, count in prepared.items())

    calls.clear()
    list(engine.separate(iter([torch.randn(1, model.channels, 4 * 288)])))
    chunks = calls.pop("")
    assert chunks == 4 and not calls.keys() & prepared.keys()
    before = stems if "v1" in type(model).__name__ else 1
    often = {
        "first_conv": 1,
        "encoders.0": before,
        "mid_block": before,
        "upsamplings.0": before,
        f"upsamplings.{model.levels - 1}": stems,
        "decoders.0": stems,
        "last_conv": stems,
    }
    assert {name: calls[name] / chunks for name in often} == often


@pytest.mark.slow
def test_training_leaves_what_prepare_kept(model):
    """After a step of learning, results are those of the new weights."""
    mix = torch.randn(1, model.channels, 960)
    model.prepare(960, CPU, torch.float32)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.02)
    model.eval()
    fresh = copy.deepcopy(model)
    fresh.prepare(960, CPU, torch.float32)
    assert model.prepared is None and peak_error(run(fresh, mix), run(model, mix)) < 1e-5


@pytest.mark.slow
def test_estimate_takes_a_target_a_row(model):
    """In a batch each row has its own target, and all agree with `forward`."""
    mix = torch.randn(1, model.channels, 960)
    whole = run(model, mix)
    count = len(model.sources)
    with torch.inference_mode():
        cac = model.spectrogram(mix).expand(count, -1, -1, -1)
        stems = model.waveform(model.estimate(cac, model.condition(torch.arange(count))), 960)
    assert peak_error(stems, whole[0]) < 1e-5


def test_every_parameter_learns(model):
    model.train()
    mix = torch.randn(3, model.channels, 960)
    z = model.condition(torch.tensor([0, 1, 1]))
    if hasattr(model, "query"):
        z = model.query(model.query_spectrogram(mix))
    loss = model.estimate(model.spectrogram(mix), z).square().mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_attention_sums_to_one(model):
    """One map a decoder; in time where something listens, else one for all frames."""
    listens = getattr(model.config, "listening", "none") != "none"
    with torch.inference_mode():
        maps = model.attention(
            model.spectrogram(torch.randn(2, model.channels, 960)), model.condition(torch.tensor([0, 1]))
        )
    assert [weights.shape[1] for weights in maps] == [
        16 >> level if listens else 1 for level in reversed(range(model.levels))
    ]
    for weights in maps:
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-6)


@pytest.mark.slow
def test_reduced_precision():
    for variant in ("v1", "v2 query_key"):
        check_reduced(tiny(variant), torch.randn(2, 2, 960), torch.bfloat16, 20)


def test_a_folded_dense_block_is_the_block():
    torch.manual_seed(0)
    block = DenseBlock(10, 5, 4, "relu").train()
    for _ in range(10):
        block(torch.randn(2, 10, 8, 9))
    block.eval()
    x = torch.randn(2, 10, 8, 9)
    with torch.inference_mode():
        expected = block(x)
        assert torch.equal(block(x[:, :6], block.begin(x[:, 6:])), expected)
        fold_all(block, torch.float32)
        assert peak_error(block(x), expected) < 1e-5
        assert peak_error(block(x[:, :6], block.begin(x[:, 6:])), expected) < 1e-5


def test_a_listening_query_is_a_weighted_sum_of_channels():
    """The generated query by its formula, on one frame."""
    model = tiny("v2 query")
    block = model.decoders[0].tfc_lightsaft
    x, weights = torch.randn(1, 6, 1, 64), torch.randn(1, 7)
    target = model.decoders[0].target(torch.randn(1, 8))._replace(query_weights=weights)
    heard = (x[0, :, 0] * weights[0, :6, None]).sum(0) + weights[0, 6]
    norm, _, linear = block.linear_query
    expected = linear(F.relu(F.layer_norm(heard, (64,), norm.weight, norm.bias)))
    assert torch.allclose(block._query(x, target)[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"listening": "both"}, "listening"),
        ({"output": "wave"}, "output"),
        ({"activation": "gelu"}, "activation"),
        ({"n_blocks": 6}, "odd"),
        ({"num_frame": 18}, "multiples of 4"),
    ],
)
def test_impossible_configurations(changes, words):
    arch = FAMILY.archs["LaSAFTv2"]
    with pytest.raises(ValueError, match=words):
        arch.build(arch.config(**{**TINY, **changes}))


def test_the_family_is_found():
    assert get_family("lasaft").archs["LaSAFTv2"].build is FAMILY.archs["LaSAFTv2"].build
