import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sepcli.engine.ensemble import Ensemble
from sepcli.engine.pipeline import Engine
from sepcli.engine.settings import Settings
from sepcli.errors import ModelError, UsageError
from sepcli.loading import load_model, save_model
from sepcli.models.config import make_config, parse_options
from sepcli.models.family import Arch, get_family
from sepcli.models.roformer.config import MelBandRoformerConfig
from sepcli.models.roformer.network import MelBandRoformer
from sepcli.weights.catalog import read_catalog
from sepcli.weights.checkpoint import read_checkpoint
from tests.roformers import as_published

SOURCES = ("drums", "bass", "other", "vocals")
SMALL = {"channels": 8, "depth": 2, "t_layers": 1, "t_heads": 2, "segment": Fraction(1, 4), "nfft": 512}


def arch():
    return get_family("demucs").archs["HTDemucs"]


def save(path, seed=0, **changes):
    torch.manual_seed(seed)
    config = arch().config(SOURCES, **SMALL | changes)
    save_model(arch().build(config).state_dict(), path, family="demucs", arch="HTDemucs", config=config)
    return path


def catalog(tmp_path, text):
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    return read_catalog(path)


FILE = 'files.model = { url = "https://x.invalid/m" }\n'
ENTRY = """
[{name}]
family = "demucs"
arch = "HTDemucs"
sources = ["drums", "bass", "other", "vocals"]
samplerate = 44100
channels = 2
license = "MIT"
config = {{ channels = 8, depth = 2, t_layers = 1, t_heads = 2, segment = "1/4", nfft = {nfft} }}
"""


def test_a_file_and_a_run_folder_say_what_they_are(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    path = save(run / "model.safetensors")
    for spec in (str(path), str(run)):
        loaded = load_model(spec)
        assert loaded.name == "run" and loaded.sources == SOURCES and len(loaded.hashes) == 1
        assert loaded.model.segment.samples == 11025 and not loaded.model.training
        assert not any(p.requires_grad for p in loaded.model.parameters())


def test_weights_survive_the_way_through_a_file(tmp_path):
    torch.manual_seed(0)
    original = arch().build(arch().config(SOURCES, **SMALL)).eval()
    loaded = load_model(str(save(tmp_path / "a.safetensors")))
    mix = torch.randn(1, 2, 5000)
    with torch.inference_mode():
        assert torch.equal(loaded.model(mix), original(mix))


def test_a_local_file_for_a_name(tmp_path):
    entries = catalog(tmp_path, ENTRY.format(name="mine", nfft=512) + FILE)
    path = save(tmp_path / "a.safetensors")
    loaded = load_model(f"mine={path}", catalog=entries, targets=["vocals", "bass"])
    assert loaded.model.sources == ("vocals", "bass") and loaded.entry.name == "mine"
    with pytest.raises(ModelError, match="no file"):
        load_model(f"mine={tmp_path / 'absent'}", catalog=entries)


def test_the_counterpart_is_the_mix_minus_the_stem(tmp_path):
    config = arch().config(("vocals",), **SMALL)
    model = arch().build(config).eval()
    save_model(model.state_dict(), tmp_path / "a.safetensors", family="demucs", arch="HTDemucs", config=config)
    sources = 'sources = ["drums", "bass", "other", "vocals"]'
    one = ENTRY.format(name="one", nfft=512).replace(
        sources, 'sources = ["vocals"]\ncounterpart = "instrumental"'
    )
    entries, spec = catalog(tmp_path, one + FILE), f"one={tmp_path / 'a.safetensors'}"
    entry = entries["one"]
    assert entry.sources == ("vocals", "instrumental") and entry.own_sources == ("vocals",)
    assert entry.files_for(["instrumental"]) == entry.files_for(["vocals"]) == entry.files
    mix = torch.randn(2, 2, 5000)
    with torch.inference_mode():
        vocals = model(mix)[:, 0]
        for targets in (None, ["instrumental"], ["instrumental", "vocals"], ["vocals"]):
            loaded = load_model(spec, catalog=entries, targets=targets)
            assert loaded.sources == loaded.model.whole == entry.sources
            stems = dict(zip(loaded.model.sources, loaded.model(mix).unbind(1), strict=True))
            assert list(stems) == list(targets or entry.sources)
            assert all(
                torch.equal(stem, vocals if name == "vocals" else mix - vocals) for name, stem in stems.items()
            )
    assert load_model(spec, catalog=entries).network.sources == ("vocals",)
    assert load_model(spec, catalog=entries).model.offset_stem == "instrumental"
    with pytest.raises(UsageError, match="it has vocals, instrumental"):
        load_model(spec, catalog=entries, targets=["drums"])


def test_the_catalogue_and_the_file_must_agree(tmp_path):
    entries = catalog(tmp_path, ENTRY.format(name="mine", nfft=1024) + FILE)
    with pytest.raises(ModelError, match="nfft = 1024.*512") as failure:
        load_model(f"mine={save(tmp_path / 'a.safetensors')}", catalog=entries)
    assert failure.value.exit_code == 3


def test_a_bag_loads_only_what_the_targets_need(tmp_path, monkeypatch):
    from sepcli.weights import download

    files = {name: save(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(("a", "b"))}
    text = ENTRY.format(name="bag", nfft=512) + (
        'files.a = {url = "https://x.invalid/a"}\nfiles.b = {url = "https://x.invalid/b"}\n'
        '[[bag.members]]\nfile = "a"\nweights = {drums = 1, bass = 1, other = 1}\n'
        '[[bag.members]]\nfile = "b"\nweights = {bass = 3, vocals = 1}\n'
    )
    entries = catalog(tmp_path, text)
    fetched = []

    def fetch(file, **_):
        fetched.append(file.name)
        return download.Fetched(files[file.name], "0" * 64, "full", str(files[file.name]))

    monkeypatch.setattr(download, "fetch", fetch)
    vocals = load_model("bag", catalog=entries, targets=["vocals"]).model
    assert fetched == ["b"] and not isinstance(vocals, Ensemble) and vocals.sources == ("vocals",)
    bass = load_model("bag", catalog=entries, targets=["bass", "vocals"])
    assert bass.model.weights == ((1, 0), (3, 1)) and len(bass.hashes) == 2
    assert [member.sources for member in bass.model.members] == [("bass",), ("bass", "vocals")]
    with pytest.raises(UsageError, match="one file can't stand for it"):
        load_model(f"bag={files['a']}", catalog=entries)


def test_an_entry_can_shorten_the_segment(tmp_path):
    entries = catalog(tmp_path, ENTRY.format(name="mine", nfft=512) + FILE)
    entry = replace(entries["mine"], segment=0.2)
    loaded = load_model(f"mine={save(tmp_path / 'a.safetensors')}", catalog={"mine": entry})
    assert loaded.model.segment.samples == 8820


@pytest.mark.parametrize(
    "spec, error, words",
    [
        ("htdemuc", ModelError, "Did you mean htdemucs"),
        ("hf://owner/repo", UsageError, "hf://owner/repo/file"),
        ("htdemucs", UsageError, "no stem 'flute'.*drums, bass, other, vocals"),
    ],
)
def test_what_is_not_there_is_said(spec, error, words):
    with pytest.raises(error, match=words):
        load_model(spec, targets=["flute"])


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ModelError, match="is no run"):
        load_model(str(tmp_path))


def test_a_file_that_does_not_say_what_it_is(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="does not say"):
        load_model(str(tmp_path / "x.safetensors"))


def test_weights_that_do_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    path = save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    tensors.pop("encoder.0.conv.weight")
    header = {
        "sepcli": json.dumps(
            {"family": "demucs", "arch": "HTDemucs", "config": {"sources": SOURCES, **SMALL, "segment": "1/4"}}
        )
    }
    save_file(tensors, path, metadata=header)
    with pytest.raises(ModelError, match="do not fit HTDemucs.*encoder.0.conv.weight"):
        load_model(str(path))


def test_configs_from_different_places_are_equal():
    toml = make_config(arch(), {"sources": ["a"], "segment": "39/5", "multi_freqs": [0.1]})
    kwargs = make_config(arch(), {"sources": ("a",), "segment": Fraction(39, 5), "multi_freqs": (0.1,)})
    assert toml == kwargs
    with pytest.raises(ModelError, match="no setting colour"):
        make_config(arch(), {"sources": ["a"], "colour": 1})


def test_options_are_typed_and_known():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Options:
        steps: int = 4
        level: float | None = None  # follows from the others

    sampler = Arch("Sampler", object, object, Options)
    assert parse_options(sampler, {"steps": "8"}) == Options(8)
    assert parse_options(sampler, {"level": "0.5"}) == Options(level=0.5)
    with pytest.raises(UsageError, match="it has steps"):
        parse_options(sampler, {"stps": "8"})
    with pytest.raises(UsageError, match="'many', which is not int"):
        parse_options(sampler, {"steps": "many"})
    with pytest.raises(UsageError, match="it has none"):
        parse_options(arch(), {"steps": "8"})


@pytest.mark.parametrize("seconds", [Fraction(1), Fraction(1, 4), 1, 0.5])
def test_a_whole_number_of_seconds_stays_a_fraction(tmp_path, seconds):
    path = save(tmp_path / "a.safetensors", segment=seconds)
    assert load_model(str(path)).model.config.segment == seconds
    said = json.loads(read_checkpoint(path).metadata["sepcli"])
    if seconds == 1:  # as older versions wrote it
        from safetensors.torch import load_file, save_file

        said["config"]["segment"] = "1"
        save_file(load_file(path), path, metadata={"sepcli": json.dumps(said)})
        assert load_model(str(path)).model.config.segment == Fraction(1)


def test_a_damaged_header_is_said(tmp_path):
    from safetensors.torch import save_file

    for header in ("{", "[]", '{"family": "demucs"}', '{"family": "demucs", "arch": 1, "config": {}}'):
        save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors", metadata={"sepcli": header})
        with pytest.raises(ModelError, match="What '.*' says of itself can't be read"):
            load_model(str(tmp_path / "x.safetensors"))


def test_a_file_of_int8_is_loaded_as_any_other(tmp_path):
    from sepcli.models.bandsplit import BandSplit, BandSplitConfig

    torch.manual_seed(0)
    config = BandSplitConfig(sources=("a", "b"), samplerate=44100)
    model = BandSplit(config).eval()
    sizes = {}
    for small in (False, True):
        path = tmp_path / f"{small}.safetensors"
        save_model(model.state_dict(), path, family="bandsplit", arch="BandSplit", config=config, small=small)
        sizes[small] = path.stat().st_size
    assert sizes[True] < 0.3 * sizes[False]
    loaded = load_model(str(tmp_path / "True.safetensors")).model
    for name, tensor in loaded.state_dict().items():
        ours = model.state_dict()[name]
        assert tensor.dtype == ours.dtype and (tensor - ours).abs().max() <= 0.01 * ours.abs().max(), name


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """(catalogue text of `voice` and `band`, their files, the names of those fetched)"""
    from sepcli.weights import download

    files, fetched = {}, []
    for seed, (name, sources) in enumerate((("voice", ["vocals"]), ("band", ["drums", "bass", "other"]))):
        files[name] = tmp_path / f"{name}.safetensors"
        torch.manual_seed(seed)
        config = arch().config(sources, **SMALL)
        weights = arch().build(config).state_dict()
        save_model(weights, files[name], family="demucs", arch="HTDemucs", config=config)
    plain = 'sources = ["drums", "bass", "other", "vocals"]'
    texts = [
        ENTRY.format(name=name, nfft=512).replace(plain, sources)
        + f'files.model = {{url = "https://x.invalid/{name}"}}\n'
        for name, sources in {
            "voice": 'sources = ["vocals"]\ncounterpart = "music"',
            "band": 'sources = ["drums", "bass", "other"]',
        }.items()
    ]

    def fetch(file, **_):
        name = file.url.rpartition("/")[2]
        fetched.append(name)
        return download.Fetched(files[name], name, "full", str(files[name]))

    monkeypatch.setattr(download, "fetch", fetch)
    return "".join(texts), files, fetched


def test_a_chain_loads_only_the_steps_that_the_targets_need(tmp_path, two_models):
    text, files, fetched = two_models
    chain = (
        '[both]\nchain = [{model = "voice"}, {model = "band", of = "music"}]\n'
        'sources = ["drums", "bass", "other", "vocals"]\n'
    )
    entries = catalog(tmp_path, text + chain)
    vocals = load_model("both", catalog=entries, targets=["vocals"])
    assert fetched == ["voice"] and vocals.model.sources == ("vocals",) and vocals.sources == SOURCES
    assert entries["both"].files_for(["vocals"]) == entries["voice"].files
    whole = load_model("both", catalog=entries)
    assert fetched == ["voice", "voice", "band"] and len(whole.hashes) == 2 and whole.model.whole == SOURCES
    voice, band = (load_model(name, catalog=entries).model for name in ("voice", "band"))
    mix = torch.randn(1, 2, 5000)
    with torch.inference_mode():
        stem, music = voice(mix).unbind(1)
        expected = torch.cat([band(music), stem[:, None]], dim=1)
        torch.testing.assert_close(whole.model(mix), expected)
    with pytest.raises(UsageError, match="made of 2 models"):
        load_model(f"both={files['voice']}", catalog=entries)
    with pytest.raises(UsageError, match="take no options together.*voice, band"):
        load_model("both", catalog=entries, options={"steps": "2"})


def test_a_chain_too_large_for_the_memory_works_in_turn(tmp_path, two_models, monkeypatch):
    text, _, fetched = two_models
    text = text.replace('"}\n', '", bytes = 50000}\n')
    chain = '[both]\nchain = [{model = "voice"}, {model = "band", of = "music"}]\n'
    entries = catalog(tmp_path, text + chain)
    together = load_model("both", catalog=entries)
    monkeypatch.setattr("sepcli.loading.entries.free_memory", lambda: 150_000)
    said = []
    in_turn = load_model("both", catalog=entries, notice=said.append)
    assert not together.model.in_turn and in_turn.model.in_turn and "of memory are free: each goes" in said[0]
    assert in_turn.hashes == together.hashes and in_turn.model.sources == together.model.sources
    assert not list(in_turn.model.parameters()) and len(said) == 1
    mix = torch.randn(1, 2, 60_000)

    def separated(model):
        engine = Engine(model, Settings(), torch.device("cpu"), torch.float32)
        stats = engine.measure(iter([mix])) if engine.normalize else None
        return torch.cat(list(engine.separate(iter([mix]), stats)), dim=-1)

    torch.testing.assert_close(separated(in_turn.model), separated(together.model), rtol=0, atol=0)
    fetched.clear()
    assert not hasattr(load_model("both", catalog=entries, targets=["vocals"]).model, "in_turn")
    assert fetched == ["voice"] and len(said) == 1  # one network is no chain


def test_models_side_by_side_load_only_what_the_targets_need(tmp_path, two_models):
    text, _, fetched = two_models
    entries = catalog(tmp_path, text)
    voice = load_model("voice+band:2", catalog=entries, targets=["vocals"])
    assert fetched == ["voice"] and voice.model.sources == ("vocals",) and voice.hashes == ("voice",)
    assert voice.name == "voice+band" and voice.sources == ("vocals", "music", "drums", "bass", "other")
    whole = load_model("voice+band:2", catalog=entries)
    assert whole.hashes == ("voice", "band") and whole.model.sources == voice.sources == whole.model.whole
    assert not whole.model.training and not any(p.requires_grad for p in whole.model.parameters())
    assert load_model("voice+band", catalog=entries, blend="min_fft").model.method == "min_fft"
    with pytest.raises(UsageError, match="made of several models.*voice, band"):
        load_model("voice+band", catalog=entries, options={"steps": "2"})
    with pytest.raises(UsageError, match="is a model of the catalogue, which has its settings"):
        load_model("voice+band", catalog=entries, config="my.yaml")


def test_models_one_after_another_load_only_what_the_targets_need(tmp_path, two_models):
    text, files, fetched = two_models
    entries = catalog(tmp_path, text)
    then = ["music: band"]
    taken = load_model("voice", then=then, catalog=entries, targets=["music"])
    assert fetched == ["voice"] and taken.model.sources == ("music",) and taken.name == "voice-then-band"
    rest = load_model("voice", then=then, catalog=entries, targets=["music-rest", "vocals"]).model
    whole = load_model("voice", then=then, catalog=entries).model
    # The same of a file of the user's, which has to be loaded to know its stems.
    own = load_model("voice", then=[f"music: band={files['band']}"], catalog=entries)
    assert own.entry is None and own.sources == whole.sources == ("vocals", "drums", "bass", "other")
    assert own.more == {"music": ("drums", "bass", "other", "music-rest"), "music-rest": ()}
    mix = torch.randn(1, 2, 5000)
    with torch.inference_mode():
        stems = whole(mix)
        torch.testing.assert_close(own.model(mix), stems, rtol=0, atol=0)
        (music,) = taken.model(mix).unbind(1)
        left, vocals = rest(mix).unbind(1)
        torch.testing.assert_close(vocals, stems[:, 0])
        torch.testing.assert_close(left, music - stems[:, 1:].sum(1))
    narrowed = load_model("voice", then=[f"music: band={files['band']}"], catalog=entries, targets=["music"])
    torch.testing.assert_close(narrowed.model(mix)[:, 0], music)
    fetched.clear()
    with pytest.raises(UsageError, match="there is no stem 'flute' by then; there are vocals, music"):
        load_model("voice", then=[f"flute: band={files['band']}"], catalog=entries)
    assert not fetched  # the catalogue knows the stems of what stands for its own


def test_files_of_the_users_side_by_side(tmp_path, two_models):
    text, files, fetched = two_models
    entries = catalog(tmp_path, text)
    loaded = load_model(
        f"voice={files['voice']}:2+band+{files['band']}", catalog=entries, targets=["bass", "music"]
    )
    assert fetched == ["band"] and loaded.entry is None and len(loaded.hashes) == 3
    assert loaded.sources == ("vocals", "music", "drums", "bass", "other")
    # The first gives the music, the other two the bass; what gives nothing wanted does not run.
    assert [member.sources for member in loaded.model.members] == [("music",), ("bass",), ("bass",)]
    assert loaded.model.weights == ((0, 2), (1, 0), (1, 0))
    for given, name in (({"config": "my.yaml"}, "config"), ({"options": {"steps": "2"}}, "options")):
        with pytest.raises(UsageError, match=f"several models, which take no .*{name}"):
            load_model(f"{files['voice']}+band", catalog=entries, **given)


# --- what loading costs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mini", "duo"])
def test_weights_that_will_be_read_are_not_drawn(name):
    before = torch.get_rng_state()
    load_model(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process needed at most")
def test_loading_takes_memory_for_the_file_and_for_the_network(tmp_path):
    """And no third time, for tensors that are made of several in the file."""
    network = MelBandRoformer(MelBandRoformerConfig(dim=256, depth=1))
    path = tmp_path / "mel.ckpt"
    torch.save(as_published(network), path)
    program = """
import sys, torch
from sepcli.loading import load_model
load_model("mini")
def most():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = most()
load_model(sys.argv[1])
print(most() - before)
"""
    command = [sys.executable, "-c", program, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    size = path.stat().st_size
    assert size > 150e6 and size < int(ran.stdout) < 2.6 * size
