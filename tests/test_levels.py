"""Laws of levels: untouched unless asked, one gain for all, sums that add up to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepcli.errors import ModelError
from sepcli.sound.levels import Levels, PeakMeter, Scale
from sepcli.sound.submix import Submix

NAMES = ("drums", "bass", "other", "vocals")


def audio(seed: int, *shape: int, peak: float = 0.3) -> np.ndarray:
    """Noise between -peak and peak, float32."""
    return np.random.default_rng(seed).uniform(-peak, peak, shape).astype(np.float32)


def sixteen_bit(seed: int, channels: int, frames: int, peak: float = 1.0) -> np.ndarray:
    """A mix as a 16-bit file decodes: multiples of 2^-15."""
    top = int(peak * 32767)
    ints = np.random.default_rng(seed).integers(-top, top + 1, (channels, frames))
    return (ints / 32768).astype(np.float32)


def rest_of(stems) -> list[Submix]:
    """The mix minus these stems."""
    return [Submix.without("rest", stems)]


def test_untouched_without_request():
    stems = audio(0, 4, 2, 100)
    files = Levels(NAMES, scale=Scale.of("16")).combine(stems, None)
    assert files is stems


def test_rest_is_mix_minus_stems():
    stems, mix = audio(1, 2, 2, 500), audio(2, 2, 500, peak=0.9)
    files = Levels(NAMES[:2], submixes=rest_of(NAMES[:2]), scale=Scale.of("32f")).combine(stems, mix)
    np.testing.assert_array_equal(files[:2], stems)
    np.testing.assert_allclose(files[2], mix.astype(float) - stems.astype(float).sum(0), atol=2**-25)


def test_a_rest_without_some_stems_only_and_stems_that_are_not_written():
    stems, mix = audio(1, 3, 2, 500), audio(2, 2, 500, peak=0.9)
    scale = Scale.of("32f")
    files = Levels("abc", submixes=rest_of("b"), scale=scale).combine(stems, mix)
    np.testing.assert_array_equal(files[:3], stems)
    np.testing.assert_allclose(files[3], mix.astype(float) - stems[1], atol=2**-25)
    fewer = Levels("abc", submixes=rest_of("b"), scale=scale, hidden="b")
    assert fewer.files == ("a", "c", "rest")
    np.testing.assert_array_equal(fewer.combine(stems, mix), files[[0, 2, 3]])
    alone = Levels("b", submixes=rest_of("b"), scale=scale, hidden="b")
    np.testing.assert_array_equal(alone.combine(stems[1:2], mix), files[3:])


@pytest.mark.parametrize(
    "depth, highest", [("16", 1 - 2**-15), ("24", 1 - 2**-23), ("32f", 1.0), ("lossy", 1.0)]
)
def test_no_gain_up_to_full_scale_and_a_gain_beyond(depth, highest):
    scale = Scale.of(depth)
    levels = Levels(NAMES[:2], scale=scale)
    step = 2.0**-14 if scale.bits == 16 else 2.0**-21
    for low, high, clips in [(-1, highest, False), (-1 - step, 0, True), (0, highest + step, True)]:
        meter = PeakMeter(2, scale)
        meter.add(np.array([[[low, high]], [[0, 0.5]]], dtype=np.float32))
        gain = levels.common_gain(meter)
        assert (gain < 1) == clips
        assert meter.clipped.tolist() == [int(clips), 0]
        if clips:
            assert gain * max(high / highest, -low) == pytest.approx(1, abs=1e-12)


def test_half_a_step_above_full_scale_is_rounding_and_not_clipping():
    scale = Scale.of("16")
    # 32767.4 rounds to the last integer; 32767.5 would round to 32768, which 16 bits do not have.
    assert not scale.clips(-32768.5 / 32768, 32767.4 / 32768)
    assert scale.clips(0, 32767.5 / 32768) and scale.clips(-32768.6 / 32768, 0)


def test_the_gain_is_common_and_keeps_the_balance():
    scale = Scale.of("16")
    levels = Levels(NAMES, submixes=rest_of(NAMES), scale=scale)
    stems, mix = audio(3, 4, 2, 1000), audio(4, 2, 1000)
    stems[1] *= 7  # bass alone clips, and so does the rest that has to undo it
    meter = PeakMeter(5, scale)
    meter.add(levels.combine(stems, mix))
    gain = levels.common_gain(meter)
    assert 0 < gain < 1
    files = levels.combine(stems, mix, gain)
    np.testing.assert_allclose(files, levels.combine(stems, mix) * gain, rtol=3e-7, atol=3e-7)
    after = PeakMeter(5, scale)
    after.add(files)
    assert not after.clipped.any()
    assert max(after.highest.max() / scale.highest, -after.lowest.min()) == pytest.approx(1, abs=1e-6)


def test_measuring_in_blocks_equals_measuring_at_once():
    scale = Scale.of("24")
    stems = audio(5, 3, 2, 999, peak=1.5)
    whole, parts = PeakMeter(3, scale), PeakMeter(3, scale)
    whole.add(stems)
    for start in range(0, 999, 100):
        parts.add(stems[..., start : start + 100])
    parts.add(stems[..., :0])
    np.testing.assert_array_equal(whole.highest, parts.highest)
    np.testing.assert_array_equal(whole.lowest, parts.lowest)
    np.testing.assert_array_equal(whole.clipped, parts.clipped)
    assert whole.clipped.sum() == np.count_nonzero((stems >= 1 - 2**-24) | (stems < -1 - 2**-24))


def test_samples_that_are_not_finite_are_the_models_fault():
    meter = PeakMeter(1, Scale.of("16"))
    with pytest.raises(ModelError) as caught:
        meter.add(np.array([[[0.0, np.nan]]], dtype=np.float32))
    assert caught.value.code == "not_finite_stems"
    with pytest.raises(ModelError):
        meter.add(np.array([[[0.0, -np.inf]]], dtype=np.float32))


@pytest.mark.parametrize(
    "names, rest, carrier",
    [(NAMES, True, 4), (NAMES, False, 2), (("drums", "vocals"), False, 1), (("vocals",), True, 1)],
)
def test_who_carries_the_residual(names, rest, carrier):
    levels = Levels(names, submixes=rest_of(names) if rest else [], exact=True, scale=Scale.of("16"))
    assert levels.carrier == carrier


def test_shared_residual_goes_equally_to_all():
    names, stems = ("a", "b", "c"), audio(6, 3, 2, 300)
    mix = audio(7, 2, 300)
    files = Levels(names, exact=True, scale=Scale.of("32f")).combine(stems, mix)
    share = (mix.astype(float) - stems.astype(float).sum(0)) / 3
    np.testing.assert_allclose(files - stems.astype(float), np.broadcast_to(share, files.shape), atol=1e-7)


sums = given(
    seed=st.integers(0, 10**6),
    names=st.sampled_from([NAMES, ("vocals",), ("a", "b"), ("a", "b", "c"), ("other",)]),
    rest=st.booleans(),
    loud=st.sampled_from([0.01, 0.3, 2.0]),
)


@sums
@settings(max_examples=60)
def test_exact_float_sum(seed, names, rest, loud):
    stems, mix = audio(seed, len(names), 2, 64, peak=loud), audio(seed + 1, 2, 64, peak=1.0)
    levels = Levels(names, submixes=rest_of(names) if rest else [], exact=True, scale=Scale.of("32f"))
    for gain in (1.0, 0.731):
        files = levels.combine(stems, mix, gain)
        error = np.abs(files.astype(np.float64).sum(axis=0) - mix.astype(np.float64) * gain)
        # Nothing but the carrier's own rounding to float32, and float64's own in this very sum.
        assert (error <= np.spacing(np.abs(files[levels.carrier])) / 2 + 1e-15).all()


@sums
@settings(max_examples=60)
def test_exact_integer_sum(seed, names, rest, loud):
    stems, mix = audio(seed, len(names), 2, 64, peak=loud), sixteen_bit(seed + 1, 2, 64)
    for depth in ("16", "24"):
        scale = Scale.of(depth)
        levels = Levels(names, submixes=rest_of(names) if rest else [], exact=True, scale=scale)
        meter = PeakMeter(len(levels.files), scale)
        plain = levels.combine(stems, mix)
        meter.add(plain)
        # At gain 1 the files add up to the input's own integers.
        np.testing.assert_array_equal(plain.sum(axis=0), mix.astype(np.float64) * scale.steps)
        gain = levels.common_gain(meter)
        files = levels.combine(stems, mix, gain)
        held = levels.clamp(files)
        np.testing.assert_array_equal(held, files)  # after the gain nothing wraps and nothing is cut
        assert files.max() < scale.steps and files.min() >= -scale.steps
        np.testing.assert_array_equal(files.sum(axis=0), np.rint(mix.astype(np.float64) * gain * scale.steps))
        assert (gain < 1) == bool(meter.clipped.any())


def test_the_carriers_rounding_cannot_push_it_over_full_scale():
    # Seven stems that all round the same way, at many gains: the carrier takes up to four steps more.
    scale, rng = Scale.of("16"), np.random.default_rng(8)
    names = tuple("abcdefg")
    levels = Levels(names, submixes=rest_of(names), exact=True, scale=scale)
    for _ in range(200):
        stems = (np.rint(rng.uniform(-300, 300, (7, 1, 64))) + rng.choice([-0.49, 0.49])) / scale.steps
        mix = rng.uniform(0.9, 1.0, (1, 64))
        stems, mix = stems.astype(np.float32), mix.astype(np.float32)
        meter = PeakMeter(8, scale)
        meter.add(levels.combine(stems, mix))
        files = levels.combine(stems, mix, levels.common_gain(meter))
        assert files.max() <= scale.steps - 1


def test_clamping_an_exact_sum_holds_it_as_long_as_the_carrier_has_room():
    scale = Scale.of("16")
    levels = Levels(("a", "b"), submixes=rest_of("ab"), exact=True, scale=scale)
    stems = np.array([[[1.5, 0.2, -3.0]], [[0.1, 0.1, 0.0]]], dtype=np.float32)
    mix = np.array([[1.0 - 2**-15, 0.5, 0.5]], dtype=np.float32)
    held = levels.clamp(levels.combine(stems, mix))
    assert held.max() <= 32767 and held.min() >= -32768
    np.testing.assert_array_equal(held.sum(axis=0)[0, :2], [32767, 16384])
    assert levels.missed == 1  # -1 and 0 would need a rest of 1.5
    assert held[2, 0, 2] == 32767


def test_clamping_floats():
    lossy = Levels(("a",), scale=Scale.of("lossy"))
    assert lossy.clamp(np.array([[[1.5, -2.0, 0.25]]], dtype=np.float32)).tolist() == [[[1.0, -1.0, 0.25]]]


def test_silence_stays_silent_at_every_depth():
    silence = np.zeros((4, 2, 10), dtype=np.float32)
    for depth in ("16", "24", "32f"):
        levels = Levels(NAMES, submixes=rest_of(NAMES), exact=True, scale=Scale.of(depth))
        meter = PeakMeter(5, levels.scale)
        meter.add(levels.combine(silence, silence[0]))
        assert levels.common_gain(meter) == 1.0
        assert not levels.combine(silence, silence[0]).any()


# --- submixes ---

PRACTICE = Submix("practice", stems={"vocals": 0.25, "bass": 1.0, "drums": -2.0})
HALF = Submix("half", 0.5, {"other": -1.0})


@given(
    seed=st.integers(0, 10**6),
    gain=st.sampled_from([1.0, 0.731]),
    depth=st.sampled_from(["16", "32f", "lossy"]),
)
@settings(max_examples=30, deadline=None)
def test_a_submix_is_the_sum_of_the_stems_as_floats(seed, gain, depth):
    stems, mix = audio(seed, 4, 2, 64), audio(seed + 1, 2, 64)
    levels = Levels(NAMES, submixes=[PRACTICE, HALF], scale=Scale.of(depth), hidden=["vocals"])
    files = levels.combine(stems, mix, gain)
    assert levels.files == ("drums", "bass", "other", "practice", "half") and files.dtype == np.float32
    drums, bass, other, vocals = gain * stems.astype(float)
    np.testing.assert_allclose(files[3], 0.25 * vocals + bass - 2 * drums, rtol=0, atol=2**-23)
    np.testing.assert_allclose(files[4], 0.5 * gain * mix.astype(float) - other, rtol=0, atol=2**-23)
    np.testing.assert_allclose(files[:3], gain * stems[:3], rtol=0, atol=2**-24)


def test_submixes_without_the_mix_need_none():
    levels = Levels(NAMES, submixes=[PRACTICE], scale=Scale.of("16"))
    assert not levels.needs_mix and levels.combine(audio(0, 4, 2, 10), None).shape == (5, 2, 10)
    assert Levels(NAMES, submixes=[HALF], scale=Scale.of("16")).needs_mix


@sums
@settings(max_examples=60, deadline=None)
def test_submixes_of_an_exact_sum_are_made_of_its_integers_and_stay_out_of_it(seed, names, rest, loud):
    stems, mix = audio(seed, len(names), 2, 64, peak=loud), sixteen_bit(seed + 1, 2, 64)
    scale = Scale.of("16")
    own = [
        Submix("p", stems={names[0]: 1.0, names[-1]: 2.0}),
        Submix("q", 1.0, {names[0]: -1.0, names[-1]: -0.5}),
    ]
    left = rest_of(names) if rest else []
    plain = Levels(names, submixes=left, exact=True, scale=scale)
    levels = Levels(names, submixes=[*own, *left], exact=True, scale=scale)
    meter = PeakMeter(len(levels.files), scale)
    meter.add(levels.combine(stems, mix))
    gain = levels.common_gain(meter)
    files = dict(zip(levels.files, levels.combine(stems, mix, gain), strict=True))
    target = np.rint(mix.astype(np.float64) * gain * scale.steps)
    for name, file in zip(plain.files, plain.combine(stems, mix, gain), strict=True):
        np.testing.assert_array_equal(files[name], file)
    for submix in own:
        wanted = submix.mix * target + sum(factor * files[stem] for stem, factor in submix.stems.items())
        np.testing.assert_array_equal(files[submix.name], np.rint(wanted))
    held = levels.clamp(np.stack(list(files.values())))
    np.testing.assert_array_equal(held, list(files.values()))  # after the gain nothing is cut


def test_clamping_an_exact_sum_leaves_submixes_out_of_it():
    scale = Scale.of("16")
    levels = Levels("ab", submixes=[Submix("twice", stems={"a": 2.0}), *rest_of("ab")], exact=True, scale=scale)
    stems = np.array([[[0.9, 0.2]], [[0.1, 0.1]]], dtype=np.float32)
    held = levels.clamp(levels.combine(stems, np.array([[0.5, 0.25]], dtype=np.float32)))
    np.testing.assert_array_equal(held[[0, 1, 3]].sum(axis=0)[0], [16384, 8192])
    assert held[2, 0].tolist() == [32767, 2 * round(0.2 * 32768)] and levels.missed == 0


def test_a_submix_that_clips_lowers_all():
    scale = Scale.of("16")
    levels = Levels(["a"], submixes=[Submix("loud", stems={"a": 4.0})], scale=scale)
    stems = audio(0, 1, 2, 1000, peak=0.5)
    meter = PeakMeter(2, scale)
    meter.add(levels.combine(stems, None))
    assert (
        levels.common_gain(meter) == pytest.approx(0.5, abs=0.01) and meter.clipped[0] == 0 < meter.clipped[1]
    )
