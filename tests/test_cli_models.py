"""`sepcli models` as a user meets it: what it prints where, its exit codes, and that it stays light."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time

import pytest

from sepcli.cli import models
from sepcli.cli.app import main
from sepcli.cli.options import complete_model
from tests.fakehub import FakeHub, commit_of

DATA = {name: random.Random(name).randbytes(50_000) for name in ("drums", "vocals")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        environment = hub.env(tmp_path, NO_COLOR="1")
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


@pytest.fixture
def catalog(hub, tmp_path, monkeypatch):
    """A bag of two networks, named through SEPCLI_CATALOG; the path of its file."""
    text = """
    [toy]
    family = "demucs"
    arch = "HDemucs"
    sources = ["drums", "kazoo"]
    samplerate = 44100
    channels = 2
    license = "MIT"
    members = [ { file = "drums", weights = {drums = 1} }, { file = "vocals", weights = {kazoo = 1} } ]
    """
    for name, data in DATA.items():
        pin = hub.add("toys/toy", f"{name}.bin", data)
        text += f"files.{name} = {{ " + ", ".join(f"{key} = {json.dumps(pin[key])}" for key in pin) + " }\n"
    path = tmp_path / "toy.toml"
    path.write_text(text)
    monkeypatch.setenv("SEPCLI_CATALOG", str(path))
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(["models", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_list_is_a_plain_table(hub, catalog, run):
    code, out, err = run("list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and err == "" and hub.count() == 0
    assert lines[0] == ["MODEL", "STEMS", "SIZE", "LICENCE", "CHECK", "DOWNLOADED"]
    assert ["toy", "drums,kazoo", "100.0", "kB", "MIT", "full", "no"] in lines
    mdx_extra = ["mdx_extra", "drums,bass,other,vocals", "about", "669.6", "MB", "unspecified", "none", "no"]
    assert mdx_extra in lines


def test_list_by_stem(catalog, run):
    _, out, _ = run("list", "--target", "guitar")
    assert [line.split()[0] for line in out.splitlines()][:3] == ["MODEL", "htdemucs_6s", "dicose-det"]
    code, out, err = run("list", "--target", "tuba")
    assert code == 2 and out == "" and "No model has the stem 'tuba'" in err and "kazoo" in err


def test_list_as_json(catalog, run):
    code, out, _ = run("list", "-t", "kazoo", "--json")
    (toy,) = json.loads(out)
    assert code == 0 and toy["name"] == "toy" and toy["stems"] == ["drums", "kazoo"]
    assert (toy["size"], toy["check"], toy["cached"], toy["license"]) == (100_000, "full", False, "MIT")
    assert [file["path"] for file in toy["files"]] == [None, None]


def test_a_file_named_on_the_command_line_wins(catalog, run, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(catalog.read_text().replace("MIT", "CC0-1.0"))
    assert json.loads(run("info", "toy", "--json", "--catalog", str(other))[1])["license"] == "CC0-1.0"
    assert json.loads(run("info", "toy", "--json")[1])["license"] == "MIT"
    code, _, err = run("list", "--catalog", str(tmp_path / "absent.toml"))
    assert code == 2 and "is not a file" in err


def test_info_says_what_matters_before_use(catalog, run):
    code, out, _ = run("info", "mdx_extra")
    assert code == 0
    for words in (
        "unspecified",
        "scientific purposes",
        "MUSDB test set",
        "Demucs-mdx_extra@",
        "none: ",
        "44 s",
        "https://dl.fbaipublicfiles.com/demucs/mdx_final/e51eebcc-c1b80bdd.th (167.4 MB, full)",
    ):
        assert words in out
    assert "8.80 dB SDR" in run("info", "htdemucs")[1] and "for drums x 1" in run("info", "toy")[1]


@pytest.mark.parametrize("command", ["info", "download", "verify", "where", "remove"])
def test_an_unknown_model_names_the_near_ones(hub, catalog, run, command):
    code, out, err = run(command, "htdemuc")
    assert code == 3 and out == "" and "Did you mean htdemucs" in err and hub.count() == 0


def test_the_life_of_a_model(hub, catalog, run, tmp_path):
    pointers = [
        tmp_path / f"huggingface/hub/models--toys--toy/snapshots/{commit_of('toys/toy')}/{name}.bin"
        for name in DATA
    ]
    code, out, err = run("where", "toy")
    assert code == 0 and out.splitlines() == [str(path) for path in pointers] and "not downloaded" in err
    code, out, err = run("verify", "toy")
    assert code == 3 and "drums.bin is not downloaded" in out

    code, out, err = run("download", "toy")
    assert code == 0 and out == "toy: ready\n" and "Error" not in err
    assert [path.read_bytes() for path in pointers] == list(DATA.values())
    asked = hub.count()
    assert "yes" in run("list", "-t", "kazoo")[1].split()
    code, out, err = run("where", "toy")
    assert out.splitlines() == [str(path) for path in pointers] and err == ""
    code, out, _ = run("verify")
    assert code == 0 and out.count("is right (published hash)") == 3  # mini is always there
    assert run("download", "toy")[0] == 0 and hub.count() == asked

    pointers[0].resolve().write_bytes(b"x" * 50_000)
    code, out, err = run("verify", "toy")
    assert code == 3 and "drums.bin" in err and "deleted" in err and "vocals.bin is right" in out
    assert "1 of 2" in run("list", "-t", "kazoo")[1]
    assert run("download", "toy")[0] == 0

    assert run("remove", "toy")[:2] == (0, "toy: 100.0 kB freed\n")
    assert run("remove", "toy")[:2] == (0, "toy: was not downloaded\n")
    assert not any(path.exists() for path in pointers)
    assert "toy" not in run("verify")[1]


def test_a_model_that_fails_does_not_stop_the_others(hub, catalog, run):
    text = catalog.read_text()
    catalog.write_text(text + text.replace("[toy]", "[broken]").replace("drums.bin", "absent.bin"))
    code, out, err = run("download", "broken", "toy")
    assert code == 3 and out == "toy: ready\n" and "has no file 'absent.bin'" in err


def test_offline_is_said_once(catalog, run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("download", "toy")
    assert code == 3 and out == "" and err.count("HF_HUB_OFFLINE") == 1


def test_a_download_needs_a_name(catalog, run):
    code, _, err = run("download")
    assert code == 2 and "--all" in err


def test_over_a_gigabyte_is_asked_about(hub, catalog, run, monkeypatch):
    code, _, err = run("download", "--all")
    size = re.search(r"\d+\.\d GB", err)[0]
    assert code == 2 and "--yes" in err and hub.count() == 0
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr(models.typer, "confirm", lambda text, err: asked.append(text))  # "no"
    code, out, _ = run("download", "--all")
    assert code == 0 and out == "" and hub.count() == 0 and asked == [f"Download at least {size}?"]
    monkeypatch.setattr(models, "ASK_ABOVE", 99_999)
    assert run("download", "toy")[1] == "" and len(asked) == 2
    assert run("download", "toy", "--yes")[:2] == (0, "toy: ready\n") and len(asked) == 2
    assert run("download", "toy")[1] == "toy: ready\n" and len(asked) == 2  # nothing left to ask about


def test_a_weak_check_is_said_at_download_and_shown_at_verify(hub, catalog, run):
    lines = [
        line.partition(", sha256 =")[0] + " }" if ", sha256 =" in line else line
        for line in catalog.read_text().splitlines()
    ]
    catalog.write_text("\n".join(lines))
    _, _, err = run("download", "toy")
    assert err.count("recorded now and enforced from now on") == 2
    code, out, _ = run("verify", "toy")
    assert code == 0 and out.count("published size and the first download") == 2


def test_completion_offers_names_and_never_fails(catalog, monkeypatch):
    assert [name for name, _ in complete_model("htdemucs_")] == ["htdemucs_ft", "htdemucs_6s"]
    catalog.write_text("[broken")
    assert complete_model("ht") == []


def test_listing_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from sepcli.cli.app import main; assert main(['models', 'list']) == 0;"
        "print([m for m in ('torch', 'numpy', 'huggingface_hub', 'soundfile') if m in sys.modules])"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == "[]"
