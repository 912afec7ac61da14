"""Packages that only some commands need: what works without them, and what names them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sepcli.cli.app import main
from sepcli.errors import EXTRAS, DeviceError, missing, require
from tests.tracks import make_track

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tests/data/feelings.flac"


def lacks(monkeypatch, *packages):
    """From now on an import of these fails as if they were not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def without(packages, *arguments, cwd):
    """`sepcli ARGUMENTS` in a process of its own that lacks the packages: (exit code, output, errors)."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        "from sepcli.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


def test_every_extra_of_the_package_is_known_to_the_errors():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra: set() for extra in extras}
    for package, (extra, _) in EXTRAS.items():
        named[extra].add(package.replace("_", "-"))
    assert named == {extra: {text.split(">=")[0] for text in texts} for extra, texts in extras.items()}


def test_nothing_of_them_is_in_the_base_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {text.split(">=")[0] for text in project["dependencies"]}
    assert not base & {package.replace("_", "-") for package in EXTRAS}


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, monkeypatch):
    lacks(monkeypatch, package)
    with pytest.raises(DeviceError) as error:
        require(package)
    name = package.replace("_", "-")
    assert error.value.message.startswith(f"{name} is not installed; it ")
    assert error.value.remedy == f"Install it: pip install 'sepcli[{EXTRAS[package][0]}]'"
    assert error.value.code == f"no_{package}"


def test_a_broken_package_says_why(monkeypatch, tmp_path):
    (tmp_path / "mido.py").write_text("raise OSError('libmidi.so: cannot be opened\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mido", raising=False)
    error = missing("mido")
    assert error is not None and "can't be imported (libmidi.so: cannot be opened)" in error.message


@pytest.mark.slow
def test_the_base_installation_separates_lists_and_evaluates(tmp_path):
    packages = [*EXTRAS]
    code, _, err = without(packages, "separate", CLIP, "--duration", "2", "--device", "cpu", cwd=tmp_path)
    assert code == 0, err
    assert (tmp_path / "separated/duo/feelings/vocals.wav").exists()
    code, out, err = without(packages, "models", "list", cwd=tmp_path)
    assert code == 0 and "htdemucs" in out, err
    for name in "ab":
        make_track(tmp_path / "data", name, {"drums": 0.2, "vocals": 0.1})
    models = ["-m", "mixture", "-m", "oracle:irm1"]
    code, out, err = without(packages, "evaluate", *models, "--data", "data", "-o", "scores", cwd=tmp_path)
    assert code == 0 and "oracle:irm1" in out, err
    left_out = "Pictures are left out: matplotlib is not installed; it draws the pictures. Install it: "
    assert left_out + "pip install 'sepcli[train]'" in err
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"rows.jsonl", "summary.json"}
    assert json.loads((tmp_path / "scores/summary.json").read_text())


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("tomli_w", ["train", "--preset", "tiny", "--show-config"]),
        ("tomli_w", ["train", "--preset", "tiny", "--data", "data", "-o", "run"]),
        ("matplotlib", ["inspect", str(CLIP), "-m", "lasaft-v2-large"]),
        ("mido", ["dataset", "render", "songs", "--hours", "0.1", "--soundfont", "a.sf2"]),
        ("watchfiles", ["separate", "data", "--watch"]),
        ("fsspec", ["separate", "s3://bucket/song.wav"]),
        ("s3fs", ["separate", "data", "-o", "s3://bucket/stems"]),
        ("librosa", ["evaluate", "-m", "mixture", "--data", "data", "--protocol", "ldm"]),
    ],
)
def test_what_needs_a_package_stops_before_any_work(package, arguments, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    make_track(tmp_path / "data", "a", {"drums": 0.2, "vocals": 0.1})
    lacks(monkeypatch, package)
    code = main(arguments)
    err = capfd.readouterr().err
    assert code == DeviceError.exit_code, err
    assert (
        f"{package.replace('_', '-')} is not installed" in err
        and f"pip install 'sepcli[{EXTRAS[package][0]}]'" in err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
