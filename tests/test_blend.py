"""Models side by side, of different rate, channels, stems, segment and level: as on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch

from sepcli.engine.blend import Blend
from sepcli.engine.chain import Chain
from sepcli.engine.counterpart import WithCounterpart
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.engine.statistics import measure
from sepcli.errors import UsageError
from sepcli.stems import BLENDS, all_of
from tests.test_combine import combined
from tests.toys import Context, Split, separate

CPU = torch.device("cpu")
RATE = 4000


def noise(length, groups=1, channels=2):
    return torch.randn(groups, channels, length, generator=torch.Generator().manual_seed(3)) * 0.3 + 0.1


def model(sources, samples, seed, normalize=False):
    made = Context(Segment(samples=samples), sources, seed=seed, normalize=normalize).eval()
    made.samplerate = RATE
    return made


@pytest.mark.parametrize("method", BLENDS)
@pytest.mark.parametrize(("length", "block", "groups"), [(1, 777, 1), (5000, 333, 2), (12_345, 50_000, 1)])
def test_equals_the_whole_arrays(method, length, block, groups):
    x = noise(length, groups)
    members = [model(("a", "b"), 900, 1), model(("b", "a"), 700, 2), model(("b",), 1500, 3)]
    weights = [[2, 1], [1, 1], [0, 3]] if method.startswith("avg") else [[1, 1], [1, 1], [0, 1]]
    made = separate(Blend(members, weights, ("a", "b"), method), x, block)
    alone = [dict(zip(each.sources, separate(each, x), strict=True)) for each in members]
    for k, name in enumerate(("a", "b")):
        of = [(stems[name], row[k]) for stems, row in zip(alone, weights, strict=True) if row[k]]
        expected = combined(method, torch.stack([stem for stem, _ in of]), [float(w) for _, w in of], length)
        torch.testing.assert_close(made[k], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shifts", [0, 2])
def test_a_complement_counts(shifts):
    """A model of vocals gives the instrumental too, as the mix minus them."""
    x = noise(5000)
    voice, band = model(("vocals",), 900, 1), model(("instrumental", "vocals"), 700, 2)
    made = separate(Blend([voice, band], [[1, 1], [1, 1]], ("vocals", "instrumental")), x, shifts=shifts)
    (sung,), (played, also_sung) = separate(voice, x, shifts=shifts), separate(band, x, shifts=shifts)
    torch.testing.assert_close(made[0], (sung + also_sung) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(made[1], (x - sung + played) / 2, rtol=0, atol=1e-6)


def there_and_back(member, x, rate, there):
    """A member's stems, by soxr on whole arrays. [C, T] -> [S, C, T]"""
    given = soxr.resample(x.T.numpy(), rate, there, quality="VHQ").astype(np.float32)
    given = np.pad(given, ((0, -(-len(x.T) * there // rate) - len(given)), (0, 0)))
    stems = separate(member, torch.from_numpy(given.T.copy())[None])[:, 0]
    found = [soxr.resample(stem.T.numpy(), there, rate, quality="VHQ")[: x.shape[-1]].T for stem in stems]
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("normalize", [False, True])
def test_a_member_of_another_rate(normalize):
    x = noise(6000)
    own, other = model(("a",), 900, 1), model(("a",), 700, 2, normalize=normalize)
    other.samplerate = 3000
    made = separate(Blend([own, other], [[1], [1]], ("a",)), x)
    expected = (separate(own, x)[0, 0] + there_and_back(other, x[0], RATE, 3000)[0]) / 2
    # At the ends the filter meets silence here and a cut there.
    torch.testing.assert_close(made[0, 0][:, 100:-100], expected[:, 100:-100], rtol=0, atol=1e-5)


def test_a_mono_member_takes_each_channel():
    x = noise(3000, groups=2)
    own = Split(("vocals",), samplerate=RATE)
    mono = Split(("vocals",), Segment(samples=700), samplerate=RATE, channels=1, normalize=True)
    made = separate(Blend([own, mono], [[1], [3]], ("vocals",)), x)
    share, mean = Split.SHARES["vocals"], x.mean(-1, keepdim=True)
    torch.testing.assert_close(made[0], (x * share + 3 * ((x - mean) * share + mean)) / 4, rtol=0, atol=1e-5)
    assert {shape[1] for shape in mono.calls} == {1}


def test_each_member_is_standardised_by_itself():
    x = noise(4000)
    raw, standard = model(("a",), 900, 1), model(("a",), 700, 2, normalize=True)
    made = separate(Blend([raw, standard], [[1], [1]], ("a",)), x)
    stats = measure([x])
    level, mean = stats.scale[:, None, None], stats.mean[:, None, None]
    alone = separate(model(("a",), 700, 2), (x - mean) / level)[0] * level + mean
    torch.testing.assert_close(made[0], (separate(raw, x)[0] + alone) / 2, rtol=0, atol=1e-5)


def test_only_what_a_wanted_stem_needs():
    voice, band = Split(("vocals",), samplerate=RATE), Split(("drums", "bass"), samplerate=RATE)
    both = Blend([voice, band], [[1, 0, 0], [0, 1, 1]], ("vocals", "drums", "bass"))
    narrowed = both.select(["bass"])
    assert [member.sources for member in narrowed.members] == [("bass",)]
    assert narrowed.whole == both.sources and narrowed.offset_stem == both.offset_stem
    x = noise(2000)
    torch.testing.assert_close(separate(narrowed, x)[0], separate(both, x)[2])
    with pytest.raises(UsageError, match="no stem 'piano'; it has vocals, drums, bass"):
        both.select(["piano"])


def test_a_complement_runs_the_stem_that_it_is_made_of():
    voice = Split(("drums", "vocals"), samplerate=RATE)
    blend = Blend([voice], [[1, 1]], ("drums", "instrumental"))
    assert blend.select(["instrumental"]).members[0].sources == ("vocals",)
    x = noise(1500)
    torch.testing.assert_close(separate(blend.select(["instrumental"]), x)[0], x * (1 - Split.SHARES["vocals"]))


def test_a_chain_in_a_blend_and_a_blend_in_a_chain():
    x = noise(5000)
    voice = WithCounterpart(model(("vocals",), 900, 1), "music").eval()
    band = model(("drums", "rest"), 700, 2)
    chain = Chain([voice, band], ["music"])
    other = model(("drums",), 1100, 4)
    made = separate(Blend([chain, other], [[1, 1, 1], [0, 1, 0]], ("vocals", "drums", "rest")), x)
    sung, drums, rest = separate(chain, x)
    for found, expected in zip(made, (sung, (drums + separate(other, x)[0]) / 2, rest), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    blend = Blend([band, model(("drums", "rest"), 800, 5)], [[1, 1], [1, 1]], ("drums", "rest"))
    made = separate(Chain([voice, blend], ["music"]), x)
    for found, expected in zip(made[1:], separate(blend, separate(voice, x)[1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_step_of_another_rate_in_a_chain():
    x = noise(6000)
    first = WithCounterpart(Split(("vocals",), samplerate=RATE), "music")
    second = Split(("drums", "bass"), samplerate=3000, channels=1)
    made = separate(Chain([first, second], ["music"]), x)
    assert made.shape == (3, 1, 2, 6000)
    low = there_and_back(Split(("drums",), samplerate=3000), x[0], RATE, 3000)[0]
    share = 1 - Split.SHARES["vocals"]
    torch.testing.assert_close(made[1, 0][:, 100:-100], (low * share)[:, 100:-100], rtol=0, atol=1e-5)


def test_no_audio_in_no_audio_out():
    blend = Blend(
        [Split(samplerate=RATE), Split(samplerate=3000)], [[1] * 4] * 2, tuple(Split.SHARES), "max_fft"
    )
    engine = Engine(blend, Settings(), CPU, torch.float32)
    assert [*engine.separate(iter(()), engine.measure(()))] == []


def test_progress_is_the_mean_and_ends_with_the_track():
    seen = []
    members = [model(("a",), 900, 1), model(("a",), 2000, 2, normalize=True)]
    separate(Blend(members, [[1], [1]], ("a",)), noise(9000), progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (9000 / RATE, 9000 / RATE)


def test_little_waits_for_others():
    """The audio that is read ahead is bounded by the longest segment, however long the track is."""
    read = emitted = ahead = 0

    def blocks():
        nonlocal read
        for _ in range(400):
            read += 500
            yield torch.zeros(1, 2, 500)

    members = [model(("a",), 900, 1), model(("a",), 6000, 2)]
    engine = Engine(Blend(members, [[1], [1]], ("a",), "max_fft"), Settings(), CPU, torch.float32)
    for block in engine.separate(blocks()):
        emitted += block.shape[-1]
        ahead = max(ahead, read - emitted)
    assert emitted == read == 200_000
    assert ahead < 3 * 6000


def test_the_stems_of_all():
    assert all_of([("a", "b"), ("b", "c"), ("a",)]) == ("a", "b", "c")
