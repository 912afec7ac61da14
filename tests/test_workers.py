"""An evaluation in several processes: the same rows, and an end whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sepcli.errors import DeviceError
from sepcli.evaluation.evaluate import evaluate
from sepcli.evaluation.runs import EvaluationRequest
from tests.tracks import make_track

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path):
    for k, name in enumerate("abc"):
        make_track(tmp_path / "data", name, {"drums": 0.2, "vocals": 0.1}, seed=k)
    return tmp_path / "data"


@pytest.mark.slow
def test_processes_give_the_same_rows_and_end_with_them(data, tmp_path):
    request = EvaluationRequest(("mixture", "oracle:mwf"), data)
    alone = {(row.model, row.track): row.stems for row in evaluate(request)}
    together = list(evaluate(EvaluationRequest(request.models, data, jobs=2, out=tmp_path / "out")))
    assert {(row.model, row.track): row.stems for row in together} == alone
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_giving_up_half_way_ends_the_processes(data):
    running = evaluate(EvaluationRequest(("mixture",), data, jobs=2))
    next(running)
    running.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_of_the_run(data):
    for k in range(6):  # more tracks than are handed out ahead: whatever is done by now, some are still to do
        make_track(data, f"more{k}", {"drums": 0.2, "vocals": 0.1}, seed=k)
    running = evaluate(EvaluationRequest(("mixture",), data, jobs=2))
    next(running)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(DeviceError, match="ended unexpectedly"):
        list(running)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interruption_ends_all_and_what_is_done_is_kept(data, tmp_path, name, code):
    out = tmp_path / "out"
    for k in range(40):
        make_track(data, f"more{k}", {"drums": 0.2, "vocals": 0.1}, seed=k, seconds=20)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sepcli",
            "evaluate",
            "-m",
            "oracle:mwf",
            "--data",
            str(data),
            "-o",
            str(out),
            "--jobs",
            "2",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "rows.jsonl").exists() or not (out / "rows.jsonl").read_bytes():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, name))  # the whole group, as a terminal does it
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    rows = (out / "rows.jsonl").read_text().splitlines()
    assert 0 < len(rows) < 43
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # no process of the group is left
            os.killpg(process.pid, 0)
            time.sleep(0.1)
