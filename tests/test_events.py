"""The events of `--progress json` are what docs/events.schema.json says, and all that are documented happen."""

import json
from pathlib import Path

import jsonschema
import pytest

from sepcli.batch.results import DAMAGED, DONE, FAILED, SKIPPED
from sepcli.cli import console
from sepcli.cli.app import main
from sepcli.errors import UsageError
from tests import fake_model
from tests.test_jobs import song

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "events.schema.json").read_text(encoding="utf-8"))
VALID = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    fake_model.install(monkeypatch, tmp_path)
    monkeypatch.setattr("sepcli.cli.reporting.JSON_INTERVAL", 0.0)


def events(capfd, *arguments):
    """All of standard error, checked."""
    main(["separate", "-m", "fake", *arguments, "--progress", "json"])
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    for event in found:
        VALID.validate(event)
    return found


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["result"]["properties"]["status"]["enum"] == [DONE, DAMAGED, SKIPPED, FAILED]


def test_a_run_a_second_one_and_one_that_can_not_begin(capfd):
    song("x/a.wav"), song("y/a.wav")  # of one name: there is a notice
    Path("y/a.wav").write_bytes(Path("y/a.wav").read_bytes()[:-5000])  # damaged
    first = events(capfd, "x/a.wav", "y/a.wav", "missing.wav")
    kinds = [event["event"] for event in first]
    assert {*kinds} == {"notice", "start", "track", "progress", "result", "summary"} and kinds[-1] == "summary"
    assert {event["status"] for event in first if event["event"] == "result"} == {"done", "damaged", "failed"}
    assert any(
        event["event"] == "result" and event["status"] == "skipped"
        for event in events(capfd, "x/a.wav", "y/a.wav")
    )
    assert events(capfd, "x/a.wav", "-m", "fkae")[-1]["event"] == "error"
    assert events(capfd, "x/a.wav", "--no-resume", "--preview", "-o", "p", "--submix", "x=mix-drums")


def test_downloads_training_and_errors(capfd, monkeypatch):
    from sepcli.cli.train import _Display
    from sepcli.training.config import RunTable
    from sepcli.training.loop import Best, Step

    monkeypatch.setattr(console, "_style", "json")
    with console.download_progress("Downloading x") as progress:
        progress(10, None), progress(20, 20)
    console.error(UsageError("No.", remedy="Yes."))
    display = _Display(RunTable())
    display.stepped(Step(3, 0.5, {"l1": 0.25}, 0.001, bad=False, problems=()), 2.04)
    display.validated(3, {"raw": {"score": 1.5, "vocals": 2.0}}, Best(1.5, "raw", 3))
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in found] == ["download", "error", "step", "validation"]
    assert found[2]["loss"] == 0.5 and found[2]["l1"] == 0.25
    for event in found:
        VALID.validate(event)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "notice"},
        {"event": "notice", "message": "x", "more": 1},
        {"event": "unknown", "message": "x"},
        {"event": "result", "input": "a.wav", "status": "planned"},
        {"event": "track", "input": "a.wav", "number": "1", "count": 2},
        {"event": "step", "step": 1, "lr": 0.1, "seconds": 2.5, "loss": "low"},
    ],
)
def test_what_is_no_event(event):
    with pytest.raises(jsonschema.ValidationError):
        VALID.validate(event)
