"""LDM-dmx from the shell, tiny: a codec, a generator upon it, what hears the mix, and a separation."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from sepcli.cli.app import main
from sepcli.training.run import RunFolder
from tests.tracks import make_track, read

RATE = 2000  # Hz
CODEC = """
[model]
family = "ldm"
arch = "{arch}"
[model.config]
samplerate = 2000
filters = 2
latent = 4
ratios = [2, 2]
lstm_layers = 1
{more}
[run]
batch_size = 4
steps_per_epoch = 10
max_steps = 4
valid_seconds = 0.25
workers = 0
log_steps = 2
save_minutes = 0.0
"""
GENERATOR = """
widths = [8, 16]
factors = [1, 2]
blocks = [1, 1]
attentions = [false, true]
injections = [false, true]
heads = 2
head_features = 4
groups = 2
features = 8
segment = 640
[loss]
terms = [{ kind = "mse" }]
[data]
segment = 0.32
holdout = 0.0
skip_silent = 0.5
[[augment]]
kind = "Polarity"
"""
PRESETS = {
    "codec": 'objective = "reconstruction"'
    + CODEC.format(arch="Codec", more='source = "vocals"\ncodebooks = 0\nwindow = 640\n[data]\nsegment = 0.32'),
    "stage1": 'objective = "latent"\nobjective_options = { measured = 12 }'
    + CODEC.format(arch="LatentDiffusion", more=GENERATOR),
    "stage2": 'base = "stage1.toml"\nobjective_options = { conditioner = "trained" }\n'
    '[[optim.groups]]\nmatch = "conditioner."\nlr = 1e-3',
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Songs of which there are vocals and the mixture."""
    for name, text in PRESETS.items():
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    for k, name in enumerate(["one", "two"]):
        song = make_track(
            tmp_path / "songs", name, {"vocals": 0.1, "band": 0.1}, seconds=2, samplerate=RATE, seed=k
        )
        (song / "band.wav").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda run: None)  # curves take longer than these networks
    return tmp_path


def train(preset, run, *more):
    return main(["train", "--preset", f"{preset}.toml", "--data", "songs", "-o", run, "--device", "cpu", *more])


def weights(run, prefix=""):
    return {
        name.removeprefix(prefix): value
        for name, value in load_file(f"{run}/model.safetensors").items()
        if name.startswith(prefix)
    }


def state(run):
    return torch.load(f"{run}/state.pt", weights_only=True)["model"]


def assert_equal(one, two):
    assert one.keys() == two.keys() and one
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_the_chain(place, capsys):
    assert train("codec", "codec", "--max-steps", "1") == 0
    assert train("stage1", "one", "--base", "codec") == 0
    # The codec's encoder stands twice, and all of the codec stays as it is.
    encoder, decoder = weights("codec", "encoder."), weights("codec", "decoder.")
    assert_equal(weights("one", "encoder."), encoder)
    assert_equal(weights("one", "conditioner."), encoder)
    assert_equal(weights("one", "decoder."), decoder)
    assert 12 <= weights("one")["windows"] <= 16

    # In two parts, without the codec: to the bit the same.
    assert train("stage1", "parts", "--base", "codec", "--max-steps", "2") == 0
    shutil.move("codec", "elsewhere")
    capsys.readouterr()
    assert train("stage1", "parts", "--base", "codec") == 0
    assert "going on at step 2" in capsys.readouterr().err
    assert_equal(state("parts"), state("one"))

    # The second stage begins with all of the first, and what hears the mix learns besides.
    assert (
        train(
            "stage2",
            "still",
            "--init",
            "one",
            "--max-steps",
            "1",
            "--set",
            "optim.lr=0.0",
            "--set",
            'optim.groups=[{match="conditioner.", lr=0.0}]',
        )
        == 0
    )
    assert_equal(weights("still"), weights("one"))
    assert train("stage2", "two", "--init", "one") == 0
    assert_equal(weights("two", "encoder."), encoder)
    assert_equal(weights("two", "decoder."), decoder)
    for name in ("mean", "variance", "windows"):
        assert torch.equal(weights("two")[name], weights("one")[name])
    assert all(
        (weights("two", "conditioner.")[name] != value).any()
        for name, value in encoder.items()
        if value.dim() > 1
    )
    separate(place)


def separate(place):
    """Options and the rest, as for any model; a second time the same files."""
    song = "songs/one/mixture.wav"
    for out, more in (("a", []), ("again", []), ("seed", ["--seed", "1"]), ("batch", ["--batch-size", "3"])):
        options = ["-O", "steps=3", "-t", "vocals", "--rest", "-o", out, "-q", *more]
        assert main(["separate", song, "--model", "two", *options]) == 0
        stems = {path.stem: read(path) for path in (place / out).rglob("*.wav")}
        assert set(stems) == {"vocals", "no_vocals"}
        assert abs(sum(stems.values()) - read(song)).max() < 1e-4
    once = {path.name: path.read_bytes() for path in (place / "a").rglob("*.wav")}
    assert once == {path.name: path.read_bytes() for path in (place / "again").rglob("*.wav")}


@pytest.mark.slow
def test_latents_are_kept_where_asked(place):
    """The same windows in every epoch: what an epoch has kept the next one finds."""
    assert train("codec", "codec", "--max-steps", "1") == 0
    cache = ["--set", "objective_options.cache=kept", "--set", "data.examples=8"]
    assert train("stage1", "run", "--base", "codec", *cache) == 0
    kept = sorted((place / "kept").rglob("*.safetensors"))
    assert len(kept) == 16
    assert train("stage1", "again", "--base", "codec", *cache) == 0
    assert sorted((place / "kept").rglob("*.safetensors")) == kept
    assert_equal(state("again"), state("run"))


@pytest.mark.parametrize(
    ("preset", "more", "said"),
    [
        ("stage1", [], "Name one with --base"),
        ("stage1", ["--base", "codec", "--set", "model.config.filters=4"], "filters is 2 there and 4 here"),
        ("stage1", ["--base", "mini"], "The base of LatentDiffusion is a Codec, but 'mini' is a BandSplit"),
        ("stage2", [], "Name one with --base"),
        ("stage2", ["--init", "codec"], "do not fit this LatentDiffusion"),
        (
            "stage1",
            ["--base", "codec", "--set", "optim.groups=[{match='conditioner.'}]"],
            "matches no parameter",
        ),
    ],
)
def test_what_does_not_fit_is_refused(place, capsys, preset, more, said):
    assert train("codec", "codec", "--max-steps", "1") == 0
    assert train(preset, "run", *more) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (place / "run" / "state.pt").exists()
