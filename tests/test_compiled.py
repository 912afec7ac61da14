"""`--compile`: which calls are compiled, that they give the same, and what is said where they can't be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sepcli.engine import compiled
from sepcli.engine.pipeline import Engine
from sepcli.engine.separator import Segment
from sepcli.engine.settings import Settings
from sepcli.errors import DeviceError, UsageError
from sepcli.loading import load_model
from tests.models.test_roformer import tiny
from tests.test_jobs import song
from tests.toys import Split, separate

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch):
    """The shapes of calls that went to what torch.compile gave; nothing is compiled."""
    seen = []

    def fake(model, **how):
        assert how == {"dynamic": False, "mode": "default"}
        return lambda mix: seen.append(tuple(mix.shape)) or model(mix)

    monkeypatch.setattr(compiled.torch, "compile", fake)
    return seen


@pytest.mark.parametrize("size", [1, 3])
def test_full_batches_of_whole_segments_are_compiled_and_nothing_else(calls, size):
    model, mix = Split(("drums", "bass"), Segment(1000, tail="short")), torch.randn(1, 2, 3100)
    stems = separate(model, mix, batch_size=size, compile=True)
    assert torch.equal(stems, separate(model, mix, batch_size=size))
    assert set(calls) == {(size, 2, 1000)}
    # One tries it out; at 0, 750 and 1500 there are whole segments, at 2250 a short one.
    assert len(calls) == 1 + 3 // size


def test_it_is_tried_before_the_first_track(calls):
    Engine(Split(segment=Segment(500)), Settings(compile=True), CPU, torch.float32)
    assert calls == [(1, 2, 500)]
    Engine(Split(segment=Segment(500)), Settings(), CPU, torch.float32)
    assert len(calls) == 1


def test_what_draws_noise_is_refused(calls):
    class Drawing(Split):
        draws_noise = True

    with pytest.raises(UsageError, match="draws noise") as refused:
        Engine(Drawing(), Settings(compile=True), CPU, torch.float32)
    assert refused.value.code == "not_compiled" and not calls


def test_what_stops_the_compiler_is_a_sentence(monkeypatch):
    failure = type("NoCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def broken(error):
        def call(mix):
            raise error

        return lambda model, **how: call

    monkeypatch.setattr(compiled.torch, "compile", broken(failure("No working C++ compiler found\nin ...")))
    with pytest.raises(DeviceError, match="can't be compiled here: No working C\\+\\+ compiler found") as told:
        Engine(Split(segment=Segment(500)), Settings(compile=True), CPU, torch.float32)
    assert told.value.exit_code == 4 and "g++" in told.value.remedy
    monkeypatch.setattr(compiled.torch, "compile", broken(ValueError("of the network")))
    with pytest.raises(ValueError, match="of the network"):
        Engine(Split(segment=Segment(500)), Settings(compile=True), CPU, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "roformer"])
def test_a_compiled_network_gives_the_same(name):
    """To 1e-4 of the peak, in float32."""
    torch.manual_seed(0)
    model = load_model("mini").model if name == "mini" else tiny("drums", "bass")
    mix = 0.1 * torch.randn(1, model.channels, 2 * model.segment.samples)
    expected = separate(model, mix)
    stems = separate(model, mix, compile=True)
    assert (stems - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_without_a_compiler_the_command_says_so(tmp_path):
    song(tmp_path / "song.wav")
    env = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "sepcli", "separate", "song.wav", "-m", "mini", "--compile", "on"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 4 and "can't be compiled here" in done.stderr and "g++" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("separated/**/*.wav"))
