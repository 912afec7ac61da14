"""`sepcli models` as a user meets it: what it prints where, its exit codes, and that it stays light."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tomli_w
import torch

from sepcli.cli import models
from sepcli.cli.app import main
from sepcli.cli.options import complete_model
from sepcli.engine import speed as speeds
from sepcli.engine.speed import matrix_speed
from sepcli.models.config import plain
from sepcli.weights.cache import own_file
from sepcli.weights.catalog import bundled_catalog
from sepcli.weights.entryfile import entry_tables
from tests.fakehub import FakeHub, commit_of
from tests.models.test_roformer import tiny
from tests.roformers import as_published

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


def test_list_is_a_table_in_groups(hub, catalog, run):
    code, out, err = run("list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and err == "" and hub.count() == 0
    assert max(map(len, out.splitlines())) <= 80, max(out.splitlines(), key=len)
    assert lines[0] == ["MODEL", "SIZE", "SCORE", "LICENCE", "CHECK", "HERE"]
    assert ["separation:", "drums,", "kazoo"] in lines
    assert ["toy", "100.0", "kB", "-", "MIT", "full", "no"] in lines
    assert ["mdx_extra", "~669.6", "MB", "-", "unspecified", "none", "no"] in lines
    assert ["htdemucs_ft", "336.1", "MB", "-", "unspecified", "full", "no"] in lines  # not by that yardstick
    assert ["scnet-small", "42.4", "MB", "9.03", "unspecified", "full", "no"] in lines


def names(out):
    """The models of a table, in order."""
    return [line.split()[0] for line in out.splitlines()[1:] if line.startswith("  ")]


def test_list_by_stem(catalog, run):
    _, out, _ = run("list", "--target", "piano")
    assert {"htdemucs_6s", "dicose-det", "spleeter-5stems"} <= set(names(out)) and "mini" not in names(out)
    code, out, err = run("list", "--target", "tuba")
    assert code == 2 and out == "" and "No model has the stem 'tuba'" in err and "kazoo" in err


def test_list_by_what_one_wants(catalog, run):
    assert names(run("list", "--task", "codec")[1]) == ["encodec-48k"]
    chains = names(run("list", "--task", "chain")[1])
    assert {"duo", "clean-vocals", "lead-and-backing"} <= set(chains) and "mini" not in chains
    assert names(run("list", "--license", "MIT", "-t", "kazoo")[1]) == ["toy"]
    assert names(run("list", "--license", "cc-by", "-t", "kazoo")[1]) == []
    assert names(run("list", "--search", "slakh2100 in few steps")[1]) == ["dicose-cd"]
    code, out, err = run("list", "--search", "theremin")
    assert (code, out) == (0, "") and "No model is like that" in err
    code, _, err = run("list", "--task", "dereverbs")
    assert code == 2 and "Did you mean dereverb" in err


def test_list_in_the_order_of_one_figure(catalog, run):
    """Scores of other metrics or data are not among them, and what is not known comes last."""
    found = names(run("list", "-t", "bass", "--sort", "score")[1])
    assert found[:3] == ["scnet-large-starrytong", "scnet-xl", "scnet-xl-ihf"]
    assert found.index("mdx23c-zfturbo-4stems") < found.index("htdemucs")
    found = [
        entry["size"] for entry in json.loads(run("list", "--search", "demucs", "--sort", "size", "--json")[1])
    ]
    assert found[:2] == sorted(found[:2])


@pytest.fixture
def shop(tmp_path, monkeypatch, hub):
    """A catalogue of models for one stem, and a machine of 60 GFLOP/s."""
    text = ""
    for name, cost, figure, license in (
        ("large", 900, 9.5, "unspecified"),
        ("middle", 30, 9.0, "MIT"),
        ("private", 1, None, "MIT"),
        ("small", 2, 8.0, "CC-BY-NC-4.0"),
    ):
        text += f"""
        [{name}]
        family = "demucs"
        arch = "HDemucs"
        sources = ["theremin"]
        counterpart = "rest"
        samplerate = 44100
        channels = 2
        cost = {cost}
        license = "{license}"
        files.model.url = "https://example.org/{name}"
        """
        scored = (
            f'set = "S"\nstems = {{ theremin = {figure} }}'
            if figure
            else 'set = "the author\'s own set"\nvalue = 99'
        )
        text += f'[[{name}.scores]]\nmetric = "SDR"\nby = "published"\n{scored}\n'
    path = tmp_path / "shop.toml"
    path.write_text(text)
    monkeypatch.setenv("SEPCLI_CATALOG", str(path))
    monkeypatch.setattr(speeds, "_measured", lambda: (60.0, "cpu"))


def names_of(out):
    return [line.split()[0] for line in out.splitlines()[1:]]


def test_recommend(shop, run):
    """The best by what can be compared; the time follows from work and speed: 30 GFLOP/s are reached."""
    code, out, err = run("recommend", "theremin")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and names_of(out) == ["large", "middle", "small"]
    assert rows[2][1:6] == ["9.00", "?", "5", "min", "MIT"]  # 240 s * 30 / 0.75 / 30
    assert "SDR of theremin on S" in err and "separate FILE -m large -t theremin\n" in err
    found = json.loads(run("recommend", "Theremin", "--fast", "--json")[1])
    assert [(each["name"], each["score"]) for each in found] == [("small", 8.0), ("private", None)]
    assert found[0]["expected_seconds"] == pytest.approx(240 * 2 / 0.75 / 30)
    _, out, _ = run("recommend", "theremin", "--commercial")
    assert names_of(out) == ["middle", "private"]
    assert "mel-roformer-kim" in names_of(run("recommend", "vocals", "--commercial")[1])
    best = names_of(run("recommend", "vocals")[1])  # by a set of songs that none of them has learnt
    assert best and not any(name.startswith("mdx") for name in best)
    assert "-m karaoke-" in run("recommend", "karaoke")[2] and "GPL-3.0" in run("recommend", "lead")[1]
    assert len(names_of(run("recommend", "instrumental", "--fast")[1])) >= 1
    code, _, err = run("recommend", "kazoo")
    assert code == 2 and "No model has the stem 'kazoo'" in err


def test_from_a_wish_to_stems(hub, run, tmp_path, monkeypatch):
    """What `recommend` names is downloaded and run as it says; a small network in the published layout."""
    network = tiny("lead", nfft=256, hop=100, bands=(4,) * 16 + (16,) * 3 + (17,))
    torch.save(as_published(network), tmp_path / "a.ckpt")
    pin = hub.add("someone/karaoke", "a.ckpt", tmp_path / "a.ckpt")
    table = entry_tables(bundled_catalog().read_text())["karaoke-aufr33"]
    settings = ("nfft", "hop", "dim", "depth", "heads", "dim_head", "mask_expansion", "chunk", "bands")
    config = {name: plain(getattr(network.config, name)) for name in settings}
    table |= {"arch": "BSRoformer", "config": config, "files": {"model": pin}}
    (tmp_path / "catalog.toml").write_text(tomli_w.dumps({"karaoke-aufr33": table}))
    monkeypatch.setenv("SEPCLI_CATALOG", str(tmp_path / "catalog.toml"))
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.wav", np.random.default_rng(0).uniform(-0.3, 0.3, (4410, 2)), 44100)
    _, _, err = run("recommend", "karaoke")
    command = err.splitlines()[-1].partition(": sepcli ")[2].replace("FILE", "song.wav").split()
    assert command == ["separate", "song.wav", "-m", "karaoke-aufr33"]
    assert run("download", "karaoke-aufr33")[0] == 0
    assert main([*command, "--device", "cpu", "--bit-depth", "32f"]) == 0
    stems = {path.stem: soundfile.read(path)[0] for path in (tmp_path / "separated").rglob("*.wav")}
    assert set(stems) == {"lead", "karaoke"}
    mix = soundfile.read("song.wav")[0]
    assert np.abs(stems["lead"] + stems["karaoke"] - mix).max() < 1e-6 and np.abs(stems["lead"]).max() > 1e-3


def test_the_speed_is_measured_once(hub):
    memory = own_file("speed.json")
    speed, device = matrix_speed(memory)
    assert speed > 0 and device in ("cpu", "cuda", "mps") and matrix_speed(memory) == (speed, device)
    memory.write_text("{")
    assert matrix_speed(memory)[1] == device


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
    assert "MUSDB18-HQ test: 8.80 (drums 10.05" in run("info", "htdemucs")[1]
    assert "not run by us on the real weights" in out and "yes, on the published" in run("info", "mini")[1]
    assert "for drums x 1" in run("info", "toy")[1]


@pytest.mark.parametrize("command", ["info", "download", "verify", "where", "remove"])
def test_an_unknown_model_names_the_near_ones(hub, catalog, run, command):
    code, out, err = run(command, "htdemuc")
    assert code == 3 and out == "" and "Did you mean htdemucs" in err and hub.count() == 0


@pytest.mark.slow
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
    assert code == 0 and out.count("is right (published hash)") == 7  # five of mini and duo
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
