"""Chains: each step by its own plan, stems in the wanted order, nothing that no wanted stem needs."""

from __future__ import annotations

import gc
from weakref import WeakSet

import pytest
import torch

from sepcli.engine.chain import Chain
from sepcli.engine.counterpart import WithCounterpart
from sepcli.engine.ondemand import OnDemand
from sepcli.engine.pipeline import Engine, measure
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.errors import UsageError
from sepcli.stems import chained
from tests.toys import Context, Split, separate

CPU = torch.device("cpu")


def voice(**settings):
    return WithCounterpart(Split(["vocals"], Segment(samples=1000), samplerate=1000, **settings), "music")


def band(samples=1400, **settings):
    return Split(["drums", "bass", "other"], Segment(samples=samples), samplerate=1000, **settings)


def noise(length, groups=1):
    return torch.randn(groups, 2, length, generator=torch.Generator().manual_seed(0)) + 0.2


@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 1400, 1751, 12345])
@pytest.mark.parametrize(("shifts", "groups", "block"), [(0, 1, 777), (2, 2, 50_000)])
def test_each_stem_is_what_its_step_makes_of_what_was_left(length, shifts, groups, block):
    x = noise(length, groups)
    model = Chain([voice(), band()], ["music"])
    assert model.sources == ("vocals", "drums", "bass", "other")
    out = separate(model, x, block, shifts=shifts)
    assert out.shape == (4, groups, 2, length)
    left = x * (1 - Split.SHARES["vocals"])
    expected = [x * Split.SHARES["vocals"], *(left * Split.SHARES[name] for name in ("drums", "bass", "other"))]
    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_as_one_step_after_the_other():
    first = WithCounterpart(Context(Segment(samples=700), ("a",), seed=1), "music").eval()
    second = Context(Segment(samples=900), ("b", "c"), seed=2).eval()
    x = noise(5000)
    stem, music = separate(first, x)
    engine = Engine(second, Settings(), CPU, torch.float32)
    # The statistics of a step that wants them are those of the whole mix.
    after = torch.cat([*engine.separate(iter([music]), measure(iter([x])))], dim=-1)
    whole = separate(Chain([first, second], ["music"]), x)
    torch.testing.assert_close(whole, torch.stack([stem, *after]), rtol=1e-4, atol=1e-5)


def test_three_steps_in_any_order_of_stems():
    hits = Split(["drums", "bass"], Segment(samples=300), samplerate=1000)
    last = WithCounterpart(Split(["other"], Segment(samples=None), samplerate=1000), "sum")
    # drums -> other, sum; then bass of the first step stays
    model = Chain([hits, last], ["drums"])
    assert model.sources == ("other", "sum", "bass")
    x = noise(2000)
    picked = separate(model.select(["bass", "sum"]), x)
    torch.testing.assert_close(picked, torch.stack([x * 0.25, x * 0.5 * 0.875]), rtol=1e-4, atol=1e-5)


def test_what_no_wanted_stem_needs_does_not_run():
    first, second = voice(), band()
    model = Chain([first, second], ["music"])
    alone = model.select(["vocals"])
    assert not isinstance(alone, Chain) and alone.sources == ("vocals",) and alone.whole == model.sources
    some = model.select(["other", "vocals"])
    assert isinstance(some, Chain) and [step.sources for step in some.members] == [
        ("vocals", "music"),
        ("other",),
    ]
    assert model.select(["bass"]).members[0].sources == ("music",)
    x = noise(3000)
    whole = separate(model, x)
    torch.testing.assert_close(separate(some, x), whole[[3, 0]])
    with pytest.raises(UsageError, match="no stem 'flute'"):
        model.select(["flute"])


def test_a_call_of_its_own():
    x = noise(900)
    model = Chain([voice(), band()], ["music"], ["other", "vocals", "drums", "bass"])
    torch.testing.assert_close(model(x)[0], separate(model, x)[:, 0], rtol=1e-4, atol=1e-5)
    assert model.segment.samples == 1000


def test_a_standardised_step_gives_back_level_and_offset():
    x = 3 * noise(4000) + 0.5
    model = Chain([voice(), band(normalize=True)], ["music"])
    assert model.normalize
    # drums + bass + other of `Split` are 7/8 of what they get: of the standardised music
    out = separate(model, x)
    mean, left = x.mean(), x * 0.875
    shares = torch.tensor([0.5, 0.25, 0.125])[:, None, None, None]
    expected = (left - mean) * shares + mean * torch.tensor([0.0, 0, 1])[:, None, None, None]
    torch.testing.assert_close(out[1:], expected, rtol=1e-3, atol=1e-4)


def test_progress_is_that_of_the_last_step_and_reaches_the_end():
    seen: list[tuple[float, float | None]] = []
    separate(Chain([voice(), band()], ["music"]), noise(9000), progress=lambda *now: seen.append(now))
    assert seen[-1] == (9.0, 9.0) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_more_is_kept_than_the_next_step_waits_for():
    """A track ten times as long needs no more of what waits between two steps."""
    live: list[int] = []

    def blocks(count):
        for _ in range(count):
            live.append(1)
            yield noise(500)

    for count in (20, 200):
        live.clear()
        engine = Engine(Chain([voice(), band()], ["music"]), Settings(), CPU, torch.float32)
        given = 0
        for block in engine.separate(blocks(count)):
            given += block.shape[-1]
            assert len(live) * 500 - given <= 5000
        assert given == count * 500


def test_a_stem_whose_name_is_there_already():
    model = Chain([voice(), Split(["vocals", "drums"], samplerate=1000)], ["music"])
    assert model.sources == ("vocals", "music-vocals", "drums")
    x = noise(3000)
    whole = separate(model, x)
    share = Split.SHARES["vocals"]
    torch.testing.assert_close(whole[1], x * (1 - share) * share, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(separate(model.select(["music-vocals"]), x)[0], whole[1])
    # The name is free again once the stem was taken apart.
    cleaned = Chain([voice(), Split(["vocals"], samplerate=1000)], ["vocals"])
    assert cleaned.sources == ("vocals", "music") and "vocals" not in cleaned.more
    torch.testing.assert_close(separate(cleaned, x)[0], x * share * share, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(separate(cleaned.select(["vocals-rest"]), x)[0], x * share * (1 - share))


def test_stems_on_request():
    hits = Split(["lead", "backing"], Segment(samples=300), samplerate=1000)
    model = Chain([voice(), band(), hits], ["music", "drums"])
    assert model.sources == ("vocals", "lead", "backing", "bass", "other")
    assert model.more == {
        "music": ("drums", "lead", "backing", "drums-rest", "bass", "other", "music-rest"),
        "music-rest": (),
        "drums": ("lead", "backing", "drums-rest"),
        "drums-rest": (),
    }
    x = noise(4000)
    wanted = ["drums-rest", "backing", "music", "drums", "vocals", "music-rest"]
    found = dict(zip(wanted, separate(model.select(wanted), x), strict=True))
    assert torch.equal(found["drums-rest"], separate(model.select(["drums-rest"]), x)[0])
    leaves = dict(zip(model.sources, separate(model, x), strict=True))
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found["vocals"] + found["music"], x, **near)
    inside = leaves["lead"] + leaves["backing"] + found["drums-rest"]
    torch.testing.assert_close(inside, found["drums"], **near)
    inside = found["drums"] + leaves["bass"] + leaves["other"] + found["music-rest"]
    torch.testing.assert_close(inside, found["music"], **near)
    torch.testing.assert_close(
        model.select(wanted)(x[..., :300]), separate(model.select(wanted), x[..., :300])[:, 0][None], **near
    )
    reordered = model.select(list(reversed(model.sources)))
    torch.testing.assert_close(separate(reordered.select(["drums-rest"]), x)[0], found["drums-rest"], **near)
    for stem in ("music", "drums"):  # no step that takes it runs for it
        alone = model.select([stem])
        assert (
            alone.sources == (stem,)
            and len(getattr(alone, "members", [1])) == ("music", "drums").index(stem) + 1
        )


def test_the_leaves_add_up_where_those_of_each_step_do():
    model = Chain([voice(), WithCounterpart(Split(["drums"], samplerate=1000), "rest")], ["music"])
    x = noise(5000)
    torch.testing.assert_close(separate(model, x).sum(0), x, rtol=1e-4, atol=1e-5)


def test_a_step_takes_what_is_there():
    with pytest.raises(ValueError, match="'music' was taken apart before; there are vocals, drums"):
        chained(["vocals", "music"], [("music", ["drums"]), ("music", ["bass"])])
    with pytest.raises(ValueError, match="there is no stem 'flute' by then; there are vocals, music"):
        chained(["vocals", "music"], [("flute", ["drums"])])


# --- networks that do not fit together ---


def on_demand(make, alive, most):
    """`make` on demand. alive: those that are in memory; most: how many there ever were."""

    def load():
        model = make()
        alive.add(model)
        gc.collect()
        most.append(len(alive))
        return model

    return OnDemand(load, make())


@pytest.mark.parametrize("length", [5000, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 70_000))])
def test_steps_in_turn_give_the_same_and_are_never_there_together(tmp_path, length):
    makes = [voice, lambda: band(normalize=True), lambda: Split(["lead", "backing"], samplerate=500)]
    takes = ["music", "drums"]
    x = noise(length, groups=2)
    together = Chain([make().eval() for make in makes], takes)
    alive, most = WeakSet(), list[int]()
    in_turn = Chain([on_demand(make, alive, most) for make in makes], takes)
    assert in_turn.in_turn and not together.in_turn and in_turn.sources == together.sources
    wanted = [*together.sources, "drums-rest"]
    seen: list[tuple[float, float | None]] = []
    engine = Engine(in_turn.select(wanted), Settings(), CPU, torch.float32, tmp_path)
    most.clear()
    blocks = list(x.split(999, dim=-1))
    stats = engine.measure(iter(blocks))
    made = []
    for block in engine.separate(iter(blocks), stats, lambda *now: seen.append(now)):
        made.append(block)
        assert len(list(tmp_path.rglob("stems"))) <= 2  # what is read, and what is written
    torch.testing.assert_close(torch.cat(made, -1), separate(together.select(wanted), x), rtol=0, atol=0)
    gc.collect()
    assert most == [1, 1, 1] and not alive and not list(tmp_path.iterdir())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == pytest.approx(length / 1000, abs=1e-3)


def test_steps_in_turn_leave_nothing_where_they_are_stopped(tmp_path):
    alive, most = WeakSet(), list[int]()
    chain = Chain([on_demand(voice, alive, most), on_demand(band, alive, most)], ["music"])
    stems = Engine(chain, Settings(), CPU, torch.float32, tmp_path).separate(iter([noise(9000)]))
    next(stems)
    assert alive and list(tmp_path.iterdir())
    stems.close()
    gc.collect()
    assert not alive and not list(tmp_path.iterdir())


def test_a_chain_that_has_no_room_on_a_device_works_in_turn(monkeypatch):
    class Weights(Split):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            self.weight = torch.nn.Parameter(torch.ones(250))

    inner = Chain([voice(), Weights(["drums"], samplerate=1000)], ["music"])
    model = Chain([inner, Weights(["lead", "backing"], samplerate=1000)], ["vocals"]).eval()
    x = noise(3000)
    expected = separate(model, x)
    assert model.fits(CPU) and not model.notices(CPU)
    for free, fits in ((10_000, True), (3000, False)):  # 2,000 bytes of weights
        monkeypatch.setattr("sepcli.engine.chain.free_bytes", lambda device, free=free: free)
        assert model.fits(CPU) == fits and len(model.notices(CPU)) == (not fits)
        torch.testing.assert_close(separate(model, x), expected, rtol=0, atol=0)
    assert "too much for the memory of cpu" in model.notices(CPU)[0]
    assert model.one_by_one().in_turn and model.members[1].weight is not None
