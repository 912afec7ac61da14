"""DiCoSe's deterministic separators: what is done how often. And tiny networks of the whole family."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.models.dicose import FAMILY
from sepcli.models.dicose.unet import UNet
from sepcli.models.family import get_family
from tests.contracts import Case, check_reduced, peak_error, run
from tests.models import test_dicose_sampling

CPU = torch.device("cpu")
# A tiny network takes multiples of 32 samples.
TINY = dict(
    width=16,
    patch=4,
    multipliers=(1, 2, 2),
    factors=(4, 2),
    blocks=(1, 2),
    attentions=(False, True),
    heads=2,
    head_features=8,
    segment=640,
)
ARCHS = ["Deterministic", "DoubleDeterministic"]


def tiny(name: str, **other):
    """With norms and biases that all do something, and labels that are heard."""
    arch = FAMILY.archs[name]
    torch.manual_seed(0)
    model = arch.build(arch.config(**{**TINY, **other}))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif ".to_mapping." in key or ".to_features." in key:
                parameter.mul_(3)
    return model.eval()


@pytest.fixture(params=ARCHS)
def model(request):
    return tiny(request.param)


OTHER_LABELS = ("bass", "drums", "other", "vocals", "more")
# Any length, in `forward`; 640 samples are a segment.
NETWORKS = {arch: {"plain": Case(partial(tiny, arch), [31, 64, 640, 700])} for arch in ARCHS}
NETWORKS["Deterministic"]["other labels"] = Case(partial(tiny, "Deterministic", sources=OTHER_LABELS), [640])
NETWORKS |= test_dicose_sampling.NETWORKS


def test_other_labels():
    assert tiny("Deterministic", sources=OTHER_LABELS).unet.labels == 5


def test_every_source_is_another(model):
    stems = run(model, torch.randn(1, 1, 640))[0, :, 0]
    assert all(peak_error(stems[i], stems[j]) > 0.01 for i in range(4) for j in range(i))


def test_published_segment():
    arch = FAMILY.archs["Deterministic"]
    with torch.device("meta"):
        segment = arch.build(arch.config()).segment
    assert (segment.samples, segment.multiple, segment.exact, segment.tail) == (262144, 8192, False, "context")


def lengths_heard(model, samples: int, **settings) -> list[int]:
    """T of each call, through the engine."""
    heard = []
    model.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0].shape[-1]))
    engine = Engine(model, Settings(**settings), CPU, torch.float32)
    stems = torch.cat(list(engine.separate(iter([torch.randn(1, 1, samples)]))), dim=-1)
    assert stems.shape == (4, 1, 1, samples)
    return heard


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 1700])
def test_calls_are_whole_segments(model, samples):
    assert set(lengths_heard(model, samples)) == {640}


def test_shorter_segments(model):
    """--segment takes what the network takes: multiples of 32."""
    assert set(lengths_heard(model, 1000, segment=330 / model.samplerate)) == {320}


@pytest.mark.parametrize(("name", "passes"), [("Deterministic", 1), ("DoubleDeterministic", 2)])
def test_one_pass_for_each_target(name, passes):
    """All in one call of each network; fewer targets are fewer rows of it."""
    model = tiny(name)
    rows = []
    for network in model.modules():
        if isinstance(network, UNet):
            network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    run(model, torch.randn(3, 1, 640))
    run(model.select(["piano"]), torch.randn(3, 1, 640))
    assert rows == [12] * passes + [3] * passes


def test_double_is_fed_where_the_diffusion_network_is():
    """Every tap of the base is heard; the mix is the input of both."""
    model = tiny("DoubleDeterministic")
    mix, label = torch.randn(2, 1, 640), torch.eye(4)[1:3]
    with torch.inference_mode():
        _, taps = model.base.hear(mix, label)
        expected, _ = model.unet(mix, model.unet.condition(label), taps)
        alone, _ = model.unet(mix, model.unet.condition(label))
        assert torch.equal(model.estimate(mix, label), expected)
    assert torch.equal(taps.stem, mix) and peak_error(alone, expected) > 0.01


def test_the_base_does_not_learn():
    model = tiny("DoubleDeterministic").train()
    model.estimate(torch.randn(3, 1, 640), torch.eye(4)[:3]).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("base."):
            assert not parameter.requires_grad and parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_estimate_takes_a_target_a_row(model):
    mix = torch.randn(1, 1, 640)
    whole = run(model, mix)
    with torch.inference_mode():
        rows = model.estimate(mix.expand(4, -1, -1), torch.eye(4))
    assert peak_error(rows, whole[0]) < 1e-5


def test_reduced_precision(model):
    check_reduced(model, torch.randn(2, 1, 640), torch.bfloat16, 20)


def test_a_prepared_copy_leaves_the_weights(model):
    reduced = copy.deepcopy(model)
    reduced.prepare(640, CPU, torch.bfloat16)
    assert {p.dtype for p in reduced.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "words"), [({"segment": 650}, "multiple of 32"), ({"factors": (4, 3)}, "even")]
)
def test_impossible_configurations(changes, words):
    arch = FAMILY.archs["Deterministic"]
    with pytest.raises(ValueError, match=words):
        arch.build(arch.config(**{**TINY, **changes}))


def test_defaults_never_change():
    config = FAMILY.archs["Deterministic"].config()
    assert (config.sources, config.samplerate, config.segment, config.width) == (
        ("bass", "drums", "guitar", "piano"),
        22050,
        262144,
        256,
    )
    for name, more in (
        ("DoubleDeterministic", {}),
        ("Diffusion", {"sigma_data": 0.2}),
        ("Consistency", {"sigma_data": 0.2, "sigma_min": 1e-4}),
        ("MSDM", {"sigma_data": 0.2}),
        ("ISDM", {"sigma_data": 0.2}),
    ):
        assert vars(FAMILY.archs[name].config()) == vars(config) | more


def test_the_family_is_found():
    assert get_family("dicose") is FAMILY
