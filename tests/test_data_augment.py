"""Augmentations: what each keeps, and what it may change."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sepcli.data.augment import (
    AUGMENTATIONS,
    HT_DEMUCS,
    ChannelSwap,
    Equalize,
    Gain,
    Polarity,
    Remix,
    Repitch,
    Shift,
    Silence,
    from_config,
)
from sepcli.errors import UsageError

RATE = 8000
SOURCES = ("drums", "bass", "vocals")
ALL = [
    Remix(2),
    Gain(),
    Polarity(),
    ChannelSwap(),
    Shift(0.1),
    Silence(0.5),
    Equalize(1.0),
    Repitch(1.0),
    Repitch(1.0, 12, method="varispeed"),
    Repitch(0.5, independent=True),
    Shift(0.1, same=True),
]


def batch(rows=8, sources=3, channels=2, samples=RATE, seed=0):
    return torch.randn(rows, sources, channels, samples, generator=torch.Generator().manual_seed(seed))


def rngs(rows=8, seed=0):
    return [np.random.default_rng((seed, row)) for row in range(rows)]


def apply(augmentation, stems, seed=0):
    generators = rngs(len(stems), seed)
    names = SOURCES[: stems.shape[1]]
    return augmentation(stems.clone(), generators, sources=names, samplerate=RATE)  # it overwrites them


def tone(hertz, samples):
    t = torch.arange(samples) / RATE
    return torch.sin(2 * math.pi * hertz * t).expand(1, 1, 2, samples).clone()


def peak_hertz(signal):
    """The strongest frequency of [T], from its middle."""
    middle = signal[len(signal) // 4 : -len(signal) // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle)), n=1 << 17).abs()
    return spectrum.argmax().item() * RATE / (1 << 17)


# Of all of them


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_the_result_depends_on_the_generators_only(augmentation):
    stems = batch()
    one, two = apply(augmentation, stems), apply(augmentation, stems)
    assert torch.equal(one, two)
    assert one.dtype == torch.float32 and one.shape[:3] == stems.shape[:3] and one.isfinite().all()
    assert not torch.equal(apply(augmentation, stems, seed=1), one)


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_it_works_in_the_memory_it_is_given(augmentation):
    stems = batch()
    assert augmentation(stems, rngs(), sources=SOURCES, samplerate=RATE).data_ptr() == stems.data_ptr()


@pytest.mark.parametrize("augmentation", [*ALL, *HT_DEMUCS], ids=repr)
@pytest.mark.parametrize("samples", [1000, 4001, 44100])
def test_extra_is_enough(augmentation, samples):
    read = samples + augmentation.extra(samples, RATE)
    assert apply(augmentation, batch(4, samples=read)).shape[-1] >= samples


@pytest.mark.parametrize("augmentation", [a for a in ALL if not isinstance(a, Remix)], ids=repr)
def test_a_row_depends_on_its_own_generator_only(augmentation):
    stems = batch()
    whole = apply(augmentation, stems)
    generators = rngs()
    row = augmentation(stems[5:6].clone(), generators[5:6], sources=SOURCES, samplerate=RATE)
    torch.testing.assert_close(row, whole[5:6], rtol=0, atol=1e-6)


def test_remix_may_be_divided_between_groups():
    stems = batch()
    whole = apply(Remix(4), stems)
    half = Remix(4)(stems[4:].clone(), rngs()[4:], sources=SOURCES, samplerate=RATE)
    assert torch.equal(half, whole[4:])


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_only_the_named_sources_are_varied(name):
    strong = {"p": 1.0} if "p" in {f.name for f in dataclasses.fields(AUGMENTATIONS[name])} else {}
    augmentation = AUGMENTATIONS[name](**strong, sources=("bass",))
    stems = batch(samples=3 * RATE)
    out = apply(augmentation, stems)
    kept = stems[..., : out.shape[-1]]
    assert torch.equal(out[:, [0, 2]], kept[:, [0, 2]]) and not torch.equal(out[:, 1], kept[:, 1])
    with pytest.raises(UsageError, match="'tuba'.*drums, bass, vocals"):
        apply(dataclasses.replace(augmentation, sources=("tuba",)), stems)


# Of each


@pytest.mark.parametrize("rows", [8, 7, 3, 1])
def test_remix_deals_out_each_source_within_its_group(rows):
    stems = batch(rows, samples=16)
    out = apply(Remix(4), stems)
    for first in range(0, rows, 4):
        for source in range(3):
            before = {tuple(row.flatten().tolist()) for row in stems[first : first + 4, source]}
            after = [tuple(row.flatten().tolist()) for row in out[first : first + 4, source]]
            assert len(after) == len(before) and set(after) == before


def test_remix_deals_out_sources_independently():
    stems = torch.arange(8.0)[:, None, None, None].expand(8, 3, 2, 4)
    orders = {
        tuple(apply(Remix(8), stems, seed=seed)[:, source, 0, 0].tolist())
        for seed in range(3)
        for source in range(3)
    }
    assert len(orders) == 9


def test_gain_is_one_factor_a_source_within_bounds():
    stems = batch(64)
    factors = apply(Gain(0.25, 1.25), stems) / stems
    assert torch.allclose(factors, factors[..., :1, :1].expand_as(factors), rtol=1e-5)
    each = factors[..., 0, 0]
    assert each.min() >= 0.25 and each.max() <= 1.25 and each.unique().numel() > 150
    assert abs(each.mean() - 0.75) < 0.1
    assert torch.equal(apply(Gain(2, 2), stems), 2 * stems)


def test_gain_in_decibels_is_uniform_there():
    stems = batch(64)
    decibels = 20 * (apply(Gain(0.1, 1.0, decibels=True), stems) / stems)[..., 0, 0].log10()
    assert decibels.min() >= -20.01 and decibels.max() <= 0.01
    assert abs(decibels.mean() + 10) < 1.5


def test_polarity_negates_exactly():
    stems = batch(64)
    signs = apply(Polarity(), stems) / stems
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and 0.35 < (signs < 0).float().mean() < 0.65
    assert torch.equal(apply(Polarity(1.0), stems), -stems) and torch.equal(apply(Polarity(0.0), stems), stems)


def test_channel_swap():
    stems = batch(32)
    assert torch.equal(apply(ChannelSwap(1.0), stems), stems.flip(2))
    swapped = (apply(ChannelSwap(), stems) != stems).any(-1).any(-1)
    assert 0.3 < swapped.float().mean() < 0.7
    mono = batch(channels=1)
    assert torch.equal(apply(ChannelSwap(1.0), mono), mono)


def test_shift_cuts_each_source_from_its_own_moment():
    most = RATE // 10
    stems = torch.arange(float(RATE)).expand(16, 3, 2, RATE)
    out = apply(Shift(0.1), stems)
    assert out.shape[-1] == RATE - most
    offsets = out[..., 0]
    assert torch.equal(out, offsets[..., None] + torch.arange(float(RATE - most)))  # the content, moved
    assert torch.equal(offsets[:, :, 0], offsets[:, :, 1])  # channels together
    assert offsets.min() >= 0 and offsets.max() <= most and offsets.unique().numel() > 30
    together = apply(Shift(0.1, same=True), stems)[..., 0]
    assert torch.equal(together, together[:, :1].expand_as(together)) and together.unique().numel() > 10


def test_silence_spares_one_source():
    stems = batch(200, samples=16)
    out = apply(Silence(0.3), stems)
    silent = (out == 0).all(-1).all(-1)
    assert torch.equal(out[~silent], stems[~silent])
    assert 0.2 < silent.float().mean() < 0.4 and not silent.all(1).any()
    assert (apply(Silence(1.0), stems) == 0).all(-1).all(-1).sum(1).eq(2).all()


@pytest.mark.parametrize("method", ["stretch", "varispeed"])
def test_repitch_moves_a_tone_within_its_range(method):
    repitch = Repitch(1.0, 2, method=method)
    found = []
    for seed in range(12):
        out = apply(repitch, tone(500, 2 * RATE), seed)
        found.append(12 * math.log2(peak_hertz(out[0, 0, 0]) / 500))
        assert torch.allclose(out[0, 0, 0], out[0, 0, 1], atol=1e-5)
        assert abs(out.square().mean() - 0.5) < 0.1  # its level is kept
    assert max(map(abs, found)) < 2.05 and np.ptp(found) > 1.5
    if method == "stretch":  # whole semitones
        assert max(abs(value - round(value)) for value in found) < 0.05
    else:
        assert len({round(value, 1) for value in found}) > 8


@pytest.mark.parametrize("semitones", [0, 2])
def test_stretch_draws_a_tempo_apart_from_the_pitch(semitones):
    """Bursts every 0.25 s: how far apart they are in the result."""
    period, spread = RATE // 4, []
    bursts = tone(500, 4 * RATE) * ((torch.arange(4 * RATE) % period) < period // 4)
    for seed in range(8):
        out = apply(Repitch(1.0, semitones, 0.1, 0.12), bursts, seed)[0, 0, 0]
        envelope = out.square().unfold(0, 80, 1).mean(-1)
        envelope = envelope - envelope.mean()
        correlation = torch.fft.irfft(torch.fft.rfft(envelope, n=1 << 17).abs() ** 2)
        lags = slice(int(period * 0.8), int(period * 1.25))
        tempo = period / (lags.start + correlation[lags].argmax().item())
        assert 0.87 < tempo < 1.13
        spread.append(tempo)
    assert np.ptp(spread) > 0.08


def test_repitch_leaves_all_others():
    stems = batch(40, samples=2000)
    out = apply(Repitch(0.2), stems)
    assert out.shape[-1] == int(2000 * 0.88)
    same = (out == stems[..., : out.shape[-1]]).all(-1).all(-1)  # [B, S]
    assert torch.equal(same, same[:, :1].expand_as(same))  # all sources of a row, or none
    assert 0.6 < same.float().mean() < 0.97
    apart = apply(Repitch(0.5, independent=True, method="varispeed"), stems)
    same = (apart == stems[..., : apart.shape[-1]]).all(-1).all(-1)
    assert not torch.equal(same, same[:, :1].expand_as(same))


def test_sources_of_a_row_stay_together():
    stems = tone(500, RATE).expand(1, 3, 2, RATE).clone()
    for method in ("stretch", "varispeed"):
        out = apply(Repitch(1.0, method=method), stems)
        torch.testing.assert_close(out[:, 1:], out[:, :1].expand_as(out[:, 1:]))


def test_equalize_moves_nothing_in_time_and_keeps_within_its_limit():
    stems = torch.zeros(20, 3, 2, 4096)
    stems[..., 2048] = 1
    out = apply(Equalize(1.0, limit=9.0), stems)
    assert (out.abs().argmax(-1) == 2048).all()
    torch.testing.assert_close(out[..., 1:2048], out[..., 2049:].flip(-1), atol=1e-6, rtol=0)  # zero phase
    decibels = 20 * torch.fft.rfft(out).abs().log10()[..., 20:]
    assert decibels.abs().max() < 9.1 and decibels.abs().amax(-1).min() > 0.3
    assert torch.equal(out[:, :, 0], out[:, :, 1])
    flat = apply(Equalize(1.0, tilt=0, peaks=0), batch())
    torch.testing.assert_close(flat, batch(), atol=1e-5, rtol=0)


# The preset and the configuration


def test_the_published_recipe():
    assert [type(one).__name__ for one in HT_DEMUCS] == [
        "Repitch",
        "Shift",
        "ChannelSwap",
        "Polarity",
        "Gain",
        "Remix",
    ]
    repitch, shift, swap, polarity, gain, remix = HT_DEMUCS
    assert (repitch.p, repitch.semitones, repitch.tempo_std, repitch.max_tempo) == (0.2, 2, 0.05, 0.12)
    assert (shift.seconds, swap.p, polarity.p, gain.low, gain.high, remix.group) == (1, 0.5, 0.5, 0.25, 1.25, 4)
    assert repitch.extra(88, RATE) == 12  # 88 % of what is read


def test_from_config():
    assert from_config("gain", {"low": 0, "high": 2}) == Gain(0.0, 2.0)
    assert from_config("channel_swap", {}) == from_config("ChannelSwap", {}) == ChannelSwap()
    assert from_config("repitch", {"sources": ["vocals"], "method": "varispeed"}) == Repitch(
        method="varispeed", sources=("vocals",)
    )
    assert {type(from_config(name, {})) for name in AUGMENTATIONS} == set(AUGMENTATIONS.values())


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("gian", {}, "no augmentation 'gian'.*Did you mean gain"),
        ("gain", {"hihg": 1}, "augment.gain.hihg is not a key of this table.*Did you mean high"),
        ("gain", {"low": "1"}, "augment.gain.low is '1', but must be a number"),
        ("remix", {"group": 2.5}, "augment.remix.group is 2.5, but must be a whole number"),
        ("shift", {"same": 1}, "must be true or false"),
        ("gain", {"sources": "vocals"}, "augment.gain.sources is 'vocals', but must be a list"),
        ("gain", {"low": 2.0}, "0 <= low <= high"),
        ("polarity", {"p": 1.5}, "between 0 and 1"),
        ("repitch", {"method": "magic"}, "stretch"),
        ("repitch", {"semitones": 24.0}, "between 0 and 12"),
        ("remix", {"group": 0}, "at least 1"),
    ],
)
def test_mistakes_in_a_configuration(name, fields, message):
    with pytest.raises(UsageError, match=message):
        from_config(name, fields)
