"""`sepcli robustness` as a user meets it: a table, numbers and a picture, and every refusal."""

import json
import os
from pathlib import Path

import pytest

from sepcli.cli.app import main
from sepcli.loading import save_model
from tests.models.test_dicose import tiny as separator
from tests.models.test_ldm_codec import tiny
from tests.tracks import RATE, make_track


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEPCLI_DEBUG", raising=False)
    for k in range(2):
        make_track("songs", f"song{k}", {"vocals": 0.1, "drums": 0.2}, seconds=0.5, seed=k)
    save("codec.safetensors", tiny(samplerate=RATE, codebooks=2, codebook_size=8), "ldm", "Codec")
    save("plain.safetensors", tiny(samplerate=RATE), "ldm", "Codec")


def save(path, model, family, arch):
    save_model(model.state_dict(), Path(path), family=family, arch=arch, config=model.config)


def robustness(capfd, *arguments, model="codec.safetensors"):
    """(exit code, standard output, standard error)"""
    code = main(["robustness", "-m", model, "--data", "songs", *arguments])
    return code, *capfd.readouterr()


def refused(capfd, *arguments, **more):
    """The error of a run that writes nothing."""
    before = set(os.listdir())
    got, out, err = robustness(capfd, *arguments, "--json", **more)
    problem = json.loads(out)["error"]
    assert got == 2, err
    assert problem["message"] in err.replace("\n", " ") and problem["remedy"] and set(os.listdir()) == before
    return problem


def test_a_table(capfd):
    code, out, _ = robustness(capfd, "--noise", "0,0.1,1")
    title, head, *rows = out.splitlines()
    assert code == 0 and title == "SDR in dB of vocals that come back, mean over 2 tracks"
    assert head.split("  ")[0] == "NOISE" and head.endswith("AFTER THE QUANTISER")
    assert [row.split()[0] for row in rows] == ["0", "0.1", "1"] and all(len(row.split()) == 5 for row in rows)
    assert float(rows[1].split()[1]) == pytest.approx(0.0, abs=0.2)  # as loud as the vocals


def test_numbers_and_a_picture(capfd):
    code, out, err = robustness(
        capfd,
        "--json",
        "-o",
        "out",
        "--noise",
        "0,0.1",
        "--bandwidth",
        "3",
        "--duration",
        "0.2",
        "--overlap",
        "0.25",
        "--seed",
        "3",
    )
    said = json.loads(out)
    assert code == 0 and "robustness.json, robustness.png" in err
    assert json.loads(Path("out/robustness.json").read_text()) == said
    assert Path("out/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert said["settings"] == {
        "samplerate": RATE,
        "window": 960,
        "overlap": 0.25,
        "seed": 3,
        "seconds": 0.2,
        "codebooks": 2,
        "bandwidth": 3.0,
    }
    assert list(said["scores"]) == ["song0", "song1"] and len(said["mean"]) == 4


def test_another_stem_in_longer_windows(capfd):
    code, out, _ = robustness(capfd, "--json", "-t", "drums", "--segment", "0.3", "--noise", "0")
    said = json.loads(out)
    assert code == 0 and said["stem"] == "drums"
    assert said["settings"]["window"] == 2400 and said["settings"]["overlap"] == 0


def test_a_codec_without_codebooks(capfd):
    code, out, err = robustness(capfd, "--noise", "0", model="plain.safetensors")
    assert code == 0 and "no codebooks" in err and "QUANTISER" in out and "BEFORE" not in out
    assert "no bandwidth" in refused(capfd, "--bandwidth", "3", model="plain.safetensors")["message"]


def test_what_is_no_codec(capfd):
    problem = refused(capfd, model="mini")
    assert problem["code"] == "no_codec" and "encodec-48k" in problem["remedy"]
    save("det.safetensors", separator("Deterministic"), "dicose", "Deterministic")
    assert refused(capfd, model="det.safetensors")["code"] == "no_codec"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--noise", "loud"], "--noise loud"),
        (["--noise", "0,0"], "different numbers"),
        (["--noise", "-1"], "numbers from 0"),
        (["--bandwidth", "99"], "bandwidth is 99"),
        (["--duration", "0"], "--duration is 0"),
        (["--overlap", "1"], "--overlap 1"),
        (["-t", "bass"], "No track has the stem bass"),
    ],
)
def test_refusals(capfd, arguments, said):
    assert said in refused(capfd, *arguments)["message"]
