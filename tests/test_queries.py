"""Audio queries: reading and checking them, what binding means, and the way through loading and Python."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile
import torch

import sepcli
from sepcli.batch.queries import check_names, load_asked, make_queries, narrow, parse_query, read_queries
from sepcli.cli.options import option_text
from sepcli.engine.separator import Queryable
from sepcli.errors import ModelError, UsageError, spelled
from sepcli.loading import files, load_model, networks, save_model
from sepcli.models.family import Arch, Family
from sepcli.weights.catalog import read_catalog
from tests.contracts import check_bind, check_separator
from tests.toys import Asked, Split


def hum(path="hum.wav", level=0.5, seconds=1.0, samplerate=44100, channels=2):
    """A file whose root mean square is `level`, sine after sine."""
    t = np.arange(int(seconds * samplerate)) / samplerate
    audio = np.repeat(level * np.sqrt(2) * np.sin(2 * np.pi * 441 * t)[:, None], channels, axis=1)
    soundfile.write(path, audio, samplerate, subtype="FLOAT")
    return str(path)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(*texts, targets=(), rest=False):
    return read_queries(texts, targets, rest=rest)


def refused(*texts, **more):
    with pytest.raises(UsageError) as failure:
        read(*texts, **more)
    assert failure.value.remedy
    return failure.value


# --- names ---


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("hum.wav", "hum", "hum.wav"),
        ("a/my hum.2.flac", "my hum.2", "a/my hum.2.flac"),
        ("voice=hum.wav", "voice", "hum.wav"),
        ("voice=a=b.wav", "voice", "a=b.wav"),
    ],
)
def test_the_name_is_given_or_the_files(text, name, path):
    found = parse_query(text)
    assert (found[0], str(found[1])) == (name, os.path.normpath(path))


def test_a_file_with_an_equals_sign_in_its_name_is_found():
    hum("take=2.wav")
    assert read("take=2.wav")[0].name == "take=2"
    assert read("x=take=2.wav")[0].name == "x"


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "what?", "NUL", "..", "end.", "end ", "\t"])
def test_a_name_that_can_be_no_file_is_refused(name):
    hum()
    assert refused(f"{name}=hum.wav").code == "query_name"


def test_a_name_without_a_file_is_refused():
    assert refused("voice=").code == "query"


def test_equal_names_are_refused():
    hum("hum.wav"), hum("other.wav")
    assert "'hum'" in refused("hum.wav", "hum=other.wav").message
    assert "'Hum'" in refused("hum.wav", "Hum=other.wav").message  # one file on macOS and Windows
    assert refused("e\u0301=hum.wav", "\u00e9=other.wav").code == "equal_names"
    with spelled(option_text):
        assert "-t vocals" in refused("vocals=hum.wav", targets=("bass", "vocals")).remedy
    assert refused("Vocals=hum.wav", targets=("vocals",)).code == "equal_names"
    assert len(read("vocals=hum.wav", "b=hum.wav", targets=("bass",))) == 2


def test_the_name_of_the_rest_is_taken_only_where_it_is_written():
    check_names(["rest", "x"], (), rest=False)
    check_names(["rest"], (), rest=True)  # what one target leaves is no_rest
    for names, targets in ((["rest", "x"], ()), (["Rest"], ("vocals",))):
        with pytest.raises(UsageError, match="leave"):
            check_names(names, targets, rest=True)


# --- reading ---


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("samplerate", [8000, 44100, 96000])
def test_any_rate_length_and_channels(samplerate, channels):
    (query,) = read(hum(seconds=0.731, samplerate=samplerate, channels=channels))
    assert query.seconds == pytest.approx(0.731, abs=1e-3) and len(query.sha256) == 64
    for rate, wanted in ((44100, 2), (16000, 1)):
        audio = query.converted(rate, wanted)
        assert audio.shape == (wanted, -(-query.audio.shape[1] * rate // samplerate))
        assert audio.dtype == np.float32
        assert np.sqrt(np.square(audio).mean()) == pytest.approx(0.5, rel=0.02)


def test_what_cannot_be_read_is_a_mistake_of_the_request():
    assert "does not exist" in refused("missing.wav").message and refused("missing.wav").code == "missing"
    with open("text.wav", "w") as file:
        file.write("no audio at all, for sure\n")
    assert refused("x=text.wav").code == "not_audio"
    os.mkdir("folder")
    assert refused("x=folder").code == "folder"
    soundfile.write("nan.wav", np.array([[0.5], [np.nan]]), 44100, subtype="FLOAT")
    assert refused("nan.wav").code == "not_finite"
    soundfile.write("none.wav", np.zeros((0, 2)), 44100)
    assert refused("none.wav").code == "no_frames"
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.wav")
        assert "not a regular file" in refused("pipe.wav").message


@pytest.mark.parametrize("samples", [np.zeros(44100), np.full(44100, 0.25), np.tile([0.0, 3e-5], 22050)])
def test_silence_is_refused_with_an_offset_or_dither_too(samples):
    soundfile.write("quiet.wav", samples, 44100, subtype="PCM_16")
    assert refused("quiet.wav").code == "silent_query"


def test_channels_that_cancel_are_silent_for_a_mono_model():
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 44100)).astype(np.float32)
    (query,) = make_queries({"x": (np.concatenate([audio, -audio]), 44100)}, ())
    assert query.converted(44100, 2).shape == (2, 44100)
    with pytest.raises(UsageError, match="cancel"):
        query.converted(44100, 1)


@pytest.mark.parametrize(
    "audio",
    [
        (np.zeros(10, np.float32), 44100),
        (np.ones((1, 10), np.int16), 44100),
        (np.ones((1, 10)), 0),
        (np.ones((1, 0)), 44100),
        (np.full((1, 9), np.nan), 44100),
        (np.zeros((2, 44100)), 44100),
    ],
)
def test_arrays_are_checked(audio):
    with pytest.raises(UsageError, match="query 'x'"):
        make_queries({"x": audio}, ())


# --- binding ---


def test_the_toy_keeps_the_laws_of_queries():
    assert isinstance(Asked(), Queryable) and not isinstance(Split(), Queryable)
    check_separator(Asked(), [1000, 1])
    check_bind(Asked())
    check_bind(Asked(()))


def shares(model):
    return dict(zip(model.sources, model.shares.tolist(), strict=True))


def test_targets_come_first_then_the_queries_in_their_order():
    two = read(hum("b.wav", 0.25), hum("a.wav", 0.75))
    assert list(shares(narrow(Asked(), (), two, name="m"))) == ["b", "a"]
    both = shares(narrow(Asked(), ("vocals",), two, name="m"))
    assert list(both) == ["vocals", "b", "a"]
    assert list(both.values()) == pytest.approx([0.125, 0.25, 0.75], rel=1e-3)
    own = read("drums=b.wav")  # an example instead of the model's own drums
    assert shares(narrow(Asked(), (), own, name="m")) == {"drums": pytest.approx(0.25, rel=1e-3)}
    assert narrow(Asked(()), (), (), name="m").sources == ()


def test_a_query_is_brought_to_the_models_rate_and_channels():
    (query,) = read(hum(samplerate=22050, channels=1))
    heard = {}

    class Hearing(Asked):
        def bind(self, queries):
            heard.update(queries)
            return super().bind(queries)

    narrow(Hearing(samplerate=16000, channels=2), (), [query], name="m")
    assert heard["hum"].shape == (2, 16000) and heard["hum"].dtype == torch.float32
    narrow(Hearing(samplerate=48000, channels=1), (), [query], name="m")
    assert heard["hum"].shape == (1, 48000)


def test_short_queries_and_models_without_any_are_refused():
    (short,) = read(hum(seconds=0.4))
    with pytest.raises(UsageError, match=r"0\.40 s.*'m' needs 0\.5 s"):
        narrow(Asked(), (), [short], name="m")
    with pytest.raises(UsageError, match="'m' takes no queries; its stems are drums, bass"):
        narrow(Split(), (), [short], name="m")


# --- loading: a family of its own ---


@dataclass(frozen=True)
class Config:
    sources: tuple[str, ...] = ("drums", "vocals")


class Hears(Asked):
    def __init__(self, config):
        super().__init__(config.sources)


TOYS = Family(
    "toys",
    {"Asked": Arch("Asked", Config, Hears)},
    lambda checkpoint, model: dict(checkpoint.payload),
)
ENTRY = """
[mine]
family = "toys"
arch = "Asked"
sources = {sources}
samplerate = 44100
channels = 2
{more}
files.model = {{ url = "https://x.invalid/m" }}
"""


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(networks, "get_family", lambda name: TOYS)
    monkeypatch.setattr(files, "all_families", lambda notice: [TOYS])


def save(path="model.safetensors", sources=("drums", "vocals")):
    config = Config(tuple(sources))
    save_model(Asked(sources).state_dict(), path, family="toys", arch="Asked", config=config)
    return path


def entries(tmp_path, *, sources='["drums", "vocals"]', more="min_query = 0.5"):
    path = tmp_path / "catalog.toml"
    path.write_text(ENTRY.format(sources=sources, more=more))
    return read_catalog(path)


def test_a_model_is_loaded_with_its_queries(toys, tmp_path):
    path, catalog = save(), entries(tmp_path)
    queries = read(hum(level=0.25))
    for spec in (path, f"mine={path}"):
        loaded = load_asked(spec, None, queries, catalog=catalog)
        assert loaded.sources == ("drums", "vocals") and loaded.model.sources == ("hum",)
        loaded = load_asked(spec, ["vocals"], queries, catalog=catalog)
        assert shares(loaded.model) == {"vocals": 0.125, "hum": pytest.approx(0.25, rel=1e-3)}
        assert load_model(spec, catalog=catalog).model.sources == ("drums", "vocals")
        with pytest.raises(UsageError, match="no stem 'hum'"):
            load_asked(spec, ["hum"], queries, catalog=catalog)


def test_a_model_of_queries_alone(toys, tmp_path):
    path, catalog = save(sources=()), entries(tmp_path, sources="[]")
    for spec in (path, f"mine={path}"):
        assert load_model(spec, catalog=catalog).sources == ()
        assert load_asked(spec, None, read(hum()), catalog=catalog).model.sources == ("hum",)
        with pytest.raises(UsageError, match="none of its own"):
            load_model(spec, catalog=catalog, targets=["bass"])


def test_the_catalogue_knows_of_queries_what_the_network_does(toys, tmp_path):
    path = save()
    for more in ("", "min_query = 2"):
        with pytest.raises(ModelError, match="min_query") as failure:
            load_model(f"mine={path}", catalog=entries(tmp_path, more=more))
        assert failure.value.code == "config_mismatch"
    assert load_model(f"mine={path}", catalog=entries(tmp_path, more="min_query = 0.499"))  # rounded


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": "[]", "more": ""}, "is empty"),
        ({"more": "min_query = 0"}, "seconds above 0"),
        ({"more": "min_query = true"}, "must be a number"),
        ({"more": 'members = [{ file = "model" }, { file = "model" }]\nmin_query = 1'}, "one network"),
    ],
)
def test_entries_that_are_refused(tmp_path, changes, words):
    with pytest.raises(ModelError, match=words):
        entries(tmp_path, **changes)


# --- Python ---


def test_queries_in_python(toys, tmp_path):
    path, mix = save(), np.random.default_rng(0).uniform(-0.5, 0.5, (2, 5000)).astype(np.float32)
    model = sepcli.load(path)
    assert model.sources == ("drums", "vocals")
    example = np.random.default_rng(1).uniform(-1, 1, (1, 48000)).astype(np.float32)
    stems = sepcli.separate(
        model, mix, 44100, targets=["drums"], queries={"hum": hum(level=0.25), "noise": (example, 48000)}
    )
    assert list(stems) == ["drums", "hum", "noise"]
    np.testing.assert_allclose(stems["hum"], mix * 0.25, rtol=1e-3)
    assert list(sepcli.separate(path, mix, 44100, queries={"hum": "hum.wav"})) == ["hum"]
    assert sepcli.load(path, targets=["vocals"], queries={"hum": "hum.wav"}).sources == ("vocals", "hum")
    with pytest.raises(UsageError, match="takes no queries"):
        sepcli.separate(Split(), mix, 44100, queries={"hum": "hum.wav"})
    with pytest.raises(UsageError, match="one stem"):
        sepcli.load(path, targets=["drums"], queries={"drums": "hum.wav"})


def test_nothing_to_do_in_python(toys):
    path, mix = save(sources=()), np.zeros((2, 100), np.float32)
    for model in (path, sepcli.load(path)):
        with pytest.raises(UsageError, match="no stems of its own"):
            sepcli.separate(model, mix, 44100)
        assert list(sepcli.separate(model, mix, 44100, queries={"hum": hum()})) == ["hum"]


def test_files_of_a_query_in_python(toys, tmp_path):
    song = hum("song.wav", level=0.5)
    model = save("own.safetensors")
    done = sepcli.separate_file(song, "out", model=model, queries={"hum": hum(level=0.25)}, rest=True)
    assert sorted(done.outputs) == ["hum", "no_hum"]
    with pytest.raises(UsageError, match="is the query 'hum'"):
        sepcli.separate_file(song, "out", model=model, queries={"hum": "out/own/song/hum.wav"}, force=True)
