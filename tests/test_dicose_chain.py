"""A model on the weights of another: deterministic -> diffusion -> consistency, from the shell, tiny."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sepcli.cli.app import main
from sepcli.loading import load_model, save_model
from sepcli.training.config import make_train_config, read_preset
from sepcli.training.run import RunFolder, read_metrics
from sepcli.training.setup import make_network
from sepcli.weights.modelspec import RUN_FILE
from tests.tracks import make_track, read

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
OBJECTIVES = {
    "Deterministic": "label",
    "DoubleDeterministic": "label",
    "Diffusion": "denoising",
    "Consistency": "consistency",
    "ISDM": "denoising",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    for arch, objective in OBJECTIVES.items():
        text = PRESET.format(arch=arch, objective=objective)
        (tmp_path / f"{arch}.toml").write_text(text, encoding="utf-8")
    for k, folder in enumerate(["songs", "valid"]):
        levels = {"drums": 0.1, "bass": 0.2, "vocals": 0.1}
        make_track(tmp_path / folder, "noise", levels, seconds=2, channels=1, samplerate=RATE, seed=k)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "draw", lambda run: None)  # curves take longer than these networks
    return tmp_path


def train(arch, run, *more):
    return main(
        [
            "train",
            "--preset",
            f"{arch}.toml",
            "--data",
            "songs",
            "--valid",
            "valid",
            "-o",
            run,
            "--device",
            "cpu",
            *more,
        ]
    )


def save(arch, folder):
    """A run's model with fresh weights."""
    config = make_train_config(read_preset(f"{arch}.toml"))
    network = make_network(config.model)
    Path(folder).mkdir()
    save_model(
        network.model.state_dict(), Path(folder) / RUN_FILE, family="dicose", arch=arch, config=network.config
    )


def part(weights, prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def assert_equal(one, two):
    assert one.keys() == two.keys() and one
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["Diffusion", "DoubleDeterministic"])
def test_a_model_on_a_base(place, arch):
    """The frozen part is the base's network, the other learns, and the run is whole without the base's."""
    assert train("Deterministic", "det") == 0
    assert train(arch, "run", "--base", "det", "--max-steps", "2") == 0
    base = part(load_file("det/model.safetensors"), "unet.")
    (place / "det").rename(place / "elsewhere")
    assert train(arch, "run", "--base", "det", "--max-steps", "4") == 0  # goes on from its state alone
    assert_equal(part(load_file("run/model.safetensors"), "base."), base)
    saved = torch.load("run/state.pt", weights_only=True)["model"]
    assert_equal(part(saved, "base."), base)
    fresh = load_model("run").model
    assert not any(parameter.requires_grad for parameter in fresh.base.parameters())
    # --init takes the whole, base and all.
    assert train(arch, "more", "--init", "run", "--max-steps", "1") == 0
    assert_equal(part(load_file("more/model.safetensors"), "base."), base)


DISTILL = [
    "distill",
    "--preset",
    "Consistency.toml",
    "--teacher",
    "diffusion",
    "--data",
    "songs",
    "--valid",
    "valid",
    "--device",
    "cpu",
    "--set",
    "objective_options.frozen_precision=run",
]  # compared to the bit


def distill(run, *more):
    return main([*DISTILL, "-o", run, *more])


def state(run):
    saved = torch.load(f"{run}/state.pt", weights_only=True)
    parts = {**saved["model"]}
    for name in ("teacher", "target"):
        parts |= {f"{name}.{key}": value for key, value in saved["objective"][name].items()}
    return parts


@pytest.mark.slow
def test_a_student_begins_as_its_teacher(place, capsys):
    """Student, target and teacher have its weights; a run in two parts equals one in one, to the bit."""
    assert train("Deterministic", "det", "--max-steps", "1") == 0
    assert train("Diffusion", "diffusion", "--base", "det", "--max-steps", "1") == 0
    assert distill("still", "--max-steps", "1", "--set", "optim.lr=0.0") == 0
    teacher = load_file("diffusion/model.safetensors")
    assert_equal(part(teacher, ""), load_file("still/model.safetensors"))
    assert_equal(part(state("still"), "teacher."), part(teacher, "unet."))
    assert_equal(part(state("still"), "target."), part(teacher, "unet."))

    assert distill("whole") == 0
    assert distill("parts", "--max-steps", "2") == 0
    (place / "diffusion").rename(place / "elsewhere")
    capsys.readouterr()
    assert distill("parts", "--max-steps", "4") == 0
    assert "going on at step 2" in capsys.readouterr().err
    assert_equal(state("parts"), state("whole"))
    learnt = state("whole")
    assert_equal(part(learnt, "teacher."), part(teacher, "unet."))
    assert_equal(part(learnt, "base."), part(teacher, "base."))
    assert all(
        (part(learnt, "unet.")[name] != value).any()
        for name, value in part(teacher, "unet.").items()
        if value.dim() > 1
    )

    # One step, or as many as wanted.
    song = "valid/noise/mixture.wav"
    for steps in ("1", "2"):
        options = ["-O", f"steps={steps}", "-o", f"out{steps}"]
        assert main(["separate", song, "--model", "whole", *options, "-q"]) == 0
    stems = {path.stem: path for path in (place / "out1").rglob("*.wav")}
    assert set(stems) == {"drums", "bass", "vocals"}
    assert all(len(read(path).T) == len(read(song).T) for path in stems.values())


@pytest.mark.slow
def test_two_processes_distil_as_one(place):
    """By gloo, at the same global batch: the same losses, and all networks end as those of one process."""
    save("Diffusion", "diffusion")

    def run(name, *launcher):
        command = [
            sys.executable,
            "-m",
            *launcher,
            "tests.by_example",
            *DISTILL,
            "-o",
            name,
            "-q",
            "--set",
            "run.log_steps=1",
            "--set",
            "optim.lr=0.001",
        ]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in read_metrics(Path(name)) if "loss" in line]

    one = run("one")
    two = run("two", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert [line["step"] for line in two] == [line["step"] for line in one] == [1, 2, 3, 4]
    for kind in ("loss", "cd", "dsm"):
        assert [line[kind] for line in two] == pytest.approx([line[kind] for line in one], rel=1e-4)
    # As a whole: where a gradient is zero but for rounding, Adam moves a value at random.
    flat = {
        name: {
            prefix: torch.cat([value.flatten() for value in part(weights, prefix).values()])
            for prefix in ("unet.", "target.", "teacher.", "base.")
        }
        for name, weights in (("one", state("one")), ("two", state("two")))
    }
    before = load_file("diffusion/model.safetensors")
    start = torch.cat([part(before, "unet.")[name].flatten() for name in part(state("one"), "unet.")])
    for prefix in ("unet.", "target."):
        moved = flat["one"][prefix] - start
        assert moved.norm() > 0 and (flat["two"][prefix] - flat["one"][prefix]).norm() < 0.02 * moved.norm()
    for prefix in ("teacher.", "base."):
        assert torch.equal(flat["two"][prefix], flat["one"][prefix])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--teacher", "det"], "The teacher of Consistency is a Diffusion, but 'det' is a Deterministic"),
        (["--preset", "Diffusion.toml"], "--method output"),
        (["--preset", "mini"], "--method output"),
        (["--set", "model.config.heads=4"], "heads is 2 there and 4 here"),
        (["--cache", "x"], "takes no --cache"),
        (["--match", "a=b"], "takes no --match"),
        (["--stems", "songs"], "takes no --stems"),
        (["--init", "det"], "takes no --init"),
        (["--teacher", "nowhere"], "nowhere"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused(place, capsys, more, said):
    save("Deterministic", "det")
    save("Diffusion", "diffusion")
    assert distill("run", *more) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (place / "run" / "state.pt").exists()


@pytest.mark.parametrize(
    ("arch", "more", "said"),
    [
        ("Diffusion", [], "Name one with --base"),
        ("Consistency", [], "Use sepcli distill"),
        ("Deterministic", ["--base", "det"], "builds upon no other model"),
        (
            "Diffusion",
            ["--base", "mini"],
            "The base of Diffusion is a Deterministic, but 'mini' is a BandSplit",
        ),
        (
            "Diffusion",
            ["--base", "det", "--set", "model.config.width=24", "--set", "model.config.segment=512"],
            "segment is 256 there and 512 here; width is 16 there and 24 here",
        ),
        (
            "Diffusion",
            ["--base", "det", "--set", 'model.config.sources=["bass","drums","vocals"]'],
            "drums, bass, vocals there and bass, drums, vocals here",
        ),
        ("Diffusion", ["--base", "nowhere"], "nowhere"),
        ("ISDM", ["--set", "model.teacher=det"], "--method output"),
    ],
)
def test_what_does_not_fit_is_refused(place, capsys, arch, more, said):
    save("Deterministic", "det")
    assert train(arch, "run", *more) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (place / "run" / "state.pt").exists()
