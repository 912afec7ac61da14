"""A model on the weights of another: deterministic -> diffusion -> consistency, from the shell, tiny."""

import pytest
import torch
from safetensors.torch import load_file

from sepcli.cli.app import main
from sepcli.loading import load_model
from tests.tracks import make_track

RATE = 1000  # Hz
PRESET = """
objective = "{objective}"
[model]
family = "dicose"
arch = "{arch}"
[model.config]
samplerate = 1000
sources = ["drums", "bass", "vocals"]
width = 16
patch = 4
multipliers = [1, 2, 2]
factors = [4, 2]
blocks = [1, 1]
attentions = [false, true]
heads = 2
head_features = 4
segment = 256
[data]
segment = 0.256
aligned = 1.0
[loss]
terms = [{{ kind = "mse" }}]
[run]
batch_size = 4
steps_per_epoch = 10
max_steps = 4
valid_seconds = 0.25
workers = 0
log_steps = 2
save_minutes = 0.0
"""
OBJECTIVES = {"Deterministic": "label", "DoubleDeterministic": "label", "Diffusion": "denoising",
              "Consistency": "consistency", "ISDM": "denoising"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    for arch, objective in OBJECTIVES.items():
        text = PRESET.format(arch=arch, objective=objective)
        (tmp_path / f"{arch}.toml").write_text(text, encoding="utf-8")
    for k, folder in enumerate(["songs", "valid"]):
        levels = {"drums": 0.1, "bass": 0.2, "vocals": 0.1}
        make_track(tmp_path / folder, "noise", levels, seconds=2, channels=1, samplerate=RATE, seed=k)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(arch, run, *more):
    return main(["train", "--preset", f"{arch}.toml", "--data", "songs", "--valid", "valid", "-o", run,
                 "--device", "cpu", *more])


def part(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def assert_equal(one, two):
    assert one.keys() == two.keys() and one
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("arch", ["Diffusion", "DoubleDeterministic"])
def test_a_model_on_a_base(place, arch):
    """The frozen part is the base's network, the other learns, and the run is whole without the base's."""
    assert train("Deterministic", "det") == 0
    assert train(arch, "run", "--base", "det", "--max-steps", "2") == 0
    base = part(load_file("det/model.safetensors"), "unet.")
    (place / "det").rename(place / "elsewhere")
    assert train(arch, "run", "--base", "det", "--max-steps", "4") == 0  # goes on from its state alone
    assert_equal(part(load_file("run/model.safetensors"), "base."), base)
    state = torch.load("run/state.pt", weights_only=True)["model"]
    assert_equal(part(state, "base."), base)
    fresh = load_model("run").model
    assert not any(parameter.requires_grad for parameter in fresh.base.parameters())
    # --init takes the whole, base and all.
    assert train(arch, "more", "--init", "run", "--max-steps", "1") == 0
    assert_equal(part(load_file("more/model.safetensors"), "base."), base)


@pytest.mark.parametrize(("arch", "more", "said"), [
    ("Diffusion", [], "Name one with --base"),
    ("Consistency", [], "Use sepcli distill"),
    ("Deterministic", ["--base", "det"], "builds upon no other model"),
    ("Diffusion", ["--base", "mini"], "The base of Diffusion is a Deterministic, but 'mini' is a BandSplit"),
    ("Diffusion", ["--base", "det", "--set", "model.config.width=24", "--set", "model.config.segment=512"],
     "segment is 256 there and 512 here; width is 16 there and 24 here"),
    ("Diffusion", ["--base", "det", "--set", 'model.config.sources=["bass","drums","vocals"]'],
     "drums, bass, vocals there and bass, drums, vocals here"),
    ("Diffusion", ["--base", "nowhere"], "nowhere"),
    ("ISDM", ["--set", "model.teacher=det"], "--method output"),
])
def test_what_does_not_fit_is_refused(place, capsys, arch, more, said):
    assert train("Deterministic", "det", "--max-steps", "1", "-q") == 0
    assert train(arch, "run", *more) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (place / "run" / "state.pt").exists()
