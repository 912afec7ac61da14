"""The level of a decoded stem: laws on waveforms whose true level is known."""

from __future__ import annotations

import math

import pytest
import torch

from sepcli.models.ldm.gain import FRAME, LOUDER, bounded, gain, placed, powers, within
from tests.contracts import peak_error

RATE = 16000  # Hz
LENGTH = 8 * RATE


def decibels(ratio):
    return 20 * math.log10(max(float(ratio), 1e-12))


def rms(wave):
    return wave.square().mean().sqrt()


def noise(seed, samples=LENGTH):
    return 0.1 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(seed))


def voice(samples=LENGTH, hertz=220.0, seed=0):
    """Harmonics with vibrato in syllables, [1, 2, T], RMS 0.1."""
    t = torch.arange(samples) / RATE
    phase = 2 * math.pi * hertz * (t - 0.01 * torch.cos(2 * math.pi * 5.5 * t) / (2 * math.pi * 5.5))
    tone = sum(torch.sin(k * phase) / k for k in range(1, 12))
    edges = torch.rand(samples // (RATE // 4) + 2, generator=torch.Generator().manual_seed(seed))
    loud = torch.nn.functional.interpolate(edges[None, None], size=samples, mode="linear")[0, 0]
    wave = (tone * loud).expand(1, 2, -1)
    return 0.1 * wave / rms(wave)


def drums(samples=LENGTH):
    t = torch.arange(samples) / RATE
    hits = torch.exp(-20 * (t % 0.5)) * noise(9, samples)
    return 0.1 * hits / rms(hits)


def scattered(wave, seed=3):
    """The same magnitudes with phases of no meaning."""
    window = torch.hann_window(1024)
    spec = torch.stft(wave[0], 1024, 256, window=window, return_complex=True)
    turns = torch.rand(spec.shape, generator=torch.Generator().manual_seed(seed))
    return torch.istft(
        torch.polar(spec.abs(), 2 * math.pi * turns), 1024, 256, window=window, length=wave.shape[-1]
    )[None]


OTHERS = {"noise": lambda: noise(1), "drums": drums, "voice": lambda: voice(hertz=311.0, seed=5)}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("level", [0.0, -6.0, -12.0])
def test_the_level_of_what_is_in_the_mix(other, level):
    """To 1 dB; with phases of no meaning to 2 dB, and never too loud by more than 1."""
    true = 10 ** (level / 20)
    mix = true * voice() + OTHERS[other]()
    assert abs(decibels(gain(voice(), mix) / true)) < 1
    lost = scattered(voice())
    lost = 0.1 * lost / rms(lost)
    assert -2 < decibels(gain(lost, mix) / true) < 1


@pytest.mark.parametrize(
    "stem",
    [voice(), noise(2), torch.sin(torch.arange(LENGTH) * 0.3).expand(1, 2, -1)],
    ids=["voice", "noise", "tone"],
)
def test_a_stem_that_is_the_mix_comes_out_as_it_is(stem):
    for level in (0.001, 1.0, 30.0):
        assert peak_error(placed(7 * stem, level * stem), level * stem) < 1e-4


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    "stem",
    [
        voice(),
        noise(2),
        torch.sin(torch.arange(LENGTH) * 0.3).expand(1, 2, -1),
        torch.ones(1, 2, LENGTH),
        torch.zeros(1, 2, LENGTH),
    ],
    ids=["voice", "noise", "tone", "offset", "silence"],
)
def test_what_is_not_in_the_mix_is_silent(stem, other):
    """Below -60 dBFS: silence that a decoder blew up, and another voice."""
    mix = drums() + OTHERS[other]()
    assert decibels(rms(placed(stem, mix))) < -60


def test_silence_stays():
    assert not placed(voice(), torch.zeros(1, 2, LENGTH)).any()
    assert not placed(torch.zeros(1, 2, LENGTH), torch.zeros(1, 2, LENGTH)).any()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_decoders_level_means_nothing(scale):
    mix = voice() + noise(1)
    torch.testing.assert_close(scale * gain(scale * voice(), mix), gain(voice(), mix))


def test_never_louder_than_the_bound():
    """Where stem and accompaniment cancel each other in the mix, over the call and around each moment."""
    stem = voice()
    for mix in (
        0.1 * stem,
        stem - 0.95 * stem + 0.01 * noise(1),
        torch.cat([stem[..., : LENGTH // 2], 0.01 * stem[..., LENGTH // 2 :]], dim=-1),
    ):
        out = placed(100 * stem, mix)
        assert rms(out) <= 1.001 * LOUDER * rms(mix)
        around = torch.nn.functional.max_pool1d(moments(mix), 5, stride=1, padding=2)
        assert (moments(out) <= 1.001 * LOUDER * around + 1e-9).all()


def moments(wave):
    return wave.unflatten(-1, (-1, FRAME)).square().mean((1, 3)).sqrt()


def test_no_more_power_than_the_mix_around_any_bin():
    """What is drawn where the mix has nothing goes: here hiss, and a hum."""
    hum = 0.05 * torch.sin(2 * math.pi * 50 * torch.arange(LENGTH) / RATE)
    hiss = noise(4) - torch.nn.functional.avg_pool1d(noise(4), 9, stride=1, padding=4)
    drawn = voice() + hum + 0.3 * hiss
    out = within(drawn, voice())
    kept = voice() * (voice() * out).sum() / voice().square().sum()
    assert decibels(rms(out - kept) / rms(drawn - voice())) < -10
    assert abs(decibels(rms(out) / rms(voice()))) < 0.2


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("level", [0.0, -12.0])
@pytest.mark.parametrize(("phases", "lost"), [("right", 0.5), ("of no meaning", 1.0)])
def test_a_true_stem_is_within_the_mix(other, level, phases, lost):
    """Interference apart, which leaves a mix less power than its parts here and there."""
    stem = 10 ** (level / 20) * voice()
    drawn = stem if phases == "right" else scattered(stem)
    assert -lost < decibels(rms(within(drawn, stem + OTHERS[other]())) / rms(drawn)) <= 0


def test_an_onset_is_not_cut():
    """Digital silence, then a voice: what a decoder leaves in the silence goes, the voice's beginning stays."""
    mix = voice()
    mix[..., : LENGTH // 2] = 0
    stem = mix + 1e-3 * noise(4)
    out = bounded(stem, mix)
    assert torch.equal(out[..., LENGTH // 2 :], stem[..., LENGTH // 2 :])
    assert not out[..., : LENGTH // 2 - 4 * FRAME].any()


@pytest.mark.parametrize("samples", [1, 100, 1025, 5000])
def test_any_length(samples):
    stem = voice()[..., 2000 : 2000 + samples].repeat(3, 1, 1)
    out = placed(stem, 0.5 * stem)
    assert out.shape == stem.shape and out.isfinite().all()
    assert (out.abs() <= LOUDER * 0.5 * stem.abs().amax() + 1e-6).all()


@pytest.mark.slow
def test_no_item_hears_another():
    mixes = torch.cat([voice() + noise(1), 0.3 * voice() + drums(), drums()])
    stems = torch.cat([voice(), scattered(voice()), voice()])
    together = placed(stems, mixes)
    for k in range(3):
        assert peak_error(together[k : k + 1], placed(stems[k : k + 1], mixes[k : k + 1])) < 1e-5


def test_powers_are_of_all_channels():
    assert powers(noise(1, 5000).repeat(3, 1, 1)).shape == (3, 2 * 1025, 3)
