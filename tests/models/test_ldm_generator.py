"""LDM-dmx's generator: what it is made of, and that everything it is told is heard."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sepcli.models.ldm.generator import FilmBlock, Generator, GeneratorShape, Injection, StepEmbedding
from tests.contracts import peak_error

TINY = dict(
    widths=(8, 8, 16),
    factors=(1, 2, 2),
    blocks=(1, 1, 2),
    attentions=(False, False, True),
    injections=(False, True, True),
    heads=2,
    head_features=4,
    groups=2,
    features=16,
)


def tiny(latents=4, **other):
    torch.manual_seed(0)
    return Generator(GeneratorShape(**{**TINY, **other}), latents).eval()


def inputs(rows=2, frames=16):
    generator = torch.Generator().manual_seed(1)
    z, c = torch.randn(2, rows, 4, frames, generator=generator)
    return z, c, torch.rand(rows, generator=generator)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_size():
    """With the conditioner's 7.4 M it is 115.1 M; the paper has 115.9 M."""
    shape = GeneratorShape()
    with torch.device("meta"):
        network = Generator(shape, 128)
        z = torch.zeros(1, 128, 1792)
        lengths = []
        for down in network.downs:
            down.register_forward_hook(lambda _, __, out: lengths.append((out.shape[1], out.shape[2])))
        assert network(z, z, torch.zeros(1)).shape == z.shape
    assert parameters(network) == 107_690_752 and shape.multiple == 32
    assert lengths == [(128, 1792), (128, 1792), (256, 896), (256, 448), (512, 224), (512, 112), (1024, 56)]


@pytest.mark.parametrize("frames", [4, 8, 20])
@torch.no_grad()
def test_lengths_and_batches(frames):
    network = tiny()
    z, c, t = inputs(3, frames)
    v = network(z, c, t)
    assert v.shape == z.shape and v.dtype == torch.float32
    for row in range(3):
        part = slice(row, row + 1)
        assert peak_error(network(z[part], c[part], t[part]), v[part]) < 1e-5
        assert peak_error(network(z[part], c[part], t[row]), v[part]) < 1e-5  # one t for all rows


@torch.no_grad()
def test_everything_is_heard():
    network = tiny()
    z, c, t = inputs()
    v = network(z, c, t)
    for other in (network(z + 0.1, c, t), network(z, c + 0.1, t), network(z, c, t + 0.1)):
        assert peak_error(other, v) > 1e-3


@torch.no_grad()
def test_conditioning_is_heard_only_where_it_is_injected():
    """On both sides of those levels, and nowhere else."""
    network = tiny(injections=(False, False, False))
    z, c, t = inputs()
    assert torch.equal(network(z, c, t), network(z, c + 1, t))
    network = tiny()
    for sides in (network.encoder, network.decoder):
        assert [level.inject is not None for level in sides] == [False, True, True]


@torch.no_grad()
def test_injection_interpolates_in_time():
    injection = Injection(6, 4)
    x, c = torch.randn(2, 6, 5), torch.randn(2, 4, 20)
    injection.merge.weight.zero_()
    injection.merge.bias.zero_()
    assert torch.equal(injection(x, c), x)
    injection.merge.weight[0, 6] = 1.0  # the first channel hears the first latent
    heard = F.interpolate(c, size=5, mode="linear")[:, 0]
    torch.testing.assert_close(injection(x, c)[:, 0] - x[:, 0], heard)
    ramp = torch.arange(20.0).expand(2, 4, 20)  # a straight line stays one
    steps = (injection(x, ramp)[:, 0] - x[:, 0]).diff(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 4.0))


@torch.no_grad()
def test_film_is_behind_the_residual_sum():
    """With convolutions that give nothing a block is FiLM of what comes in."""
    block = FilmBlock(4, groups=2, features=3)
    for layer in block.convs:
        if isinstance(layer, torch.nn.Conv1d):
            layer.weight.zero_()
            layer.bias.zero_()
    block.film.weight.zero_()
    block.film.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0, 5, 0, 0]))  # scales, then shifts
    x = torch.randn(1, 4, 7)
    expected = x * torch.tensor([2.0, 1, 1, 1])[:, None] + torch.tensor([0.0, 5, 0, 0])[:, None]
    torch.testing.assert_close(block(x, torch.randn(1, 3)), expected)


@torch.no_grad()
def test_steps_are_told_apart():
    """The features of two steps differ, and their length does not: sine and cosine of the same angles."""
    embedding = StepEmbedding(1024)
    heard = []
    embedding.layers.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    m = embedding(torch.tensor([0.3, 0.35, 1.0]))
    assert m.shape == (3, 1024) and peak_error(m[:1], m[1:2]) > 0.01
    torch.testing.assert_close(heard[0].square().sum(-1), torch.full((3,), 512.0))
    assert "step.frequencies" in tiny().state_dict() and not any(
        name.endswith("frequencies") for name, _ in tiny().named_parameters()
    )


def test_all_of_it_learns():
    network = tiny().train()
    network(*inputs()).square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters()
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": (1, 1)}, "one value a level"),
        ({"factors": (1, 2, 3)}, "even"),
        ({"widths": (8, 9, 16)}, "multiples of groups"),
        ({"features": 15}, "even"),
        ({"heads": 0}, "1 or more"),
    ],
)
def test_impossible_shapes(changes, words):
    with pytest.raises(ValueError, match=words):
        GeneratorShape(**{**TINY, **changes}).check_levels()
