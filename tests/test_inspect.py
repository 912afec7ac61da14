"""What a network attends to: windows put together to one map, columns, and the picture."""

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure

from sepcli.engine.separator import Inspectable, Segment
from sepcli.errors import DeviceError, InputError, OutputError, UsageError
from sepcli.evaluation.attention import Columns, check_picture, draw, inspectable, listen, shows_none
from sepcli.nn.stft import centred_stft
from sepcli.weights.catalog import bundled_catalog, read_catalog
from tests.models.test_lasaft import VARIANTS, tiny
from tests.sounds import music
from tests.toys import Split

MANY = 10**6  # columns: each is a frame


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def song(seconds=0.5, *, path="song.wav", channels=2, samplerate=44100, sound=None):
    """[C, T] and a file of it."""
    if sound is None:
        sound = music(round(seconds * samplerate), channels, samplerate)
    soundfile.write(path, sound.T, samplerate, subtype="FLOAT")
    return sound


class Loud(Inspectable):
    """Attends to three latent sources by how loud two hops around a frame are; each stem with a bias."""

    samplerate, channels = 8000, 2
    attention_hop, attention_levels = 50, 1

    def __init__(self, margin, samples=1500, sources=("a", "b")):
        super().__init__()
        self.sources = sources
        self.segment = Segment(samples=samples, exact=True, margin=margin)

    def attention_maps(self, mix, level=1):
        assert mix.shape[-1] == self.segment.samples
        return self.maps(mix)

    def maps(self, mix):
        power = centred_stft(mix, torch.hann_window(100), 50).abs().square().mean(dim=(1, 2))  # [B, N]
        scores = torch.stack([power, 0.5 * power, 1 - power], dim=-1)
        return torch.stack(
            [torch.softmax(scores + k * torch.arange(3), dim=-1) for k in range(len(self.sources))], dim=1
        )


# --- windows ---


@pytest.mark.parametrize("samples", [1, 49, 50, 51, 1399, 1400, 1401, 2750, 8000, 12345])
@pytest.mark.parametrize("margin", [50, 120, 300])
def test_windows_give_the_map_of_the_whole(samples, margin):
    """Where a network looks no farther than the margin, no seam is there: on all frames of the song."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, samples)).astype(np.float32)
    sound = song(sound=noise, samplerate=8000)
    model = Loud(margin)
    found = listen(model, "song.wav", columns=MANY)
    around = torch.nn.functional.pad(torch.from_numpy(sound)[None], (1000, 1000))  # silence, no mirror
    whole = model.maps(around)[0, :, 20 : 20 + -(-samples // 50)]
    assert found.frames == whole.shape[1] and found.every == 1
    for stem, expected in zip("ab", whole.numpy(), strict=True):
        np.testing.assert_allclose(found.weights[stem], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["v1", "v2 none", "v2 query_key", "query"])
def test_a_network_that_listens(variant):
    """A frame's weights add up to 1; the first window's are the network's; without ears they are constant."""
    sound = song(0.3)
    model = tiny(variant)
    assert isinstance(model, Inspectable)
    found = listen(model, "song.wav", columns=MANY)
    feed = torch.nn.functional.pad(torch.from_numpy(sound), (192, 0))[None, :, :960]
    with torch.inference_mode():
        first = model.attention_maps(feed)[0, :, 3:13].numpy()
    listens = variant in ("v2 query_key", "query")
    for stem, expected in zip(model.sources, first, strict=True):
        weights = found.weights[stem]
        assert weights.shape == (-(-sound.shape[1] // 64), 3)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(weights[:10], expected, atol=1e-5)
        assert (np.ptp(weights, axis=0).max() > 1e-4) == listens


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_those_of_the_decoders(variant):
    """`attention_maps` at each level is `attention`, every frame of a deeper one several times."""
    model = tiny(variant)
    mix = torch.randn(2, model.channels, 960)
    with torch.inference_mode():
        cac = model.spectrogram(mix)
        for k in range(len(model.sources)):
            seen = model.attention(cac, model.condition(torch.tensor([k])))
            for level in range(1, model.attention_levels + 1):
                maps = model.attention_maps(mix, level)[:, k]
                weights = seen[-level].expand(2, -1, -1)
                each = 16 // weights.shape[1]
                assert maps.shape[:2] == (2, 16)
                assert torch.allclose(maps[:, ::each], weights, atol=1e-5)
                assert torch.equal(maps[:, ::each], maps[:, each - 1 :: each])


@pytest.mark.slow
def test_the_map_does_not_depend_on_what_else_is_asked():
    song()
    model = tiny("v2 query_key")
    both, one = listen(model, "song.wav", level=2), listen(model.select(["bass"]), "song.wav", level=2)
    assert list(both.weights) == ["vocals", "drums", "bass", "other"] and list(one.weights) == ["bass"]
    np.testing.assert_allclose(one.weights["bass"], both.weights["bass"], atol=1e-5)
    assert not np.allclose(both.weights["bass"], listen(model, "song.wav").weights["bass"])


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "samplerate"), [(1, 22050), (2, 48000), (6, 44100)])
def test_any_rate_and_channels(channels, samplerate):
    song(0.31, channels=channels, samplerate=samplerate)
    found = listen(tiny("v2 query"), "song.wav", columns=MANY)
    assert found.seconds == pytest.approx(0.31, abs=1e-4)
    assert found.frames * found.frame_seconds == pytest.approx(found.seconds, abs=found.frame_seconds)
    assert (found.edges[0], found.edges[-1]) == pytest.approx((0, found.seconds))
    np.testing.assert_allclose(np.diff(found.edges)[1:-1], found.frame_seconds)


def test_a_part_of_a_song():
    sound = song(0.6)
    part = listen(Loud(50), "song.wav", start=0.2, duration=0.25, columns=MANY)
    song(sound=sound[:, 8820 : 8820 + 11025], path="part.wav")
    alone = listen(Loud(50), "part.wav", columns=MANY)
    assert (part.edges[0], part.edges[-1]) == pytest.approx((0.2, 0.45))
    np.testing.assert_allclose(part.weights["a"], alone.weights["a"], atol=1e-5)
    with pytest.raises(InputError) as failure:
        listen(Loud(50), "song.wav", start=0.7)
    assert failure.value.code == "start"


def test_progress_and_a_file_cut_short():
    song(1.0)
    data = open("song.wav", "rb").read()
    open("cut.wav", "wb").write(data[: len(data) // 2])
    told = []
    found = listen(Loud(50), "cut.wav", progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == pytest.approx(0.5, abs=0.02) and len(told) > 2
    assert found.seconds == pytest.approx(0.5, abs=0.01) and found.warnings


@pytest.mark.parametrize("level", [0, -1, 3])
def test_a_level_that_is_not_there(level):
    song(0.1)
    with pytest.raises(UsageError, match=r"1 \(the last before its output\) to 2"):
        listen(tiny("v1"), "song.wav", level=level)


# --- the spectrogram ---


@pytest.mark.slow
def test_a_tone_stands_in_its_row():
    t = np.arange(44100) / 44100
    song(sound=np.repeat(0.5 * np.sin(2 * np.pi * 3000 * t)[None], 2, axis=0))
    found = listen(tiny("v1"), "song.wav", columns=MANY)
    assert found.power.shape == (found.frames, len(found.rows) - 1) and found.rows[-1] == 22050
    loudest = found.power.mean(axis=0).argmax()
    assert found.rows[loudest] <= 3172 and found.rows[loudest + 1] >= 2828  # a bin of 256 is 172 Hz wide
    assert found.power.max() == pytest.approx(0.25, rel=0.3)


# --- columns ---


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 40, 1000])
@pytest.mark.parametrize("step", [1, 3, 50])
def test_columns_are_means_of_equally_many(count, step):
    rows = np.random.default_rng(0).uniform(0, 1, (count, 2)).astype(np.float32)
    columns = Columns(8)
    for at in range(0, count, step):
        columns.add(rows[at : at + step])
    found = columns.take()
    assert len(found) <= 9 and columns.count == count  # the last one of what is left
    assert count <= 8 or len(found) > 4
    expected = [rows[at : at + columns.every].mean(axis=0) for at in range(0, count, columns.every)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_few_columns_of_many_frames():
    song(1.0)
    fine, coarse = (listen(tiny("v2 key"), "song.wav", columns=most) for most in (MANY, 100))
    assert fine.frames == coarse.frames == 690 and len(coarse.power) <= 101 and coarse.every == 8
    assert len(coarse.edges) == len(coarse.power) + 1 and coarse.edges[-1] == pytest.approx(1.0)
    for stem, (mean, deviation) in coarse.means().items():
        exact, more = fine.means()[stem]
        assert sum(mean) == pytest.approx(1, abs=1e-5) and mean == pytest.approx(exact, abs=1e-5)
        assert all(a <= b + 1e-6 for a, b in zip(deviation, more, strict=True))


# --- the picture ---


def panels(monkeypatch):
    """The figures that are saved from now on."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *more, **options: (figures.append(self), save(self, *more, **options))[1],
    )
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_picture(suffix, monkeypatch, tmp_path):
    song()
    figures = panels(monkeypatch)
    found = listen(tiny("v2 query_key").select(["drums", "vocals"]), "song.wav", start=0.1)
    draw(found, tmp_path / "new" / f"map.{suffix}", "a $title$")
    *stems, mixture = figures[0].axes[:3]
    assert [axes.get_title(loc="left") for axes in (*stems, mixture)] == ["drums", "vocals", "mixture"]
    assert {axes.get_xlim() for axes in (*stems, mixture)} == {(0.1, 0.1 + found.seconds)}
    assert all(axes.get_ylim() == (0.5, 3.5) for axes in stems) and mixture.get_yscale() == "log"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"map.{suffix}"]
    assert (tmp_path / "new" / f"map.{suffix}").read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 30000])
def test_silence_and_a_single_sample(samples, tmp_path):
    song(sound=np.zeros((2, samples), np.float32))
    draw(listen(tiny("v1"), "song.wav"), tmp_path / "map.png", "silence")
    assert (tmp_path / "map.png").exists()


@pytest.mark.slow
def test_a_picture_that_can_not_be_written(tmp_path, monkeypatch):
    song(0.1)
    found = listen(tiny("v1"), "song.wav")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        draw(found, tmp_path / "file" / "map.png", "")

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    (tmp_path / "map.png").write_bytes(b"before")
    with pytest.raises(OutputError):
        draw(found, tmp_path / "map.png", "")
    assert (tmp_path / "map.png").read_bytes() == b"before" and not list(tmp_path.glob(".map*"))


def test_where_a_picture_may_go(tmp_path):
    inputs = {"the input": tmp_path / "song.png"}
    inputs["the input"].touch()
    check_picture(tmp_path / "map.PNG", inputs, force=False)
    for name, force, code in (
        ("song.png", True, "input_is_output"),
        ("map.wav", True, "usage"),
        ("there.png", False, "exists"),
    ):
        (tmp_path / "there.png").touch()
        with pytest.raises(UsageError) as failure:
            check_picture(tmp_path / name, inputs, force=force)
        assert failure.value.code == code and failure.value.remedy
    check_picture(tmp_path / "there.png", inputs, force=True)


# --- models ---


def test_which_models_have_it():
    catalog = read_catalog(bundled_catalog())
    having = [name for name, entry in catalog.items() if inspectable(entry)]
    assert having == [name for name, entry in catalog.items() if entry.family == "lasaft"] and having
    problem = shows_none("mini", catalog)
    assert problem.exit_code == 2 and "'mini'" in problem.message
    assert all(name in problem.remedy for name in having)
    assert not isinstance(Split(), Inspectable)


def test_memory_that_runs_out():
    song(0.1)
    model = Loud(50)

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.attention_maps = exhausted
    with pytest.raises(DeviceError):
        listen(model, "song.wav")
