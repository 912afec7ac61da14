import gc
import random
import tracemalloc

import pytest
import torch

from sepcli.engine.counterpart import WithCounterpart
from sepcli.engine.ensemble import Ensemble
from sepcli.engine.noise import Noise
from sepcli.engine.pipeline import Engine, Stats, measure
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.errors import DeviceError, UsageError
from tests.toys import Context, Split, separate

CPU = torch.device("cpu")


def blocks_of(x, size=777):
    return iter(x.split(size, dim=-1))


def noise(length, groups=1, channels=2, seed=0):
    return torch.randn(groups, channels, length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, 749, 750, 751, 999, 1000, 1001, 1750, 3000, 12345])
@pytest.mark.parametrize("shifts", [0, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_identity_in_identity_out(length, shifts, normalize):
    x = noise(length) + 0.3
    stems = separate(Split(normalize=normalize, samplerate=1000), x, shifts=shifts)
    assert stems.shape == (4, 1, 2, length)
    # A stem that is a share of the standardised mix has none of the track's mean; `other` has it all.
    mean = x.mean() if normalize else 0.0
    for (name, share), stem in zip(Split.SHARES.items(), stems, strict=True):
        offset = mean if name == "other" else 0.0
        torch.testing.assert_close(stem, (x - mean) * share + offset, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stems.sum(0), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sources", "wanted", "carrier"),
    [
        (("drums", "bass", "other", "vocals"), ("vocals",), None),
        (("drums", "bass", "other", "vocals"), ("vocals", "other"), "other"),
        (("drums", "bass"), ("drums", "bass"), "bass"),  # no stem for everything else: the last
        (("drums", "bass"), ("bass", "drums"), "bass"),
        (("drums", "bass"), ("drums",), None),
    ],
)
def test_an_offset_is_in_one_stem_whatever_is_asked_for(sources, wanted, carrier):
    x = noise(3000) + torch.tensor([0.1, 0.2])[:, None]
    model = Split(sources, normalize=True, samplerate=1000)
    for narrowed in (
        model.select(wanted),
        model.select(sources).select(wanted),
        Ensemble.of(model).select(wanted),
    ):
        stems = separate(narrowed, x)
        for name, stem in zip(wanted, stems, strict=True):
            offset = x.mean() if name == carrier else 0.0
            mean = (x - x.mean()).mean(-1) * Split.SHARES[name]
            torch.testing.assert_close(stem.mean(-1), mean + offset, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(samples=400, exact=True),
        Segment(samples=400, tail="short"),
        Segment(samples=400, valid_length=lambda n: -(-n // 64) * 64 + 10),
        Segment(samples=400, exact=True, margin=50),
        Segment(samples=None),
    ],
)
def test_blocks_and_batches_do_not_change_the_result(segment):
    x = noise(2345, groups=3)
    whole = separate(Context(segment), x, block=5000)
    for block, batch in ((1, 1), (97, 1), (400, 7), (5000, 64)):
        other = separate(Context(segment), x, block=block, batch_size=batch)
        torch.testing.assert_close(other, whole, rtol=1e-5, atol=1e-6)


def test_groups_are_independent():
    x = noise(1234, groups=3)
    together = separate(Context(Segment(samples=400)), x)
    for g in range(3):
        alone = separate(Context(Segment(samples=400)), x[g : g + 1])
        torch.testing.assert_close(together[:, g : g + 1], alone, rtol=1e-5, atol=1e-6)


def test_shifts_are_repeatable_and_depend_on_the_seed():
    x, model = noise(3000), Context(Segment(samples=400))
    first = separate(model, x, shifts=2, seed=1)
    assert torch.equal(first, separate(model, x, shifts=2, seed=1))
    assert not torch.equal(first, separate(model, x, shifts=2, seed=2))


def test_an_ensemble_is_the_weighted_mean_source_by_source():
    x = noise(1500)
    a, b = Context(Segment(samples=400), seed=1), Context(Segment(samples=300, tail="short"), seed=2)
    both = separate(Ensemble([a, b], [[1, 1], [3, 0]], ("a", "b")), x)
    ya, yb = separate(a, x), separate(b, x)
    torch.testing.assert_close(both[0], (ya[0] + 3 * yb[0]) / 4, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[1], ya[1], rtol=1e-4, atol=1e-5)


def test_select_runs_only_the_members_that_are_needed():
    members = [Split(samplerate=1000) for _ in range(4)]
    bag = Ensemble(members, torch.eye(4).tolist(), members[0].sources)
    narrowed = bag.select(["vocals"])
    assert len(narrowed.members) == 1 and narrowed.members[0].sources == ("vocals",)
    x = noise(2000)
    torch.testing.assert_close(separate(narrowed, x)[0], separate(bag, x)[3])
    with pytest.raises(UsageError, match="no stem 'flute'.*drums, bass, other, vocals"):
        bag.select(["flute"])


def test_silence_gives_silence():
    stems = separate(Context(Segment(samples=400)), torch.zeros(1, 2, 1000))
    assert torch.isfinite(stems).all() and stems.abs().max() < 1e-6


@pytest.mark.parametrize("batch", [1, 3])
def test_a_chunk_of_digital_silence_is_not_run_where_it_stays_silent(batch):
    x = noise(12_000, groups=2)
    x[..., 2500:9000] = 0
    x[:, 0, 5000] = 1e-30  # this is no silence
    model, plain = Split(), Split()
    model.keeps_silence = True
    made = separate(model, x, batch_size=batch)
    torch.testing.assert_close(made, separate(plain, x, batch_size=batch), rtol=0, atol=0)
    assert 0 < len(model.calls) < len(plain.calls)
    alone = model.select(["bass"])
    alone.keeps_silence = True
    both = separate(WithCounterpart(alone, "rest"), x[..., 2500:5000])
    assert not alone.calls and not both.any()


def test_measure_matches_the_whole_track():
    x = noise(10_000, groups=2) * 0.01 + 5.0
    stats = measure(blocks_of(x, 333))
    mono = x.double().mean(1)
    torch.testing.assert_close(stats.mean, mono.mean(-1).float())
    torch.testing.assert_close(stats.scale, mono.std(-1).float(), rtol=1e-4, atol=0)
    assert stats.frames == 10_000
    one = measure(blocks_of(noise(1)))
    assert torch.isfinite(one.scale).all()


def test_an_empty_track_gives_nothing():
    engine = Engine(Split(), Settings(), CPU, torch.float32)
    assert list(engine.separate(iter([]), Stats(torch.zeros(1), torch.ones(1), 0))) == []


def test_progress_ends_with_the_track():
    seen = []
    separate(Split(samplerate=1000), noise(5000), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5.0, 5.0) and seen == sorted(seen)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_track():
    engine = Engine(Split(segment=Segment(samples=2000)), Settings(), CPU, torch.float32)

    def live_tensors():
        return sum(t.numel() for t in gc.get_objects() if type(t) is torch.Tensor)

    def peak(seconds):
        source = (torch.zeros(1, 2, 4410) for _ in range(10 * seconds))
        most = 0
        for i, _ in enumerate(engine.separate(source)):
            if i % 20 == 0:
                most = max(most, live_tensors())
        return most

    short, long = peak(5), peak(50)
    assert long < 1.2 * short


class Noisy(Split):
    """Gives noise and nothing else."""

    def forward(self, mix, *, noise=None):
        samples = mix.shape[-1]
        return torch.stack([noise.normal(0, name, self.channels, samples) for name in self.sources], 1)

    def select(self, sources):
        return Noisy(sources, self.segment, samplerate=self.samplerate)


def test_models_that_sample_see_the_tracks_noise_however_it_is_cut():
    x = noise(5000, groups=2)
    wanted = torch.stack([Noise(7, [0, 0], [0, 1]).normal(0, name, 2, 5000) for name in Split.SHARES])
    for samples, how in (
        (1000, {}),
        (1000, {"batch_size": 16}),
        (700, {"batch_size": 3}),
        (700, {"overlap": 0.5}),
        (1000, {"shifts": 2, "batch_size": 2}),
    ):
        stems = separate(Noisy(segment=Segment(samples, margin=50), samplerate=1000), x, seed=7, **how)
        torch.testing.assert_close(stems, wanted, rtol=1e-4, atol=1e-5)
    one = separate(Noisy(samplerate=1000).select(["bass"]), x, seed=7)
    torch.testing.assert_close(one[0], wanted[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(separate(Noisy(samplerate=1000), x, seed=8), wanted, atol=0.1)


def test_running_out_of_memory_halves_the_batch():
    class Hungry(Split):
        def forward(self, mix, *, noise=None):
            if len(mix) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(mix)

    x = noise(20_000)
    model = Hungry(samplerate=1000)
    torch.testing.assert_close(separate(model, x, batch_size=16), separate(Split(samplerate=1000), x))
    assert max(shape[0] for shape in model.calls) == 2

    class Starved(Split):
        def forward(self, mix, *, noise=None):
            raise RuntimeError("CUDA out of memory.")

    with pytest.raises(DeviceError, match="out of memory") as failure:
        separate(Starved(samplerate=1000), x, batch_size=4)
    assert failure.value.exit_code == 4


def test_another_failure_of_the_model_is_not_taken_for_memory():
    class Broken(Split):
        def forward(self, mix, *, noise=None):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        separate(Broken(), noise(3000))


def test_the_callers_grad_mode_is_left_alone():
    engine = Engine(Split(samplerate=1000), Settings(), CPU, torch.float32)
    for _ in engine.separate(blocks_of(noise(3000))):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "bad",
    [
        {"shifts": -1},
        {"batch_size": 0},
        {"overlap": -0.1},
        {"overlap": 1.0},
        {"overlap": 1.5},
        {"segment": 0.0},
        {"overlap": float("nan")},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UsageError, match="must be"):
        Settings(**bad)


def test_the_seed_does_not_touch_the_global_generator():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    separate(Split(samplerate=1000), noise(1000), shifts=3)
    assert random.random() == expected


@pytest.mark.slow
def test_python_memory_stays_flat():
    engine = Engine(Split(segment=Segment(samples=2000)), Settings(), CPU, torch.float32)
    tracemalloc.start()
    for _ in engine.separate(torch.zeros(1, 2, 441) for _ in range(2000)):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
