"""Batches: the same whoever asks; and what is in them."""

import multiprocessing
import re

import numpy as np
import pytest
import torch

from sepcli.cli.options import option_text
from sepcli.data.augment import HT_DEMUCS, Gain, Remix, Repitch, Shift
from sepcli.data.layouts import MUSDB_STEMS
from sepcli.data.mixing import Batches, DataSource, batches_from
from sepcli.errors import InputError, UsageError, parameter, spelled
from tests.sounds import music
from tests.stems import RATE, track, write

SOURCES = ("vocals", "drums", "bass")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three tracks: two have all sources, one has no bass."""
    root = tmp_path_factory.mktemp("data")
    track(root / "one", SOURCES, seed=1)
    track(root / "two", SOURCES, seed=2, seconds=5)
    track(root / "three", ["vocals", "drums"], seed=3, seconds=4)
    return root


def batches(root, **changes):
    options = dict(
        sources=SOURCES, samplerate=RATE, channels=2, samples=RATE, batch_size=4, seed=0, aligned=0.5
    )
    sources = root if isinstance(root, list) else [DataSource(str(root))]
    return Batches(sources, **{**options, **changes})


def whole(root, name, stem):
    from sepcli.data.windows import read_window

    return read_window(root / name / f"{stem}.wav", 0, 5 * RATE, RATE, 2)


def offset_in(signal, window):
    """Where `window` [C, T] stands in `signal` [C, T'], or None."""
    n = window.shape[1]
    near = np.flatnonzero(np.isclose(signal[0, : signal.shape[1] - n + 1], window[0, 0], atol=1e-6))
    return next((int(at) for at in near if np.allclose(signal[:, at : at + n], window, atol=1e-6)), None)


# What is drawn


def test_an_aligned_item_is_one_window_of_a_track_that_has_all_sources(data):
    batch = batches(data, aligned=1.0, batch_size=12)[0]
    assert batch.stems.shape == (12, 3, 2, RATE) and batch.stems.dtype == torch.float32
    assert batch.problems == [] and len(batch.items) == 12
    seen = set()
    for stems, item in zip(batch.stems.numpy(), batch.items, strict=True):
        name = item.split()[0].split("/")[1]
        places = {offset_in(whole(data, name, stem), stems[index]) for index, stem in enumerate(SOURCES)}
        assert len(places) == 1 and places != {None}
        assert f"at {places.pop() / RATE:.2f} s" in item
        seen.add(name)
    assert seen == {"one", "two"}


def test_other_items_draw_every_source_by_itself(data):
    batch = batches(data, aligned=0.0, batch_size=24)[0]
    origins = []
    for stems in batch.stems.numpy():
        row = []
        for index, stem in enumerate(SOURCES):
            having = ["one", "two"] if stem == "bass" else ["one", "two", "three"]
            found = {name: offset_in(whole(data, name, stem), stems[index]) for name in having}
            (origin,) = [(name, at) for name, at in found.items() if at is not None]
            row.append(origin)
        origins.append(row)
    assert {name for row in origins for name, _ in row} == {"one", "two", "three"}
    assert len({row[0][1] for row in origins}) > 12  # times differ
    assert any(row[0] != row[1] for row in origins)


def test_a_share_is_aligned(data):
    items = [item for step in range(30) for item in batches(data, aligned=0.25, samples=100)[step].items]
    assert 0.15 < np.mean([" of " not in item for item in items]) < 0.35


def test_tracks_are_drawn_by_weight_and_duration(tmp_path):
    track(tmp_path / "a" / "long", ["vocals"], seconds=6)
    track(tmp_path / "a" / "short", ["vocals"], seconds=2)
    track(tmp_path / "b" / "heavy", ["vocals"], seconds=2)
    sources = [DataSource(str(tmp_path / "a")), DataSource(str(tmp_path / "b"), weight=4.0)]
    some = batches(sources, sources=("vocals",), aligned=0, samples=100, batch_size=400)
    items = some[0].items
    shares = [np.mean([name in item for item in items]) for name in ("long", "short", "heavy")]
    np.testing.assert_allclose(shares, [6 / 16, 2 / 16, 8 / 16], atol=0.07)
    assert some.seconds == {"vocals": 10.0} and some.aligned_seconds == 10.0


def test_windows_are_anywhere_in_a_track(tmp_path):
    track(tmp_path / "song", ["vocals"], seconds=4)
    items = batches(tmp_path, sources=("vocals",), aligned=1, batch_size=200)[0].items
    times = np.array([float(item.split()[-2]) for item in items])
    assert times.min() < 0.1 and 2.9 < times.max() <= 3.0 and abs(times.mean() - 1.5) < 0.2


def test_one_shots_lie_somewhere_in_silence(tmp_path):
    hit = 0.5 + 0 * music(800, 1)
    write(tmp_path / "drums" / "hit.wav", hit)
    batch = batches(tmp_path, sources=("drums",), aligned=0, batch_size=50)[0]
    filled = batch.stems[:, 0, 0] > 0.4
    assert (filled.sum(-1) == 800).all()
    begins = filled.int().argmax(-1)
    assert begins.min() < 1000 and begins.max() > RATE - 800 - 1000
    assert (batch.stems[~filled[:, None, None].expand_as(batch.stems)] == 0).all()


def test_only_some_stems_of_a_source(data, tmp_path):
    mislabelled = DataSource(str(data), stems=("vocals", "drums"))
    with pytest.raises(UsageError, match="No track has the stem 'bass'; the data has drums, vocals"):
        batches([mislabelled], aligned=0)
    track(tmp_path / "other", SOURCES, seed=9)
    both = batches([mislabelled, DataSource(str(tmp_path))], aligned=0, batch_size=40)
    bass = [part for item in both[0].items for part in item.split(", ") if part.startswith("bass of")]
    assert len(bass) == 40 and all("/other at" in part for part in bass)
    assert both.aligned_seconds == 15.0  # two stems of three songs, three of one
    with pytest.raises(UsageError, match="no stem 'tuba'; it has bass, drums, vocals"):
        batches([DataSource(str(data), stems=("tuba",))])


def test_what_a_track_lacks_comes_from_others(tmp_path):
    """An aligned item keeps the stems of its track together and fills up the missing ones."""
    sounds = track(tmp_path / "band" / "song", ["drums", "bass"], seconds=1.0)
    track(tmp_path / "singers" / "solo", ["vocals", "choir"], seconds=3.0, seed=5)
    sources = [DataSource(str(tmp_path / "band")), DataSource(str(tmp_path / "singers"))]
    batch = batches(sources, aligned=1.0)[0]
    for item, stems in zip(batch.items, batch.stems, strict=True):
        assert re.fullmatch(r"band/song at 0.00 s, vocals of singers/solo at \d\.\d\d s", item)
        for name in ("drums", "bass"):
            torch.testing.assert_close(stems[SOURCES.index(name)], torch.from_numpy(sounds[name]))
        assert stems[SOURCES.index("vocals")].abs().max() > 0.01


def test_tracks_can_be_left_out(data):
    some = batches([DataSource(str(data), exclude=("two", "three"))], batch_size=20)
    assert some.aligned_seconds == 3.0 and not any("/two" in item or "/three" in item for item in some[0].items)


def test_stems_of_one_new_name_are_added_up(tmp_path):
    sounds = track(tmp_path / "song", ["guitar", "piano", "drums"], seconds=1)
    source = DataSource(str(tmp_path), rename={"guitar": "other", "piano": "other"})
    stems = batches([source], sources=("other", "drums"), aligned=1)[0].stems[0]
    torch.testing.assert_close(stems[0], torch.from_numpy(sounds["guitar"] + sounds["piano"]))
    torch.testing.assert_close(stems[1], torch.from_numpy(sounds["drums"]))


def test_silent_windows_are_drawn_again(tmp_path):
    half = music(20 * RATE)
    half[:, 10 * RATE :] = 0
    write(tmp_path / "song" / "vocals.wav", half)

    def silent(share):
        some = batches(tmp_path, sources=("vocals",), aligned=0, samples=400, batch_size=200, skip_silent=share)
        return (some[0].stems.abs().amax((1, 2, 3)) < 1e-4).float().mean().item()

    assert 0.4 < silent(0) < 0.6 and silent(1) == 0 and 0.2 < silent(0.5) < 0.45


def test_silence_is_kept_where_there_is_nothing_else(tmp_path):
    write(tmp_path / "song" / "vocals.wav", 0 * music(2 * RATE))
    assert not batches(tmp_path, sources=("vocals",), aligned=0, skip_silent=1.0)[0].stems.any()


# The rest


def wants(root, **changes):
    return batches(root, **{"sources": ("vocals",), "rest": "accompaniment", "aligned": 1.0, **changes})


def test_vocals_and_a_mixture_are_enough(tmp_path):
    """The rest is what the mixture has besides; both are one window, and their sum is the mixture."""
    sounds = track(tmp_path / "song", ["vocals", "band"], mixture=True)
    (tmp_path / "song" / "band.wav").unlink()
    some = wants(tmp_path)
    assert some.sources == ("vocals", "accompaniment") and some.aligned_seconds == 3.0
    for vocals, rest in some[0].stems.numpy():
        at = offset_in(sounds["vocals"], vocals)
        window = slice(at, at + RATE)
        np.testing.assert_allclose(rest, sounds["band"][:, window], atol=1e-6)


def test_the_rest_of_a_track_without_a_mixture_is_its_other_stems(tmp_path):
    sounds = track(tmp_path / "song", ["vocals", "drums", "bass", "choir"])
    data = [DataSource(str(tmp_path), stems=("vocals", "drums", "choir"), rename={"choir": "vocals"})]
    for vocals, rest in wants(data)[0].stems.numpy():
        at = offset_in(sounds["vocals"] + sounds["choir"], vocals)
        np.testing.assert_allclose(rest, sounds["drums"][:, at : at + RATE], atol=1e-6)


def test_a_mixture_counts_only_where_the_track_has_all_sources(tmp_path):
    """What is missing could be in it: then the rest is the sum of the other stems."""
    sounds = track(tmp_path / "song", ["vocals", "drums", "bass", "keys"], mixture=True)
    for stem in wants(tmp_path, sources=("vocals", "drums"))[0].stems[:, -1].numpy():
        assert offset_in(sounds["bass"] + sounds["keys"], stem) is not None
    (tmp_path / "song" / "bass.wav").rename(tmp_path / "bass.wav")
    write(tmp_path / "solo" / "bass.wav", sounds["bass"])
    for stem in wants(tmp_path, sources=("vocals", "bass"))[0].stems[:, -1].numpy():
        assert offset_in(sounds["drums"] + sounds["keys"], stem) is not None


def test_sources_of_their_own_and_the_rest_of_others(tmp_path):
    """Not aligned, each is from a track of its own; a track without the source is all rest."""
    track(tmp_path / "singers" / "solo", ["vocals"], seed=5)
    band = track(tmp_path / "band" / "song", ["drums", "bass"])
    data = [DataSource(str(tmp_path / "singers")), DataSource(str(tmp_path / "band"))]
    for item, stems in zip(wants(data, aligned=0.0)[0].items, wants(data, aligned=0.0)[0].stems, strict=True):
        assert re.fullmatch(r"vocals of singers/solo at .* s, accompaniment of band/song at .* s", item)
        assert offset_in(band["drums"] + band["bass"], stems[1].numpy()) is not None
    with pytest.raises(UsageError, match="no track has two of vocals, accompaniment"):
        wants(data)


def test_silence_is_that_of_the_sources_and_not_of_the_rest(tmp_path):
    half = np.concatenate([0 * music(4 * RATE), 0.3 * music(4 * RATE)], axis=1)
    write(tmp_path / "song" / "vocals.wav", half)
    write(tmp_path / "song" / "band.wav", 0.3 * music(8 * RATE, seed=1))

    def silent(share):
        stems = wants(tmp_path, samples=400, batch_size=200, skip_silent=share)[0].stems
        assert (stems[:, 1].abs().amax((1, 2)) > 1e-3).all()
        return (stems[:, 0].abs().amax((1, 2)) < 1e-4).float().mean().item()

    assert 0.4 < silent(0) < 0.6 and silent(1) == 0 and 0.2 < silent(0.5) < 0.45


def test_only_so_many_examples(data):
    """Over and over, the same in every epoch, and all of them before the first one comes again."""
    some = batches(data, examples=12, steps_per_epoch=2)
    seen = [some[step] for step in range(6)]
    assert all(equal(some[step + 3], some[step]) for step in range(3))
    assert len({item for batch in seen for item in batch.items}) == 12
    assert equal(some[0], batches(data, steps_per_epoch=2)[0])


# Determinism


def equal(one, other):
    return torch.equal(one.stems, other.stems) and one.items == other.items


def test_a_step_is_the_same_whenever_it_is_asked_for(data):
    one, two = batches(data), batches(data)
    late = one[7]
    [one[step] for step in range(7)]
    assert equal(two[7], late) and equal(one[7], late)
    assert not equal(one[6], late) and not equal(batches(data, seed=1)[7], late)


def test_epochs_differ(data):
    some = batches(data, steps_per_epoch=5)
    assert not equal(some[1], some[6])
    assert equal(some[1], batches(data)[1])  # the first epoch's items do not depend on its length


def test_ranks_get_the_rows_of_one_global_batch(data):
    augment = (Repitch(0.5, method="varispeed"), Shift(0.1), Gain(), Remix(2))
    single = batches(data, batch_size=8, augment=augment)[3]
    ranks = [batches(data, batch_size=8, augment=augment, rank=rank, world=2)[3] for rank in range(2)]
    assert torch.equal(torch.cat([rank.stems for rank in ranks]), single.stems)
    assert ranks[0].items + ranks[1].items == single.items


@pytest.mark.slow
def test_worker_processes_change_nothing(data):
    some = batches(data, augment=(Gain(),))
    alone = list(batches_from(some, 2, 6, workers=0))
    spawned = list(batches_from(some, 2, 6, workers=2))
    assert len(alone) == len(spawned) == 4 and all(map(equal, alone, spawned))


class Naming:
    """Batches whose errors name a parameter too."""

    def __init__(self, some):
        self.some = some

    def __getitem__(self, step):
        try:
            return self.some[step]
        except InputError as error:
            message = f"{error.message} {parameter('batch_size', 3)}"
            raise InputError(message, remedy=error.remedy) from None


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_as_it_was_raised(tmp_path):
    track(tmp_path / "song", ["vocals"])
    some = batches(tmp_path, sources=("vocals",))
    (tmp_path / "song" / "vocals.wav").unlink()
    with spelled(option_text), pytest.raises(InputError) as caught:
        list(batches_from(Naming(some), 0, 2, workers=1))
    assert "vocals.wav" in caught.value.message and "Traceback" not in caught.value.message
    assert "--batch-size 3" in caught.value.message  # parameters as this process writes them
    assert "dataset check" in caught.value.remedy
    assert not multiprocessing.active_children()  # though the error is still at hand


# Broken files


def test_a_broken_file_is_named_and_another_takes_its_place(tmp_path):
    track(tmp_path / "good", SOURCES, seed=1)
    track(tmp_path / "gone", SOURCES, seed=2)
    track(tmp_path / "bad", ["drums"], seed=3)
    (tmp_path / "bad" / "vocals.wav").write_text("never was audio")
    some = batches(tmp_path, batch_size=16)
    assert len(some.problems) == 1 and "vocals.wav" in some.problems[0]
    (tmp_path / "gone" / "drums.wav").unlink()
    batch, again = some[0], some[0]
    assert batch.problems and all("drums.wav" in problem for problem in batch.problems)
    assert equal(batch, again) and batch.problems == again.problems
    for stems in batch.stems:
        assert (stems.abs().amax((1, 2)) > 0).all()  # replaced, not silent


# What can't be


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sources": ()}, "Name each wanted stem once"),
        ({"sources": ("vocals", "vocals")}, "Name each wanted stem once"),
        ({"aligned": 1.5}, "aligned is 1.5"),
        ({"skip_silent": -1}, "skip_silent is -1"),
        ({"examples": 10}, "10 examples, in batches of 4"),
        ({"rest": "bass"}, "Name each wanted stem once"),
        ({"world": 3}, "batch of 4 can't be divided among 3"),
        ({"world": 2, "augment": (Remix(4),)}, "Remix mixes groups of 4 rows"),
        ({"augment": (Gain(sources=("tuba",)),)}, "'tuba'"),
        ({"sources": ("vocals", "tuba"), "aligned": 0}, "No track has the stem 'tuba'"),
        ({"sources": ("vocals", "tuba")}, "aligned is 0.5, but no track has two of vocals, tuba"),
    ],
)
def test_contradictions_are_refused(data, changes, message):
    with pytest.raises(UsageError, match=message):
        batches(data, **changes)


def test_a_source_weighs_something(data):
    with pytest.raises(UsageError, match="weight 0"):
        batches([DataSource(str(data), weight=0)])


def test_the_published_recipe_end_to_end(tmp_path):
    track(tmp_path / "song", MUSDB_STEMS, seconds=6)
    some = batches(tmp_path, sources=MUSDB_STEMS, augment=HT_DEMUCS)
    assert some.read_samples >= (RATE + RATE) / 0.88
    stems = some[0].stems
    assert stems.shape == (4, 4, 2, RATE) and stems.isfinite().all() and stems.is_contiguous()
