"""LDM-dmx as a separator: the contract, its noise, and its levels through the engine."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sepcli.data.mixing import Batch
from sepcli.engine.noise import Noise
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import UsageError
from sepcli.models.ldm import latent
from sepcli.models.ldm.latent import (
    LatentDiffusion,
    LatentDiffusionConfig,
    LatentDiffusionOptions,
)
from sepcli.models.ldm.objectives import Latent
from sepcli.nn.losses import Criterion, Term
from tests.contracts import Case, check_separator, peak_error, run
from tests.models import test_ldm_codec
from tests.models.test_ldm_gain import RATE, decibels, drums, noise, rms, voice

CPU = torch.device("cpu")
# Hop 4, and calls of multiples of 16 samples.
TINY = dict(
    samplerate=1000,
    filters=2,
    latent=4,
    ratios=(2, 2),
    lstm_layers=1,
    widths=(8, 8, 16),
    factors=(1, 2, 2),
    blocks=(1, 1, 1),
    attentions=(False, False, True),
    injections=(False, True, True),
    heads=2,
    head_features=4,
    groups=2,
    features=16,
    segment=640,
)


def tiny(steps=3, **other):
    """With norms and biases that all do something, and statistics."""
    torch.manual_seed(0)
    model = LatentDiffusion(LatentDiffusionConfig(**{**TINY, **other}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.measure(model.target(torch.randn(2, 2, 640)))
    model.options = LatentDiffusionOptions(steps)
    return model.eval()


def leave_unplaced(patch: pytest.MonkeyPatch) -> None:
    """What is decoded as it is: a network that has learnt nothing gives what is in no mix, so silence."""
    patch.setattr(latent, "placed", lambda stem, mix: stem)


@pytest.fixture
def unplaced(monkeypatch):
    leave_unplaced(monkeypatch)


# --- the contract ----------------------------------------------------------------------------------------

NETWORKS = {
    "LatentDiffusion": {"plain": Case(tiny, [31, 640, 700], before=leave_unplaced)},
    "Codec": test_ldm_codec.CASES,
}


def test_contract_of_what_is_placed():
    """With a stem that is in the mix: the mix itself, of a codec that loses its level."""
    model = Echo()
    mix = 0.1 * torch.randn(2, 2, 640)
    assert peak_error(run(model, mix)[:, 0], mix) < 1e-3
    check_separator(model, [31, 640, 700])


def test_published_segment():
    with torch.device("meta"):
        segment = LatentDiffusion(LatentDiffusionConfig()).segment
    assert (segment.samples, segment.multiple) == (573_440, 10_240)
    assert not segment.exact and segment.tail == "context"
    assert int(0.75 * segment.samples) % 320 == 0  # so chunks begin on latents


def test_published_size():
    """The generator and the conditioner; the codec's encoder and decoder have 14.9 M more."""
    with torch.device("meta"):
        model = LatentDiffusion(LatentDiffusionConfig())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["generator"] + count["conditioner"] == 115_119_088
    assert count["encoder"] + count["decoder"] == 14_856_294


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segment": 650}, "multiple of 16"),
        ({"sources": ("vocals", "drums")}, "must be one"),
        ({"factors": (1, 2)}, "one value a level"),
        ({"ratios": ()}, "ratios"),
    ],
)
def test_impossible_configurations(changes, words):
    with pytest.raises(ValueError, match=words):
        LatentDiffusion(LatentDiffusionConfig(**{**TINY, **changes}))


def test_defaults_never_change():
    """Catalogue entries and files are differences from them. The codec's part: test_ldm_codec.py."""
    codec = vars(test_ldm_codec.CodecConfig())
    assert {name: value for name, value in vars(LatentDiffusionConfig()).items() if name not in codec} == dict(
        sources=("vocals",),
        segment=573_440,
        widths=(128, 128, 256, 256, 512, 512, 1024),
        factors=(1, 1, 2, 2, 2, 2, 2),
        blocks=(1, 1, 1, 2, 2, 2, 2),
        attentions=(False, False, False, True, True, True, True),
        injections=(False, False, False, True, True, True, True),
        heads=8,
        head_features=64,
        groups=8,
        features=1024,
    )


def test_options():
    assert LatentDiffusionOptions().steps == 20
    with pytest.raises(UsageError, match="steps is 0, but must be 1 or more"):
        LatentDiffusionOptions(0)


def test_a_step_is_a_call(unplaced):
    """Of both items together; the mix is encoded once for all of them, and the stem decoded once."""
    model, calls, once = tiny(steps=7), [], []
    model.generator.register_forward_pre_hook(lambda _, given: calls.append(given[2].item()))
    for codec in (model.conditioner, model.decoder):
        codec.register_forward_pre_hook(lambda module, given: once.append((module, len(given[0]))))
    run(model, torch.randn(2, 2, 640))
    assert calls == pytest.approx([k / 7 for k in range(7, 0, -1)])
    assert once == [(model.conditioner, 2), (model.decoder, 2)]
    assert model.used() == {"steps": 7}


# --- latents ---------------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_windows():
    """In parts as at once; then normalised latents have mean 0 and deviation 1."""
    model = tiny()
    for name in ("mean", "variance", "windows"):
        getattr(model, name).zero_()
    waves = torch.randn(7, 2, 320) * torch.linspace(1, 3, 7)[:, None, None]
    latents = model.target(waves)
    for part in latents.split([3, 1, 3]):
        model.measure(part)
    assert model.windows == 7
    torch.testing.assert_close(model.mean, latents.mean((0, 2)))
    torch.testing.assert_close(model.variance, latents.var((0, 2), correction=0))
    z = model.normalised(latents)
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(4))


def test_latents_are_decoded_where_they_came_from():
    model = tiny()
    wave = torch.randn(2, 2, 640)
    latents = model.target(wave)
    torch.testing.assert_close(
        model.decoded(model.normalised(latents)), model.decoder(latents), atol=1e-4, rtol=1e-4
    )


def test_silence_has_one_latent():
    """Whatever noise is left in it; what is a little louder is heard."""
    model = tiny()
    wave = torch.randn(3, 2, 640) * torch.tensor([0.0, 0.9e-3, 1.1e-3])[:, None, None]
    silence, hiss, sound = model.target(wave)
    assert torch.equal(silence, hiss) and peak_error(sound[None], silence[None]) > 0.1


# --- noise -----------------------------------------------------------------------------------------------


def drawn(monkeypatch, model, samples, **settings):
    """{where a window begins: the noise [D, N] that it starts from}, through the engine."""
    starts, found = [], {}
    monkeypatch.setattr(
        latent, "v_ddim", lambda predict, z, steps: found.update(zip(starts, z, strict=True)) or z
    )
    sample = model.sample
    model.sample = lambda c, noise: starts.clear() or starts.extend(noise.starts) or sample(c, noise)
    engine = Engine(model, Settings(**settings), CPU, torch.float32)
    mix = torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(1))
    assert torch.cat(list(engine.separate(iter([mix]))), dim=-1).shape == (1, 1, 2, samples)
    return found


def test_noise_is_the_same_where_chunks_overlap(monkeypatch):
    """Also in the last one, which is centred in real audio and begins between two latents."""
    found = drawn(monkeypatch, tiny(), 480 * 3 + 333)
    starts = sorted(found)
    assert starts[:3] == [0, 480, 960] and starts[-1] % 4
    seen = {}
    for start, z in found.items():
        assert z.shape == (4, 160)
        for k, frame in enumerate(z.T):
            at = (start + 2) // 4 + k
            assert torch.equal(seen.setdefault(at, frame), frame)
    assert len(seen) < sum(z.shape[1] for z in found.values())


def test_noise_of_the_nearest_latent():
    assert Noise(3, [0, 319, 160, -160, -161], [0, 0, 1, 0, 0]).every(320) == Noise(
        3, [0, 1, 1, 0, -1], [0, 0, 1, 0, 0]
    )


def separated(model, mix, **settings):
    engine = Engine(model, Settings(**settings), CPU, torch.float32)
    return torch.cat(list(engine.separate(iter([mix]))), dim=-1)


@pytest.mark.slow
def test_any_batch_size_gives_the_same_and_a_seed_repeats_it(unplaced):
    mix = torch.randn(2, 2, 3000)
    whole = separated(tiny(), mix)
    assert torch.equal(separated(tiny(), mix), whole)
    for size in (2, 5):
        assert peak_error(separated(tiny(), mix, batch_size=size), whole) < 1e-5
    assert peak_error(separated(tiny(), mix, seed=1), whole) > 0.01


# --- levels, with a codec that loses them and a generator that knows -------------------------------------


class Folded(nn.Module):
    """[B, C, T] of any level -> [B, hop C, T / hop]: a lossless encoder."""

    def forward(self, wave):
        wave = wave / (wave.square().mean((1, 2), keepdim=True).sqrt() + 1e-8)
        return wave.unflatten(-1, (-1, 4)).transpose(2, 3).flatten(1, 2)


class Trap(nn.Module):
    """Back again, all at the same level: silence, which has a little noise, too."""

    def forward(self, z):
        wave = z.unflatten(1, (2, 4)).transpose(2, 3).flatten(2)
        wave = wave + 1e-4 * torch.randn(wave.shape[1:], generator=torch.Generator().manual_seed(0))
        return wave / wave.square().mean((1, 2), keepdim=True).sqrt()


class Echo(LatentDiffusion):
    """Draws the latents of the mix."""

    def __init__(self, **other):
        super().__init__(LatentDiffusionConfig(**{**TINY, "latent": 8, **other}))
        self.encoder, self.decoder, self.conditioner = Folded(), Trap(), Folded()

    def sample(self, c, noise):
        return c


class Learner(Echo):
    """Draws the latents that its generator has learnt."""

    sample = LatentDiffusion.sample


class Oracle(Echo):
    """Draws the latents of the true stem."""

    def __init__(self, stem):
        super().__init__(samplerate=RATE, segment=6 * RATE)
        self.stem = stem

    def sample(self, c, noise):
        length = c.shape[-1] * 4
        padded = nn.functional.pad(self.stem, (length, length))
        windows = [padded[0, :, length + start : 2 * length + start] for start in noise.starts]
        return self.normalised(self.target(torch.stack(windows)))


def levels(wave):
    """dB in half seconds, [B, ..., T] -> [N]."""
    return 20 * wave.unflatten(-1, (-1, RATE // 2)).square().mean((0, 1, 2, -1)).sqrt().log10()


@pytest.mark.slow
@pytest.mark.parametrize("accompaniment", [0.0, 12.0], ids="{}dB".format)
def test_a_steady_voice_keeps_its_level_across_chunks(accompaniment):
    samples = 30 * RATE
    stem = voice(samples)
    power = nn.functional.avg_pool1d(stem.square().mean(1), RATE // 5, 1, RATE // 10)[..., :samples]
    stem = 0.05 * stem / power.sqrt()
    other = 0.7 * (drums(samples) + noise(1, samples))
    mix = stem + 10 ** (accompaniment / 20) * rms(stem) / rms(other) * other
    out = separated(Oracle(stem), mix)
    assert out.shape == (1, 1, 2, samples)
    assert (levels(out) - levels(stem[None])).abs().max() < 1


def test_a_mix_without_the_stem_gives_silence():
    mix = drums(20 * RATE) + noise(1, 20 * RATE)
    assert decibels(rms(separated(Oracle(torch.zeros_like(mix)), mix))) < -60


def test_what_is_nearly_silence_is_silence(monkeypatch):
    """Decoded, a little of the mix in the latents would be all there is, and well in the mix."""
    mix = drums(8 * RATE) + noise(1, 8 * RATE)
    monkeypatch.setattr(Oracle, "sample", lambda model, c, noise: 0.3 * c)
    model = Oracle(mix)
    assert decibels(rms(separated(model, mix))) < -60
    monkeypatch.setattr(Oracle, "presence", lambda model, z: 1.0)
    assert abs(decibels(rms(separated(model, mix)) / rms(mix))) < 0.1


def test_presence():
    """Of the latents of silence none, of others all; the same for any item of a batch."""
    model = tiny()
    waves = torch.randn(3, 2, 640) * torch.tensor([0.0, 1.0, 0.01])[:, None, None]
    z = model.normalised(model.target(waves))
    presence = model.presence(z)
    assert presence.shape == (3, 1, 1) and presence[0] == 0 and (presence[1:] == 1).all()
    assert torch.equal(model.presence(z[1:2]), presence[1:2])


def test_a_stem_that_comes_late():
    """Silence before it, in its own chunk too; a chunk of its silence is not blown up."""
    samples = 20 * RATE
    stem = voice(samples)
    stem[..., : 13 * RATE] = 0
    mix = stem + drums(samples) + noise(1, samples)
    out = separated(Oracle(stem), mix)
    assert decibels(rms(out[..., : 13 * RATE])) < -60
    assert abs(decibels(rms(out[..., 13 * RATE :]) / rms(stem[..., 13 * RATE :]))) < 0.5


def test_a_mix_that_is_the_stem_comes_out_as_it_is():
    stem = 0.03 * voice(20 * RATE)
    assert peak_error(separated(Oracle(stem), stem)[0], stem) < 0.01


def test_never_louder_than_the_bound():
    mix = drums(20 * RATE) + noise(1, 20 * RATE)
    out = separated(Oracle(-0.9 * mix), mix)  # a stem of the wrong sign
    assert rms(out) <= 1.42 * rms(mix) and math.isfinite(rms(out))


# --- a network that has learnt ---------------------------------------------------------------------------


def coloured(seed, rows, samples, sign):
    """Noise that is high (sign -1) or low (1), [rows, 2, T]."""
    wave = torch.randn(rows, 2, samples, generator=torch.Generator().manual_seed(seed))
    return 0.05 * (wave + sign * (wave.roll(1, -1) + wave.roll(2, -1)) + wave.roll(3, -1))


@pytest.mark.slow
def test_a_trained_network_is_silent_without_the_stem_and_at_its_level_with_it():
    """It learns to draw high noise out of low noise, at any level, and silence where there is none."""
    torch.manual_seed(0)
    model = Learner(
        widths=(32, 32),
        factors=(1, 2),
        blocks=(1, 1),
        attentions=(False, True),
        features=64,
        injections=(True, True),
        groups=4,
        segment=4096,
    ).train()
    learn = Latent(model, Criterion([Term("mse")], [1.0]), measured=64)
    optimiser = torch.optim.AdamW(model.generator.parameters(), lr=5e-3)
    for step in range(80):
        stems = torch.stack([coloured(step, 16, 512, -1), coloured(10**6 + step, 16, 512, 1)], dim=1)
        stems[:, 0] *= (torch.rand(16, 1, 1) > 0.4).float()
        optimiser.zero_grad()
        learn(model, Batch(stems, [], [])).total.backward()
        optimiser.step()
    model.eval().options = LatentDiffusionOptions(10)
    stem, other = coloured(98, 1, 20_000, -1), coloured(99, 1, 20_000, 1)
    assert decibels(rms(separated(model, other))) < -60
    out = separated(model, stem + other)[0]
    assert abs(decibels(rms(out) / rms(stem))) < 2
    assert ((out * stem).mean() / (rms(out) * rms(stem))) > 0.6
