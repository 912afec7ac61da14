"""`sepcli train` as a user runs it: first run, going on, kill -9, two processes, what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from sepcli.cli.app import main
from sepcli.engine import device
from sepcli.training.run import read_metrics
from tests.stems import RATE, track

PRESET = f"""
about = "a test"
[model]
family = "bandsplit"
arch = "BandSplit"
[model.config]
sources = ["vocals", "drums"]
samplerate = {RATE}
nfft = 256
hop = 64
zones = [[8, 4, 1], [6, 16, 4]]
dim = 8
blocks = 1
squeeze = 2
bottleneck = 16
mask_dim = 8
segment = 1.0
[data]
segment = 0.5
[[augment]]
kind = "Gain"
[[augment]]
kind = "Polarity"
[ema]
steps = [0.9]
[run]
batch_size = 2
steps_per_epoch = 4
max_steps = 12
workers = 0
log_steps = 2
save_minutes = 0.0
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a preset, tracks to train on and one to validate on."""
    (tmp_path / "small.toml").write_text(PRESET)
    for index in range(3):
        track(tmp_path / f"data/song{index}", ["vocals", "drums"], seed=index)
    track(tmp_path / "valid/song", ["vocals", "drums"], seed=9)
    return tmp_path


def arguments(place, run="run", *more):
    return [
        "train",
        "--preset",
        str(place / "small.toml"),
        "--data",
        str(place / "data"),
        "--valid",
        str(place / "valid"),
        "-o",
        str(place / run),
        "--device",
        "cpu",
        *more,
    ]


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def weights(run):
    """What a run goes on with: equal only if everything that it depends on was equal."""
    state = torch.load(run / "state.pt", weights_only=True)
    return {**state["model"], **state["averages"]["ema_0.9"]["values"]}


def assert_same(one, two):
    ours, theirs = weights(one), weights(two)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def losses(run):
    return [(line["step"], line["loss"]) for line in read_metrics(run) if "loss" in line]


def test_without_matplotlib_the_curves_are_not_drawn(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(arguments(place, "run", "--max-steps", "4")) == 0
    assert "The curves are not drawn: matplotlib is not installed" in capsys.readouterr().err
    files = {entry.name for entry in (place / "run").iterdir()}
    assert files == {"config.toml", "metrics.jsonl", "model.safetensors", "state.pt"}


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_on_a_processor_without_it_is_said_to_be_slow(place, capsys, monkeypatch, native):
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: native)
    assert main(arguments(place, "run", "--max-steps", "1", "--precision", "bfloat16")) == 0
    said = "This processor has no products in bfloat16: --precision float32 is several times as fast."
    assert (said in " ".join(capsys.readouterr().err.split())) is not native


@pytest.mark.slow
def test_a_run_is_a_model(place, capsys):
    assert main(arguments(place)) == 0
    run = place / "run"
    assert {entry.name for entry in run.iterdir()} == {
        "config.toml",
        "metrics.jsonl",
        "curves.png",
        "model.safetensors",
        "state.pt",
    }
    lines = read_metrics(run)
    assert [line["step"] for line in lines if "valid" in line] == [4, 8, 12]
    assert {"l1", "lr", "examples_per_s", "seconds"} <= set(next(line for line in lines if "loss" in line))
    song = place / "valid/song/vocals.wav"
    assert main(["separate", str(song), "-m", str(run), "-o", str(place / "out"), "-q"]) == 0
    assert (place / "out/run/vocals/drums.wav").exists()
    capsys.readouterr()


@pytest.mark.slow
def test_the_same_command_goes_on(place, capsys):
    assert main(arguments(place, "whole", "-q")) == 0
    assert main(arguments(place, "parts", "-q", "--max-steps", "5")) == 0
    assert main(arguments(place, "parts", "--max-steps", "12")) == 0
    assert "going on at step 5" in capsys.readouterr().err
    # Ended early, the first part validated at step 5, which changes no weights.
    assert_same(place / "parts", place / "whole")
    assert losses(place / "parts") == losses(place / "whole")


@pytest.mark.slow
def test_init_begins_with_the_weights_of_a_model(place):
    assert main(arguments(place, "first", "-q", "--max-steps", "4")) == 0
    more = ["-q", "--max-steps", "1", "--set", "optim.lr=0.0", "--init", str(place / "first")]
    assert main(arguments(place, "second", *more)) == 0
    one, two = (load_file(place / run / "model.safetensors") for run in ("first", "second"))
    assert all(torch.allclose(one[name], two[name]) for name in one)


def test_weights_can_be_stored_in_half(place):
    assert main(arguments(place, "run", "-q", "--max-steps", "1", "--set", "run.store=float16")) == 0
    stored = load_file(place / "run/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.slow
def test_tracks_are_held_out_where_there_is_nothing_to_validate_on(place):
    for index in range(3, 6):
        track(place / f"data/song{index}", ["vocals", "drums"], seed=index)
    command = arguments(place, "run", "-q", "--max-steps", "4")
    command = [word for word in command if word not in ("--valid", str(place / "valid"))]
    assert main(command) == 0
    import tomllib

    settings = tomllib.loads((place / "run/config.toml").read_text())
    assert len(settings["data"]["train"][0]["exclude"]) == 1
    assert any("valid" in line for line in read_metrics(place / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l1", "lsd"])
def test_a_run_is_chosen_by_the_smallest_error(place, capsys, metric):
    name = metric.upper()
    assert main(arguments(place, "run", "--set", f"run.valid_metric={metric}", "--max-steps", "8")) == 0
    found = [line for line in read_metrics(place / "run") if "valid" in line]
    scores = [max(each["score"] for each in line["valid"].values()) for line in found]
    assert len(scores) == 2 and all(score < 0 for score in scores)  # an error's, of which the highest is best
    assert found[-1]["best"]["score"] == max(scores)
    shown = re.findall(rf"Step \d: {name} ([\d.]+) \(", capsys.readouterr().err)
    assert [float(number) for number in shown] == pytest.approx([-score for score in scores], abs=1e-3)
    assert (place / "run" / "curves.png").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "run.valid_metric=sdr"], "usdr, l1, lsd"),
        (["--set", "optim.lrate=1"], "Did you mean lr"),
        (["--set", "model.config.dims=1"], "no setting dims"),
        (["--set", "loss.source_weights={flute=1}"], "flute"),
        (["--set", "objective=guess"], "separation"),
        (["--precision", "float8"], "bfloat16"),
        (["--set", 'augment=[{kind="Gian"}]'], "gain"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(place, capsys, more, message):
    assert main(arguments(place, "run", *more)) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (place / "run/state.pt").exists()


@pytest.mark.slow
def test_a_run_goes_on_only_with_its_own_settings(place, capsys):
    assert main(arguments(place, "run", "-q", "--max-steps", "1")) == 0
    assert main(arguments(place, "run", "--set", "optim.lr=0.5")) == 2
    assert "optim.lr is 0.0003 there and 0.5 here" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_touched(place, capsys):
    (place / "run").mkdir()
    (place / "run/thesis.txt").write_text("mine")
    assert main(arguments(place)) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [entry.name for entry in (place / "run").iterdir() if entry.name != ".lock"] == ["thesis.txt"]


@pytest.mark.slow
def test_a_folder_in_which_another_process_trains_is_refused(place, capsys):
    (place / "run").mkdir()
    hold = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(place / "run/.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert main(arguments(place, "run", "-q", "--max-steps", "1")) == 2
        assert "Another process trains in" in capsys.readouterr().err
        other.stdin.close()
    assert main(arguments(place, "run", "-q", "--max-steps", "1")) == 0  # the lock ended with its holder
    assert not (place / "run/.lock").exists()


def test_presets_and_settings_are_printed(place, capsys):
    assert main(["train", "--list-presets"]) == 0
    assert "mini" in capsys.readouterr().out
    assert main([*arguments(place), "--set", "optim.lr=0.5", "--show-config"]) == 0
    assert "lr = 0.5" in capsys.readouterr().out


@pytest.mark.slow
def test_json_lines(place, capsys):
    assert main(arguments(place, "run", "--json", "--max-steps", "4")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 4
    assert {json.loads(line)["event"] for line in captured.err.splitlines()} >= {"notice", "validation"}


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_at_any_step_and_the_same_command_gives_the_same_weights(place):
    assert main(arguments(place, "whole", "-q")) == 0
    run = place / "killed"
    state = run / "state.pt"
    for _ in range(3):
        process = start(["-m", "sepcli", *arguments(place, "killed", "-q")])
        before = state.stat().st_mtime_ns if state.exists() else 0
        wait_for(lambda before=before: state.exists() and state.stat().st_mtime_ns > before, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert torch.load(state, weights_only=True)["steps"] < 12
    assert main(arguments(place, "killed", "-q")) == 0
    assert_same(run, place / "whole")
    assert losses(run) == losses(place / "whole")


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(place):
    """DistributedDataParallel by gloo, at the same global batch."""
    more = ["--set", "run.batch_size=4"]
    assert main(arguments(place, "one", "-q", *more)) == 0
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "sepcli",
        *arguments(place, "two", "-q", *more),
    ]
    process = start(launch)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    ours, theirs = losses(place / "two"), losses(place / "one")
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-4)
    for name, value in weights(place / "one").items():
        torch.testing.assert_close(weights(place / "two")[name], value, rtol=1e-2, atol=1e-4)


SCRIPT = """
import os
import sys
from pathlib import Path
from sepcli.cli.app import main
from sepcli.engine import device
from sepcli.training import loop, train

def count(when):
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    os.write(1, f"{when} {sum('gloo' in name for name in names)}\\n".encode())  # at once: two write

def fit(*arguments):
    try:
        theirs(*arguments)
    finally:
        count("inside")

def broken(self, batch):
    raise ValueError("broken")

theirs, train.fit = train.fit, fit
if sys.argv[1] == "broken":
    loop.Learner.forward = broken
code = main(sys.argv[2:])
count("after")
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads Linux's /proc")
@pytest.mark.parametrize("how, code", [("whole", 0), ("broken", 1)])
def test_no_thread_of_the_team_is_left(place, how, code):
    """Not even where an exception comes out of the wrapped network. One that is left can abort the process."""
    (place / "script.py").write_text(SCRIPT)
    more = ["-q", "--set", "run.batch_size=4", "--max-steps", "2"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(place / "script.py")]
    process = start([*launch, how, *arguments(place, "run", *more)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    found = re.findall(r"(inside|after) (\d+)", output)
    assert len([when for when, _ in found if when == "inside"]) == 2, output
    assert all((int(threads) > 0) == (when == "inside") for when, threads in found), output
    assert found.count(("after", "0")) >= (1 if code else 2), output  # torchrun ends the other one of a pair
